"""Lesson 22."""


def last(labels): return next((l for l in reversed(labels) if l != -100), None)
def never_stops(rows, ends): return [n for n, (_, labels) in enumerate(rows) if last(labels) not in ends]

def offset_labels(ids, offsets, start, stop):
    return [i if a < stop and b > start and a < b else -100 for i, (a, b) in zip(ids, offsets)]

def one_bos(ids, labels, bos):
    n = 0
    while n + 1 < len(ids) and ids[n] == ids[n + 1] == bos: n += 1
    return ids[n:], labels[n:]

def departs(prompt, row):
    if row.startswith(prompt): return None
    return next((i for i, (a, b) in enumerate(zip(prompt, row)) if a != b), len(row))


RIGHT = dict(check_never_stops=never_stops, check_offset_labels=offset_labels, check_one_bos=one_bos, check_departs=departs)


def by(inside): return lambda ids, offsets, start, stop: [i if inside(a, b, start, stop) else -100 for i, (a, b) in zip(ids, offsets)]
def shifted(n):
    def fn(ids, offsets, start, stop):
        right = offset_labels(ids, offsets, start, stop)
        return [ids[(i + n) % len(ids)] if l != -100 else l for i, l in enumerate(right)]
    return fn
def first_of_each(ids, offsets, start, stop):
    out, seen = [], set()
    for i, o in zip(ids, offsets):
        out.append(i if o[0] < stop and o[1] > start and o not in seen else -100); seen.add(o)
    return out
def strip_all(ids, labels, bos):
    keep = [i for i, x in enumerate(ids) if x != bos or i == ids.index(bos)]
    return [ids[i] for i in keep], [labels[i] for i in keep]


MUTANTS = {  # (checker, what is wrong) -> (wrong answer, what the message must say)
    ("check_never_stops", "nothing"): (lambda rows, ends: None, "returns nothing"),
    ("check_never_stops", "flags"): (lambda rows, ends: [str(n) for n in never_stops(rows, ends)], "return the numbers"),
    ("check_never_stops", "the good ones"): (lambda rows, ends: [n for n, (_, l) in enumerate(rows) if last(l) in ends], "those are the rows that *do*"),
    ("check_never_stops", "ids"): (lambda rows, ends: [n for n, (ids, _) in enumerate(rows) if ids[-1] not in ends], "look at labels"),
    ("check_never_stops", "last label"): (lambda rows, ends: [n for n, (_, l) in enumerate(rows) if l[-1] not in ends], "the padding behind it"),
    ("check_never_stops", "nothing trained"): (lambda rows, ends: [n for n, (_, l) in enumerate(rows) if last(l) is not None and last(l) not in ends], "it teaches nothing"),
    ("check_never_stops", "anywhere"): (lambda rows, ends: [n for n, (_, l) in enumerate(rows) if not ends & set(l)], "not the *last* trained token"),
    ("check_never_stops", "fixed"): (lambda rows, ends: never_stops(rows, {2, 3}), "use `ends`"),
    ("check_never_stops", "more"): (lambda rows, ends: [0, *never_stops(rows, ends)], "expected [1, 2, 4, 5]"),
    ("check_offset_labels", "nothing"): (lambda *a: None, "returns nothing"),
    ("check_offset_labels", "short"): (lambda ids, o, s, e: offset_labels(ids, o, s, e)[1:], "one label for each id"),
    ("check_offset_labels", "after start"): (by(lambda a, b, s, e: a > s and b <= e), "begins at `start`"),
    ("check_offset_labels", "shift left"): (shifted(-1), "in the same place"),
    ("check_offset_labels", "shift right"): (shifted(1), "in the same place"),
    ("check_offset_labels", "stop too"): (by(lambda a, b, s, e: a >= s and a <= e), "`stop` is not in the span"),
    ("check_offset_labels", "ends before"): (by(lambda a, b, s, e: a >= s and b < e), "ends at `stop`"),
    ("check_offset_labels", "mask"): (lambda ids, o, s, e: [1 if l != -100 else -100 for l in offset_labels(ids, o, s, e)], "not ones"),
    ("check_offset_labels", "whole tokens"): (by(lambda a, b, s, e: a >= s and b <= e and a < b), "begins before `start`"),
    ("check_offset_labels", "first piece"): (first_of_each, "share the character"),
    ("check_offset_labels", "empty"): (by(lambda a, b, s, e: (a < e and b > s) or (a == b == s)), "covers none"),
    ("check_offset_labels", "the rest"): (by(lambda a, b, s, e: not (a < e and b > s)), "expected [-100, 12, 13"),
    ("check_one_bos", "nothing"): (lambda *a: None, "returns nothing"),
    ("check_one_bos", "ids only"): (lambda i, l, b: one_bos(i, l, b)[0], "return two things"),
    ("check_one_bos", "both"): (lambda i, l, b: ([x for x in i if x != b], l), "takes both away"),
    ("check_one_bos", "unchanged"): (lambda i, l, b: (i, l), "still two"),
    ("check_one_bos", "labels stay"): (lambda i, l, b: (one_bos(i, l, b)[0], l), "lose what ids lose"),
    ("check_one_bos", "label at the end"): (lambda i, l, b: (one_bos(i, l, b)[0], l[:len(one_bos(i, l, b)[0])]), "the last one moved"),
    ("check_one_bos", "all but the first"): (strip_all, "further in"),
    ("check_one_bos", "one off"): (lambda i, l, b: (i[1:], l[1:]) if i[0] == b and i[1:2] == [b] else (i, l), "one is left"),
    ("check_one_bos", "always"): (lambda i, l, b: (i[1:], l[1:]), "further in"),
    ("check_departs", "nothing"): (lambda p, r: None, "returns None"),
    ("check_departs", "from one"): (lambda p, r: None if departs(p, r) is None else departs(p, r) + 1, "count from 0"),
    ("check_departs", "bool"): (lambda p, r: not r.startswith(p), "expected 6"),
    ("check_departs", "zip only"): (lambda p, r: next((i for i, (a, b) in enumerate(zip(p, r)) if a != b), None), "a newline more"),
    ("check_departs", "length"): (lambda p, r: next((i for i, (a, b) in enumerate(zip(p, r)) if a != b), len(p)), "return None"),
    ("check_departs", "falsy"): (lambda p, r: departs(p, r) or None, "not the same as None"),
    ("check_departs", "end of prompt"): (lambda p, r: None if r.startswith(p) else next((i for i, (a, b) in enumerate(zip(p, r)) if a != b), len(p)), "at place 8"),
}
