"""Lesson 13."""
from itertools import combinations


def adamw_bytes(n, w, g, s): return n*(w + g + 2*s)
def logit_bytes(labels, vocab): return 4*vocab*sum(l != -100 for row in labels for l in row[1:])


def kv_bytes(cfg, batch, prompt, new):
    h = cfg["num_attention_heads"]
    return 4*cfg["num_hidden_layers"]*(cfg.get("num_key_value_heads") or h)*(cfg.get("head_dim") or cfg["hidden_size"]//h)*batch*(prompt + new)


def first_fit(need, room, changes):
    fit = [c for k in range(len(changes) + 1) for c in combinations(changes, k) if need - sum(x[1] for x in c) <= room]
    best = min(fit, key=lambda c: sum(x[2] for x in c), default=None)
    return None if best is None else {x[0] for x in best}


RIGHT = dict(check_adamw_bytes=adamw_bytes, check_logit_bytes=logit_bytes, check_cache_bytes=kv_bytes, check_first_fit=first_fit)


def greedy(need, room, changes):
    taken = set()
    for name, saved, _ in sorted(changes, key=lambda c: c[2]):
        if need <= room: break
        taken.add(name); need -= saved
    return taken if need <= room else None


def single(need, room, changes): return set() if need <= room else next(({n} for n, s, _ in sorted(changes, key=lambda c: c[2]) if need - s <= room), None)
def everything(need, room, changes): return first_fit(need, room, changes) if need <= room else {c[0] for c in changes} if first_fit(need, room, changes) is not None else None
def empty_for_none(need, room, changes): return first_fit(need, room, changes) or set()
def none_for_fits(need, room, changes): return first_fit(need, room, changes) or None
def strict(need, room, changes): return first_fit(need + 1, room, changes)
def fewest(need, room, changes):
    fit = [c for k in range(len(changes) + 1) for c in combinations(changes, k) if need - sum(x[1] for x in c) <= room]
    return {x[0] for x in fit[0]} if fit else None


MUTANTS = {
    ("check_adamw_bytes", "one state"): (lambda n, w, g, s: n*(w + g + s), "two numbers for each parameter"),
    ("check_adamw_bytes", "sixteen"): (lambda n, w, g, s: 16*n, "may have different sizes"),
    ("check_adamw_bytes", "no gradients"): (lambda n, w, g, s: n*(w + 2*s), "12 bytes a parameter; you have 10"),
    ("check_adamw_bytes", "swapped"): (lambda n, w, g, s: n*(w + 2*g + s) if w == 4 else n*(w + g + 2*s), "it is 8 bytes"),
    ("check_adamw_bytes", "nothing"): (lambda n, w, g, s: None, "returns nothing"),
    ("check_logit_bytes", "all positions"): (lambda l, v: 4*v*sum(map(len, l)), "only positions that predict"),
    ("check_logit_bytes", "positions"): (lambda l, v: logit_bytes(l, v)//(4*v), "bytes, not positions"),
    ("check_logit_bytes", "numbers"): (lambda l, v: logit_bytes(l, v)//4, "has four bytes"),
    ("check_logit_bytes", "16 bits"): (lambda l, v: logit_bytes(l, v)//2, "has four bytes"),
    ("check_logit_bytes", "first token"): (lambda l, v: 4*v*sum(x != -100 for r in l for x in r), "predicted by no position"),
    ("check_logit_bytes", "last dropped"): (lambda l, v: 4*v*sum(x != -100 for r in l for x in r[:-1]), "five of the tokens"),
    ("check_logit_bytes", "nothing"): (lambda l, v: None, "returns nothing"),
    ("check_cache_bytes", "keys only"): (lambda c, *a: kv_bytes(c, *a)/2, "keys *and* values"),
    ("check_cache_bytes", "query heads"): (lambda c, *a: kv_bytes({**c, "num_key_value_heads": c["num_attention_heads"]}, *a), "heads of their own"),
    ("check_cache_bytes", "prompt only"): (lambda c, b, p, n: kv_bytes(c, b, p, 0), "new tokens are cached"),
    ("check_cache_bytes", "one row"): (lambda c, b, p, n: kv_bytes(c, 1, p, n), "its own cache"),
    ("check_cache_bytes", "derived width"): (lambda c, *a: kv_bytes({**c, "head_dim": None}, *a), "head_dim need not be"),
    ("check_cache_bytes", "new configs only"): (lambda c, *a: kv_bytes(c, *a)*c["num_key_value_heads"]//c["num_key_value_heads"], "an older config does not say"),
    ("check_cache_bytes", "nothing"): (lambda c, *a: None, "returns nothing"),
    ("check_first_fit", "greedy"): (greedy, "'a' is not needed"),
    ("check_first_fit", "single"): (single, "together save 40"),
    ("check_first_fit", "everything"): (everything, "the cheapest change that saves 30"),
    ("check_first_fit", "empty for none"): (empty_for_none, "return None"),
    ("check_first_fit", "none for fits"): (none_for_fits, "an empty set, not None"),
    ("check_first_fit", "strict"): (strict, "exactly as many bytes"),
    ("check_first_fit", "fewest"): (fewest, "costs 3"),
}
