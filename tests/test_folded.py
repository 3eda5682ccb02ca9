"""Mixing folded into the projection, against numpy's float64 FFT and against the other backends in whole models."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fnetlib import FNetBertConfig
from fnetlib.config import student_config
from fnetlib.mixers import folded as folding
from fnetlib.mixers import fourier
from fnetlib.mixers.folded import (
    DECIMATED_MIN_LENGTH, FOLDED_HALF_MAX_LENGTH, FOLDED_INFERENCE_MAX_LENGTH, FOLDED_MASKED_MAX_LENGTH, FoldedPlan, OwnFolds,
    fold_projections, folded_mix, folds, is_decimated, matrices_of, plan_folded, token_folds,
)
from fnetlib.mixers.fourier import MATMUL_MAX_LENGTH

from test_modeling import assert_backends_agree, inputs, student


def reference(x, norm, weight):
    return np.fft.fft2(x.double().numpy(), axes=(-2, -1), norm=norm).real @ weight.double().numpy().T


def folded(x, plan, weight, dtype=None):
    """Mixing and projection by `weight`, as a model takes them."""
    made = fold_projections(weight[None], plan, fourier.hidden_dft(x.shape[-1]), dtype or x.dtype)[0]
    return folded_mix(x, plan, made)


def relative_error(ours, theirs):
    return float(np.linalg.norm(ours.detach().double().numpy() - theirs) / np.linalg.norm(theirs))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), width=st.integers(1, 40), out=st.integers(1, 9), seed=st.integers(0, 999),
       norm=st.sampled_from(["backward", "ortho"]))
def test_equals_numpys_fft_and_a_projection(length, width, out, seed, norm):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(2, length, width, generator=generator), torch.randn(out, width, generator=generator)
    plan = plan_folded(length, width, None, norm)
    assert relative_error(folded(x, plan, weight), reference(x, norm, weight)) < 3e-6


@settings(max_examples=100, deadline=None)
@given(length=st.sampled_from([4, 8, 12, 16, 20, 24, 32, 36, 40, 48, 64, 72, 80, 96, 128]) | st.integers(1, 130), width=st.integers(1, 24),
       seed=st.integers(0, 999), norm=st.sampled_from(["backward", "ortho"]))
def test_decimated_equals_numpys_fft_and_a_projection(length, width, seed, norm):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(2, length, width, generator=generator), torch.randn(5, width, generator=generator)
    plan, whole = (plan_folded(length, width, None, norm, decimated=wanted) for wanted in (True, False))
    assert [part.odd for part in plan.tokens] == ([None] if length % 4 else [0, 1]) and [part.odd for part in whole.tokens] == [None]
    assert [part.matrices[0].shape[1] for part in plan.tokens] == [own.rows for own in token_folds(length, length % 4 == 0)]
    assert relative_error(folded(x, plan, weight), reference(x, norm, weight)) < 3e-6


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), width=st.integers(1, 24), seed=st.integers(0, 999), norm=st.sampled_from(["backward", "ortho"]))
def test_masked_examples_have_their_own_length_wherever_the_padding_is(length, width, seed, norm):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(3, length, width, generator=generator), torch.randn(5, width, generator=generator)
    real = torch.rand(3, length, generator=generator) < 0.6
    real[:, torch.randint(length, (1,), generator=generator)] = True
    out = folded(x, plan_folded(length, width, real, norm), weight)
    for example, own, mask in zip(x, out, real):
        assert relative_error(own[mask], reference(example[mask], norm, weight)) < 5e-6
        assert not own[~mask].any()


@settings(max_examples=80, deadline=None)
@given(length=st.integers(1, 24) | st.sampled_from([4, 8, 12, 16, 24, 32, 40, 64]), width=st.integers(1, 20), masked=st.booleans(),
       decimated=st.booleans(), seed=st.integers(0, 999))
def test_gradients_are_those_of_torchs_fft_in_double_precision(length, width, masked, decimated, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, length, width, generator=generator, dtype=torch.double, requires_grad=True)
    weight, bias = (torch.randn(3, *more, generator=generator, dtype=torch.double, requires_grad=True) for more in ((width,), ()))
    real = torch.rand(2, length, generator=generator) < 0.6
    real[:, torch.randint(length, (1,), generator=generator)] = True
    plan = plan_folded(length, width, real if masked else None, "ortho", dtype=torch.double, decimated=decimated)
    assert len(plan.tokens) == 1 + (decimated and not masked and length % 4 == 0)
    real = real if masked else torch.ones_like(real)
    theirs = torch.zeros(2, length, 3, dtype=torch.double)
    for i, mask in enumerate(real):
        theirs[i, mask] = torch.fft.fft2(x[i, mask], norm="ortho").real @ weight.T
    projection = fold_projections(weight[None], plan, fourier.hidden_dft(width), torch.double)[0]
    ours = folded_mix(x, plan, projection, bias)
    assert relative_error(ours, (theirs + bias).detach().numpy()) < 5e-6
    upstream = torch.randn(ours.shape, generator=generator, dtype=torch.double)
    wanted = torch.autograd.grad(theirs + bias, (x, weight, bias), upstream)
    for found, expected in zip(torch.autograd.grad(ours, (x, weight, bias), upstream), wanted):
        assert relative_error(found, expected.numpy()) < 5e-6


def test_of_an_example_without_tokens_nothing_is_learned():
    x, weight = torch.randn(2, 6, 8), torch.randn(3, 8, requires_grad=True)
    real = torch.tensor([[True] * 6, [False] * 6])
    gradients = [torch.autograd.grad(folded(x[:n], plan_folded(6, 8, real[:n], "ortho"), weight).sum(), weight)[0] for n in (1, 2)]
    torch.testing.assert_close(*gradients)


def test_only_the_gradients_that_are_needed_are_made():
    x, weight, plan = torch.randn(2, 12, 8, requires_grad=True), torch.randn(4, 8), plan_folded(12, 8, None, "ortho")
    projection = fold_projections(weight[None], plan, fourier.hidden_dft(8), torch.float32)[0]
    frozen = torch.randn(4)
    folded_mix(x, plan, projection, frozen).sum().backward()
    assert x.grad is not None and frozen.grad is None
    given = {"x": x.detach(), "projection": projection.detach(), "bias": frozen}
    wanted = {name: torch.autograd.grad(folded_mix(plan=plan, **{**given, name: (own := value.clone().requires_grad_())}).pow(3).sum(), own)[0]
              for name, value in given.items()}
    every = {name: value.clone().requires_grad_() for name, value in given.items()}
    folded_mix(plan=plan, **every).pow(3).sum().backward()
    for name, value in every.items():  # the same, whatever else is trained
        torch.testing.assert_close(value.grad, wanted[name])
    half = torch.randn(4, requires_grad=True)  # under autocast: the product in half precision, the gradient in the bias' own
    with torch.autocast("cpu", torch.bfloat16):
        out = folded_mix(x, plan, fold_projections(weight[None], plan, fourier.hidden_dft(8), torch.bfloat16)[0], half)
    upstream = torch.randn(out.shape)
    out.backward(upstream)
    assert out.dtype == half.grad.dtype == torch.float32 and relative_error(half.grad, upstream.sum((0, 1)).numpy()) < 2e-2


def test_auto_folds_in_half_precision_on_a_gpu_where_layers_are_compiled():
    usual = {"length": 512, "masked": False, "device": "cuda", "dtype": torch.bfloat16, "few": False, "projects": True,
             "compiled": True}
    assert folds("auto", **usual) and folds("auto", **usual | {"masked": True, "length": 2048})
    assert folds("folded", **usual | {"device": "cpu", "dtype": torch.float32, "few": True, "compiled": False})
    longer = {"length": FOLDED_MASKED_MAX_LENGTH + 1}
    for change in ({"length": FOLDED_HALF_MAX_LENGTH + 1}, {"training": False, "length": FOLDED_INFERENCE_MAX_LENGTH + 1},
                   {"masked": True}, {"masked": True} | longer, {"device": "cpu"}, {"dtype": torch.float32}, {"few": True}, {"projects": False}, {"compiled": False}):
        assert not folds("auto", **usual | change)
    assert not folds("matmul", **usual) and not folds("folded", **usual | {"masked": True} | longer)
    assert not folds("folded", **usual | {"device": "cpu", "length": MATMUL_MAX_LENGTH + 1})


@pytest.mark.parametrize("decimated_from", [DECIMATED_MIN_LENGTH, 16])
def test_a_layer_folded_by_name_compiles_as_a_whole(tiny_config, monkeypatch, decimated_from):
    """No return to eager in between, and the same numbers."""
    monkeypatch.setattr(folding, "DECIMATED_MIN_LENGTH", decimated_from)
    encoder = student(tiny_config, "fnet", backend="folded").bert.encoder
    hidden, (layer, *_) = torch.randn(2, 16, tiny_config.hidden_size), encoder.layer
    plans = [encoder.sequence(hidden, None), encoder.sequence(hidden, inputs(16, padded=True)["attention_mask"][:2])]
    assert [len(plan.fourier[0].tokens) for plan in plans] == [1 + (decimated_from == 16), 1]
    wanted = [outcome(layer, hidden, plan) for plan in plans]
    assert not encoder.compiled()
    layer.compile(fullgraph=True, backend="aot_eager")
    assert encoder.compiled()
    for plan, expected in zip(plans, wanted):
        torch.testing.assert_close(outcome(layer, hidden, plan), expected, atol=1e-5, rtol=1e-4)


def outcome(layer, hidden, plan):
    """What a layer gives, and the gradients of its input and of its projection."""
    hidden, dense = hidden.detach().requires_grad_(), layer.attention.output.dense
    out = layer(hidden, plan)
    return out.detach(), *torch.autograd.grad(out.pow(3).sum(), (hidden, dense.bias, dense.weight))


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 1.5e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("length, decimated", [(32, False), (33, False), (128, True)])
@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_within_a_stated_bound(dtype, bound, length, decimated, masked):
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(2, length, 48, generator=generator).to(dtype), torch.randn(48, 48, generator=generator).to(dtype)
    lengths = (length, length // 2 + 3) if masked else (length, length)
    real = torch.arange(length)[None] < torch.tensor(lengths)[:, None] if masked else None
    out = folded(x, plan_folded(length, 48, real, "ortho", decimated=decimated), weight)
    assert out.dtype == dtype
    for example, own, n in zip(x.float(), out.float(), lengths):
        assert relative_error(own[:n], reference(example[:n], "ortho", weight.float())) < bound


@pytest.mark.parametrize("decimated_from", [DECIMATED_MIN_LENGTH, 16])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["fnet", "fnet-naive", "hybrid-2", "hybrid-2+filter"])
def test_models_agree_with_the_other_backends_in_values_and_gradients(tiny_config, monkeypatch, name, padded, decimated_from):
    monkeypatch.setattr(folding, "DECIMATED_MIN_LENGTH", decimated_from)
    batch = inputs(length=16, padded=padded)
    batch |= {} if padded else {"attention_mask": None}
    assert_backends_agree(tiny_config, name, batch, ("matmul", "folded"))


def test_layers_make_their_own_projections_where_none_are_given(tiny_config):
    """One product of all layers, or one of each: the same blocks, whatever is mixed in between."""
    for name in ("fnet", "hybrid-2"):
        encoder = student(tiny_config, name, backend="folded").bert.encoder
        hidden = torch.randn(2, 12, tiny_config.hidden_size)
        sequence, own = encoder.sequence(hidden, None), [hidden]
        assert [p is None for p in encoder.projections(hidden, sequence)] == [m == "attention" for m in encoder.config.mixers]
        for layer in encoder.layer:
            own.append(layer(own[-1], sequence))
        torch.testing.assert_close(torch.stack(encoder(hidden, None)), torch.stack(own), atol=1e-6, rtol=1e-5)


def test_matrices_are_made_once_and_serve_training_after_inference():
    matrices_of.cache_clear()
    with torch.inference_mode():
        first = plan_folded(24, 16, None, "ortho").tokens[0].matrices
    plan = plan_folded(24, 16, None, "ortho")
    assert plan.tokens[0].matrices[0] is first[0] and plan_folded(26, 16, None, "ortho").tokens[0].matrices[0] is not first[0]
    assert not first[0].is_inference()  # those cannot be saved for a backward pass
    decimated = [plan_folded(24, 16, None, "ortho", decimated=True) for _ in range(2)]
    assert all(a.matrices is b.matrices for a, b in zip(decimated[0].tokens, decimated[1].tokens))
    assert len(decimated[0].tokens) == 2 and matrices_of.cache_info().misses == 3  # kept beside those of the length undecimated


def test_long_sequences_without_a_mask_are_decimated_once(monkeypatch):
    assert [n for n in (512, 2048, 4096, 8188, 8190, 8192, 8193, 8194, 8196, 16384) if is_decimated(n)] == [8192, 8196, 16384]
    assert [n for n in (1, 2, 4, 6, 8, 12, 30, 32) if is_decimated(n, True)] == [4, 8, 12, 32] and not is_decimated(8192, False)
    assert [[own.rows for own in token_folds(2048, decimated)] for decimated in (False, True)] == [[1032], [520, 512]]
    monkeypatch.setattr(folding, "DECIMATED_MIN_LENGTH", 16)
    masked, plain, whole = (plan_folded(16, 8, real, "ortho", decimated=wanted).tokens
                            for real, wanted in ((torch.ones(2, 16, dtype=torch.bool), None), (None, None), (None, False)))
    assert len(plain) == 2 and len(whole) == len(masked) == 1 and isinstance(masked[0].inputs, OwnFolds)


def test_matrices_that_stand_for_others_are_not_kept():
    matrices_of.cache_clear()
    with FakeTensorMode():
        assert isinstance(plan_folded(24, 16, None, "ortho").tokens[0].matrices[0], FakeTensor)
    assert type(plan_folded(24, 16, None, "ortho").tokens[0].matrices[0]) is torch.Tensor


def test_frozen_layers_below_need_no_gradient(tiny_config):
    """As with a projection of each layer's own: the backward pass ends where training does."""
    model = student(tiny_config, "fnet", backend="folded").bert.train()
    for module in (model.embeddings, *model.encoder.layer[:2]):
        module.requires_grad_(False)
    states = model(**inputs(12), output_hidden_states=True).hidden_states
    assert [s.requires_grad for s in states] == [False] * 3 + [True] * (len(states) - 3)
    states[-1].sum().backward()
    assert model.encoder.layer[2].attention.gain.grad is not None


def test_a_layer_whose_weights_are_no_plain_tensor_projects_by_itself(tiny_config):
    """As in a model that is sharded or quantised: they can be read in the layer's forward pass only, or by a linear layer only."""
    class Sharded(torch.Tensor):
        pass

    encoder = student(tiny_config, "fnet", backend="folded").bert.encoder
    hidden = torch.randn(2, 12, tiny_config.hidden_size)
    wanted, dense = torch.stack(encoder(hidden, None)), encoder.layer[0].attention.output.dense
    dense.weight = torch.nn.Parameter(dense.weight.detach().as_subclass(Sharded))
    assert [p is None for p in encoder.projections(hidden, encoder.sequence(hidden, None))] == [True] + [False] * (len(encoder.layer) - 1)
    torch.testing.assert_close(torch.stack(encoder(hidden, None)).as_subclass(torch.Tensor), wanted, atol=1e-5, rtol=1e-4)


def test_what_stands_in_the_projections_place_is_called(tiny_config):
    """An adapter on it, or a hook that brings its weights, would be passed over if it were folded."""
    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + x

    hidden, encoder = torch.randn(2, 12, tiny_config.hidden_size), student(tiny_config, "fnet", backend="folded").bert.encoder
    plain, layer, called = torch.stack(encoder(hidden, None)), encoder.layer[0].attention, []
    hook = layer.output.dense.register_forward_hook(lambda *_: called.append(1))
    torch.testing.assert_close(torch.stack(encoder(hidden, None)), plain, atol=1e-5, rtol=1e-4)
    hook.remove()
    assert called and layer.mixes_projected(encoder.sequence(hidden, None))
    layer.output.dense.__class__ = Adapted
    assert not torch.allclose(encoder(hidden, None)[1], plain[1], atol=1e-2)
    assert [p is None for p in encoder.projections(hidden, encoder.sequence(hidden, None))] == [True] + [False] * (len(encoder.layer) - 1)


def test_the_mixer_alone_gives_the_plain_transform(tiny_config):
    """What measures the mixing branch (gains, fits, diagnostics) sees the same whichever backend is chosen."""
    hidden, mask = torch.randn(3, 12, tiny_config.hidden_size), inputs(12)["attention_mask"]
    found = []
    for backend in ("matmul", "folded"):
        model = student(tiny_config, "fnet", backend=backend).bert
        found.append(model.encoder.layer[0].attention.self(hidden, model.encoder.sequence(hidden, mask)))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_long_masked_sequences_stay_sub_quadratic(tiny_config):
    tiny_config.max_position_embeddings = MATMUL_MAX_LENGTH + 1
    encoder = student(tiny_config, "fnet", backend="folded").bert.encoder
    hidden, mask = torch.zeros(2, MATMUL_MAX_LENGTH + 1, tiny_config.hidden_size), torch.ones(2, MATMUL_MAX_LENGTH + 1)
    assert encoder.sequence(hidden, mask).fourier[0].chirp is not None
    assert isinstance(encoder.sequence(hidden[:, :64], mask[:, :64]).fourier[0], FoldedPlan)


def test_without_a_projection_there_is_nothing_to_fold_into(tiny_config):
    with pytest.raises(ValueError, match="'folded' needs the output projection; without it one of: auto, fft, matmul"):
        student_config(tiny_config, "fnet-paper", backend="folded")
    with pytest.raises(ValueError, match="auto, fft, matmul, folded"):
        FNetBertConfig(backend="fold")


def test_dropout_and_norm_are_berts(tiny_config):
    """Training mode, the same random numbers: the block's output is that of the unfolded one."""
    found = []
    for backend in ("fft", "folded"):
        model = student(tiny_config, "fnet", backend=backend).bert.train()
        hidden = torch.randn(2, 8, tiny_config.hidden_size, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(4)
        found.append(model.encoder.layer[0].attention(hidden, model.encoder.sequence(hidden, None)))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)
    assert fourier.choose_backend("folded", 128) == "matmul"
