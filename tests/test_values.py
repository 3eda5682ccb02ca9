"""A transform over tokens of the value projection, against a float64 definition."""

import math

import pytest
import torch
from factories import batch_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from fnetlib.config import student_config
from fnetlib.mixers import Sequence, ValueMixer
from fnetlib.mixers.fourier import plan_fourier
from fnetlib.mixers.values import hartley
from fnetlib.modeling import FNetBertForSequenceClassification
from fnetlib.teacher import load_teacher
from fnetlib.transfer import branches, build_student, rms

CONFIG = BertConfig(vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40)


def expected(x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Each example's real tokens, at the front, by the sum itself."""
    out = torch.zeros_like(x, dtype=torch.float64)
    for i, n in enumerate(lengths):
        angle = 2 * math.pi * torch.outer(torch.arange(n), torch.arange(n)).double() / n
        out[i, :n] = (angle.cos() + angle.sin()) @ x[i, :n].double() / math.sqrt(n)
    return out


def mask(lengths, longest):
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("backend", ["matmul", "fft"])
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 19), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_every_example_has_its_own_length(backend, lengths, seed):
    longest = max(lengths)
    x = torch.randn(len(lengths), longest, 5, generator=torch.Generator().manual_seed(seed))
    masked = hartley(x, plan_fourier(longest, 1, mask(lengths, longest), "ortho", backend))
    torch.testing.assert_close(masked.double(), expected(x, lengths), atol=2e-5, rtol=2e-5)
    whole = hartley(x, plan_fourier(longest, 1, None, "ortho", backend))
    torch.testing.assert_close(whole.double(), expected(x, [longest] * len(lengths)), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(hartley(whole, plan_fourier(longest, 1, None, "ortho", backend)), x, atol=2e-5, rtol=2e-5)  # its own inverse


@pytest.mark.parametrize("lengths", [[7, 4], [8, 8]])
def test_gradients_are_those_of_the_definition(lengths):
    real, grads = mask(lengths, 8), []
    for backend in ("matmul", "fft", None):
        x = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        made = expected(x, lengths) if backend is None else hartley(x, plan_fourier(8, 1, real, "ortho", backend))
        made.pow(3).sum().backward()
        grads.append(x.grad.float())
    torch.testing.assert_close(grads[0], grads[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grads[1], grads[2], atol=1e-4, rtol=1e-4)


def test_half_precision_stays_close():
    x, plan = torch.randn(2, 33, 8), plan_fourier(33, 1, None, "ortho", "matmul", dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = hartley(x, plan)
    assert made.dtype == torch.bfloat16 and rms(made.float() - expected(x, [33, 33]).float()) < 0.02


@pytest.mark.parametrize("backend", ["matmul", "fft"])
def test_padding_changes_nothing(backend):
    torch.manual_seed(0)
    model = FNetBertForSequenceClassification(student_config(CONFIG, "fnet+values", backend=backend)).eval()
    ids = torch.randint(1, 60, (2, 9))
    real = mask([9, 9], 9).long()
    padded = model(input_ids=torch.nn.functional.pad(ids, (0, 5)), attention_mask=torch.nn.functional.pad(real, (0, 5))).logits
    torch.testing.assert_close(padded, model(input_ids=ids, attention_mask=real).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded, model(input_ids=ids).logits, atol=1e-5, rtol=1e-4)


def test_it_starts_with_the_teachers_values_at_the_level_of_its_attention(tiny_teacher_folder):
    teacher, batch = load_teacher(str(tiny_teacher_folder)), batch_of([9, 7, 5, 9] * 4)
    student, report = build_student(teacher, "fnet+values", "none", batch=batch)
    copied = [row["tensor"] for row in report.rows if row["fate"] == "copied" and "self.value" in row["tensor"]]
    assert len(copied) == 2 * teacher.config.num_hidden_layers
    bert, _ = build_student(teacher, "bert", "none")
    states = bert(**batch, output_hidden_states=True).hidden_states
    for ours, theirs in zip(branches(student, batch, states), branches(bert, batch, states)):
        assert rms(ours["unbiased"]) == pytest.approx(rms(theirs["unbiased"]), rel=1e-3)


def test_as_a_mixer_it_transforms_the_values():
    mixer, x, plan = ValueMixer(CONFIG), torch.randn(1, 6, 24), plan_fourier(6, 1, None, "ortho", "fft")
    torch.testing.assert_close(mixer(x, Sequence(tokens=plan)), hartley(mixer.value(x), plan))
    assert student_config(CONFIG, "hybrid-1+values").mixers == ["values", "attention"]
