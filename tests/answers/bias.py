"""Lesson 24."""
OF_HER = dict(she="he", hers="his", herself="himself")


def swap_her(word, following, small):
    new = ("his" if following and following not in small else "him") if word.lower() == "her" else OF_HER.get(word.lower(), word)
    return new.capitalize() if word[0].isupper() else new


def flip_rate(hers, his): return sum(a != b for a, b in zip(hers, his))/len(hers)
def lean(p, who): return p[who]["urgent"] - p[who]["routine"]
def mean_gap(pairs): return sum(lean(p, "she") - lean(p, "he") for p in pairs)/len(pairs)


def twin_split(rows, n):
    held = set(list(dict.fromkeys(r["pair"] for r in rows))[:n])
    return [r for r in rows if r["pair"] not in held], [r for r in rows if r["pair"] in held]


RIGHT = dict(check_swap_her=swap_her, check_flip_rate=flip_rate, check_cancelled_gap=mean_gap, check_twin_split=twin_split)


def only(word, **other):
    "The right answer, but for some words."
    return lambda w, following, small: other[w] if w in other else swap_her(w, following, small)


def substrings(word, following, small):
    return swap_her(word, following, small) if word.lower() in ("her", "herself", "hers") else word.replace("she", "he")


def right_side(pairs):
    sign = lambda p: 1 if p["label"] == "urgent" else -1
    return sum(sign(p)*(lean(p, "she") - lean(p, "he")) for p in pairs)/len(pairs)


def some(pairs, label):
    kept = [p for p in pairs if p["label"] == label]
    return mean_gap(kept)


def draw_rows(rows, n): return rows[n:], rows[:n]
def in_place(rows, n):
    out = twin_split(rows, n)
    rows.sort(key=lambda r: r["pair"])
    return out


def one_of_each(rows, n):
    train, test = twin_split(rows, n)
    return train, list({r["pair"]: r for r in test}.values())


def lost_from_train(rows, n):
    train, test = twin_split(rows, n)
    return list({r["pair"]: r for r in train}.values()), test


def leaky(rows, n):
    train, test = twin_split(rows, n)
    return train + test[:1], test


def whole_only(rows, n):
    count = {r["pair"]: sum(q["pair"] == r["pair"] for q in rows) for r in rows}
    return twin_split([r for r in rows if count[r["pair"]] == 2], n)


MUTANTS = {
    ("check_swap_her", "always his"): (lambda w, f, s: "his" if w == "her" else swap_her(w, f, s), "`told her that` became `told his that`"),
    ("check_swap_her", "always him"): (lambda w, f, s: "him" if w == "her" else swap_her(w, f, s), "`her desk` became `him desk`"),
    ("check_swap_her", "turned round"): (lambda w, f, s: {"his": "him", "him": "his"}[swap_her(w, f, s)] if w == "her" else swap_her(w, f, s), "the wrong way round"),
    ("check_swap_her", "end forgotten"): (lambda w, f, s: "his" if w == "her" and f == "" else swap_her(w, f, s), "ends there"),
    ("check_swap_her", "hers"): (only("", hers="hims"), "the key is his"),
    ("check_swap_her", "hisself"): (only("", herself="hisself"), "himself, not hisself"),
    ("check_swap_her", "herself stays"): (only("", herself="herself"), "herself → himself"),
    ("check_swap_her", "substrings"): (substrings, "whole words only"),
    ("check_swap_her", "capital lost"): (lambda w, f, s: swap_her(w.lower(), f, s), "a capital stays one"),
    ("check_swap_her", "she stays"): (only("", she="she"), "she → he"),
    ("check_swap_her", "nothing"): (lambda w, f, s: None, "returns nothing"),
    ("check_flip_rate", "net"): (lambda a, b: abs(a.count("urgent") - b.count("urgent"))/len(a), "they cancel"),
    ("check_flip_rate", "count"): (lambda a, b: sum(x != y for x, y in zip(a, b)), "divide by the number of pairs"),
    ("check_flip_rate", "by texts"): (lambda a, b: sum(x != y for x, y in zip(a, b))/(len(a) + len(b)), "of four pairs two differ"),
    ("check_flip_rate", "one way"): (lambda a, b: sum(x == "urgent" != y for x, y in zip(a, b))/len(a), "of four pairs two differ"),
    ("check_flip_rate", "constant"): (lambda a, b: .5, "no answer differs"),
    ("check_flip_rate", "two labels"): (lambda a, b: sum({x, y} == {"urgent", "routine"} for x, y in zip(a, b))/len(a), "other answers than"),
    ("check_flip_rate", "nothing"): (lambda a, b: None, "returns nothing"),
    ("check_cancelled_gap", "right leaning"): (right_side, "sign turns, and pairs cancel"),
    ("check_cancelled_gap", "right answer"): (lambda ps: sum(p["she"][p["label"]] - p["he"][p["label"]] for p in ps)/len(ps), "right answer's log-probability"),
    ("check_cancelled_gap", "urgent alone"): (lambda ps: sum(p["she"]["urgent"] - p["he"]["urgent"] for p in ps)/len(ps), "two parts"),
    ("check_cancelled_gap", "absolute"): (lambda ps: sum(abs(mean_gap([p])) for p in ps)/len(ps), "leave the sign"),
    ("check_cancelled_gap", "urgent rows"): (lambda ps: some(ps, "urgent"), "whose right answer is urgent"),
    ("check_cancelled_gap", "routine rows"): (lambda ps: some(ps, "routine"), "whose right answer is routine"),
    ("check_cancelled_gap", "his minus hers"): (lambda ps: -mean_gap(ps), "hers minus his"),
    ("check_cancelled_gap", "sum"): (lambda ps: mean_gap(ps)*len(ps), "divide by the number"),
    ("check_cancelled_gap", "constant"): (lambda ps: .875, "the third pair alone"),
    ("check_cancelled_gap", "half"): (lambda ps: mean_gap(ps)/2, "expected 0.875"),
    ("check_cancelled_gap", "nothing"): (lambda ps: None, "returns nothing"),
    ("check_twin_split", "rows"): (draw_rows, "their twins are in the training set"),
    ("check_twin_split", "one leaks"): (leaky, "a pair is on both sides"),
    ("check_twin_split", "twins dropped from test"): (one_of_each, "40 rows went in and 35 came out"),
    ("check_twin_split", "twins dropped from train"): (lost_from_train, "40 rows went in and 25 came out"),
    ("check_twin_split", "too few"): (lambda rows, n: twin_split(rows, n//2), "expected 5 pairs in the test set, got 2"),
    ("check_twin_split", "no test"): (lambda rows, n: (rows, []), "one side is empty"),
    ("check_twin_split", "in place"): (in_place, "make new lists"),
    ("check_twin_split", "single rows dropped"): (whole_only, "without its twin"),
    ("check_twin_split", "nothing"): (lambda rows, n: None, "returns nothing"),
}
