"""Rank: the truncation is the best one, the measures agree with their definitions and with PyTorch, and bad input is named."""
import json, math, re

import pytest
import torch
from hypothesis import given, settings, strategies as st

from ftcourse.rank import effective_rank, energy, low_rank_params, numerical_rank, rank_explorer, stable_rank, truncate
from test_explore import choose, readout
from web import needs_browser

fast = settings(deadline=None, max_examples=30, derandomize=True)
sides, seeds = st.integers(1, 24), st.integers(0, 2**16)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
scales = st.sampled_from([1e-12, 1e-3, 1., 1e6])


def draw(d_out, d_in, seed, dtype=torch.float64): return torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
def of_rank(d_out, d_in, r, seed): return draw(d_out, r, seed) @ draw(r, d_in, seed + 1)


@fast
@given(sides, sides, st.floats(0, 1), seeds, scales)
def test_the_error_of_truncation_is_the_root_of_the_squared_tail(m, n, part, seed, scale):
    W, r = scale*draw(m, n, seed), 1 + int(part*(min(m, n) - 1))
    B, A = truncate(W, r)
    tail = (torch.linalg.svdvals(W)[r:]**2).sum().sqrt()
    assert math.isclose((W - B @ A).norm(), tail, rel_tol=1e-9, abs_tol=1e-10*W.norm())


@fast
@given(sides, sides, st.floats(0, 1), seeds)
def test_no_other_matrix_of_that_rank_is_closer(m, n, part, seed):
    "Challengers: a random one, one fitted by least squares from a random start, and the truncation itself, disturbed."
    W, r = draw(m, n, seed), 1 + int(part*(min(m, n) - 1))
    B, A = truncate(W, r)
    best = (W - B @ A).norm()
    other = draw(m, r, seed + 1)
    assert (W - other @ draw(r, n, seed + 2)).norm() >= best - 1e-9
    for _ in range(5):
        fit = torch.linalg.lstsq(other, W, driver="gelsd").solution
        assert (W - other @ fit).norm() >= best - 1e-9
        other = torch.linalg.lstsq(fit.T, W.T, driver="gelsd").solution.T
    for size in (1e-3, 1e-1): assert (W - (B + size*draw(m, r, seed + 3)) @ (A + size*draw(r, n, seed + 4))).norm() >= best - 1e-9


@fast
@given(sides, sides, st.floats(0, 1), seeds, dtypes)
def test_factors_have_the_promised_shapes_dtype_and_rank(m, n, part, seed, dtype):
    W, r = draw(m, n, seed, dtype), 1 + int(part*(min(m, n) - 1))
    B, A = truncate(W, r)
    assert (B.shape, A.shape, B.dtype, A.dtype) == ((m, r), (r, n), dtype, dtype)
    assert B.numel() + A.numel() == low_rank_params(m, n, r)
    assert numerical_rank(B.double() @ A.double(), rtol=1e-12) <= r
    eps = torch.finfo(dtype).eps
    assert torch.allclose(A.double() @ A.double().T, torch.eye(r, dtype=torch.float64), atol=8*max(eps, 1e-6)*math.sqrt(n))


@fast
@given(sides, sides, seeds, dtypes)
def test_full_rank_gives_the_matrix_back(m, n, seed, dtype):
    W = draw(m, n, seed, dtype)
    B, A = truncate(W, min(m, n))
    assert torch.allclose(B.double() @ A.double(), W.double(), atol=20*torch.finfo(dtype).eps*W.double().norm().item())


@fast
@given(sides, sides, seeds)
def test_truncating_twice_equals_truncating_once(m, n, seed):
    W, r = draw(m, n, seed), (min(m, n) + 1)//2
    B, A = truncate(W, r)
    B2, A2 = truncate(B @ A, r)
    assert torch.allclose(B @ A, B2 @ A2, atol=1e-9)


@fast
@given(sides, sides, seeds, scales)
def test_energy_is_one_minus_the_squared_relative_error(m, n, seed, scale):
    W, ranks = scale*draw(m, n, seed), list(range(1, min(m, n) + 1))
    shares = energy(W, ranks)
    for r, share in zip(ranks, shares):
        B, A = truncate(W, r)
        assert math.isclose(share, 1 - ((W - B @ A).norm()/W.norm())**2, abs_tol=1e-9)
    assert shares == sorted(shares) and math.isclose(shares[-1], 1) and max(shares) <= 1
    assert energy(W, ranks[-1]) == shares[-1]


@fast
@given(sides, sides, st.floats(0, 1), seeds, st.sampled_from([torch.float64, torch.float32]), scales)
def test_numerical_rank_is_that_of_pytorch(m, n, part, seed, dtype, scale):
    W = (scale*of_rank(m, n, 1 + int(part*(min(m, n) - 1)), seed)).to(dtype)
    assert numerical_rank(W) == torch.linalg.matrix_rank(W).item()
    assert numerical_rank(W, rtol=.3) == torch.linalg.matrix_rank(W, rtol=.3).item()


def test_the_tolerance_follows_the_longer_side():
    eps, W = torch.finfo(torch.float32).eps, torch.zeros(40, 3)
    W[0, 0], W[1, 1] = 1, 20*eps
    assert numerical_rank(W) == numerical_rank(W.T) == torch.linalg.matrix_rank(W).item() == 1
    assert numerical_rank(W.double()) == 2 and numerical_rank(W, rtol=10*eps) == 2


@fast
@given(sides, sides, seeds, seeds)
def test_the_rank_of_a_product_is_at_most_the_waist(m, n, seed, waist):
    r = 1 + waist % min(m, n)
    assert numerical_rank(of_rank(m, n, r, seed)) <= r


@fast
@given(sides, sides, seeds, scales)
def test_soft_ranks_are_between_one_and_the_rank_and_ignore_scale_and_transposition(m, n, seed, scale):
    W = draw(m, n, seed)
    for f in (stable_rank, effective_rank):
        assert 1 - 1e-9 <= f(W) <= numerical_rank(W) + 1e-9
        assert math.isclose(f(W), f(scale*W), rel_tol=1e-6) and math.isclose(f(W), f(W.T), rel_tol=1e-6) and math.isclose(f(W), f(-W), rel_tol=1e-6)
    assert stable_rank(W) <= effective_rank(W)**2 + 1e-9


@fast
@given(st.lists(st.floats(.01, 10), min_size=1, max_size=8), seeds)
def test_soft_ranks_follow_their_formulas_for_known_singular_values(values, seed):
    k = len(values)
    U, V = (torch.linalg.qr(draw(k + extra, k, seed + extra))[0] for extra in (3, 1))
    W, S = (U*torch.tensor(values, dtype=torch.float64)) @ V.T, values
    assert math.isclose(stable_rank(W), sum(s*s for s in S)/max(S)**2, rel_tol=1e-8)
    p = [s/sum(S) for s in S]
    assert math.isclose(effective_rank(W), math.exp(-sum(q*math.log(q) for q in p)), rel_tol=1e-6)


def test_k_equal_directions_have_every_rank_k():
    W = torch.zeros(7, 5); W[0, 1] = W[3, 0] = W[6, 4] = -2.
    assert numerical_rank(W) == 3 and math.isclose(stable_rank(W), 3, rel_tol=1e-6) and math.isclose(effective_rank(W), 3, rel_tol=1e-6)
    assert math.isclose(energy(W, 2), 2/3, rel_tol=1e-6)


def test_stable_rank_is_ruled_by_the_strongest_and_effective_rank_by_the_many():
    W = torch.diag(torch.tensor([10.] + [1.]*20))
    assert stable_rank(W) < 1.3 and effective_rank(W) > 10


@pytest.mark.parametrize("size", [1e-40, 1e-20, 1e20, 3e38])
def test_extreme_sizes_neither_overflow_nor_vanish(size):
    W = draw(6, 4, 0, torch.float32).clamp(-1, 1)*size
    V = draw(6, 4, 0, torch.float32).clamp(-1, 1)
    for f in (stable_rank, effective_rank, numerical_rank, lambda X: energy(X, 2)): assert math.isclose(f(W), f(V), rel_tol=1e-3)


def test_the_published_count():
    assert low_rank_params(100, 100, 3) == 600


@fast
@given(st.integers(1, 400), st.integers(1, 400))
def test_factors_save_exactly_below_the_break_even_rank(m, n):
    for r in {1, min(m, n), max(1, m*n//(m + n)), min(min(m, n), m*n//(m + n) + 1)}:
        assert (low_rank_params(m, n, r) < m*n) == (r < m*n/(m + n))


def test_nothing_changes_the_matrix_and_a_parameter_that_trains_is_fine():
    W = torch.nn.Parameter(draw(6, 4, 0)); before = W.detach().clone()
    B, A = truncate(W, 2); energy(W, [1, 2]); numerical_rank(W); stable_rank(W); effective_rank(W)
    assert torch.equal(W.detach(), before) and W.grad is None and not B.requires_grad and not A.requires_grad
    B.zero_(); A.zero_()
    assert torch.equal(W.detach(), before), "the factors must not share memory with W"


def test_a_view_that_is_not_contiguous_gives_the_same():
    W = draw(6, 4, 0)
    assert math.isclose(stable_rank(W.T), stable_rank(W.T.contiguous())) and energy(W[::2, ::3], 1) == pytest.approx(energy(W[::2, ::3].clone(), 1))


W = draw(6, 4, 0)
nan, inf = W.clone(), W.clone(); nan[1, 2], inf[0, 0] = float("nan"), float("-inf")
takes_rank = dict(truncate=lambda W, r=2: truncate(W, r), energy=lambda W, r=2: energy(W, r))
measures = dict(takes_rank, numerical_rank=numerical_rank, stable_rank=stable_rank, effective_rank=effective_rank, rank_explorer=lambda W: rank_explorer({"W": W}))


@pytest.mark.parametrize("f", measures.values(), ids=measures)
@pytest.mark.parametrize("bad,says", [(nan, "1 NaN or infinite entries of 24"), (inf, "1 NaN or infinite entries of 24"), (W[0], "shape [4]"), (W[None], "shape [1, 6, 4]"), (W[:0], "shape [0, 4]"),
                                      (W.long(), "W is torch.int64: pass floats"), (W.bool(), "torch.bool"), (W.to(torch.complex64), "torch.complex64"), (W.tolist(), "W is a list"), (W.numpy(), "W is a ndarray"), (None, "W is a NoneType")])
def test_what_is_no_matrix_is_named(f, bad, says):
    with pytest.raises(ValueError, match=re.escape(says)): f(bad)


@pytest.mark.parametrize("f", takes_rank.values(), ids=takes_rank)
@pytest.mark.parametrize("r", [0, -1, 5, 1.5, 2., float("nan"), "2", None, True])
def test_a_rank_that_does_not_exist_is_named(f, r):
    with pytest.raises(ValueError, match=re.escape(f"r is {r!r}: use a whole number from 1 to 4")): f(W, r)


@pytest.mark.parametrize("f", [lambda W: energy(W, 1), stable_rank, effective_rank], ids=["energy", "stable_rank", "effective_rank"])
def test_a_matrix_of_zeros_has_nothing_to_share(f):
    with pytest.raises(ValueError, match="all zeros"): f(torch.zeros(6, 4))


def test_a_matrix_of_zeros_has_rank_zero_and_can_be_truncated():
    assert numerical_rank(torch.zeros(6, 4)) == 0
    B, A = truncate(torch.zeros(6, 4), 1)
    assert not (B @ A).any()


@pytest.mark.parametrize("args,says", [((0, 4, 1), "d_out is 0"), ((6, -1, 1), "d_in is -1"), ((6, 4., 1), "d_in is 4.0"), ((True, 4, 1), "d_out is True"), ((6, 4, 5), "r is 5: use a whole number from 1 to 4"), ((6, 4, 0), "r is 0")])
def test_sizes_that_do_not_exist_are_named(args, says):
    with pytest.raises(ValueError, match=re.escape(says)): low_rank_params(*args)


@pytest.mark.parametrize("rtol", [-1e-9, 1.1, float("nan")])
def test_a_tolerance_outside_zero_to_one_is_named(rtol):
    with pytest.raises(ValueError, match="rtol is"): numerical_rank(W, rtol=rtol)


def test_the_explorer_hands_over_a_matrix_that_adds_up():
    one = rank_explorer(dict(a=W.float(), b=draw(9, 12, 1))).data
    for name, want in dict(a=W, b=draw(9, 12, 1)).items():
        m = one["matrices"][name]
        U, S, V = (torch.tensor(m[k], dtype=torch.float64) for k in "USV")
        assert torch.allclose((U.T*S) @ V/one["unit"]**2, want, atol=.01*want.abs().max().item())


@pytest.mark.parametrize("bad,says", [({}, "matrices is empty"), ({"W": torch.ones(97, 3)}, "W is 97 × 3: use at most 96 × 96")])
def test_the_explorer_names_what_it_cannot_show(bad, says):
    with pytest.raises(ValueError, match=re.escape(says)): rank_explorer(bad)


def test_the_explorer_stays_small(): assert len(json.dumps(rank_explorer({"a": draw(96, 96, 0), "b": draw(48, 96, 1)}).data)) < 150_000


@needs_browser
@pytest.mark.browser
def test_the_explorer_computes_what_python_computes(served, browser):
    page = browser.new_page()
    page.goto(f"{served}/rank.html", wait_until="networkidle")
    box = page.locator(".ft").first
    for r in (1, 8, 40):
        choose(box, "r", str(r))
        got = readout(box)
        numbers = int(got["numbers in the matrix"].replace(",", ""))
        assert int(got["numbers in B and A"].replace(",", "")) == low_rank_params(80, numbers//80, r)
        assert float(got["energy kept"].rstrip(" %"))/100 == pytest.approx(1 - float(got["relative error"])**2, abs=2e-3)
