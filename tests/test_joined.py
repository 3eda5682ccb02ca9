"""Mixing by the whole spectrum and projection in one product, what a GPU does with few tokens, against the other backends."""

import pytest
import torch

from fnetlib import FNetBertForMaskedLM, modeling
from fnetlib.mixers.fourier import hidden_dft, plan_fourier, project_spectrum, whole_mix, with_whole_spectrum

from test_modeling import inputs, student


@pytest.fixture
def whole(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(modeling, "takes_whole_spectrum", lambda x, dtype: True)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["fnet", "fnet-naive", "fnet-no-mask", "fnet-paper", "fnet-paper+gain", "hybrid-2", "hybrid-2+filter"])
def test_models_agree_with_ffts_in_values_and_gradients(tiny_config, whole, name, padded):
    batch = inputs(length=13, padded=padded)
    states, gradients = [], []
    for backend in ("fft", "matmul"):
        model = student(tiny_config, name, FNetBertForMaskedLM, backend=backend)
        output = model(**batch, labels=batch["input_ids"], output_hidden_states=True)
        output.loss.backward()
        states.append(torch.stack(output.hidden_states))
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*states, atol=2e-5, rtol=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, ours in gradients[1].items():
        scale = float(gradients[0][parameter].abs().max())
        torch.testing.assert_close(ours, gradients[0][parameter], atol=2e-4 * scale + 1e-7, rtol=0, msg=parameter)


def test_no_layer_projects_by_itself_and_without_a_projection_none_is_joined(tiny_config, whole):
    for name, joined in (("fnet", True), ("fnet-paper", False)):
        encoder, called = student(tiny_config, name, backend="matmul").bert.encoder, []
        for module in encoder.modules():
            if isinstance(module, modeling.BertSelfOutput):
                module.dense.register_forward_hook(lambda *_: called.append(1))
        hidden = torch.randn(2, 12, tiny_config.hidden_size)
        encoder(hidden, None)
        assert [p is not None for p in encoder.projections(hidden, encoder.sequence(hidden, None))] == [joined] * len(encoder.layer)
        assert not called
    plain = student(tiny_config, "fnet", backend="fft").bert.encoder
    assert plain.projections(hidden, plain.sequence(hidden, None)) == [None] * len(plain.layer)


def test_layers_make_their_own_where_none_are_given(tiny_config, whole):
    encoder = student(tiny_config, "fnet", backend="matmul").bert.encoder
    hidden, mask = torch.randn(3, 12, tiny_config.hidden_size), inputs(12)["attention_mask"][:3]
    sequence, own = encoder.sequence(hidden, mask), [hidden]
    for layer in encoder.layer:
        own.append(layer(own[-1], sequence))
    torch.testing.assert_close(torch.stack(encoder(hidden, mask)), torch.stack(own), atol=1e-6, rtol=1e-5)


def test_frozen_layers_below_need_no_gradient(tiny_config, whole):
    model = student(tiny_config, "fnet", backend="matmul").bert.train()
    for module in (model.embeddings, *model.encoder.layer[:2]):
        module.requires_grad_(False)
    states = model(**inputs(12), output_hidden_states=True).hidden_states
    assert [s.requires_grad for s in states] == [False] * 3 + [True] * (len(states) - 3)


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 1.5e-2), (torch.float16, 2e-3)])
def test_half_precision_within_a_stated_bound(dtype, bound):
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(2, 24, 48, generator=generator), torch.randn(1, 32, 48, generator=generator)
    plan = with_whole_spectrum(plan_fourier(24, 48, None, "ortho", "matmul", dtype=dtype), hidden_dft(48))
    out = whole_mix(x.to(dtype), plan, project_spectrum(weight, plan)[0])
    wanted = torch.fft.fft2(x.double(), norm="ortho").real @ weight[0].double().T
    assert out.dtype == dtype and float((out.double() - wanted).norm() / wanted.norm()) < bound
