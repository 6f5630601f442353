"""Lesson 23."""


def beaten(): return [4, 4, 3, 3, 3, 3], 10, [[0, 2, 3], [1, 4, 5]]

def leaks(packed, alone, eps=1e-3, differs=lambda a, b, eps: not abs(a - b) <= eps, tokens=slice(None)):
    out, at = [], 0
    for r, row in enumerate(alone):
        pairs = list(zip(packed[at:at + len(row)], row))[tokens]
        if any(differs(a, b, eps) for x, y in pairs for a, b in zip(x, y)): out.append(r)
        at += len(row)
    return out

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


RIGHT = dict(check_beaten=beaten, check_leaks=leaks, check_packed_rows=join_rows, check_step_loss=step_loss, check_cut_prompt=cut_prompt)


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
    ("check_beaten", "nothing"): (lambda: None, "returns nothing"),
    ("check_beaten", "bins only"): (lambda: [[0], [1]], "lengths, capacity and bins"),
    ("check_beaten", "too long"): (lambda: ([11, 3], 10, [[0], [1]]), "a row has 1 to 10 tokens"),
    ("check_beaten", "lengths"): (lambda: ([4, 4, 3, 3, 3, 3], 10, [[4, 3, 3], [4, 3, 3]]), "those are lengths"),
    ("check_beaten", "lost"): (lambda: ([4, 4, 3, 3, 3, 3], 10, [[0, 2, 3]]), "exactly one bin"),
    ("check_beaten", "over"): (lambda: ([4, 4, 3, 3, 3, 3], 10, [[0, 1, 2, 3, 4, 5]]), "one of yours has 20"),
    ("check_beaten", "no better"): (lambda: ([6, 4, 5, 5], 10, [[0, 1], [2, 3]]), "find rows for which you need fewer"),
    ("check_leaks", "nothing"): (lambda p, a, e: None, "returns nothing"),
    ("check_leaks", "all"): (lambda p, a, e: list(range(len(a))), "the list is empty"),
    ("check_leaks", "token"): (lambda p, a, e: [t for t, (x, y) in enumerate(zip(p, sum(a, []))) if x != y], "expected [1], got [2]"),
    ("check_leaks", "offset"): (lambda p, a, e: leaks(p, a, e) and [r + 1 for r in leaks(p, a, e)], "expected [1], got [2]"),
    ("check_leaks", "sign"): (lambda p, a, e: leaks(p, a, e, lambda x, y, e: x - y > e), "absolute difference"),
    ("check_leaks", "first token"): (lambda p, a, e: leaks(p, a, e, tokens=slice(1)), "look at all tokens"),
    ("check_leaks", "not row 0"): (lambda p, a, e: [r for r in leaks(p, a, e) if r], "row 0 counts too"),
    ("check_leaks", "exact"): (lambda p, a, e: leaks(p, a, 0), "below eps is rounding"),
    ("check_leaks", "nan"): (lambda p, a, e: leaks(p, a, e, lambda x, y, e: abs(x - y) > e), "nan differs"),
    ("check_leaks", "first row"): (lambda p, a, e: leaks(p, a, e)[:1], "all three rows differ"),
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
