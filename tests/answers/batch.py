"""Lesson 23."""


def fit(choose=min, order=-1, room_for=lambda left, n: left >= n):
    def best_fit(lengths, capacity):
        bins, room = [], []
        for row in sorted(range(len(lengths)), key=lambda r: order*lengths[r]):
            fits = [b for b, left in enumerate(room) if room_for(left, lengths[row])]
            if not fits: bins.append([]); room.append(capacity); fits = [len(bins) - 1]
            best = choose(fits, key=lambda b: room[b])
            bins[best].append(row); room[best] -= lengths[row]
        return bins
    return best_fit

best_fit = fit()

def join_rows(rows, first=-100, start=0):
    ids, labels, positions = [], [], []
    for i, l in rows:
        ids += i; labels += [first, *l[1:]]; positions += range(start, start + len(i))
    return ids, labels, positions

def step_loss(sums, counts):
    if not sum(counts): raise ValueError("no part has a trained token")
    return sum(sums)/sum(counts)

def cut_prompt(ids, labels, limit, keep):
    if len(ids) <= limit: return ids, labels
    gap, first = keep + len(ids) - limit, next(i for i, l in enumerate(labels) if l != -100)
    if gap > first or gap == first and keep == 0: return None
    return ids[:keep] + ids[gap:], labels[:keep] + labels[gap:]


RIGHT = dict(check_best_fit=best_fit, check_packed_rows=join_rows, check_step_loss=step_loss, check_cut_prompt=cut_prompt)


def in_place(rows):
    ids, labels = rows[0]
    got = join_rows([(list(i), list(l)) for i, l in rows])
    for i, l in rows[1:]: ids += i; labels += l
    return got

def labels_of(rows):
    got = join_rows(rows)
    return got[0], [x for i, l in rows for x in l], got[2]

def first_two(rows):
    got = join_rows(rows)
    return got[0], [x for i, l in rows for x in [-100, -100, *l[2:]]], got[2]

def second_only(rows):
    got = join_rows(rows)
    return got[0], [x for k, (i, l) in enumerate(rows) for x in (l if k != 1 else [-100, *l[1:]])], got[2]

def after(change):
    def cut(ids, labels, limit, keep):
        got = cut_prompt(ids, labels, limit, keep)
        return got if got is None or len(ids) <= limit else change(ids, labels, limit, keep, got)
    return cut

def or_none(value):
    "Right, but where the right answer is None it cuts all the same."
    return lambda i, l, n, k: cut_prompt(i, l, n, k) or (i[:k] + i[k + len(i) - n:], l[:k] + l[k + len(i) - n:])

def from_left(i, l, n, k): return (i[-n:], l[-n:])

MUTANTS = {  # (checker, what is wrong) -> (wrong answer, what the message must say)
    ("check_best_fit", "nothing"): (lambda l, c: None, "returns nothing"),
    ("check_best_fit", "flat"): (lambda l, c: [0, 1, 2, 3, 4], "list of lists"),
    ("check_best_fit", "lengths"): (lambda l, c: [[l[r] for r in b] for b in best_fit(l, c)], "those are lengths"),
    ("check_best_fit", "lost"): (lambda l, c: best_fit(l, c)[1:], "exactly one bin"),
    ("check_best_fit", "over"): (lambda l, c: [list(range(len(l)))], "one of yours has 23"),
    ("check_best_fit", "worst"): (fit(max), "the *most* room"),
    ("check_best_fit", "first"): (fit(lambda f, key: f[0]), "*first* fit"),
    ("check_best_fit", "newest"): (fit(lambda f, key: f[-1]), "newest bin"),
    ("check_best_fit", "alone"): (lambda l, c: [[r] for r in range(len(l))], "a bin of its own"),
    ("check_best_fit", "increasing"): (fit(order=1), "shortest first"),
    ("check_best_fit", "another"): (lambda l, c: [[0], [1], [2, 4], [3]] if len(l) == 5 else best_fit(l, c), "expected [[3], [2, 1, 4], [0]]"),
    ("check_best_fit", "brim"): (lambda l, c: best_fit(l, c) if len(l) != 3 or l[0] != 10 else [[0], [1], [2]], "to the brim"),
    ("check_best_fit", "ties"): (lambda l, c: best_fit(l, c) if len(set(l)) > 1 else [[2, 1], [0]], "the earlier goes first"),
    ("check_packed_rows", "nothing"): (lambda r: None, "three lists"),
    ("check_packed_rows", "two"): (lambda r: join_rows(r)[:2], "three lists"),
    ("check_packed_rows", "first row"): (lambda r: join_rows(r[:1]), "one after another"),
    ("check_packed_rows", "short"): (lambda r: (*join_rows(r)[:2], [0, 1, 2]), "3 positions"),
    ("check_packed_rows", "seam"): (labels_of, "another row's"),
    ("check_packed_rows", "two masked"): (first_two, "only the *first* token"),
    ("check_packed_rows", "second only"): (second_only, "every row has a first token"),
    ("check_packed_rows", "positions"): (lambda r: (*join_rows(r)[:2], list(range(8))), "positions run on"),
    ("check_packed_rows", "from one"): (lambda r: join_rows(r, start=1), "start at 0"),
    ("check_packed_rows", "rows"): (lambda r: (*join_rows(r)[:2], [k for k, (i, l) in enumerate(r) for _ in i]), "number the rows"),
    ("check_packed_rows", "zero"): (lambda r: join_rows(r, first=0), "expected labels"),
    ("check_packed_rows", "backwards"): (lambda r: (*join_rows(r)[:2], [2, 1, 0, 1, 0, 2, 1, 0]), "expected positions"),
    ("check_packed_rows", "in place"): (in_place, "the rows were changed"),
    ("check_step_loss", "nothing"): (lambda s, c: None, "returns nothing"),
    ("check_step_loss", "means"): (lambda s, c: sum(a/b for a, b in zip(s, c))/len(s), "mean of means"),
    ("check_step_loss", "parts"): (lambda s, c: sum(s)/len(s), "number of parts"),
    ("check_step_loss", "sum"): (lambda s, c: sum(s), "that is the sum"),
    ("check_step_loss", "sum of means"): (lambda s, c: sum(a/b for a, b in zip(s, c)), "adds the parts' means"),
    ("check_step_loss", "largest"): (lambda s, c: max(s)/max(c), "expected 34/12"),
    ("check_step_loss", "divides"): (lambda s, c: sum(a/b*b/sum(c) for a, b in zip(s, c)), "do not divide by its count"),
    ("check_step_loss", "clamp"): (lambda s, c: sum(s)/max(sum(c), 1), "is said to be 0"),
    ("check_step_loss", "crash"): (lambda s, c: sum(s)/sum(c), "a crash without a reason"),
    ("check_step_loss", "drops"): (lambda s, c: sum(s)/sum(max(n, 1) for n in c), "adds nothing"),
    ("check_cut_prompt", "none"): (lambda i, l, n, k: None, "None is for those"),
    ("check_cut_prompt", "end"): (lambda i, l, n, k: (i[:n], l[:n]), "never stop"),
    ("check_cut_prompt", "ids only"): (after(lambda i, l, n, k, g: (g[0], l)), "cut together"),
    ("check_cut_prompt", "keep"): (after(lambda i, l, n, k, g: from_left(i, l, n, k)), "first `keep` tokens are gone"),
    ("check_cut_prompt", "labels"): (after(lambda i, l, n, k, g: (g[0], l[:n])), "labels stay with their ids"),
    ("check_cut_prompt", "too long"): (after(lambda i, l, n, k, g: (i, l)), "the limit is 6"),
    ("check_cut_prompt", "too much"): (lambda i, l, n, k: cut_prompt(i, l, n - 1, k), "as few as needed"),
    ("check_cut_prompt", "near"): (after(lambda i, l, n, k, g: (i[:n - 3] + i[5:], l[:n - 3] + l[5:])), "what is near the answer"),
    ("check_cut_prompt", "whole"): (lambda i, l, n, k: cut_prompt(i, l, min(n, 6), k), "a row that fits"),
    ("check_cut_prompt", "no none"): (or_none(1), "return None"),
    ("check_cut_prompt", "alone"): (lambda i, l, n, k: cut_prompt(i, l, n, k) or (None if k else (i[-n:], l[-n:])), "the answer alone"),
    ("check_cut_prompt", "edge"): (lambda i, l, n, k: None if n == 5 else cut_prompt(i, l, n, k), "5 is enough"),
}
