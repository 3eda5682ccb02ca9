"""The whole spectrum with few tokens, as a GPU takes it: cosines looked up, projections joined; against the other backends."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fnetlib import FNetBertForMaskedLM, modeling
from fnetlib.mixers import whole
from fnetlib.mixers.fourier import hidden_dft, plan_fourier
from fnetlib.mixers.whole import join_projections, joined_mix, plan_whole, waves_of_all_lengths, with_whole_spectrum

from test_modeling import assert_backends_agree, inputs, student

CPU = torch.device("cpu")


@pytest.fixture
def on_gpu(monkeypatch):
    """As there, with few tokens."""
    monkeypatch.setattr(modeling, "takes_whole_spectrum", lambda x, dtype: True)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["fnet", "fnet-naive", "fnet-no-mask", "fnet-paper", "fnet-paper+gain", "hybrid-2", "hybrid-2+filter"])
def test_models_agree_with_ffts_in_values_and_gradients(tiny_config, on_gpu, name, padded):
    assert_backends_agree(tiny_config, name, inputs(length=13, padded=padded), ("fft", "matmul"))


def test_no_layer_projects_by_itself_and_without_a_projection_none_is_joined(tiny_config, on_gpu):
    hidden = torch.randn(2, 12, tiny_config.hidden_size)
    for name, joined in (("fnet", True), ("fnet-paper", False)):
        encoder = student(tiny_config, name, backend="matmul").bert.encoder
        sequence = encoder.sequence(hidden, None)
        assert sequence.fourier[0].joined == joined
        assert [p is not None for p in encoder.projections(hidden, sequence)] == [joined] * len(encoder.layer)
    plain = student(tiny_config, "fnet", backend="fft").bert.encoder
    assert plain.projections(hidden, plain.sequence(hidden, None)) == [None] * len(plain.layer)


def test_wide_models_and_large_batches_are_not_joined():
    """Few tokens of width 768 would pay for a product of 768 x 768 x 1,536 in every layer; many do not wait for launches."""
    for shape, joined in (((16, 12, 384), True), ((16, 12, 768), False), ((64, 24, 768), False), ((64, 128, 384), False)):
        assert plan_whole(shape, None, "ortho", hidden_dft(shape[2]), CPU, torch.float32, projects=True).joined == joined, shape
        assert not plan_whole(shape, None, "ortho", hidden_dft(shape[2]), CPU, torch.float32, projects=False).joined


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_make_their_own_where_none_are_given(tiny_config, on_gpu, frozen):
    encoder = student(tiny_config, "fnet", backend="matmul").bert.encoder.requires_grad_(not frozen)
    hidden, mask = torch.randn(3, 12, tiny_config.hidden_size), inputs(12)["attention_mask"][:3]
    sequence, own = encoder.sequence(hidden, mask), [hidden]
    for layer in encoder.layer:
        own.append(layer(own[-1], sequence))
    torch.testing.assert_close(torch.stack(encoder(hidden, mask)), torch.stack(own), atol=1e-6, rtol=1e-5)
    assert own[-1].requires_grad == (not frozen)


def test_frozen_layers_below_need_no_gradient(tiny_config, on_gpu):
    model = student(tiny_config, "fnet", backend="matmul").bert.train()
    for module in (model.embeddings, *model.encoder.layer[:2]):
        module.requires_grad_(False)
    states = model(**inputs(12), output_hidden_states=True).hidden_states
    assert [s.requires_grad for s in states] == [False] * 3 + [True] * (len(states) - 3)


@pytest.mark.parametrize("where", ["self", "output", "output.dense"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_are_called(tiny_config, on_gpu, where, kind):
    encoder, called = student(tiny_config, "fnet", backend="matmul").bert.encoder, []
    hidden = torch.randn(2, 12, tiny_config.hidden_size)
    wanted = torch.stack(encoder(hidden, None))
    getattr(encoder.layer[1].attention.get_submodule(where), kind)(lambda *_: called.append(1))
    found = torch.stack(encoder(hidden, None))
    found.sum().backward()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert called


def test_a_layer_of_another_kind_is_called(tiny_config, on_gpu):
    class Louder(modeling.FourierMixer):
        def forward(self, hidden_states, sequence):
            return 3 * super().forward(hidden_states, sequence)

    encoder, hidden = student(tiny_config, "fnet", backend="matmul").bert.encoder, torch.randn(2, 12, tiny_config.hidden_size)
    plain = encoder(hidden, None)[1]
    encoder.layer[0].attention.self.__class__ = Louder
    assert not torch.allclose(encoder(hidden, None)[1], plain, atol=1e-2)


def test_traced_by_torch_jit_any_length_is_right(tiny_config, on_gpu):
    """What a trace has seen must not be kept in it."""
    model = student(tiny_config, "fnet", backend="matmul").requires_grad_(False)
    names = ("input_ids", "attention_mask")
    first, second = ([inputs(n)[name] for name in names] for n in (12, 12))
    with torch.no_grad():
        traced = torch.jit.trace(lambda ids, mask: model(ids, mask).logits, first, check_trace=False)
        second[1][0, 5:] = 0
        torch.testing.assert_close(traced(*second), model(*second).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["ortho", "backward"])
def test_kept_matrices_are_those_that_would_be_computed(norm):
    """Wherever the padding is, none real included; one table for all lengths up to a power of two."""
    waves_of_all_lengths.cache_clear()
    generator = torch.Generator().manual_seed(3)
    for length in (5, 7, 8):
        real = torch.rand(6, length, generator=generator) < 0.6
        real[0], real[1] = True, False
        for mask in (real, None):
            kept = plan_whole((6, length, 12), mask, norm, hidden_dft(12), CPU, torch.float32, projects=False)
            plan = with_whole_spectrum(plan_fourier(length, 12, mask, norm, "matmul"), hidden_dft(12))
            torch.testing.assert_close(kept.rows, plan.rows, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(kept.columns, plan.columns, atol=1e-6, rtol=0)
    assert waves_of_all_lengths.cache_info().misses == 1


def test_what_inference_kept_serves_training(tiny_config, on_gpu):
    waves_of_all_lengths.cache_clear()
    whole.columns_of.cache_clear()
    model, batch = student(tiny_config, "fnet", backend="matmul"), inputs(12)
    with torch.inference_mode():
        model(**batch)
    model(**batch).logits.sum().backward()
    assert model.bert.encoder.layer[0].attention.output.dense.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 1.5e-2), (torch.float16, 2e-3)])
def test_half_precision_within_a_stated_bound(dtype, bound):
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(2, 24, 48, generator=generator), torch.randn(1, 32, 48, generator=generator)
    bias = torch.randn(32, generator=generator)
    plan = plan_whole(x.shape, None, "ortho", hidden_dft(48), CPU, dtype, projects=True)
    out = joined_mix(x.to(dtype), plan, join_projections(weight, plan)[0], bias)
    wanted = torch.fft.fft2(x.double(), norm="ortho").real @ weight[0].double().T + bias.double()
    assert out.dtype == dtype and float((out.double() - wanted).norm() / wanted.norm()) < bound


class Operators(TorchDispatchMode):
    """Counts those that compute; views cost a GPU nothing."""

    VIEWS = {"view", "transpose", "t", "permute", "expand", "unsqueeze", "select", "slice", "detach", "_unsafe_view", "alias", "as_strided", "unbind"}

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.__name__.split(".")[0] not in self.VIEWS
        return function(*args, **(kwargs or {}))


def test_a_training_step_takes_fewer_operators(tiny_config, on_gpu, monkeypatch):
    """Three a layer less at least, and of what layers share all but a few."""
    counts, shared = [], []
    for extra, few in ((-float("inf"), lambda *shape: False), (whole.JOINED_MAX_EXTRA, whole.few_tokens)):
        monkeypatch.setattr(whole, "JOINED_MAX_EXTRA", extra)
        monkeypatch.setattr(whole, "few_tokens", few)
        model, batch = student(tiny_config, "fnet", FNetBertForMaskedLM, backend="matmul").train(), inputs(12)
        model(**batch)  # cosines are made
        with Operators() as step:
            model(**batch, labels=batch["input_ids"]).loss.backward()
        with Operators() as sequence:
            model.bert.encoder.sequence(torch.zeros(3, 12, tiny_config.hidden_size), batch["attention_mask"])
        counts.append(step.count)
        shared.append(sequence.count - 1)  # without the zeros
    layers = tiny_config.num_hidden_layers
    assert shared[1] <= 10 and shared[0] >= 20
    assert counts[0] - counts[1] >= shared[0] - shared[1] + 3 * layers
