"""LoRA and DoRA by hand are what PEFT computes; files go both ways; nothing is left half done."""
import copy, json, math

import pytest, torch
from hypothesis import given, settings, strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from ftcourse.lora import (DoRALinear, LoRALinear, add_lora, find_targets, load_adapter, lora_count, lora_delta, lora_explorer, lora_layers,
                           merge, movable, remove_lora, save_adapter, unmerge)
from ftcourse.models import load, load_config, shipped_configs, toy

VARIANTS = ["lora", "rslora", "dora"]
PEFT_NAMES = dict(A="lora_A", B="lora_B", m="lora_magnitude_vector")
IDS = torch.arange(51).view(3, 17)


def llama(seed=0): return toy(seed=seed)[0]
def gpt2(seed=0):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=48, n_head=4, vocab_size=101, n_positions=64, bos_token_id=1, eos_token_id=2)).eval()


MAKES = {"llama": (llama, ["q_proj", "down_proj"]), "gpt2": (gpt2, ["c_attn", "mlp.c_proj"])}


def stir(model, seed=0):
    "A and B that are not as they start."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in lora_layers(model).values():
            m.B.copy_(torch.randn(m.B.shape, generator=g)*.1)
            if hasattr(m, "m"): m.m.mul_(1 + .1*torch.rand(m.m.shape, generator=g))
    return model


def peft_of(base, ours, **kw):
    "PEFT on `base`, with the tensors of our adapters."
    layers = lora_layers(ours)
    one = next(iter(layers.values()))
    model = get_peft_model(base, LoraConfig(r=one.r, lora_alpha=one.alpha, target_modules=list(layers), use_rslora=one.rslora,
                                            use_dora=isinstance(one, DoRALinear), fan_in_fan_out=isinstance(one.base, Conv1D), **kw))
    with torch.no_grad():
        for n, m in layers.items():
            theirs = model.get_base_model().get_submodule(n)
            for k, p in m.named_parameters(recurse=False): getattr(theirs, PEFT_NAMES[k])["default"].weight.copy_(p)
    return model


def pairs(ours, peft):
    for n, m in lora_layers(ours).items():
        theirs = peft.get_base_model().get_submodule(n)
        for k, p in m.named_parameters(recurse=False): yield p, getattr(theirs, PEFT_NAMES[k])["default"].weight


# --- one layer ---------------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(shapes, st.data(), st.integers(0, 2**31), st.booleans(), st.booleans(), st.booleans())
def test_a_layer_computes_what_the_merged_matrix_does(shape, data, seed, rslora, conv, bias):
    d_out, d_in = shape
    r = data.draw(st.integers(1, min(shape)))
    torch.manual_seed(seed)
    base = Conv1D(d_out, d_in) if conv else nn.Linear(d_in, d_out, bias=bias)
    layer, x = LoRALinear(base, r, 7., rslora=rslora), torch.randn(5, d_in)
    assert torch.equal(layer(x), base(x)), "at first nothing changes"
    with torch.no_grad(): layer.B.normal_()
    W = (base.weight.T if conv else base.weight) + 7./(math.sqrt(r) if rslora else r) * layer.B @ layer.A
    torch.testing.assert_close(layer(x), nn.functional.linear(x, W, base.bias), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(shapes, st.data(), st.integers(0, 2**31), st.sampled_from(VARIANTS), st.booleans())
def test_a_layer_and_its_gradients_are_pefts(shape, data, seed, variant, bias):
    d_out, d_in = shape
    r = data.draw(st.integers(1, min(shape)))
    torch.manual_seed(seed)
    base = nn.Sequential(nn.Linear(d_in, d_out, bias=bias))
    ours, x = copy.deepcopy(base), torch.randn(5, d_in)
    add_lora(ours, ["0"], r, 6., variant=variant); stir(ours, seed)
    peft = peft_of(base, ours)
    a, b = ours(x), peft(x)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    a.square().sum().backward(); b.square().sum().backward()
    for p, q in pairs(ours, peft): torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4*q.grad.abs().max().item())


def test_rslora_with_alpha_64_is_lora_with_alpha_512_at_rank_64():
    A, B = torch.randn(64, 96), torch.randn(48, 64)
    assert torch.equal(lora_delta(A, B, alpha=512), lora_delta(A, B, alpha=64, rslora=True))


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_dropout_works_on_training_only_and_leaves_the_frozen_part_of_lora(kind):
    torch.manual_seed(0)
    layer, x = kind(nn.Linear(64, 32), 4, 4., dropout=.5), torch.randn(7, 64)
    with torch.no_grad(): layer.B.normal_()
    layer.eval(); assert torch.equal(layer(x), layer(x))
    layer.train(); assert not torch.equal(layer(x), layer(x))
    with torch.no_grad(): layer.B.zero_()
    if kind is LoRALinear: assert torch.equal(layer(x), layer.base(x)), "dropout is for the bypass"


@pytest.mark.parametrize("d", [5, 96])
def test_a_bfloat16_layer_keeps_float32_adapters_and_its_own_output_type(d):
    layer = LoRALinear(nn.Linear(d, 7, dtype=torch.bfloat16), 2, 2.)
    y = layer(torch.randn(3, d, dtype=torch.bfloat16)); y.sum().backward()
    assert y.dtype == torch.bfloat16 and layer.A.dtype == layer.B.dtype == layer.B.grad.dtype == torch.float32


def test_a_four_bit_layer_is_wrapped_as_peft_wraps_it():
    import bitsandbytes as bnb
    torch.manual_seed(0)
    def four_bit():
        torch.manual_seed(1)
        layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32)
        return nn.Sequential(layer).to("cpu")
    ours, base, x = four_bit(), four_bit(), torch.randn(5, 128, requires_grad=True)
    for variant in ("lora", "dora"):
        ours = four_bit()
        add_lora(ours, ["0"], 4, 8., variant=variant); stir(ours)
        peft = peft_of(four_bit(), ours)
        a, b = ours(x), peft(x)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        a.square().sum().backward(); b.square().sum().backward()
        for p, q in pairs(ours, peft): torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-2)
        with pytest.raises(ValueError, match="load the base model in 16 bits and merge there"): merge(ours)


# --- a model -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("make,targets", MAKES.values(), ids=MAKES)
def test_files_go_to_peft_and_back(tmp_path, make, targets, variant):
    ours = make(); add_lora(ours, targets, 4, 8., variant=variant); stir(ours)
    save_adapter(ours, tmp_path/"ours", base_model="some/model")
    peft = PeftModel.from_pretrained(make(), tmp_path/"ours")
    want = ours(IDS).logits
    torch.testing.assert_close(peft(IDS).logits, want, rtol=1e-4, atol=1e-5)
    peft.save_pretrained(tmp_path/"theirs")
    again = make()
    assert load_adapter(again, tmp_path/"theirs") == 4
    assert torch.equal(again(IDS).logits, want)
    assert json.loads((tmp_path/"ours"/"adapter_config.json").read_text())["base_model_name_or_path"] == "some/model"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("make,targets", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_twice_is_merging_once_and_unmerging_is_exact(make, targets, variant, dtype):
    model = make().to(dtype)
    before = {n: p.clone() for n, p in model.named_parameters()}
    add_lora(model, targets, 4, 8., variant=variant); stir(model)
    want = model(IDS).logits
    assert (merge(model), merge(model)) == (4, 0)
    tolerance = 1e-4 if dtype == torch.float32 else .15
    torch.testing.assert_close(model(IDS).logits, want, rtol=tolerance, atol=tolerance)
    changed = sum(not torch.equal(before[n.replace(".base.", ".")], p) for n, p in model.named_parameters() if n.replace(".base.", ".") in before)
    assert changed == 4
    assert (unmerge(model), unmerge(model)) == (4, 0)
    assert torch.equal(model(IDS).logits, want)
    assert remove_lora(model) == 4 and remove_lora(model) == 0
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters()) and len(before) == len(list(model.parameters()))


@pytest.mark.parametrize("make,targets", MAKES.values(), ids=MAKES)
def test_a_merged_model_without_its_adapters_is_a_plain_model(make, targets):
    model = make(); add_lora(model, targets, 4, 8.); stir(model)
    want = model(IDS).logits
    merge(model, keep=False); remove_lora(model)
    assert not lora_layers(model) and model.state_dict().keys() == make().state_dict().keys()
    torch.testing.assert_close(model(IDS).logits, want, rtol=1e-4, atol=1e-5)


def test_only_adapters_are_trained():
    model = llama(); add_lora(model, "all-linear", 2, 2.)
    before = {n: p.clone() for n, p in model.named_parameters()}
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=.1)
    for _ in range(2): model(IDS, labels=IDS).loss.backward(); opt.step(); opt.zero_grad()
    for n, p in model.named_parameters(): assert torch.equal(before[n], p) != n.endswith((".A", ".B")), n


def test_all_linear_is_what_peft_takes():
    ours, base = llama(), llama()
    add_lora(ours, "all-linear", 2, 2.)
    peft = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    theirs = {n for n, m in peft.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert set(lora_layers(ours)) == theirs


# --- what is refused, and leaves everything as it was --------------------------------------------------------------------

def state(model): return {n: (p.requires_grad, p.clone()) for n, p in model.named_parameters()}
def same(a, b): return a.keys() == b.keys() and all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in zip(a.values(), b.values()))


@pytest.mark.parametrize("kw,says", [
    (dict(target_modules=["q_proj", "nonsense"]), "'nonsense' hits nothing"), (dict(target_modules=["v_porj"]), "did you mean 'v_proj'"),
    (dict(target_modules=[]), "target_modules is empty"), (dict(target_modules=[""]), "hits nothing"), (dict(target_modules=["mlp"]), "linear layers inside it"),
    (dict(target_modules=["_proj"]), "hits nothing"), (dict(r=0), "r is 0"), (dict(r=-1), "r is -1"), (dict(r=10**6), "r is 1000000"), (dict(r=2.), "r is 2.0"),
    (dict(r=True), "r is True"), (dict(alpha=0), "alpha is 0"), (dict(alpha=-1), "alpha is -1"), (dict(alpha=float("nan")), "alpha is nan"),
    (dict(alpha=float("inf")), "alpha is inf"), (dict(dropout=1), "dropout is 1"), (dict(dropout=-.1), "dropout is -0.1"), (dict(variant="vera"), "variant is 'vera'"),
    (dict(alpha="16"), "alpha is '16'"), (dict(alpha=None), "alpha is None"), (dict(dropout=None), "dropout is None"), (dict(r="2"), "r is '2'"), (dict(target_modules=5), "target_modules is 5"),
    (dict(target_modules=[None]), "give a list of names")])
def test_bad_settings_are_named_and_change_nothing(kw, says):
    model = llama(); before = state(model)
    with pytest.raises(ValueError, match=says): add_lora(model, **{**dict(target_modules=["q_proj"], r=2, alpha=2.), **kw})
    assert same(before, state(model)) and not lora_layers(model)


def test_a_rank_that_fits_only_some_layers_changes_nothing():
    model = llama(); before = state(model)
    k = min(min(m.weight.shape) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    with pytest.raises(ValueError, match=f"r is {k + 1}"): add_lora(model, "all-linear", k + 1, 2.)
    assert same(before, state(model)) and not lora_layers(model)


def test_adding_twice_is_refused():
    model = llama(); add_lora(model, ["q_proj"], 2, 2.)
    for again in (["q_proj"], ["v_proj"]):
        with pytest.raises(ValueError, match="adapters already"): add_lora(model, again, 2, 2.)
    assert len(lora_layers(model)) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_adapter_is_not_merged(value):
    model = llama(); add_lora(model, "all-linear", 2, 2.); before = state(model)
    with torch.no_grad(): list(lora_layers(model).values())[-1].B[0, 0] = value
    with pytest.raises(ValueError, match="NaN or infinite"): merge(model)
    with torch.no_grad(): list(lora_layers(model).values())[-1].B[0, 0] = 0
    assert same(before, state(model)) and not any(m.merged for m in lora_layers(model).values())


def test_an_output_layer_that_is_the_embedding_is_not_merged():
    model = llama()
    if model.lm_head.weight is not model.model.embed_tokens.weight: model.lm_head.weight = model.model.embed_tokens.weight
    add_lora(model, ["lm_head"], 2, 2.)
    with pytest.raises(ValueError, match="shares its weight with the embedding"): merge(model)


def test_unmerging_what_was_not_kept_is_refused():
    model = llama(); add_lora(model, ["q_proj"], 2, 2.); merge(model, keep=False)
    with pytest.raises(ValueError, match="keep=False"): unmerge(model)


def test_a_weight_shared_by_two_adapted_layers_is_not_merged():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)); model[1].weight = model[0].weight
    add_lora(model, ["0", "1"], 2, 4.); stir(model); before = state(model)
    with pytest.raises(ValueError, match="shares its weight with 0"): merge(model)
    assert same(before, state(model))


def test_a_result_that_is_not_finite_is_not_merged():
    model = nn.Sequential(nn.Linear(8, 4)).half(); add_lora(model, ["0"], 2, 4.)
    with torch.no_grad(): model[0].B.fill_(1e6)
    before = state(model)
    with pytest.raises(ValueError, match="infinite in torch.float16"): merge(model)
    assert same(before, state(model))


def test_our_own_four_bit_layer_is_not_merged():
    from ftcourse.quant import FourBitLinear
    model = nn.Sequential(FourBitLinear(nn.Linear(64, 64))); add_lora(model, ["0"], 2, 4.)
    with pytest.raises(ValueError, match="quantised weights"): merge(model)


@pytest.mark.parametrize("r", [0, -3, 1.5, 10**6, "2", None, True])
def test_counting_refuses_a_rank_that_cannot_be(r):
    with pytest.raises(ValueError, match="r is "): lora_count(load_config("smollm2-135m"), ["q_proj"], r)


def test_a_model_without_linear_layers_is_left_alone():
    model = nn.Sequential(nn.Embedding(5, 4))
    with pytest.raises(ValueError, match="no linear layer"): add_lora(model, "all-linear", 2, 4.)
    assert model[0].weight.requires_grad


@pytest.fixture
def saved(tmp_path):
    model = llama(); add_lora(model, ["q_proj", "v_proj"], 2, 2.); stir(model)
    return save_adapter(model, tmp_path/"adapter")


def edit(folder, **kw):
    p = folder/"adapter_config.json"
    p.write_text(json.dumps({**json.loads(p.read_text()), **kw}))


@pytest.mark.parametrize("kw,says", [
    (dict(peft_type="IA3"), "peft_type='IA3'"), (dict(bias="all"), "bias='all'"), (dict(rank_pattern={"q_proj": 4}), "rank_pattern"), (dict(alpha_pattern={"q_proj": 4}), "alpha_pattern"),
    (dict(modules_to_save=["lm_head"]), "modules_to_save"), (dict(r=3), "for another model"), (dict(use_dora=True), "for another model"), (dict(r=0), "r is 0"),
    (dict(use_rslora="false"), "true or false is needed"), (dict(lora_alpha="4"), "alpha is '4'"), (dict(lora_alpha=10**400), "alpha is 1000")])
def test_an_adapter_that_cannot_be_used_is_refused_whole(saved, kw, says):
    edit(saved, **kw); model = llama(); before = state(model)
    with pytest.raises(ValueError, match=says): load_adapter(model, saved)
    assert same(before, state(model)) and not lora_layers(model)


@pytest.mark.parametrize("spoil,says", [
    (lambda f: (f/"adapter_model.safetensors").unlink(), "not a saved adapter"), (lambda f: (f/"adapter_config.json").unlink(), "not a saved adapter"),
    (lambda f: (f/"adapter_config.json").write_text("{"), "not a saved adapter"), (lambda f: (f/"adapter_config.json").write_text("[]"), "not a saved adapter"), (lambda f: (f/"adapter_config.json").write_text("{}"), "no r or lora_alpha"),
    (lambda f: (f/"adapter_model.safetensors").write_bytes((f/"adapter_model.safetensors").read_bytes()[:-9]), "not a saved adapter"), (lambda f: (f/"adapter_model.safetensors").write_bytes(b""), "not a saved adapter")])
def test_a_damaged_folder_is_one_clear_error(saved, spoil, says):
    spoil(saved); model = llama(); before = state(model)
    with pytest.raises(ValueError, match=says): load_adapter(model, saved)
    assert same(before, state(model))


def test_an_adapter_for_another_model_is_refused(saved):
    with pytest.raises(ValueError, match="for another model"): load_adapter(gpt2(), saved)
    with pytest.raises(ValueError, match="for another model"): load_adapter(toy(d_model=96)[0], saved)


def test_saving_replaces_the_folder_whole_or_not_at_all(saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    model = llama(); add_lora(model, ["q_proj"], 3, 2.)
    import safetensors.torch as st_
    def full(*a, **k): raise OSError(28, "No space left on device")
    monkeypatch.setattr(st_, "save_file", full)
    with pytest.raises(OSError): save_adapter(model, saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before and [p.name for p in saved.parent.iterdir()] == ["adapter"]


def test_adapters_of_two_kinds_are_not_saved_as_one(tmp_path):
    model = llama(); add_lora(model, ["q_proj"], 2, 2.)
    list(lora_layers(model).values())[0].alpha = 5.
    with pytest.raises(ValueError, match="2 kinds of adapter"): save_adapter(model, tmp_path/"a")
    assert not (tmp_path/"a").exists()


# --- counting, half precision, the explorer ----------------------------------------------------------------------------

@pytest.mark.parametrize("make,targets", MAKES.values(), ids=MAKES)
def test_counts_are_those_of_a_real_model(make, targets):
    model = make(); total = sum(p.numel() for p in model.parameters())
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("dtype", "architectures", "transformers_version")}
    got = lora_count(config, targets, 3)
    add_lora(model, targets, 3, 1.)
    assert got == (sum(p.numel() for p in model.parameters() if p.requires_grad), total)


def test_counting_needs_no_weights_and_does_not_change_the_config():
    config = load_config("llama-2-7b"); before = copy.deepcopy(config)
    assert lora_count(config, ["q_proj", "v_proj"], 8) == (4_194_304, 6_738_415_616) and config == before


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.floats(1e-6, 10), st.floats(1e-7, 1), st.sampled_from([torch.bfloat16, torch.float16]))
def test_movable_predicts_what_rounding_does(w, step, dtype):
    w = torch.tensor([w], dtype=torch.float64).to(dtype)
    if not w.item() or w.abs() < torch.finfo(dtype).tiny: return
    away = (w.double() + step).to(dtype) != w  # away from zero: no halving of the distance at powers of two
    half = torch.finfo(dtype).eps * 2.0**w.double().log2().floor()/2
    if abs(step - half.item()) < 1e-9*half.item(): return  # a tie is rounded to even
    assert movable(w, step, dtype).item() == away.item()


def test_movable_is_all_for_a_large_step_and_none_for_a_tiny_one():
    w = torch.randn(50, 7)
    assert movable(w, 10.).all() and not movable(w.clamp(min=.1), 1e-6).any()


def test_the_explorer_has_the_counts():
    data = lora_explorer(("smollm2-135m", "gpt2-medium")).data["models"]
    assert data["smollm2-135m"]["per_r"]["all linear"] == 305_280 and data["smollm2-135m"]["total"] == 134_515_008
    assert data["gpt2-medium"]["per_r"]["q, v"] == 4*24*1024


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_the_real_model_gives_pefts_logits(variant):
    ours, tokenizer = load(device="cpu", dtype="float32")
    theirs, _ = load(device="cpu", dtype="float32")
    torch.manual_seed(0)
    add_lora(ours, "all-linear", 8, 16., variant=variant)
    with torch.no_grad():
        for m in lora_layers(ours).values(): m.B.normal_(std=.01)
    peft = peft_of(theirs, ours)
    ids = tokenizer("The capital of France is Paris, and", return_tensors="pt")["input_ids"]
    with torch.inference_mode(): torch.testing.assert_close(ours(ids).logits, peft(ids).logits, rtol=1e-3, atol=1e-2)
