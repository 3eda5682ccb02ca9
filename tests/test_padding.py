"""Scores by padding length: a masked model's predictions never change, a naive one's may; the counting is right."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from fnetlib.padding import NO_PADDING, logits_padded_to, score_by_padding
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


@pytest.fixture(scope="module")
def teacher(tiny_teacher_folder):
    return load_teacher(tiny_teacher_folder)


@pytest.fixture(scope="module")
def examples(teacher):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["the", "a", "dog", "sleeps", "who", "what"], size=n)) for n in random.integers(1, 14, 40)]
    tokens = dict(teacher.tokenizer(texts))
    return Dataset.from_dict({**tokens, "label": [0] * len(texts)})


def one_by_one(model, examples):
    with torch.no_grad():
        return np.concatenate([model.eval()(**{k: torch.tensor([row[k]]) for k in ("input_ids", "attention_mask", "token_type_ids")}
                                            ).logits.numpy() for row in examples])


@pytest.mark.parametrize("recipe", ["bert", "fnet", "hybrid-2"])
def test_padding_does_not_touch_masked_models(teacher, examples, recipe):
    model, _ = build_student(teacher, recipe, seed=0)
    alone = one_by_one(model, examples)
    for length in (NO_PADDING, 16, 40):
        assert np.allclose(logits_padded_to(model, teacher.tokenizer, examples, length, batch_size=7), alone, atol=2e-5)


def test_padding_moves_a_naive_model(teacher, examples):
    model, _ = build_student(teacher, "fnet-naive", seed=0)
    own = logits_padded_to(model, teacher.tokenizer, examples, NO_PADDING)
    assert np.allclose(own, one_by_one(model, examples), atol=2e-5)  # no example was padded for its neighbours' sake
    assert np.abs(logits_padded_to(model, teacher.tokenizer, examples, 40) - own).max() > 1e-2


def test_examples_are_padded_to_exactly_what_is_asked(teacher, examples):
    class Spy(torch.nn.Module):
        device, seen = torch.device("cpu"), set()

        def forward(self, input_ids, attention_mask, token_type_ids):
            self.seen |= {(input_ids.shape[1], int(n)) for n in attention_mask.sum(1)}
            return type("Out", (), {"logits": input_ids[:, :1].float()})

    spy = Spy()
    logits_padded_to(spy, teacher.tokenizer, examples, 9)
    assert {n for _, n in spy.seen} == {len(ids) for ids in examples["input_ids"]}
    assert all(padded == max(own, 9) for padded, own in spy.seen)


def test_counting_changes():
    predictions = {0: np.array([0, 1, 1]), 8: np.array([0, 1, 1]), 32: np.array([1, 1, 0])}
    rows = score_by_padding(predictions.get, lambda p: float(p.mean()), [8, 32])
    assert rows == [{"padded_to": 0, "score": pytest.approx(2 / 3), "changed": 0},
                    {"padded_to": 8, "score": pytest.approx(2 / 3), "changed": 0},
                    {"padded_to": 32, "score": pytest.approx(2 / 3), "changed": 2}]
