"""The filter mixer against explicit sums, and its closed-form fit against a teacher whose attention is positional."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from factories import batch_of
from transformers import BertModel

from fnetlib import FNetBertModel
from fnetlib.calibrate import fit_filters
from fnetlib.config import FNetBertConfig, recipe
from fnetlib.mixers import FilterMixer, Sequence
from fnetlib.mixers.filter import fft_convolve, plan_filter, toeplitz
from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 2), heads=st.integers(1, 3), length=st.integers(1, 33), width=st.integers(1, 5),
       seed=st.integers(0, 99))
def test_both_ways_to_convolve_equal_the_sum_in_float64(batch, heads, length, width, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, heads, length, width, generator=generator)
    taps = torch.randn(heads, 2 * length - 1, generator=generator)
    expected = np.zeros(values.shape)
    for i in range(length):
        for j in range(length):
            expected[:, :, i] += taps[:, j - i + length - 1, None].double().numpy() * values[:, :, j].double().numpy()
    for convolve in (toeplitz, fft_convolve):
        assert np.allclose(convolve(values, taps).numpy(), expected, atol=1e-4), convolve.__name__


def mixer(heads: int = 2, longest: int = 12) -> FilterMixer:
    torch.manual_seed(0)
    made = FilterMixer(FNetBertConfig(hidden_size=8, num_attention_heads=heads, max_position_embeddings=longest,
                                      num_hidden_layers=1))
    for weight in (made.filter, made.first, made.ends):
        torch.nn.init.normal_(weight)
    return made


@pytest.mark.parametrize("backend", ["matmul", "fft"])
@pytest.mark.parametrize("start, end", [(0, 9), (0, 6), (3, 9), (0, 2), (0, 1)])
def test_weights_are_by_offset_and_apart_for_the_ends(backend, start, end):
    """Example 0 is whole, example 1 real from `start` to `end`: each token's sum, written out."""
    made, x = mixer(), torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1] = (torch.arange(9) >= start) & (torch.arange(9) < end)
    out = made(x, Sequence(filter=plan_filter(real, backend)))
    values = made.value(x).view(2, 9, 2, 4)
    for example, (begin, stop) in enumerate([(0, 9), (start, end)]):
        for head in range(2):
            for i in range(begin, stop):
                expected = torch.zeros(4)
                for j in range(begin, stop):
                    if i == begin:
                        weight = made.first[head, j - begin]
                    elif j == begin or j == stop - 1:
                        weight = made.ends[head, int(j != begin)]
                    else:
                        weight = made.filter[head, j - i + made.longest - 1]
                    expected = expected + weight * values[example, j, head]
                assert torch.allclose(out[example, i, 4 * head: 4 * head + 4], expected, atol=1e-4), (example, head, i)


def test_attention_weights_are_transformers_own(tiny_config):
    torch.manual_seed(0)
    theirs = BertModel(tiny_config, add_pooling_layer=False).eval()
    theirs.set_attn_implementation("eager")
    batch = batch_of([9, 6, 3])
    expected = theirs(**batch, output_attentions=True, output_hidden_states=True)
    ours = FNetBertModel(FNetBertConfig(**{**tiny_config.to_dict(), "mixers": ["attention"] * tiny_config.num_hidden_layers,
                                           "gain": False}), add_pooling_layer=False)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    real = batch["attention_mask"].bool()
    for layer, state, weights in zip(ours.encoder.layer, expected.hidden_states, expected.attentions, strict=False):
        found = layer.attention.self.weights(state, real)
        assert torch.allclose(found[real.nonzero()[:, 0], :, real.nonzero()[:, 1]],
                              weights[real.nonzero()[:, 0], :, real.nonzero()[:, 1]], atol=1e-6)


@pytest.fixture(scope="module")
def teacher(tiny_teacher_folder):
    return load_teacher(str(tiny_teacher_folder))


def test_a_teacher_that_attends_by_position_alone_is_matched_exactly(tiny_teacher_folder):
    """Zero queries attend to all tokens alike: with sentences of one length the fit is exact, from every layer's state."""
    teacher = load_teacher(str(tiny_teacher_folder))
    for name, tensor in teacher.state.items():
        if ".query." in name:
            tensor.zero_()
    batch = batch_of([8, 8, 8, 8])
    reference, _ = build_student(teacher, "bert", head="none")
    student, _ = build_student(teacher, "fnet+filter", head="none", batch=batch)
    theirs, ours = reference(**batch), student(**batch)
    assert torch.allclose(theirs.last_hidden_state, ours.last_hidden_state, atol=1e-5)
    for layer in student.encoder.layer:
        assert torch.allclose(layer.attention.self.first[:, :8], torch.tensor(1 / 8), atol=1e-6)


def test_the_fit_is_the_least_squares_one(teacher):
    """Moving any one weight away from the fit leaves a larger squared error to the teacher's attention maps."""
    batch = batch_of([9, 7, 5, 9])
    reference, _ = build_student(teacher, "bert", head="none")
    student, _ = build_student(teacher, "fnet+filter", head="none", batch=batch)
    real, made = batch["attention_mask"].bool(), student.encoder.layer[0].attention.self
    state = reference(**batch, output_hidden_states=True).hidden_states[0]
    target = reference.encoder.layer[0].attention.self.weights(state, real)

    @torch.no_grad()
    def error() -> float:
        total = 0.0
        for example, length in enumerate(real.sum(1).tolist()):
            own = made.filter[:, torch.arange(length)[None] - torch.arange(length)[:, None] + made.longest - 1].clone()
            own[:, :, 0], own[:, :, length - 1] = made.ends[:, :1], made.ends[:, 1:]
            own[:, 0] = made.first[:, :length]
            total += float((own - target[example, :, :length, :length]).double().pow(2).sum())
        return total

    best = error()
    middle = made.longest - 1
    for weight, places in ((made.filter, [middle - 3, middle, middle + 2]), (made.first, [0, 4, 8]), (made.ends, [0, 1])):
        for place in places:
            for step in (-0.01, 0.01):
                with torch.no_grad():
                    weight[1, place] += step
                assert error() > best
                with torch.no_grad():
                    weight[1, place] -= step


def test_what_no_sentence_shows_is_zero(teacher):
    student, _ = build_student(teacher, "fnet+filter", head="none", batch=batch_of([6, 4]))
    made = student.encoder.layer[0].attention.self
    middle = made.longest - 1
    assert not made.filter[:, middle + 6:].any() and not made.filter[:, :middle - 5].any()
    assert not made.first[:, 6:].any() and made.first[:, :6].all() and made.filter[:, middle].all()


def test_fitted_filters_come_nearer_to_the_teacher_than_random_ones(teacher):
    batch = batch_of([9, 7, 5, 9, 8, 8])
    reference, _ = build_student(teacher, "bert", head="none")
    target = reference(**batch).last_hidden_state
    random, _ = build_student(teacher, "fnet+filter", head="none", seed=0)
    fitted, _ = build_student(teacher, "fnet+filter", head="none", seed=0)
    fit_filters(reference, fitted, batch)
    errors = [float((student(**batch).last_hidden_state - target).detach().pow(2).mean()) for student in (random, fitted)]
    assert errors[1] < errors[0]


def test_filters_of_a_trained_student_are_kept(teacher, tmp_path):
    student, _ = build_student(teacher, "fnet+filter", head="mlm", seed=1)
    student.save_pretrained(tmp_path)
    teacher.tokenizer.save_pretrained(tmp_path)
    again, report = build_student(load_teacher(str(tmp_path)), "fnet+filter", head="none", batch=batch_of([6, 4]))
    own = dict(student.bert.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in again.named_parameters() if "self.filter" in name)
    assert {row["fate"] for row in report.rows if ".self." in row["tensor"]} == {"copied"}


def test_names(tiny_config):
    assert recipe("hybrid-2+filter", 6)["mixers"] == ["filter", "filter", "attention", "filter", "filter", "attention"]
    assert recipe("fnet+filter-calibrated", 2) == {**recipe("fnet+filter", 2)}
    for name in ("bert+filter", "bound+filter", "fnet-no-filter", "fnet+filter+filter"):
        with pytest.raises(ParameterError, match="filter"):
            recipe(name, 6)
