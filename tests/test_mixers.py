"""The Fourier mixer against numpy's float64 FFT, and one shared test over every mixer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fnetlib
from fnetlib.mixers import MIXERS, Sequence
from fnetlib.mixers import whole
from fnetlib.mixers.fourier import choose_backend, fourier_mix, hidden_dft, plan_fourier
from fnetlib.mixers.whole import plan_whole, with_whole_spectrum

BACKENDS = ("fft", "matmul", "whole", "kept")  # whole: matmul without half of the spectrum; kept: its cosines looked up
NORMS = ("backward", "ortho")


def reference(x: torch.Tensor, norm: str) -> np.ndarray:
    return np.fft.fft2(x.double().numpy(), axes=(-2, -1), norm=norm).real


def mix(x: torch.Tensor, norm: str, backend: str, real: torch.Tensor | None = None) -> torch.Tensor:
    length, width = x.shape[1:]
    if backend == "kept":
        return fourier_mix(x, plan_whole(x.shape, real, norm, hidden_dft(width), x.device, x.dtype, projects=False), hidden_dft(width))
    plan = plan_fourier(length, width, real, norm, {"whole": "matmul"}.get(backend, backend), dtype=x.dtype)
    if backend == "whole":
        plan = with_whole_spectrum(plan, hidden_dft(width))
    return fourier_mix(x, plan, hidden_dft(width))


def relative_error(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours.double().numpy() - theirs) / np.linalg.norm(theirs))


@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 3), length=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 999),
       norm=st.sampled_from(NORMS), backend=st.sampled_from(BACKENDS))
def test_equals_numpys_fft_for_any_size(batch, length, width, seed, norm, backend):
    x = torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))
    assert relative_error(mix(x, norm, backend), reference(x, norm)) < 2e-6


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), width=st.integers(1, 24), seed=st.integers(0, 999), norm=st.sampled_from(NORMS),
       backend=st.sampled_from(BACKENDS))
def test_masked_transform_is_each_examples_own(length, width, seed, norm, backend):
    """Wherever the padding is: at the end, in front, or in between."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, length, width, generator=generator)
    real = torch.rand(3, length, generator=generator) < 0.6
    real[:, torch.randint(length, (1,), generator=generator)] = True
    out = mix(x, norm, backend, real)
    for example, own, mask in zip(x, out, real):
        assert relative_error(own[mask], reference(example[mask], norm)) < 3e-6
        assert not own[~mask].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length, width", [(1024, 12), (509, 384)])
def test_long_and_prime_lengths_keep_their_precision(backend, length, width):
    x = torch.randn(2, length, width, generator=torch.Generator().manual_seed(0))
    real = torch.arange(length)[None] < torch.tensor([[length], [length // 2 + 1]])
    out = mix(x, "ortho", backend, real)
    for example, own, mask in zip(x, out, real):
        assert relative_error(own[mask], reference(example[mask], "ortho")) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_within_a_stated_bound(backend, dtype, bound, masked):
    x = torch.randn(2, 33, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    lengths = (33, 20) if masked else (33, 33)
    real = torch.arange(33)[None] < torch.tensor(lengths)[:, None] if masked else None
    out = mix(x, "ortho", backend, real)
    assert out.dtype == dtype
    for example, own, length in zip(x.float(), out.float(), lengths):
        assert relative_error(own[:length], reference(example[:length], "ortho")) < bound and not own[length:].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_is_the_adjoint(backend, masked):
    """The map is linear and (for a real input) self-adjoint up to the mask: the gradient's product with a direction is that of the moved direction."""
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float32, requires_grad=True)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool) if masked else None
    weight = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))
    (mix(x, "ortho", backend, real) * weight).sum().backward()
    direction = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(4))
    moved = (mix(direction, "ortho", backend, real) * weight).sum()
    assert torch.allclose((x.grad * direction).sum(), moved, rtol=1e-4, atol=1e-5)


def test_ortho_keeps_the_scale_and_backward_multiplies_it():
    x = torch.randn(4, 64, 96, generator=torch.Generator().manual_seed(5))
    scale = {norm: float(mix(x, norm, "fft").pow(2).mean().sqrt()) for norm in NORMS}
    assert scale["ortho"] == pytest.approx(2 ** -0.5, rel=0.05)  # the real part holds half of the energy
    assert scale["backward"] == pytest.approx((64 * 96 / 2) ** 0.5, rel=0.05)


def test_the_first_token_receives_only_the_sum_over_tokens():
    x = torch.randn(1, 7, 10, generator=torch.Generator().manual_seed(6))
    first = mix(x, "backward", "matmul")[0, 0]
    assert np.allclose(first, np.fft.fft(x[0].sum(0).double().numpy()).real, atol=1e-4)


def test_auto_takes_matrices_when_short_and_ffts_when_long():
    assert choose_backend("auto", 128) == "matmul"
    assert choose_backend("auto", 16384) == "fft"
    assert choose_backend("fft", 128) == "fft"
    # what the H200's records say, see results/minilm/runs/mixing-*; but for a mask at 8,192 tokens, where matrices are faster and n² an example
    for masked in (False, True):
        half = {n: choose_backend("auto", n, masked, "cuda", torch.bfloat16) for n in (2048, 8192)}
        assert half == {2048: "matmul", 8192: "fft"}
    assert choose_backend("auto", 128, False, "cuda") == "fft" and choose_backend("auto", 128, False, "cuda", few=True) == "matmul"
    on_cpu = {masked: choose_backend("auto", 128, masked, "cpu") for masked in (False, True)}
    assert on_cpu == {False: "fft", True: "matmul"} and choose_backend("auto", 128, False, "cpu", torch.bfloat16) == "matmul"
    assert choose_backend("matmul", 128, False, "cpu") == choose_backend("folded", 128, False, "cpu") == "matmul"
    assert plan_fourier(8, 4, None, "ortho", "auto").cos is None
    assert plan_fourier(8, 4, torch.ones(1, 8, dtype=torch.bool), "ortho", "auto").cos is not None


def test_few_tokens_on_a_gpu_take_the_whole_spectrum(tiny_config, monkeypatch):
    """Forced here, where there is no GPU: the model's states stay the same."""
    assert not whole.takes_whole_spectrum(torch.ones(1, 2, 4), torch.float32)
    config = fnetlib.FNetBertConfig(**{**tiny_config.to_dict(), "mixers": ["fourier"] * 4, "padding": "mask"})
    model, mask = fnetlib.FNetBertModel(config).eval(), torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    with torch.no_grad():
        half = model(torch.full_like(mask, 7), mask).last_hidden_state
        monkeypatch.setattr("fnetlib.modeling.takes_whole_spectrum", lambda x, dtype: True)
        assert model.encoder.sequence(torch.zeros(2, 9, config.hidden_size), mask).fourier[0].rows.shape == (2, 9, 18)
        assert torch.allclose(model(torch.full_like(mask, 7), mask).last_hidden_state, half, atol=1e-5)


def test_where_launches_decide_and_where_work_does():
    class OnGpu:
        is_cuda = True

        def __init__(self, *shape):
            self.shape = shape

        def numel(self):
            return int(np.prod(self.shape))

    assert whole.takes_whole_spectrum(OnGpu(16, 64, 384), torch.float32)
    assert not whole.takes_whole_spectrum(OnGpu(64, 512, 768), torch.float32)
    half = {n: whole.takes_whole_spectrum(OnGpu(32768 // n, n, 768), torch.bfloat16) for n in (512, 2048, 8192)}
    assert half == {512: True, 2048: True, 8192: False}


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_keeps_shape_dtype_and_gradient(name, tiny_config):
    config = fnetlib.FNetBertConfig(**{**tiny_config.to_dict(), "mixers": [name] * 4})
    model = fnetlib.FNetBertModel(config).eval()
    hidden = torch.randn(2, 9, config.hidden_size, requires_grad=True)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    sequence = model.encoder.sequence(hidden, mask)
    assert isinstance(sequence, Sequence)
    out = model.encoder.layer[0].attention.self(hidden, sequence)
    assert out.shape == hidden.shape and out.dtype == hidden.dtype
    out[mask.bool()].pow(2).sum().backward()
    assert hidden.grad.abs().sum() > 0
    assert hidden.grad[1, 5:].abs().max() == 0  # padding has no say in a real token's output
