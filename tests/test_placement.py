"""Placement by measurement: the layer that was spoilt is the one that gets its attention back first."""

import pytest
import torch
from factories import batch_of

from fnetlib.config import recipe
from fnetlib.params import ParameterError
from fnetlib.placement import place, recipe_name, restored
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


@pytest.fixture
def teacher(tiny_teacher_folder):
    return load_teacher(tiny_teacher_folder)


def test_all_layers_restored_is_the_teacher(teacher):
    batch = batch_of([9, 7, 5])
    reference, _ = build_student(teacher, "bert", head="none")
    student, _ = build_student(teacher, "fnet+gated", head="none", batch=batch)
    whole = restored(student, reference, [0, 1, 2, 3])
    assert whole.config.mixers == ["attention"] * 4
    assert torch.equal(whole(**batch).last_hidden_state, reference(**batch).last_hidden_state)
    partly = restored(student, reference, [2])
    assert partly.config.mixers == ["gated", "gated", "attention", "gated"] and student.config.mixers == ["gated"] * 4


def test_the_spoilt_layers_are_chosen(teacher):
    """Layers whose mixers are far from the teacher's are worth most; errors fall from round to round."""
    batch = batch_of([9, 7, 5, 9, 8, 6])
    student, _ = build_student(teacher, "fnet+gated", head="none", batch=batch)
    with torch.no_grad():
        for layer in (1, 3):
            student.encoder.layer[layer].attention.self.value.bias.add_(5.0 * layer)
    found = place(teacher, student, batch, keep=2)
    assert recipe_name(found) == "hybrid-at-1-3" and list(found.groupby("round").size()) == [4, 3]
    best = found[found["chosen"]]["error"].tolist()
    assert best[1] < best[0] and recipe(recipe_name(found), 4)["mixers"].count("attention") == 2
    for keep in (0, 5):
        with pytest.raises(ParameterError, match=f"keep: {keep} is not from 1 to 4"):
            place(teacher, student, batch, keep)
