"""Lesson 04."""


def linear_rate(t, peak, steps, warmup): return peak*t/warmup if t < warmup else peak*(steps - t)/(steps - warmup)


RIGHT = dict(check_linear_rate=linear_rate)
MUTANTS = {
    ("check_linear_rate", "from one"): (lambda t, p, n, w: p*(t + 1)/w if t < w else linear_rate(t, p, n, w), "first step has rate 0"),
    ("check_linear_rate", "no warm-up"): (lambda t, p, n, w: p*(n - t)/n, "no warm-up"),
    ("check_linear_rate", "constant"): (lambda t, p, n, w: p*t/w if t < w else p, "it falls"),
    ("check_linear_rate", "from zero"): (lambda t, p, n, w: p*t/w if t < w else p*(n - t)/n, "counted from step 0"),
    ("check_linear_rate", "ends at zero"): (lambda t, p, n, w: p*t/w if t < w else p*(n - 1 - t)/(n - 1 - w), "one step after the last"),
    ("check_linear_rate", "divides first"): (lambda t, p, n, w: min(p*t/w, p*(n - t)/(n - w)), "warmup may be 0"),
    ("check_linear_rate", "nothing"): (lambda t, p, n, w: None, "returns nothing"),
}
