"""Four-bit weights: the bytes are bitsandbytes', the errors are bounded, and the layer keeps nothing for the way back."""
import math

import bitsandbytes as bnb
import bitsandbytes.functional as bnbF
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from ftcourse.lora import LoRALinear
from ftcourse.quant import (BLOCK_SIZES, CODES, FourBitLinear, Quantized, bits_per_param, code_entropy, dequantize_4bit, dequantize_absmax,
                            dequantize_zeropoint, fp4_code, linear_int8, nf4_code, quant_explorer, quantize_4bit, quantize_absmax, quantize_zeropoint, _quantize_scales)
from test_explore import choose, readout
from web import needs_browser

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
shapes = st.one_of(st.tuples(st.integers(1, 90), st.integers(1, 200)), st.tuples(st.integers(1, 9000)),
                   st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 40)))


@pytest.fixture(autouse=True, scope="module")
def eager():
    "bitsandbytes compiles its fallback for each new shape: minutes, for the same numbers."
    with torch.compiler.set_stance("force_eager"): yield


def weights(shape, seed, dtype=torch.float32, size=1., zeros=0., zero_blocks=0):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(shape, generator=g)*size
    W = W.masked_fill(torch.rand(shape, generator=g) < zeros, 0)
    W.view(-1)[:zero_blocks] = 0
    return W.to(dtype)


def bits_of(t): return t.contiguous().view({2: torch.int16, 4: torch.int32}[t.element_size()])


def same_as_bitsandbytes(W, code, block_size, double):
    q = quantize_4bit(W, code=code, block_size=block_size, double=double)
    packed, s = bnbF.quantize_4bit(W, quant_type=code, blocksize=block_size, compress_statistics=double)
    assert torch.equal(q.codes, packed.view(-1)), "codes differ"
    assert torch.equal(q.absmax, s.absmax), "scales differ"
    assert torch.equal(q.code, s.code) and q.shape == tuple(s.shape) and q.dtype == s.dtype
    if double:
        assert torch.equal(bits_of(q.offset.view(1)), bits_of(s.offset.view(1))), "offset differs"
        assert torch.equal(bits_of(q.nested_absmax), bits_of(s.state2.absmax)), "nested scales differ"
    if W.numel() <= 2: return  # one byte: it takes that for a transposed weight, and fails on three axes
    if AVX512 and W.shape[-1] % block_size: return  # its AVX-512 kernel takes rows for whole blocks
    back, theirs = dequantize_4bit(q), bnbF.dequantize_4bit(packed, s).view(W.shape)  # it makes [n] into [1, n]
    assert back.dtype == theirs.dtype and torch.equal(back, theirs), "read back differently"
    if code == "nf4": assert torch.equal(bits_of(back), bits_of(theirs))  # fp4: its C++ and its Python differ in −0


@settings(deadline=None, max_examples=150, derandomize=True)
@given(shape=shapes, seed=st.integers(0, 2**31), code=st.sampled_from(["nf4", "fp4"]), block_size=st.sampled_from(BLOCK_SIZES), double=st.booleans(),
       dtype=st.sampled_from(DTYPES), size=st.sampled_from([1e-4, .02, 1., 300.]), zeros=st.sampled_from([0., .5, 1.]))
def test_bytes_are_those_of_bitsandbytes(shape, seed, code, block_size, double, dtype, size, zeros):
    same_as_bitsandbytes(weights(shape, seed, dtype, size, zeros), code, block_size, double)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("code", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_block_size_code_and_dtype_on_more_than_one_piece(block_size, code, dtype):
    same_as_bitsandbytes(weights((301, 1000), 1, dtype, .02, zero_blocks=5000), code, block_size, True)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 127, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, (1 << 17) + 65, 64*256, 64*256 + 64])
def test_lengths_at_the_borders_of_blocks_and_pieces(n): same_as_bitsandbytes(weights((n,), n), "nf4", 64, True)


@pytest.mark.parametrize("value", [0., 1., -1., 1e-40, -1e-38, 3e38, 6e-8])
def test_constant_tiny_and_huge_weights(value):
    for n in (64, 100): same_as_bitsandbytes(torch.full((n,), value), "nf4", 64, False)


@pytest.mark.parametrize("code", ["nf4", "fp4"])
def test_numbers_half_way_between_two_codes_go_the_same_way(code):
    c = CODES[code]().sort().values
    middle = (c[1:] + c[:-1])/2
    around = torch.cat([middle, torch.nextafter(middle, torch.tensor(2.)), torch.nextafter(middle, torch.tensor(-2.)), torch.tensor([1.])])
    for W in (around, around.repeat(2)[:64], torch.cat([around, around])): same_as_bitsandbytes(W, code, 64, False)


def test_a_short_last_block_is_divided_and_a_full_one_multiplied():
    "The two round differently, and the codes follow: the same block full and, with one more number, not the last."
    g = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(200):
        a = torch.rand(1, generator=g)
        w = ((nf4_code()[1:] + nf4_code()[:-1])/2*a)
        one, two = w/a, w*(1/a)
        found += (one != two).sum().item()
        same_as_bitsandbytes(torch.cat([w, a]), "nf4", 64, False)
        same_as_bitsandbytes(torch.cat([w, a, torch.zeros(48)]), "nf4", 64, False)
    assert found > 0


def test_scales_go_through_the_same_table_of_65536():
    "Numbers at the borders between two of its entries, and a step of float32 to either side."
    border = ((torch.arange(65535, dtype=torch.float64) + .5)/65535*2 - 1).float()
    x = torch.cat([border, torch.nextafter(border, torch.tensor(2.)), torch.nextafter(border, torch.tensor(-2.))])
    x = torch.cat([nn.functional.pad(x, (0, -len(x) % 255)).view(-1, 255), torch.ones(-(-len(x)//255), 1)], 1).view(-1)  # absmax of all blocks: 1
    codes, absmax = _quantize_scales(x)
    theirs, state = bnbF.quantize_blockwise(x, blocksize=256)
    assert torch.equal(codes, theirs) and torch.equal(absmax, state.absmax)


def test_nf4_is_the_published_table(): assert torch.equal(nf4_code(), bnbF.get_4bit_type("nf4", device="cpu"))
def test_fp4_is_the_table_of_bitsandbytes(): assert torch.equal(bits_of(fp4_code()), bits_of(bnbF.get_4bit_type("fp4", device="cpu")))
def test_int4_is_fifteen_even_steps(): assert torch.equal(CODES["int4"]().sort().values, torch.tensor([*range(-7, 1), *range(8)])/7)


def test_two_nibbles_by_hand():
    W = torch.tensor([1., -1., 0., .7229568362236023])
    assert quantize_4bit(W, block_size=32).codes.tolist() == [15 << 4 | 0, 7 << 4 | 14]


def test_an_odd_number_is_filled_up_with_the_code_of_zero(): assert quantize_4bit(torch.ones(3)).codes[-1].item() & 15 == 7


@settings(deadline=None, max_examples=60, derandomize=True)
@given(shape=shapes, seed=st.integers(0, 2**31), code=st.sampled_from(list(CODES)), block_size=st.sampled_from(BLOCK_SIZES))
def test_each_weight_goes_to_the_nearest_code(shape, seed, code, block_size):
    W = weights(shape, seed)
    q = quantize_4bit(W, code=code, block_size=block_size)
    scale = q.absmax.repeat_interleave(block_size)[:W.numel()].view(W.shape)
    error = (dequantize_4bit(q) - W).abs()
    best = (W[..., None] - q.code*scale[..., None]).abs().amin(-1)
    assert (error <= best + 1e-6*scale).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(shape=shapes, seed=st.integers(0, 2**31), dtype=st.sampled_from(DTYPES), double=st.booleans())
def test_quantising_what_was_read_back_changes_nothing(shape, seed, dtype, double):
    "The codes are a fixed point; with double quantisation the scales may drift by their own rounding."
    once = quantize_4bit(weights(shape, seed), block_size=64)
    assert torch.equal(quantize_4bit(dequantize_4bit(once), block_size=64).codes, once.codes)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(shape=shapes, seed=st.integers(0, 2**31), block_size=st.sampled_from([None, 1, 7, 64]), size=st.sampled_from([1e-3, 1., 1e3]))
def test_int8_is_off_by_half_a_step_at_most(shape, seed, block_size, size):
    W = weights(shape, seed, size=size)
    codes, absmax = quantize_absmax(W, block_size=block_size)
    step = absmax.repeat_interleave(block_size or shape[-1])[:W.numel()].view(W.shape)/127
    assert ((dequantize_absmax(codes, absmax, block_size=block_size) - W).abs() <= step*.50001).all()
    codes, scale, zero = quantize_zeropoint(W, block_size=block_size)
    step = scale.repeat_interleave(block_size or shape[-1])[:W.numel()].view(W.shape)
    assert ((dequantize_zeropoint(codes, scale, zero, block_size=block_size) - W).abs() <= step*1.0001).all()


def test_int8_by_hand(): assert quantize_absmax(torch.tensor([[.9, -1.27, .02, .404]]))[0].tolist() == [[90, -127, 2, 40]]


def test_int8_codes_of_rows_are_those_of_bitsandbytes():
    W = weights((7, 33), 0, torch.float16)
    codes, absmax, _ = bnbF.int8_vectorwise_quant(W.clone())
    ours = quantize_absmax(W)
    assert torch.equal(ours[0], codes) and torch.equal(ours[1], absmax)


def test_zero_comes_back_as_zero_from_a_zero_point():
    X = weights((3, 50), 0).abs() + 5; X[:, 3] = 0
    assert (dequantize_zeropoint(*quantize_zeropoint(X))[:, 3] == 0).all()


@pytest.mark.parametrize("threshold", [0., 6.])
def test_llm_int8_is_that_of_bitsandbytes(threshold):
    W, X = weights((37, 64), 0, torch.float16).float(), weights((11, 64), 1, torch.float16).float()
    X[2, 5], X[7, 9] = 40., -8.
    layer = bnb.nn.Linear8bitLt(64, 37, bias=False, has_fp16_weights=False, threshold=threshold)
    layer.weight = bnb.nn.Int8Params(W.clone(), requires_grad=False, has_fp16_weights=False)
    with torch.no_grad(): theirs = layer.to("cpu").eval()(X)
    ours = linear_int8(X, *quantize_absmax(W), threshold=threshold)
    assert ((ours - theirs).norm()/theirs.norm()).item() < 3e-5  # its constant for 1/127² is off by 1.8e-5


def test_outlier_columns_are_exact_for_the_input():
    W = torch.eye(4); X = torch.tensor([[1000.3, .5, .25, 0.]])
    assert linear_int8(X, *quantize_absmax(W))[0, 0].item() == pytest.approx(1000.3)
    assert linear_int8(X, *quantize_absmax(W), threshold=0.)[0, 1].item() == 0  # .5 is below half a step of 1000/127


def test_bits_of_the_paper():
    assert bits_per_param(64) == 4.5 and bits_per_param(64, True) == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("block_size", [64, 128])
def test_bits_in_memory_are_those_of_the_formula(block_size, double):
    q = quantize_4bit(weights((1024, 512), 0), block_size=block_size, double=double)
    assert 8*q.nbytes/2**19 == pytest.approx(bits_per_param(block_size, double), abs=1e-3)


def test_entropy_is_four_only_if_all_codes_are_equally_frequent():
    assert code_entropy(quantize_4bit(nf4_code().repeat(8))) == pytest.approx(4)
    assert code_entropy(quantize_4bit(torch.ones(64))) == 0


def test_both_zeros_of_fp4_count_as_one():
    W = torch.cat([torch.full((31,), 1e-9), torch.full((32,), -1e-9), torch.ones(1)])
    p = 1/64
    assert code_entropy(quantize_4bit(W, code="fp4")) == pytest.approx(-p*math.log2(p) - (1 - p)*math.log2(1 - p))


def test_entropy_and_error_of_nf4_on_normal_numbers():
    x = weights((1 << 18,), 0)
    q = quantize_4bit(x)
    snr = 10*torch.log10((x**2).sum()/((x - dequantize_4bit(q))**2).sum()).item()
    assert code_entropy(q) == pytest.approx(3.884, abs=.01) and snr == pytest.approx(20.73, abs=.05)


def make_layer(bias=True, dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    linear = nn.Linear(128, 40, bias=bias).to(dtype)
    return linear, FourBitLinear(linear, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_layer_multiplies_by_what_is_read_back(dtype):
    linear, layer = make_layer(dtype=dtype)
    x = weights((2, 3, 128), 1, dtype)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, linear.bias))


def test_the_layer_trains_nothing_and_changes_nothing():
    linear, layer = make_layer()
    before = linear.weight.clone()
    layer(weights((3, 128), 1).requires_grad_()).sum().backward()
    assert torch.equal(linear.weight, before) and linear.weight.requires_grad
    assert not any(p.requires_grad for p in layer.parameters()) and layer.bias.data_ptr() != linear.bias.data_ptr()


def test_the_gradient_of_the_input_is_that_of_autograd():
    _, layer = make_layer()
    x = weights((2, 3, 128), 1).requires_grad_()
    y = x.detach().clone().requires_grad_()
    layer(x).square().sum().backward()
    nn.functional.linear(y, layer.weight, layer.bias).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-5, atol=1e-5)


def test_a_bias_that_is_made_trainable_gets_its_gradient():
    _, layer = make_layer()
    layer.bias.requires_grad_()
    layer(weights((2, 3, 128), 1)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((40,), 6.))


def test_nothing_is_kept_for_the_backward_pass():
    _, layer = make_layer()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t): layer(weights((3, 128), 1).requires_grad_())
    assert not kept


def test_casting_the_model_leaves_the_scales_alone():
    _, layer = make_layer()
    before = dequantize_4bit(layer.quantized)
    assert torch.equal(dequantize_4bit(layer.to(torch.bfloat16).half().quantized), before)
    assert layer.nested_absmax.dtype == torch.float32


def test_the_layer_is_saved_and_loaded():
    _, a = make_layer()
    torch.manual_seed(1); b = FourBitLinear(nn.Linear(128, 40))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lora_over_it_equals_lora_over_bitsandbytes(dtype):
    linear, layer = make_layer(bias=False, dtype=dtype)
    base = bnb.nn.Linear4bit(128, 40, bias=False, quant_type="nf4")
    base.weight = bnb.nn.Params4bit(linear.weight.detach().clone(), requires_grad=False, quant_type="nf4")
    ours, theirs = LoRALinear(layer, 4, 8.), LoRALinear(base.to("cpu"), 4, 8.)
    nn.init.normal_(ours.B); theirs.A.data.copy_(ours.A.data); theirs.B.data.copy_(ours.B.data)
    grads = []
    for net in (ours, theirs):
        x = weights((5, 128), 1, dtype).requires_grad_()
        y = net(x); y.square().sum().backward()
        grads.append([y, x.grad, net.A.grad, net.B.grad])
    assert all(torch.equal(a, b) for a, b in zip(*grads))
    assert {n for n, p in ours.named_parameters() if p.grad is not None} == {"A", "B"}


BAD = weights((4, 64), 0)
NAN, INF = BAD.clone(), BAD.clone(); NAN[2, 3], INF[1, 1] = float("nan"), float("inf")


@pytest.mark.parametrize("call,says", [
    (lambda: quantize_4bit(NAN), "weights have NaN or inf"), (lambda: quantize_4bit(INF, double=True), "weights have NaN or inf"),
    (lambda: quantize_4bit(NAN[2:3, :5]), "weights have NaN or inf"), (lambda: quantize_absmax(NAN), "NaN or inf"), (lambda: quantize_zeropoint(INF), "NaN or inf"),
    (lambda: quantize_4bit(BAD.double()), "weights are torch.float64"), (lambda: quantize_absmax(BAD.int()), "weights are torch.int32"),
    (lambda: quantize_4bit(BAD[:0]), r"shape \(0, 64\): there is nothing"), (lambda: quantize_4bit(BAD, block_size=0), "block_size is 0: use one of 32"),
    (lambda: quantize_4bit(BAD, block_size=96), "block_size is 96"), (lambda: quantize_absmax(BAD, block_size=-1), "block_size is -1"),
    (lambda: quantize_4bit(BAD, code="nf5"), "code is 'nf5': use one of nf4, fp4, int4"), (lambda: quantize_4bit(BAD, code=torch.ones(15)), r"shape \(15,\)"),
    (lambda: quantize_4bit(BAD, code=torch.linspace(-2, 2, 16)), "largest size 2"), (lambda: bits_per_param(0), "block_size is 0"),
    (lambda: dequantize_4bit(Quantized(**{**vars(quantize_4bit(BAD)), "shape": (4, 63)})), "do not match"),
    (lambda: dequantize_absmax(*quantize_absmax(BAD), block_size=32), "was it another block_size"),
    (lambda: linear_int8(NAN, *quantize_absmax(BAD)), "activations have NaN or inf"), (lambda: linear_int8(BAD[:, 1:], *quantize_absmax(BAD)), "do not match"),
    (lambda: make_layer()[1](BAD), r"input \(4, 64\) for a layer of 128"), (lambda: FourBitLinear(nn.Embedding(3, 4)), "Embedding is no nn.Linear"),
    (lambda: quant_explorer(BAD), "256 weights: give at least 4096")])
def test_bad_input_is_named_with_its_remedy(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_the_explorer_is_small(): assert len(quant_explorer(weights((4096,), 0))._repr_mimebundle_()[0]["text/html"]) < 150_000


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("code,block", [("nf4", 64), ("int4", 256), ("fp4", 32)])
def test_the_explorer_computes_what_python_does(browser, code, block):
    W = torch.tensor([float(f"{v:.5g}") for v in weights((4096,), 0).tolist()])
    page = browser.new_page()
    page.set_content(quant_explorer(W)._repr_mimebundle_()[0]["text/html"])
    box = page.locator(".ft").first
    box.locator("dd").first.wait_for()
    choose(box, "code", {"nf4": "NF4", "int4": "int4", "fp4": "FP4 (bitsandbytes)"}[code])
    choose(box, "block", str([16, 32, 64, 128, 256, 512, 1024, 4096].index(block)))
    q = quantize_4bit(W, code=code, block_size=block)
    snr = 10*torch.log10((W**2).sum()/((W - dequantize_4bit(q))**2).sum()).item()
    got = readout(box)
    assert float(got["signal to noise"].split()[0]) == pytest.approx(snr, abs=.01)
    assert float(got["entropy of the codes"].split()[0]) == pytest.approx(code_entropy(q), abs=.002)
    assert float(got["bits per weight"]) == pytest.approx(bits_per_param(block), abs=.001)
