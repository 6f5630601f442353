"""Batches: laws of cutting, grouping and packing; every layout trains exactly as padding does, in our steps and in the trainers people use."""
import copy, itertools, json, math, random
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from hypothesis import given, settings, strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer, pack_dataset

from ftcourse import batch as B
from ftcourse.batch import (LAYOUTS, Collator, Cut, computed_tokens, leak, lean_, length_groups, pack, packing_explorer, row_mask, shared_prefix,
                            trained_tokens, truncate)
from ftcourse.lora import add_lora
from ftcourse.models import load, toy
from test_explore import choose, readout
from web import needs_browser

PAD = 3
laws, few = (settings(deadline=None, max_examples=n, derandomize=True) for n in (60, 15))
token = st.integers(4, 250)


@st.composite
def row(draw, prefix=(), most=24):
    "A row: a prompt, a stretch of it trained, now and then with a second trained stretch and something behind."
    ids = [*prefix, *draw(st.lists(token, min_size=2, max_size=most))]
    labels = [-100]*len(ids)
    for _ in range(draw(st.integers(1, 2))):
        a = draw(st.integers(1, len(ids) - 1)); b = draw(st.integers(a, len(ids) - 1))
        labels[a:b + 1] = ids[a:b + 1]
    return dict(input_ids=ids, labels=labels)


def a_row(prompt, answer, tail=0, rng=random.Random(0), prefix=()):
    ids = [*prefix, *(rng.randrange(4, 250) for _ in range(prompt + answer + tail))]
    n = len(prefix) + prompt
    return dict(input_ids=ids, labels=[-100]*n + ids[n:n + answer] + [-100]*tail)


START = (11, 12, 13, 14, 15, 16)
ROWS = [a_row(p, a, t, random.Random(p*100 + a), START) for p, a, t in ((3, 2, 1), (14, 9, 0), (1, 30, 2), (22, 1, 0), (5, 5, 5), (9, 3, 1))]
sized = st.lists(st.integers(1, 60), min_size=1, max_size=60)


def trained(r): return sum(l != -100 for l in r["labels"][1:])
def lessons(rows):
    "What rows teach: for each trained token its predictor's position, the predictor, and the target."
    return sorted((j - 1, r["input_ids"][j - 1], l) for r in rows for j, l in enumerate(r["labels"]) if j and l != -100)


# ---- packing and grouping

@laws
@given(sized, st.integers(60, 130))
def test_every_row_is_in_exactly_one_bin_and_no_bin_is_over_full(lengths, capacity):
    bins = pack(lengths, capacity)
    assert sorted(r for b in bins for r in b) == list(range(len(lengths)))
    assert all(sum(lengths[r] for r in b) <= capacity for b in bins)
    assert pack(lengths, capacity) == bins


@laws
@given(sized, st.integers(60, 130))
def test_a_bin_is_opened_only_for_a_row_that_fits_in_none(lengths, capacity):
    bins = pack(lengths, capacity)
    sums = [sum(lengths[r] for r in b) for b in bins]
    assert all(lengths[b[0]] + s > capacity for k, b in enumerate(bins) for s in sums[:k])


def fewest(lengths, capacity):
    "The least number of bins, by trying everything."
    for n in range(math.ceil(sum(lengths)/capacity), len(lengths) + 1):
        def place(i, room):
            if i == len(lengths): return True
            return any(place(i + 1, room[:b] + [r - lengths[i]] + room[b + 1:]) for b, r in enumerate(room) if r >= lengths[i])
        if place(0, [capacity]*n): return n


@laws
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(30, 60))
def test_bins_are_hardly_more_than_the_best(lengths, capacity):
    best = fewest(lengths, capacity)
    assert best <= len(pack(lengths, capacity)) <= 11/9*best + 6/9


@few
@given(sized, st.integers(60, 200))
def test_as_many_bins_as_trl(lengths, capacity):
    theirs = pack_dataset(Dataset.from_dict({"input_ids": [[0]*n for n in lengths]}), capacity, "bfd")["seq_lengths"]
    assert sorted(sorted(b) for b in theirs) == sorted(sorted(lengths[r] for r in b) for b in pack(lengths, capacity))


def test_a_row_goes_where_it_fits_best(): assert pack([5, 3, 6, 8, 1], 10) == [[3], [2, 1, 4], [0]]


@laws
@given(sized, st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_grouped_batches_hold_every_row_once(lengths, size, window, seed):
    batches = length_groups(lengths, size, seed=seed, window=window)
    assert sorted(r for b in batches for r in b) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths)/size) and all(len(b) <= size for b in batches)
    assert batches == length_groups(lengths, size, seed=seed, window=window)


def test_grouped_batches_waste_less_and_come_in_another_order_each_epoch():
    lengths = [random.Random(i).randrange(5, 300) for i in range(400)]
    cost = lambda batches: sum(computed_tokens([lengths[r] for r in b], "dynamic") for b in batches)
    grouped = length_groups(lengths, 8, window=10)
    assert cost(grouped) < .75*cost([list(range(i, i + 8)) for i in range(0, 400, 8)])
    first = [lengths[b[0]] for b in length_groups(lengths, 8)]
    assert first != sorted(first) and first != sorted(first, reverse=True), "batches are not shuffled"
    assert grouped != length_groups(lengths, 8, seed=1, window=10)


def test_by_default_a_quarter_of_the_rows_is_sorted_at_a_time():
    lengths = [random.Random(i).randrange(5, 300) for i in range(160)]
    assert length_groups(lengths, 8) == length_groups(lengths, 8, window=5) != length_groups(lengths, 8, window=20)
    assert length_groups(lengths*40, 8) == length_groups(lengths*40, 8, window=50)


# ---- truncation

@laws
@given(st.lists(row(), min_size=1, max_size=8), st.integers(9, 20), st.sampled_from(("drop", "prompt", "answer")), st.integers(0, 3), st.integers(1, 4))
def test_what_goes_in_comes_out_or_is_counted(rows, limit, policy, keep, lead):
    before = copy.deepcopy(rows)
    out, cut = truncate(rows, limit, policy=policy, keep=keep, lead=lead)
    assert rows == before, "the rows were changed"
    assert cut.rows == len(rows) == cut.whole + cut.shortened + cut.dropped + cut.unlabelled
    assert len(out) == cut.whole + cut.shortened and all(len(r["input_ids"]) == len(r["labels"]) <= limit for r in out)
    assert sum(len(r["input_ids"]) for r in rows) - sum(len(r["input_ids"]) for r in out) == cut.tokens
    assert sum(map(trained, rows)) - sum(map(trained, out)) == cut.trained_tokens
    assert all(map(trained, out)), "a row that teaches nothing was kept"
    if policy != "answer": assert cut.ends == 0
    if policy == "drop": assert cut.shortened == 0 and all(r in rows for r in out)


@laws
@given(row(most=40), st.integers(9, 20), st.integers(0, 3), st.integers(1, 4))
def test_cutting_the_prompt_leaves_answer_start_and_lead_alone(r, limit, keep, lead):
    out, cut = truncate([r], limit, policy="prompt", keep=keep, lead=lead)
    if not cut.shortened: return
    ids, labels = out[0]["input_ids"], out[0]["labels"]
    first = next(i for i, l in enumerate(r["labels"]) if l != -100)
    n = len(r["input_ids"]) - first + lead
    assert len(ids) == limit and ids[:keep] == r["input_ids"][:keep] and ids[-n:] == r["input_ids"][-n:] and labels[-n:] == r["labels"][-n:]


def test_a_cut_answer_is_counted_as_one_that_never_ends():
    rows = [a_row(5, 10), a_row(5, 3), a_row(20, 3)]
    out, cut = truncate(rows, 12, policy="answer")
    assert cut == Cut(rows=3, whole=1, shortened=1, dropped=1, unlabelled=0, tokens=3 + 23, trained_tokens=3 + 3, ends=1)
    assert out[0] == {k: v[:12] for k, v in rows[0].items()}


def test_the_default_refuses_to_cut():
    with pytest.raises(ValueError, match="row 1 has 23 tokens, 3 of them trained, and max_length is 12"): truncate([a_row(5, 3), a_row(20, 3)], 12)
    with pytest.raises(ValueError, match="row 0 has 8 tokens, 0 of them trained"): truncate([a_row(8, 0)], 12)


def test_what_fills_the_limit_exactly_is_whole():
    for policy in B.POLICIES: assert truncate([a_row(9, 3)], 12, policy=policy)[1].whole == 1


def test_rows_of_a_dataset_and_tensors_are_rows_too():
    ds = Dataset.from_list(ROWS)
    plain = Collator(PAD)(ROWS)
    for rows in (list(ds), list(ds.with_format("torch")), list(ds.with_format("numpy"))):
        got = Collator(PAD)(rows)
        assert all(torch.equal(got[k], v) for k, v in plain.items())
    assert truncate(ds, 512)[0] == ROWS


# ---- layouts

@laws
@given(st.lists(row(prefix=(5, 6, 7)), min_size=1, max_size=8), st.booleans())
def test_every_layout_teaches_the_same_lessons(rows, share):
    def said(b):
        at, ids = b["position_ids"].reshape(-1)[b["keep"]], b["input_ids"].reshape(-1)[b["keep"]]
        return sorted(zip(at.tolist(), ids.tolist(), b["shift_labels"][0].tolist()))
    for c in (Collator(PAD, share_prefix=share), Collator(PAD, "packed", 64, only_labels=True)): assert said(c(rows)) == lessons(rows)
    for c in (Collator(PAD, "fixed", 64, only_labels=True), Collator(PAD, "dynamic", only_labels=True)):
        b = c(rows)
        assert said(dict(b, position_ids=torch.arange(b["input_ids"].shape[1]).expand_as(b["input_ids"]))) == lessons(rows)
    assert {trained_tokens(c(rows)) for c in (Collator(PAD), Collator(PAD, "packed", 64), Collator(PAD, "dynamic"), Collator(PAD, "fixed", 64))} == {len(lessons(rows))}


def test_the_first_token_of_a_packed_row_is_no_target():
    "Rows trained from their first token: the seam must not be."
    rows = [dict(input_ids=[7, 8, 9], labels=[7, 8, 9]), dict(input_ids=[5, 6], labels=[5, 6])]
    assert Collator(PAD, "packed", 9)(rows)["labels"].tolist() == [[-100, 8, 9, -100, 6]]
    assert Collator(PAD)(rows)["shift_labels"].tolist() == [[8, 9, 6]]


def test_flat_leaves_out_what_comes_after_the_last_target():
    b = Collator(PAD, share_prefix=False)([dict(input_ids=[4, 5, 6, 7, 8], labels=[-100, -100, 6, -100, -100])])
    assert b["input_ids"].tolist() == [[4, 5]] and b["shift_labels"].tolist() == [[6]] and b["attention_mask"].flatten().tolist() == [0, 2]


@pytest.mark.parametrize("rows,n", [(ROWS, 6), (ROWS[:1], 0), ([a_row(0, 5, prefix=(1, 2, 3)), a_row(4, 5, prefix=(1, 2, 3))], 2),
    ([dict(input_ids=[1, 2], labels=[1, 2])]*3, 0), ([a_row(3, 2), a_row(3, 2)], 0), ([a_row(4, 2, 0, random.Random(5))]*4, 3)])
def test_the_shared_prefix_ends_before_the_token_that_predicts_the_first_label(rows, n): assert shared_prefix(rows) == n


@laws
@given(st.lists(row(prefix=(5, 6, 7, 8)), min_size=2, max_size=6))
def test_the_prefix_is_computed_once(rows):
    p, b = shared_prefix(rows), Collator(PAD)(rows)
    lengths = b["attention_mask"].flatten().tolist()
    assert lengths[0] == p and sum(lengths) == b["input_ids"].numel() and min(lengths[1:]) >= 1
    assert b["input_ids"].numel() <= computed_tokens([len(r["input_ids"]) for r in rows], "flat", prefix=p)


@laws
@given(st.lists(row(), min_size=1, max_size=8), st.integers(26, 80))
def test_computed_tokens_are_those_of_the_tensor(rows, length):
    lengths = [len(r["input_ids"]) for r in rows]
    for layout, n in (("fixed", length), ("dynamic", None), ("packed", length)):
        assert Collator(PAD, layout, n)(rows)["input_ids"].numel() == computed_tokens(lengths, layout, n)


def test_the_mask_is_that_of_transformers():
    from transformers.masking_utils import create_causal_mask
    lengths = [4, 1, 6, 3]
    at = torch.cat([torch.arange(n) for n in lengths])[None]
    cfg = copy.deepcopy(toy()[0].config); cfg._attn_implementation = "sdpa"
    mask = create_causal_mask(config=cfg, inputs_embeds=torch.zeros(1, 14, 8), attention_mask=None, past_key_values=None, position_ids=at)
    assert torch.equal(mask[0, 0], row_mask(lengths))
    seen = row_mask([3, 2], prefix=2)
    assert seen.int().tolist() == [[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0],
                                   [1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1, 1]]


# ---- exactly the same training

def prepared(lean=True, **kw):
    model, _ = toy(**kw)
    add_lora(model, "all-linear", 4, 8.)
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        if p.requires_grad: p.data = torch.randn(p.shape, generator=g)*.1
    if lean: lean_(model)
    return model.train()


def step(model, *batches, total=None):
    total, loss = total or sum(map(trained_tokens, batches)), 0.
    model.zero_grad()
    for b in batches:
        part = model(**b, num_items_in_batch=torch.tensor(total)).loss
        part.backward(); loss += part.item()
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def apart(got, want):
    assert got[1].keys() == want[1].keys() and want[1]
    return max(abs(got[0] - want[0])/abs(want[0]), *((got[1][n] - g).norm().item()/g.norm().item() for n, g in want[1].items()))


COLLATORS = {"fixed": Collator(PAD, "fixed", 80), "fixed, labels": Collator(PAD, "fixed", 80, only_labels=True),
             "dynamic, labels": Collator(PAD, "dynamic", only_labels=True), "packed": Collator(PAD, "packed", 60),
             "packed, labels": Collator(PAD, "packed", 60, only_labels=True), "flat": Collator(PAD, share_prefix=False), "flat, prefix": Collator(PAD)}


@pytest.fixture(scope="module")
def model(): return prepared()

@pytest.fixture(scope="module")
def baseline():
    m = prepared(lean=False)
    return step(m, Collator(PAD, "dynamic")(ROWS))


@pytest.mark.parametrize("name", COLLATORS)
def test_loss_and_every_gradient_are_those_of_padding(model, baseline, name): assert apart(step(model, COLLATORS[name](ROWS)), baseline) < 1e-5


@pytest.mark.parametrize("name", COLLATORS)
def test_so_they_are_in_unequal_parts(model, baseline, name):
    parts = [COLLATORS[name](ROWS[a:b]) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert len({trained_tokens(p) for p in parts}) == 3
    assert apart(step(model, *parts), baseline) < 1e-5


@few
@given(st.lists(row(prefix=(5, 6, 7)), min_size=1, max_size=5))
def test_so_they_are_for_any_rows(model, rows):
    want = step(model, Collator(PAD, "dynamic")(rows))
    for c in (Collator(PAD), Collator(PAD, share_prefix=False), Collator(PAD, "packed", 64, only_labels=True)):
        got = step(model, c(rows))
        assert abs(got[0] - want[0]) < 1e-5*want[0]
        most = max(g.norm() for g in want[1].values())  # a gradient that is zero but for rounding has no relative error
        assert all((got[1][n] - g).norm() < 1e-5*max(g.norm(), .01*most) for n, g in want[1].items())


def attention(lengths, prefix, dtype, autocast=False):
    "Output and gradients of `_rows_attention` on random numbers, and of the mask that defines it, in float64."
    g = torch.Generator().manual_seed(0)
    seq = prefix + sum(lengths)
    draw = [torch.randn(1, h, seq, 16, generator=g).to(dtype) for h in (6, 2, 2)]
    up = torch.randn(1, seq, 6, 16, generator=g)
    def run(f, dtype):
        x = [t.to(dtype).requires_grad_() for t in draw]
        out = f(*x)
        return [out.double(), *(t.double() for t in torch.autograd.grad(out, x, up.to(out.dtype)))]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = run(lambda *x: B._rows_attention(None, *x, torch.tensor([[[[prefix, *lengths]]]]), scaling=.3)[0], dtype)
    want = run(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, row_mask(lengths, prefix=prefix), scale=.3, enable_gqa=True).transpose(1, 2), torch.float64)
    return max(((a - b).norm()/b.norm()).item() for a, b in zip(got, want))


@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("short", [0, 256])
@pytest.mark.parametrize("dtype,eps", [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_attention_by_rows_is_attention_under_the_mask(prefix, short, dtype, eps, monkeypatch):
    "Both ways of computing it; in bfloat16 with the rounding of its results only."
    monkeypatch.setattr(B, "SHORT", short)
    for autocast in (False, True)[:1 + (dtype == torch.bfloat16)]: assert attention([7, 1, 12, 3], prefix, dtype, autocast) < eps


def test_short_rows_in_16_bits_take_the_products_and_others_the_kernel(monkeypatch):
    called, products = [], B._products
    monkeypatch.setattr(B, "_products", lambda *a, **kw: called.append(1) or products(*a, **kw))
    attention([7, 3], 5, torch.float32); assert len(called) == 0
    attention([7, 3], 5, torch.bfloat16); assert len(called) == 3
    attention([7, 300], 5, torch.bfloat16); assert len(called) == 3


def test_so_they_are_with_gradient_checkpointing(baseline):
    m = prepared()
    m.gradient_checkpointing_enable(dict(use_reentrant=False)); m.enable_input_require_grads()
    for name in ("dynamic, labels", "flat, prefix"): assert apart(step(m, COLLATORS[name](ROWS)), baseline) < 1e-5


def test_so_they_are_in_a_peft_model():
    m = get_peft_model(toy()[0], LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    torch.manual_seed(0)
    for n, p in m.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p, std=.1)
    want = step(m, Collator(PAD, "dynamic")(ROWS))
    with lean_(m): assert apart(step(m, Collator(PAD)(ROWS)), want) < 1e-5


def test_mean_of_means_is_something_else(model, baseline):
    parts = [step(model, Collator(PAD)(ROWS[a:b])) for a, b in ((0, 1), (1, 6))]
    means = (sum(l for l, _ in parts)/2, {n: sum(g[n] for _, g in parts)/2 for n in parts[0][1]})
    assert apart(means, baseline) > .05


@pytest.mark.parametrize("spoil", [lambda b: {k: v for k, v in b.items() if k != "use_cache"}, lambda b: dict(b, attention_mask=torch.ones_like(b["input_ids"]))])
def test_rows_that_see_each_other_train_on_something_else(baseline, spoil):
    "What the lesson warns of is so: without `use_cache=False`, or with a mask of ones, transformers lets packed rows see each other."
    m = prepared(lean=False)
    b = Collator(PAD, "packed", 200)(ROWS)
    assert apart(step(m, b), baseline) < 1e-5 and apart(step(m, spoil(b)), baseline) > .1


def test_the_second_row_has_the_logits_that_it_has_alone(model):
    first, second = (torch.tensor([r["input_ids"]]) for r in ROWS[1:3])
    n = first.shape[1]
    flat = dict(input_ids=torch.cat([first, second], 1), position_ids=torch.cat([torch.arange(n), torch.arange(second.shape[1])])[None],
                attention_mask=torch.tensor([[[[0, n, second.shape[1]]]]]))
    with torch.no_grad(): assert (model(**flat).logits[0, n:] - model(input_ids=second).logits[0]).abs().max() < 1e-5


LONGER_FIRST = sorted(ROWS[:3], key=lambda r: -len(r["input_ids"]))

def test_packed_rows_do_not_leak_and_spoiled_ones_do(model):
    fine = Collator(PAD, "packed", 128)(LONGER_FIRST)
    spoiled = {k: v for k, v in fine.items() if k != "use_cache"}, dict(fine, attention_mask=torch.ones_like(fine["input_ids"]))
    assert leak(model, fine, LONGER_FIRST) < 1e-5 < 1e-2 < min(leak(model, b, LONGER_FIRST) for b in spoiled)
    assert leak(model, spoiled[0], LONGER_FIRST[:1]) < 1e-5, "the first row sees nobody"


def test_a_model_that_takes_no_positions_leaks_when_packed():
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **TINY, **KINDS["opt"])).train()
    fine = Collator(PAD, "packed", 128)(LONGER_FIRST)
    assert leak(net, fine, LONGER_FIRST) > 1e-3
    assert net.training, "the model is left as it was"


def test_other_rows_than_those_of_the_batch_are_an_error(model):
    fine = Collator(PAD, "packed", 128)(LONGER_FIRST)
    for wrong in (LONGER_FIRST[::-1], LONGER_FIRST*2):
        with pytest.raises(ValueError, match="does not hold these rows"): leak(model, fine, wrong)
    with pytest.raises(ValueError, match="give one bin"): leak(model, Collator(PAD, "packed", 40)(ROWS), ROWS)
    for batch, rows, says in ((fine, [], "does not hold these rows"), ({}, LONGER_FIRST, "does not hold these rows"), (fine, LONGER_FIRST[0], "row 0 is a str"),
                              (fine, [{}], "row 0 has no input_ids"), (Collator(PAD)(LONGER_FIRST), LONGER_FIRST, "make it without only_labels")):
        with pytest.raises(ValueError, match=says): leak(model, batch, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [None, 7, torch.tensor(300)])
def test_the_loss_is_pytorchs_and_leaves_the_logits_alone(dtype, count):
    g = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(1, 150, 97, generator=g)*4).to(dtype).requires_grad_(), torch.randint(0, 97, (1, 150), generator=g)
    before = logits.detach().clone()
    loss = B._lean_loss(None, logits, None, 97, keep=torch.arange(150), shift_labels=target, num_items_in_batch=count)
    want = F.cross_entropy(logits[0].float(), target[0], reduction="sum")/(150 if count is None else count)
    assert loss.dtype == torch.float32 and abs(loss - want) < 1e-5*want
    got, = torch.autograd.grad(3*loss, logits); ref, = torch.autograd.grad(3*want, logits)
    assert (got - ref).float().norm() < (1e-6 if dtype == torch.float32 else 1e-2)*ref.float().norm()
    assert torch.equal(logits, before)


# ---- the switch

def test_switched_off_the_model_is_as_before():
    m = prepared(lean=False)
    b, ids = Collator(PAD, "dynamic")(ROWS), torch.tensor([ROWS[0]["input_ids"]])
    keys, config, before, said = list(m.state_dict()), m.config.to_dict(), step(m, b), m.generate(ids, max_new_tokens=5, do_sample=False)
    with lean_(m) as handle:
        assert lean_(m) is handle
        now = step(m, b)
        assert now[0] == before[0] and all(torch.equal(now[1][n], g) for n, g in before[1].items())
        assert torch.equal(m.generate(ids, max_new_tokens=5, do_sample=False), said)
        assert list(m.state_dict()) == keys and m.config.to_dict() == config
    assert m.config._attn_implementation == "sdpa" and not m.model._forward_hooks and not m.model._forward_pre_hooks and not hasattr(m.model, "_lean")
    handle.remove()
    with pytest.raises(RuntimeError, match="attn_mask"): m(**Collator(PAD)(ROWS))
    with pytest.raises(ValueError, match="match"): m(**Collator(PAD, "dynamic", only_labels=True)(ROWS))
    with lean_(m): assert apart(step(m, Collator(PAD)(ROWS)), before) < 1e-5


def test_attention_chosen_after_the_switch_is_switched_again():
    m = prepared()
    m.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError): m(**Collator(PAD)(ROWS))
    handle = lean_(m)
    assert lean_(m) is handle and apart(step(m, Collator(PAD)(ROWS)), step(prepared(lean=False), Collator(PAD, "dynamic")(ROWS))) < 1e-5
    m.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="computes attention with 'eager'"): lean_(m)
    assert m.config._attn_implementation == "eager"


def test_a_lean_model_is_saved_like_any_other(tmp_path):
    m = toy()[0]
    lean_(m); m.save_pretrained(tmp_path)
    assert "ftcourse" not in (tmp_path/"config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_evaluation_without_gradients_has_the_same_loss(model):
    model.eval()
    with torch.no_grad(): a, b = model(**Collator(PAD, "dynamic")(ROWS)).loss, model(**Collator(PAD)(ROWS)).loss
    model.train()
    assert abs(a - b) < 1e-5*a


TINY = dict(vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
            pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
KINDS = {"llama": {}, "qwen2": {}, "qwen3": dict(head_dim=8), "mistral": dict(sliding_window=None), "granite": dict(logits_scaling=4.), "olmo2": {}, "phi3": {},
         "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.), "gemma3_text": dict(head_dim=8, sliding_window=64),
         "cohere": dict(logit_scale=.25), "smollm3": {}, "gpt_neox": dict(num_key_value_heads=4), "falcon": dict(hidden_dropout=0., attention_dropout=0.), "gemma2": dict(head_dim=8), "bloom": {}, "mamba": {}, "opt": dict(word_embed_proj_dim=32, ffn_dim=48, dropout=0.)}
REFUSED = {"gemma2", "bloom", "mamba", "falcon", "opt"}  # OPT's head does not take what its base model returns

@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures_train_the_same_or_are_refused(kind):
    torch.manual_seed(0)
    extra = {k: v for k, v in TINY.items() if kind not in ("gpt2", "mamba", "bloom") or k in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**extra, **KINDS[kind]})).train()
    want = step(m, Collator(PAD, "dynamic")(ROWS)) if kind not in REFUSED else None
    if kind in REFUSED:
        with pytest.raises(ValueError, match="use layout 'dynamic' without only_labels"): lean_(m)
        assert not m.base_model._forward_hooks and m.config._attn_implementation != B.NAME
    else:
        with lean_(m):
            for c in (Collator(PAD), Collator(PAD, "dynamic", only_labels=True)):
                got = step(m, c(ROWS))
                most = max(g.norm() for g in want[1].values())
                assert abs(got[0] - want[0]) < 1e-5*want[0] and all((got[1][n] - g).norm() < 2e-5*max(g.norm(), .01*most) for n, g in want[1].items())


def test_a_window_shorter_than_a_row_is_an_error():
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **TINY, sliding_window=16))
    lean_(m)
    with pytest.raises(ValueError, match="the model looks back 16: use layout 'packed' or shorter rows"): m(**Collator(PAD)(ROWS))


def test_a_model_that_lets_rows_see_each_other_is_refused(monkeypatch):
    "The trial finds what no flag says."
    def leak(module, q, k, v, mask, **kw):
        if mask is None or mask.dtype != torch.int64: return fair(module, q, k, v, mask, **kw)
        return fair(module, q, k, v, None, **kw)
    fair = B._rows_attention
    monkeypatch.setattr(B, "_rows_attention", leak)
    m = toy()[0]
    with pytest.raises(ValueError, match="lets rows laid flat see each other"): lean_(m)
    assert m.config._attn_implementation == "sdpa" and not m.model._forward_hooks


def test_virtual_tokens_before_each_row_are_refused():
    from peft import PromptTuningConfig
    m = get_peft_model(toy()[0], PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(ValueError, match="puts virtual tokens before each row"): lean_(m)


def test_an_adapter_of_transformers_own_is_no_hindrance():
    m = toy()[0]
    m.add_adapter(LoraConfig(r=4))
    with lean_(m) as handle: assert handle.hooks


def test_dropping_asks_for_no_lead(): assert truncate(ROWS, 8, policy="drop")[1].rows == len(ROWS)


def test_a_lean_model_is_loaded_in_a_fresh_process(tmp_path):
    import pickle, subprocess, sys
    m = toy()[0]; lean_(m)
    (tmp_path/"m").write_bytes(pickle.dumps(m)); (tmp_path/"b").write_bytes(pickle.dumps(Collator(PAD)(ROWS)))
    prog = "import pickle; m, b = (pickle.load(open(f, 'rb')) for f in 'mb'); print(m(**b).loss.item())"
    p = subprocess.run([sys.executable, "-c", prog], cwd=tmp_path, capture_output=True, text=True)
    assert p.returncode == 0 and float(p.stdout) == pytest.approx(m(**Collator(PAD)(ROWS)).loss.item(), rel=1e-5), p.stderr


def test_rows_as_tensors_or_numpy_are_rows():
    import numpy as np
    want = Collator(PAD)(ROWS)
    for kind in (torch.tensor, np.array, lambda x: list(np.array(x))):
        got = Collator(PAD)([{k: kind(v) for k, v in r.items()} for r in ROWS])
        assert all(torch.equal(got[k], v) if hasattr(v, "shape") else got[k] == v for k, v in want.items())


def test_positions_that_are_not_heeded_are_found_too():
    m = toy()[0]
    for n, p in m.named_parameters():
        if "q_proj" in n or "k_proj" in n: p.data *= 50  # random attention looks at everything alike, wherever it stands
    lean_(m).remove()
    forward = m.model.forward
    m.model.forward = lambda *a, position_ids=None, **kw: forward(*a, **kw)
    with pytest.raises(ValueError, match="see each other"): lean_(m)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_real_model_passes_its_trial_in_either_dtype(dtype):
    m, _ = load(dtype=dtype, device="cpu")
    with lean_(m) as handle: assert handle.hooks


# ---- in the trainers that people use

DATA = Dataset.from_list([*ROWS, *(a_row(p, a, 1, random.Random(p), START) for p, a in ((4, 8), (7, 2)))])

def fit(which, collator, lean, tmp_path, peft=False, first=False, **kw):
    m, tok = toy()
    torch.manual_seed(0)
    if peft:
        m = get_peft_model(m, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for n, p in m.named_parameters():
            if "lora_B" in n: torch.nn.init.normal_(p, std=.1)
    else: add_lora(m, "all-linear", 4, 8.)
    common = dict(output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, optim="sgd", learning_rate=1., report_to=[],
                  logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True, **kw)
    args = SFTConfig(**common, max_length=None, gradient_checkpointing=False, bf16=False) if which is SFTTrainer else TrainingArguments(**common)
    if lean and first: lean_(m)
    t = which(m, args, train_dataset=DATA, eval_dataset=DATA, data_collator=collator, processing_class=tok)
    if lean and not first: lean_(m)
    t.train()
    return t, [(l["loss"], l["grad_norm"]) for l in t.state.log_history if "loss" in l], {n: p.detach().clone() for n, p in m.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def padded(tmp_path_factory): return {peft: fit(Trainer, Collator(PAD, "dynamic"), False, tmp_path_factory.mktemp("padded"), peft=peft) for peft in (False, True)}


@pytest.mark.parametrize("which", [Trainer, SFTTrainer])
@pytest.mark.parametrize("layout,lean,peft,first", [("flat", True, False, False), ("flat", True, True, True), ("dynamic", True, False, False), ("packed", False, True, False)])
def test_two_steps_in_a_trainer_give_the_adapters_of_padding(padded, which, layout, lean, peft, first, tmp_path):
    c = Collator(PAD, layout, 80 if layout == "packed" else None, only_labels=lean or None)
    t, logs, got = fit(which, c, lean, tmp_path, peft=peft, first=first)
    _, want_logs, want = padded[peft]
    assert len(logs) == 2 and all(a == pytest.approx(b, rel=1e-5) for a, b in zip(logs, want_logs))
    assert all((got[n] - p).norm() < 1e-5*p.norm() for n, p in want.items())


def test_trl_reports_entropy_and_accuracy_of_the_labelled_tokens(padded, tmp_path):
    a, b = (fit(SFTTrainer, c, lean, tmp_path)[0].state.log_history[0] for c, lean in ((Collator(PAD, "dynamic"), False), (Collator(PAD), True)))
    assert a["entropy"] == pytest.approx(b["entropy"], rel=1e-5) and a["mean_token_accuracy"] == b["mean_token_accuracy"]


def in_trainer(tmp_path, collator=None, lean=True, **kw):
    net, tok = toy(); torch.manual_seed(0); add_lora(net, "all-linear", 4, 8.)
    if lean: lean_(net)
    func = kw.pop("compute_loss_func", None)
    args = TrainingArguments(tmp_path, max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False, save_strategy="no", **kw)
    rows = Dataset.from_list(ROWS)
    return Trainer(net, args, train_dataset=rows, eval_dataset=rows, data_collator=collator or Collator(PAD), processing_class=tok, compute_loss_func=func)


@pytest.mark.parametrize("kw", [dict(label_smoothing_factor=.1),
                                dict(compute_loss_func=lambda out, labels, **_: F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))], ids=["smoothing", "function"])
def test_what_wants_logits_everywhere_stops_at_a_lean_batch(tmp_path, kw):
    with pytest.raises((RuntimeError, ValueError), match="[Ss]ize"): in_trainer(tmp_path, **kw).train()


@pytest.mark.parametrize("lean", [True, False])
def test_metrics_are_handed_fewer_positions_than_labels_by_a_lean_batch(tmp_path, lean):
    "Nothing stops, so the lesson says it."
    t, seen = in_trainer(tmp_path, None if lean else Collator(PAD, "dynamic"), lean, per_device_eval_batch_size=len(ROWS)), []
    t.compute_metrics = lambda p: seen.append((p.predictions.shape[1], p.label_ids.shape[1])) or {}
    t.evaluate()
    (scores, labels), = seen
    assert scores < labels if lean else scores == labels


def test_the_loss_of_an_evaluation_is_a_mean_of_means(tmp_path):
    "So it depends on the batch size, as the lesson says."
    one, all_ = (in_trainer(tmp_path, Collator(PAD, "dynamic"), False, per_device_eval_batch_size=n).evaluate()["eval_loss"] for n in (1, len(ROWS)))
    parts = [in_trainer(tmp_path, Collator(PAD, "dynamic"), False).model.eval()(**Collator(PAD, "dynamic")([r])).loss.item() for r in ROWS]
    assert one == pytest.approx(sum(parts)/len(parts), rel=1e-6) and abs(one - all_) > 1e-4*all_


@pytest.mark.parametrize("which", [Trainer, SFTTrainer])
def test_evaluation_in_a_trainer_works(which, tmp_path):
    t, *_ = fit(which, Collator(PAD), True, tmp_path, per_device_eval_batch_size=8)
    flat = t.evaluate()["eval_loss"]
    t.data_collator = Collator(PAD, "dynamic")
    assert flat == pytest.approx(t.evaluate()["eval_loss"], rel=1e-4)


# ---- the real model

def test_the_real_model_trains_the_same(tmp_path):
    from ftcourse.chat import encode
    from ftcourse.orders import load_orders, messages
    m, tok = load(dtype="float32", device="cpu")
    rows = [encode(messages(o["email"], o["order"]), tok).feature() for o in load_orders("train")[:2]]
    m.requires_grad_(False)
    add_lora(m, ["q_proj", "v_proj", "down_proj"], 4, 8.)
    torch.manual_seed(0)
    for p in m.parameters():
        if p.requires_grad and not p.any(): p.data.normal_(0, .02)
    want = step(m.train(), Collator(tok.pad_token_id, "dynamic")(rows))
    with lean_(m): assert apart(step(m, Collator(tok.pad_token_id)(rows)), want) < 1e-5


# ---- bad input, explorer

OK = ROWS[0]

@pytest.mark.parametrize("call,says", [
    (lambda: Collator(PAD)([]), "there are no rows"), (lambda: Collator(PAD)([{}]), "row 0 has no input_ids"), (lambda: Collator(PAD)([OK, dict(input_ids=[1, 2])]), "row 1 has no labels"),
    (lambda: Collator(PAD)([dict(OK, labels=OK["labels"][1:])]), "give one label for each id"), (lambda: Collator(PAD)([dict(OK, labels=[-100]*len(OK["labels"]))]), "row 0 has no trained token"),
    (lambda: Collator(PAD)([dict(input_ids=[7, 8], labels=[7, -100])]), "row 0 has no trained token"), (lambda: Collator(PAD)([dict(input_ids=[], labels=[])]), "no trained token"),
    (lambda: Collator(PAD)([dict(OK, seq_lengths=[3])]), "row 0 has seq_lengths: it is packed already"), (lambda: Collator(PAD)([dict(OK, position_ids=[0])]), "packed already"),
    (lambda: Collator(PAD, "fixed", 8)(ROWS), "length is 8: truncate the rows first"), (lambda: Collator(PAD, "packed", 8)(ROWS), "truncate the rows first"),
    (lambda: Collator(PAD, "fixed"), "needs a number of tokens"), (lambda: Collator(PAD, "packed", 0), "length is 0"), (lambda: Collator(PAD, "dynamic", 64), "takes no length"),
    (lambda: Collator(PAD, "padded"), "layout is 'padded': use one of flat"), (lambda: Collator(None), "pad_id is None"), (lambda: Collator(-1), "pad_id is -1"), (lambda: Collator(True), "pad_id is True"),
    (lambda: Collator(PAD, "dynamic", share_prefix=True), "'flat' only, not in 'dynamic'"), (lambda: Collator(PAD, only_labels=False), "has logits only at labels"),
    (lambda: truncate(ROWS, 64, policy="cut"), "policy is 'cut'"), (lambda: truncate(ROWS, 1), "max_length is 1"), (lambda: truncate(ROWS, 64.), "max_length is 64.0"),
    (lambda: truncate(ROWS, 64, policy="prompt", keep=64), "keep is 64: use a whole number from 0 to below 64"), (lambda: truncate(ROWS, 64, policy="prompt", keep=-1), "keep is -1"), (lambda: truncate(ROWS, 64, policy="prompt", lead=0), "lead is 0"),
    (lambda: truncate([{}], 64), "row 0 has no input_ids"), (lambda: Collator(PAD)([None]), "row 0 is a NoneType"), (lambda: Collator(PAD)([dict(input_ids=[5, 6.], labels=[-100, 6])]), "row 0 has 6.0 as id"),
    (lambda: Collator(PAD)([dict(input_ids=[5, -6], labels=[-100, 6])]), "row 0 has -6 as id"), (lambda: Collator(PAD)([dict(input_ids=[5, 6], labels=[-1, 6])]), "row 0 has -1 as label"),
    (lambda: Collator(PAD)([dict(input_ids=[5, True], labels=[-100, 6])]), "row 0 has True as id"), (lambda: pack([3, 9], 8), "row 1 has 9 tokens and a bin holds 8"), (lambda: pack([0], 8), "row 0 has 0 tokens"), (lambda: pack([1], 0), "capacity is 0"),
    (lambda: length_groups([1], 0), "batch_size is 0"), (lambda: length_groups([1], 2, window=0), "window is 0"), (lambda: computed_tokens([1], "none"), "layout is 'none'"),
    (lambda: computed_tokens([9], "fixed", 8), "the longest row has 9 tokens"), (lambda: computed_tokens([9], "packed"), "length is None"), (lambda: shared_prefix([{}]), "row 0 has no input_ids"),
    (lambda: packing_explorer(dict(few=[1]*63)), "'few' has 63 rows: give at least 64"), (lambda: packing_explorer(dict(a=[5]*64), prefix=dict(a=5)), "rows are longer than what they share")])
def test_bad_input_is_named_with_its_remedy(call, says):
    with pytest.raises(ValueError, match=says): call()


@pytest.mark.parametrize("spoil,says", [(lambda m: m.set_attn_implementation("eager"), "computes attention with 'eager', where 'sdpa' is needed")])
def test_a_model_that_cannot_be_lean_is_refused(spoil, says):
    m = toy()[0]
    spoil(m)
    with pytest.raises(ValueError, match=says): lean_(m)
    with pytest.raises(ValueError, match="has no decoder with a head on it"): lean_(m.model)


def test_a_collator_travels_to_workers():
    import pickle
    assert pickle.loads(pickle.dumps(Collator(PAD))) == Collator(PAD)


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("layout,rows,length", [("fixed", 4, 512), ("dynamic", 8, 384), ("grouped", 16, 512), ("packed", 8, 256), ("flat", 16, 512), ("flat", 1, 128)])
def test_the_explorer_computes_what_python_does(browser, layout, rows, length):
    rng = random.Random(1)
    lengths = [rng.randrange(30, 300) for _ in range(64)]
    page = browser.new_page()
    page.set_content(packing_explorer(dict(a=lengths), prefix=dict(a=20))._repr_mimebundle_()[0]["text/html"])
    box = page.locator(".ft").first
    box.locator("dd").first.wait_for()
    choose(box, "layout", layout)
    choose(box, "rows", str([1, 2, 4, 8, 16].index(rows)))
    choose(box, "length", str([64, 128, 192, 256, 384, 512, 768, 1024, 2048].index(length)))
    ns = [min(n, length) for n in lengths[:4*rows]]
    if layout == "grouped": ns.sort(reverse=True)
    batches = [ns[i:i + rows] for i in range(0, len(ns), rows)]
    prefix = 20 if layout == "flat" and rows > 1 else 0
    want = sum(computed_tokens(b, "dynamic" if layout == "grouped" else layout, length, prefix=prefix) for b in batches)
    real, got = sum(ns), readout(box)
    assert got["tokens computed"] == f"{want:,}" and got["tokens in the rows"] == f"{real:,}"
    saved = prefix*(len(ns) - len(batches))
    assert got["saved by the prefix"] == f"{saved:,}" and got["rows cut"] == f"{sum(n > length for n in lengths[:4*rows])} of {4*rows}"
    assert float(got["computed in vain"].split()[0]) == pytest.approx(100*(want - real + saved)/want, abs=.06)
