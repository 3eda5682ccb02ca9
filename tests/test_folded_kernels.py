"""Folding by Triton kernels: on a GPU as they are, elsewhere by Triton's interpreter, against PyTorch's FFT in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # Triton interprets there, see conftest.py

pytest.importorskip("triton", reason="Triton is there for Linux alone")

from fnetlib import modeling
from fnetlib.mixers import folded as folding
from fnetlib.mixers import folded_kernels as kernels
from fnetlib.mixers import fourier
from fnetlib.mixers.folded import fold_projections, folded_mix, folds, plan_folded

from test_modeling import assert_backends_agree, inputs, student

# A GPU multiplies float32 in TF32 here; models only come here in half precision.
DTYPES = {torch.float16: 3e-3, torch.bfloat16: 2e-2} if DEVICE == "cuda" else {torch.float32: 3e-6, torch.float16: 3e-3}


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """So that axes of a test have several of them."""
    if DEVICE == "cpu":
        kernels.SUM_TILE, kernels.TRANSFORM_TILES, kernels.TRANSFORM_BACK_TILES = (4, 16), ((16, 16, 16, 1, 1),) * 2, ((16, 16, 16, 1, 1),) * 2


def relative_error(ours, theirs, usual=1.0):
    """By what is usual where sums come to nearly nothing: of so many terms of 1."""
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs).norm() / theirs.norm().clamp(min=usual * theirs.numel() ** 0.5))


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 40), width=st.integers(1, 36), out=st.integers(1, 20), masked=st.booleans(), seed=st.integers(0, 999),
       dtype=st.sampled_from(sorted(DTYPES, key=str)), norm=st.sampled_from(["backward", "ortho"]))
def test_output_and_gradients_are_those_of_torchs_fft_in_double_precision(length, width, out, masked, seed, dtype, norm):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias, upstream = (torch.randn(*shape, generator=generator).to(DEVICE, dtype).double().requires_grad_()
                                 for shape in ((3, length, width), (out, width), (out,), (3, length, out)))
    real = torch.rand(3, length, generator=generator) < 0.6 if masked else torch.ones(3, length, dtype=torch.bool)
    real[0, 0] = True  # others may have no token at all
    theirs = torch.zeros(3, length, out, dtype=torch.double, device=DEVICE)
    for i, mask in enumerate(real.to(DEVICE)):
        if mask.any():
            theirs[i, mask] = torch.fft.fft2(x[i, mask], norm=norm).real @ weight.T
    theirs = theirs + bias
    wanted = torch.autograd.grad(theirs, (x, weight, bias), upstream)

    plan = plan_folded(length, width, real.to(DEVICE) if masked else None, norm, DEVICE, dtype, by_kernels=True)
    given = [value.detach().to(dtype).requires_grad_() for value in (x, weight, bias)]
    projection = fold_projections(given[1][None], plan, [matrix.to(DEVICE) for matrix in fourier.hidden_dft(width)], dtype)[0]
    ours = folded_mix(given[0], plan, projection, given[2])
    found = torch.autograd.grad(ours, given, upstream.detach().to(dtype))
    terms = length * width if norm == "backward" else 1
    for own, other, summed in zip((ours, *found), (theirs, *wanted), (1, 1, 3 * length, 3 * length)):
        assert own.dtype == dtype and relative_error(own, other, (terms * summed) ** 0.5) < DTYPES[dtype]
    if masked and not real.all():
        assert torch.equal(ours[~real.to(DEVICE)], given[2].expand_as(ours[~real.to(DEVICE)]))


def test_what_is_not_contiguous_has_the_same_numbers_and_only_needed_gradients_are_made():
    dtype = next(iter(DTYPES))
    x, weight, bias = torch.randn(2, 16, 12, device=DEVICE, dtype=dtype), torch.randn(10, 16, device=DEVICE, dtype=dtype), None
    plan = plan_folded(12, 16, None, "ortho", DEVICE, dtype, by_kernels=True)
    projection = fold_projections(weight[None], plan, [m.to(DEVICE) for m in fourier.hidden_dft(16)], dtype)[0]
    upstream = torch.randn(2, 10, 12, device=DEVICE, dtype=dtype)
    found = []
    for turned in (lambda t: t.mT, lambda t: t.mT.contiguous()):
        own = turned(x).detach().requires_grad_()
        out = folded_mix(own, plan, projection, bias)
        found.append((out, *torch.autograd.grad(out, own, turned(upstream))))
    for ours, theirs in zip(*found):
        assert torch.equal(ours, theirs)
    own, frozen = projection.clone().requires_grad_(), x.mT
    folded_mix(frozen, plan, own, bias).sum().backward()
    assert own.grad is not None and frozen.grad is None


@pytest.mark.skipif(DEVICE == "cuda", reason="in float32 alone")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["fnet", "hybrid-2"])
def test_whole_models_agree_with_matrices(tiny_config, monkeypatch, name, padded):
    asked = []
    monkeypatch.setattr(modeling, "has_kernels", lambda device, dtype: asked.append(device) or True)
    assert_backends_agree(tiny_config, name, inputs(21, padded=padded), ("matmul", "folded"))
    assert asked == [DEVICE]  # by the kernels, once a batch


def test_a_plan_takes_kernels_only_where_nothing_is_compiled(tiny_config, monkeypatch):
    monkeypatch.setattr(modeling, "has_kernels", lambda device, dtype: True)
    encoder = student(tiny_config, "fnet", backend="folded").bert.encoder
    hidden = torch.randn(2, 12, tiny_config.hidden_size)
    first, second = (encoder.sequence(hidden, None).fourier[0].by_kernels for _ in range(2))
    assert first.matrices is second.matrices  # kept for the next batch
    with torch.inference_mode():
        assert not encoder.sequence(hidden[:, :9], None).fourier[0].by_kernels.matrices.is_inference()
    encoder.layer[0].compile(backend="aot_eager")
    assert encoder.sequence(hidden, None).fourier[0].by_kernels is None


def test_auto_folds_in_eager_mode_where_kernels_are_there(monkeypatch):
    usual = {"length": 512, "masked": False, "device": "cuda", "dtype": torch.bfloat16, "few": False, "projects": True}
    monkeypatch.setattr(folding, "_has_triton", lambda: True)
    monkeypatch.setattr(folding, "KERNELS_LENGTHS", (256, 4096))
    monkeypatch.setattr(folding, "KERNELS_MASKED_LENGTHS", (256, 2048))
    assert folds("auto", **usual) and folds("auto", **usual | {"masked": True})
    for change in ({"length": 4097}, {"length": 255}, {"masked": True, "length": 2049}, {"few": True},
                   {"projects": False}, {"device": "cpu"}, {"dtype": torch.float32}):
        assert not folds("auto", **usual | change)
    monkeypatch.setattr(folding, "_has_triton", lambda: False)
    assert not folds("auto", **usual)
