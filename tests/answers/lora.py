"""Lesson 11."""
import math


def lora_forward(x, W, A, B, alpha): return x @ W.T + alpha/len(A) * (x @ A.T @ B.T)
def same_scale(r, alpha, new_r, rslora=False): return alpha/r * (math.sqrt(new_r) if rslora else new_r)
def hit_targets(names, targets): return {t: sum(n == t or n.endswith("." + t) for n in names) for t in targets}
def flat(rows): return [v for row in rows for v in row]
def dead_adapters(tensors): return {k.split(".lora_")[0] for k, rows in tensors.items() if not any(flat(rows))}


RIGHT = dict(check_lora_forward=lora_forward, check_same_scale=same_scale, check_hit_targets=hit_targets, check_dead_adapters=dead_adapters)


def counts(hit): return lambda names, targets: {t: sum(hit(n, t) for n in names) for t in targets}


MUTANTS = {
    ("check_lora_forward", "W only"): (lambda x, W, A, B, a: x @ W.T, "add the bypass"),
    ("check_lora_forward", "bypass only"): (lambda x, W, A, B, a: a/len(A)*(x @ A.T @ B.T), "frozen part is missing"),
    ("check_lora_forward", "unscaled"): (lambda x, W, A, B, a: x @ W.T + x @ A.T @ B.T, "unscaled"),
    ("check_lora_forward", "alpha alone"): (lambda x, W, A, B, a: x @ W.T + a*(x @ A.T @ B.T), "divide by r"),
    ("check_lora_forward", "d_in for r"): (lambda x, W, A, B, a: x @ W.T + a/A.shape[1]*(x @ A.T @ B.T), "number of rows of A"),
    ("check_lora_forward", "scales all"): (lambda x, W, A, B, a: a/len(A)*(x @ W.T + x @ A.T @ B.T), "not to Wx"),
    ("check_lora_forward", "transposed"): (lambda x, W, A, B, a: x @ W.T + x @ A @ B, "shapes do not fit"),
    ("check_lora_forward", "forms BA"): (lambda x, W, A, B, a: x @ (W + a/len(A)*(B @ A)).T, "as large as W"),
    ("check_lora_forward", "nothing"): (lambda x, W, A, B, a: None, "returns nothing"),
    ("check_same_scale", "same alpha"): (lambda r, a, n, s: a, "scaled down"),
    ("check_same_scale", "inverted"): (lambda r, a, n, s: a*r/n, "other way round"),
    ("check_same_scale", "no root"): (lambda r, a, n, s: a/r*n, "root of new_r"),
    ("check_same_scale", "root on both"): (lambda r, a, n, s: a*math.sqrt(n/r) if s else a/r*n, "only the new run"),
    ("check_same_scale", "nothing"): (lambda r, a, n, s: None, "returns nothing"),
    ("check_hit_targets", "substring"): (counts(lambda n, t: t in n), "substring"),
    ("check_hit_targets", "ends with"): (counts(lambda n, t: n.endswith(t)), "put a dot before"),
    ("check_hit_targets", "needs a dot"): (counts(lambda n, t: n.endswith("." + t)), "name that *is* the target"),
    ("check_hit_targets", "last part"): (counts(lambda n, t: n.split(".")[-1] == t), "several parts"),
    ("check_hit_targets", "misses dropped"): (lambda ns, ts: {t: c for t, c in hit_targets(ns, ts).items() if c}, "one entry for each target"),
    ("check_hit_targets", "lists"): (lambda ns, ts: {t: [n for n in ns if n == t or n.endswith("." + t)] for t in ts}, "count the names"),
    ("check_dead_adapters", "B only"): (lambda ts: {k.split(".lora_")[0] for k, v in ts.items() if "lora_B" in k and not any(flat(v))}, "A of v"),
    ("check_dead_adapters", "A only"): (lambda ts: {k.split(".lora_")[0] for k, v in ts.items() if "lora_A" in k and not any(flat(v))}, "B of q"),
    ("check_dead_adapters", "sums"): (lambda ts: {k.split(".lora_")[0] for k, v in ts.items() if not sum(flat(v))}, "add up to zero"),
    ("check_dead_adapters", "any zero"): (lambda ts: {k.split(".lora_")[0] for k, v in ts.items() if not all(flat(v)) and "o.lora" not in k}, "k is alive"),
    ("check_dead_adapters", "tensor names"): (lambda ts: {k for k, v in ts.items() if not any(flat(v))}, "layer's name"),
    ("check_dead_adapters", "rounded"): (lambda ts: {k.split(".lora_")[0] for k, v in ts.items() if all(abs(e) < 1e-6 for e in flat(v))}, "k is alive"),
}
