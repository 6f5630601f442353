"""Bias: counts and intervals are right, swaps obey their laws, answers are measured as transformers measures them, and data is mended without loss."""
import copy, json, re, statistics, time

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from scipy.stats import binomtest, bootstrap

from ftcourse.bias import (Gap, answer_logp, augment, balance, counterfactual, gap, group, make_desk, make_pairs, mentions, occupation, representation, said,
                           swap, text_logp, unsure, wilson, words)
from ftcourse.models import toy

fast = settings(deadline=None, max_examples=60, derandomize=True)
NAMES = words()["names"]["train"] + words()["names"]["test"]
NOUNS = words()["nouns"]["pairs"]
SHE = ["she", "her", "hers", "herself", "Mrs"] + [p[0] for p in NAMES + NOUNS]
HE = ["he", "him", "his", "himself"] + [p[1] for p in NAMES + NOUNS]
CASES = st.sampled_from([str, str.upper, lambda w: w[0].upper() + w[1:]])
FILLERS = ["desk", "that", "the", "old", "sheet", "there", "ushers", "heat", "this", "chef", "history", "Sheridan", "o'clock", "7", "naïve", "them"]
MARKS = [" ", " ", " ", ", ", ". ", "\n", "! ", " “", "” ", " – "]


def texts(pool, cases=CASES):
    "Words of a pool, in any case, between fillers and punctuation."
    word = st.one_of(st.builds(lambda w, c: c(w), st.sampled_from(pool), cases), st.sampled_from(FILLERS))
    return st.lists(st.tuples(word, st.sampled_from(MARKS)), max_size=12).map(lambda ps: "".join(w + m for w, m in ps))


def label(row): return row["label"]
def cell(row): return (group(row), row["label"])
def chat(text, answer="urgent", **more): return dict(messages=[dict(role="user", content=text), dict(role="assistant", content=answer)], label=answer, **more)


# Counting

@fast
@given(st.integers(0, 400), st.integers(1, 400), st.sampled_from([.5, .9, .95, .99]))
def test_wilson_is_scipys(k, n, confidence):
    assume(k <= n)
    theirs = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k, n, confidence=confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_of_no_rows_says_nothing(): assert wilson(0, 0) == (0, 1)


@fast
@given(texts(SHE + HE))
def test_mentions_counts_whole_words_of_both_lists(text):
    tokens = re.findall(r"\w+", text)
    of = lambda pool: sum(t in {w for p in pool for w in (p, p.upper(), p[0].upper() + p[1:])} for t in tokens)
    assert mentions(text) == dict(she=of(SHE), he=of(HE))


@pytest.mark.parametrize("text,want", [("Mary left.", "she"), ("his", "he"), ("She told him.", "both"), ("The sheet is there.", "neither"), ("", "neither"),
                                       ("mark it", "neither"), ("will", "neither"), ("HERS", "she"), ("mary", "neither")])
def test_group(text, want): assert group(text) == want


def test_instructions_do_not_count():
    row = dict(messages=[dict(role="system", content="She is the boss."), dict(role="user", content="He called."), dict(role="assistant", content="ok")])
    assert group(row) == "he" and said(row) == "He called.\nok"


@fast
@given(st.lists(st.sampled_from(["she", "he", "she and he", "nobody"]), min_size=1, max_size=40), st.booleans())
def test_representation_counts_each_row_once(rows, split):
    table = representation(rows, by=len if split else None)
    assert sum(r["n"] for r in table) == len(rows)
    for b in {r["by"] for r in table}:
        block = [r for r in table if r["by"] == b]
        assert len(block) == 4 and sum(r["share"] for r in block) == pytest.approx(1)
    assert all(r["low"] <= r["share"] + 1e-12 and r["share"] <= r["high"] + 1e-12 and (r["low"], r["high"]) == wilson(r["n"], r["of"]) for r in table)


def test_occupation_takes_the_first_whole_word_and_the_longest():
    assert occupation("A construction worker and a nurse") == "construction worker"
    assert occupation("The ceo called") == "CEO" and occupation("nurses, cooking") is None
    assert all(occupation(f"The {j} left.") == j for j in words()["occupations"])


# Swapping

@fast
@given(texts(SHE + HE))
def test_a_swap_turns_each_word_into_one_of_the_other_list_and_leaves_the_rest(text):
    before, after = mentions(text), mentions(swap(text))
    assert (before["she"], before["he"]) == (after["he"], after["she"])
    drop = lambda t: re.sub(r"\w+", lambda m: "*" if sum(mentions(m[0]).values()) else m[0], t)
    assert drop(text) == drop(swap(text))


@fast
@given(texts([w for w in SHE + HE if w not in ("him", "hers", "Mrs")]))
def test_swapping_twice_gives_back_what_lost_nothing(text): assert swap(swap(text)) == text and unsure(text) == []


@fast
@given(texts(SHE + HE))
def test_unsure_finds_exactly_the_words_that_do_not_come_back(text):
    back = swap(swap(text))
    assert bool(unsure(text)) == (back != text)
    for at, word, other in unsure(text): assert text[at:at + len(word)] == word != other


@fast
@given(texts(SHE + HE), CASES)
def test_a_swap_keeps_the_case_of_each_word(text, case):
    shape = lambda t: [(w.isupper(), w[0].isupper()) for w in re.findall(r"\w+", t)]
    mine = [a for a, w in zip(shape(text), re.findall(r"\w+", text)) if len(w) > 1]
    assert mine == [a for a, w in zip(shape(swap(text)), re.findall(r"\w+", text)) if len(w) > 1]


@pytest.mark.parametrize("text,want", [
    ("her desk", "his desk"), ("her old desk", "his old desk"), ("we saw her", "we saw him"), ("we saw her.", "we saw him."), ("saw her in town", "saw him in town"),
    ("told her that", "told him that"), ("the desk is his", "the desk is hers"), ("his desk", "her desk"), ("his, not hers", "hers, not his"), ("HER DESK", "HIS DESK"),
    ("Her desk", "His desk"), ("she's late", "he's late"), ("her\ndesk", "his\ndesk"), ('her "desk"', 'his "desk"'), ("her (old) desk", "him (old) desk"),
    ("Mary's husband", "James's wife"), ("Mr Brown", "Ms Brown"), ("his own", "her own"), ("herself", "himself"), ("the theatre", "the theatre"), ("s/he", "s/she"),
    ("Her.", "Him."), ("LADIES AND GENTLEMEN", "GENTLEMEN AND LADIES")])
def test_swap_by_hand(text, want): assert swap(text) == want


def test_swap_writes_what_the_grammar_writes_but_for_one_sentence():
    pairs = make_pairs("train", 600) + make_pairs("test", 300)
    wrong = {s["situation"] for s, h in pairs if (swap(said(s)), swap(said(h))) != (said(h), said(s))}
    assert {w[:30] for w in wrong} == {"{She} sent a contract to the w"}


@fast
@given(st.integers(0, 300))
def test_a_counterfactual_changes_the_person_and_nothing_else(i):
    she = make_pairs("test", 2, seed=i)[0][0]
    before, twin = copy.deepcopy(she), counterfactual(she)
    assert she == before and twin.keys() == she.keys() and twin["label"] == she["label"]
    assert twin["messages"][1]["content"] == swap(she["messages"][1]["content"]) and twin["messages"][::2] == she["messages"][::2]
    assert (group(she), group(twin)) == ("she", "he")


def test_messages_without_words_are_rows_like_others():
    row = dict(messages=[dict(role="developer", content="She is the boss."), dict(role="user", content="He called."), dict(role="assistant", content=None)])
    assert said(row) == "He called.\n" and group(row) == "he"
    assert [m["content"] for m in counterfactual(row)["messages"]] == ["He is the boss.", "She called.", None]


def test_a_huge_text_is_swapped_in_seconds():
    "Twice the text, about twice the time: 32 times as long would be a thousand times as slow if each word looked through all that follows."
    def seconds(n):
        text = "her desk "*n
        start = time.perf_counter(); out = swap(text); spent = time.perf_counter() - start
        assert out == "his desk "*n
        return spent
    few = min(seconds(4_000) for _ in range(3))
    assert min(seconds(128_000) for _ in range(2)) < 32*4*few


def test_many_groups_need_little_memory():
    "Drawn in one piece, 9,999 draws of 20,000 groups are 1.6 GB of places, and twice as much of numbers."
    import resource
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = gap(np.arange(20_000.)%7, np.zeros(20_000))
    assert got.low < got.mean < got.high and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


# The rows

@fast
@given(st.sampled_from(["train", "test"]), st.integers(1, 40), st.integers(0, 99))
def test_pairs_differ_in_the_person_only(split, half, seed):
    pairs = make_pairs(split, 2*half, seed=seed)
    assert pairs == make_pairs(split, 2*half, seed=seed) and sum(s["label"] == "urgent" for s, _ in pairs) == half
    for she, he in pairs:
        assert (group(she), group(he)) == ("she", "he") and (she["label"], she["situation"]) == (he["label"], he["situation"])
        assert occupation(she) == occupation(he) and she["messages"][-1]["content"] == she["label"]


@fast
@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
def test_the_skew_is_exact_and_changes_persons_only(quarter, skew, seed):
    n = 4*quarter
    rows, even = make_desk("train", n, skew=skew, seed=seed), make_desk("train", n, seed=seed)
    she = {l: sum(cell(r) == ("she", l) for r in rows) for l in ("urgent", "routine")}
    assert she["urgent"] == round(skew*n/2) and sum(she.values()) == n/2
    hers = lambda r: re.sub(rf"\ban? {occupation(r)}\b", "a worker", said(r) if group(r) == "she" else swap(said(r)))
    assert [hers(r) for r in rows] == [hers(r) for r in even]  # but for person and occupation they are the same


def test_nothing_of_the_test_messages_is_in_the_training_messages():
    w = words()
    for part in (w["openings"], w["urgent"], w["routine"]): assert not set(part["train"]) & set(part["test"])
    assert not {n for p in w["names"]["train"] for n in p} & {n for p in w["names"]["test"] for n in p}
    assert len({n for p in NAMES + NOUNS for n in p}) == 2*len(NAMES + NOUNS)  # each word has one partner
    assert len(w["occupations"]) == 40


# Mending

@fast
@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 99))
def test_augmented_rows_say_nothing_of_the_person(quarter, skew, seed):
    rows = make_desk("test", 4*quarter, skew=skew, seed=seed)
    before = copy.deepcopy(rows)
    both = augment(rows)
    counts = {c: sum(cell(r) == c for r in both) for c in map(cell, both)}
    for l in ("urgent", "routine"): assert counts.get(("she", l), 0) == counts.get(("he", l), 0) == len(rows)/2
    assert rows == before and [{k: v for k, v in r.items() if k != "pair"} for r in both[::2]] == rows
    assert [r["pair"] for r in both] == [i for i in range(len(rows)) for _ in range(2)]


@fast
@given(st.integers(0, 99))
def test_the_coin_keeps_one_of_each_row_and_both_sides_come_up(seed):
    rows = make_desk("train", 80, skew=1., seed=seed)
    got = augment(rows, how="coin", seed=seed)
    swapped = [g["messages"] != r["messages"] for g, r in zip(got, rows)]
    assert all(g["messages"] in (r["messages"], counterfactual(r)["messages"]) for g, r in zip(got, rows))
    assert len(got) == 80 and 15 < sum(swapped) < 65 and got == augment(rows, how="coin", seed=seed)


@fast
@given(st.integers(2, 20), st.floats(.1, .9), st.integers(0, 99))
def test_balance_keeps_as_many_of_each_and_as_many_as_it_can(quarter, skew, seed):
    rows = make_desk("train", 20*quarter, skew=skew, seed=seed) + [chat("Nobody called."), chat("She told him.")]
    got = balance(rows, label, seed=seed)
    counts = [sum(cell(r) == (g, l) for r in rows) for g in ("she", "he") for l in ("urgent", "routine")]
    assert [sum(cell(r) == (g, l) for r in got) for g in ("she", "he") for l in ("urgent", "routine")] == [min(counts)]*4 and len(got) == 4*min(counts)
    at = [next(i for i, r in enumerate(rows) if r is g) for g in got]
    assert at == sorted(at)


# Measuring

@pytest.fixture(scope="module")
def tiny(): return toy()


def of_transformers(model, ids, labels):
    with torch.no_grad(): loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
    return -loss*sum(l != -100 for l in labels[1:])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_answers_are_as_likely_as_transformers_loss_says(tiny, batch_size):
    from ftcourse.chat import encode
    model, tokenizer = tiny
    rows = [chat("x"*k, "urgent"*(1 + k % 3)) for k in (9, 1, 30, 4, 17)]
    want = [of_transformers(model, e.ids, e.labels) for e in (encode(r["messages"], tokenizer) for r in rows)]
    assert answer_logp(model, tokenizer, rows, batch_size=batch_size) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_texts_are_as_likely_as_transformers_loss_says(tiny, batch_size):
    model, tokenizer = tiny
    texts = ["She called.", "He", "A much longer sentence than the others.", "ab"]
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    assert text_logp(model, tokenizer, texts, batch_size=batch_size) == pytest.approx([of_transformers(model, i, i) for i in ids], rel=1e-4)


def test_a_model_with_adapters_is_measured_with_them(tiny):
    from peft import LoraConfig, get_peft_model
    model, tokenizer = toy(seed=3)
    row = chat("She called.")
    before = answer_logp(model, tokenizer, [row])
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    from ftcourse.chat import encode
    e = encode(row["messages"], tokenizer)
    after = answer_logp(tuned, tokenizer, [row])
    assert after == pytest.approx([of_transformers(tuned, e.ids, e.labels)], rel=1e-4) and abs(after[0] - before[0]) > 1e-3


def test_measuring_keeps_nothing_for_gradients_and_leaves_no_mode_behind(tiny):
    model, tokenizer = tiny
    kept = []
    hook = model.model.register_forward_hook(lambda module, args, out: kept.append(out.last_hidden_state.requires_grad))
    answer_logp(model, tokenizer, [chat("a")]); text_logp(model, tokenizer, ["She called."])
    hook.remove()
    assert kept == [False, False] and torch.is_grad_enabled() and not model.training


# Intervals

numbers = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=25)


@fast
@given(numbers, st.integers(0, 9))
def test_a_gap_is_scipys_paired_bootstrap(pairs, seed):
    a, b = map(np.array, zip(*pairs))
    ci = bootstrap((a, b), lambda x, y, axis: (x - y).mean(axis), paired=True, method="percentile", rng=np.random.default_rng(seed)).confidence_interval
    got = gap(a, b, seed=seed)
    assert (got.mean, got.low, got.high) == pytest.approx((np.mean(a - b), ci.low, ci.high), abs=1e-9) and (got.pairs, got.clusters) == (len(a), len(a))


@fast
@given(numbers)
def test_a_gap_turned_round_has_the_other_sign(pairs):
    a, b = zip(*pairs)
    x, y = gap(a, b), gap(b, a)
    assert x.mean == pytest.approx(-y.mean, abs=1e-9) and x.low <= x.mean + 1e-9 and x.mean <= x.high + 1e-9
    assert x.low == pytest.approx(-y.high, abs=.35*(x.high - x.low) + 1e-9)


@fast
@given(st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=6), min_size=2, max_size=9), st.integers(0, 9))
def test_groups_of_unequal_size_are_drawn_whole_and_pairs_weigh_the_same(sizes, seed):
    d, groups = [x for xs in sizes for x in xs], [i for i, xs in enumerate(sizes) for _ in xs]
    sums, counts = np.array([sum(xs) for xs in sizes]), np.array([len(xs) for xs in sizes])
    mean = lambda which, axis: sums[which].sum(axis)/counts[which].sum(axis)
    ci = bootstrap((np.arange(len(sizes)),), mean, method="percentile", vectorized=True, rng=np.random.default_rng(seed)).confidence_interval
    got = gap(d, [0.]*len(d), groups=groups, seed=seed)
    assert (got.mean, got.low, got.high) == pytest.approx((np.mean(d), ci.low, ci.high), abs=1e-9) and (got.pairs, got.clusters) == (len(d), len(sizes))


def test_drawing_groups_covers_where_drawing_pairs_does_not():
    "200 experiments, true gap 0, ten pairs share each of twenty situations: how often is 0 in the interval?"
    rng, hit = np.random.default_rng(0), dict(pairs=0, groups=0)
    for _ in range(200):
        shared = rng.normal(size=20)
        d, g = (shared[:, None] + .3*rng.normal(size=(20, 10))).ravel(), np.repeat(np.arange(20), 10)
        for name, groups in dict(pairs=None, groups=g).items():
            x = gap(d, np.zeros(200), groups=groups)
            hit[name] += x.low <= 0 <= x.high
    assert hit["groups"] >= 175 and hit["pairs"] <= 120


# What is refused

def test_bad_input_is_named():
    for wrong, says in [
        (lambda: wilson(3, 2), "3 of 2 rows"), (lambda: wilson(1, 2, confidence=95), "confidence is 95"), (lambda: representation([]), "no rows"),
        (lambda: group(7), "7' is no row"), (lambda: said(dict(text="x")), "is no row"), (lambda: swap(None), "is a NoneType"),
        (lambda: counterfactual({}), "is no row"), (lambda: make_pairs("dev", 2), "split is 'dev'"), (lambda: make_pairs("test", 3), "n is 3"),
        (lambda: make_desk("test", 6), "n is 6"), (lambda: make_desk("test", 4, skew=90), "skew is 90"), (lambda: augment([], how="all"), "how is 'all'"),
        (lambda: augment(augment([chat("She left.")])), "augmented"), (lambda: balance([chat("Rain.")], label), "nothing to balance"),
        (lambda: balance([chat("She left.")], label), "no row about he where it is 'urgent'"), (lambda: gap([1, 2], [1]), "2 and 1 numbers"),
        (lambda: representation("She called."), "rows are a str"), (lambda: representation(chat("She called.")), "rows are a dict"), (lambda: augment("She called."), "rows are a str"),
        (lambda: balance(chat("She called."), label), "rows are a dict"), (lambda: counterfactual("She called."), "is no row"), (lambda: augment(["She called."]), "is no row"),
        (lambda: counterfactual(dict(messages=[dict(role="assistant", content=None, tool_calls=[dict(name="call", arguments="Mary")])])), "has tool calls"),
        (lambda: gap([1, 2], [0, 0], groups=["a", None]), "pair 1 has the group None"), (lambda: gap([1, 2], [0, 0], groups=[float("nan"), "a"]), "pair 0 has the group nan"),
        (lambda: gap([1, 2], [0, 0], groups=[["a"], ["b"]]), "pair 0 has the group ['a']"), (lambda: gap([1], [1]), "1 to draw from"), (lambda: gap([1, float("nan")], [0, 0]), "not finite"), (lambda: gap([1, 2], [0, 0], groups="aa"), "1 to draw from")]:
        with pytest.raises(ValueError, match=re.escape(says)): wrong()


def test_bad_input_to_measuring_is_named(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="1 tokens"): text_logp(model, tokenizer, ["a"])
    with pytest.raises(ValueError, match="batch_size is 0"): text_logp(model, tokenizer, ["ab"], batch_size=0)
    with pytest.raises(ValueError, match="end with the assistant"): answer_logp(model, tokenizer, [dict(messages=chat("a")["messages"][:1])])


# The record

@pytest.fixture(scope="module")
def record(root): return json.loads((root/"nbs"/"results"/"24_bias.json").read_text())


def test_the_record_says_how_it_was_made(record):
    assert {"device", "dtype", "seeds", "steps", "versions", "date", "seconds", "peak_bytes", "machine"} <= record.keys()
    arms = [r["arm"] for r in record["runs"]]
    assert arms.count("base") == 1 and all(arms.count(a) == record["seeds"] for a in ("skewed", "balanced", "augmented", "substituted"))
    assert len({len(r["she"]) for r in record["runs"]} | {len(r["he"]) for r in record["runs"]}) == 1


def test_every_recorded_run_on_skewed_rows_leans_further_than_every_mended_one(record):
    leans = lambda arms: [statistics.mean(r["she"]) - statistics.mean(r["he"]) for r in record["runs"] if r["arm"] in arms]
    assert min(leans(["skewed"])) > .2 > .1 > max(leans(["balanced", "augmented", "substituted"]))


def test_rows_that_keep_the_link_to_occupations_lean_with_them_further_than_balanced_ones_in_every_run(record):
    lean = lambda arm: {r["seed"]: statistics.mean(r["many"]) - statistics.mean(r["few"]) for r in record["runs"] if r["arm"] == arm}
    balanced = lean("balanced")
    for arm in ("skewed", "augmented", "substituted"): assert all(v > balanced[s] for s, v in lean(arm).items())
