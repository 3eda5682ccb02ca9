"""The closed-form refit equals scikit-learn's ridge, brings a student closer to its teacher, and touches nothing else."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn.functional import mse_loss

from fnetlib.calibrate import PENALTIES, calibrate, ridge
from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher
from fnetlib.transfer import branches, build_student


@pytest.fixture(scope="module")
def teacher(tiny_teacher_folder):
    return load_teacher(tiny_teacher_folder)


@pytest.fixture(scope="module")
def batch():
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (120, 12), generator=random)
    lengths = torch.randint(4, 13, (120, 1), generator=random)
    mask = (torch.arange(12)[None] < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def test_ridge_equals_scikit_learns():
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 7)) * np.arange(1, 8) + 3
    y = x @ random.standard_normal((7, 4)) + random.standard_normal((400, 4)) - 5
    held_out = np.arange(400) % 5 == 0
    weight, bias, penalty, explained = ridge(torch.tensor(x), torch.tensor(y), torch.tensor(held_out))

    def reference(rows):
        scale = x[rows].var(0).mean()
        return {p: Ridge(alpha=p * scale * rows.sum()).fit(x[rows], y[rows]) for p in PENALTIES}

    errors = {p: ((y[held_out] - m.predict(x[held_out])) ** 2).sum() for p, m in reference(~held_out).items()}
    assert penalty == min(errors, key=errors.get)
    total = ((y[held_out] - y[~held_out].mean(0)) ** 2).sum()
    assert explained == pytest.approx(1 - errors[penalty] / total)
    whole = reference(np.ones(400, bool))[penalty]
    assert np.allclose(weight, whole.coef_) and np.allclose(bias, whole.intercept_)


def test_noise_gets_a_large_penalty_and_a_law_a_small_one():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=random)
    held_out = torch.arange(300) % 5 == 0
    assert ridge(x, torch.randn(300, 3, generator=random), held_out)[2] >= 1
    weight, _, penalty, explained = ridge(x, x[:, :3] * 2, held_out)
    assert penalty == PENALTIES[0] and explained > 0.999 and weight[0, 0] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("recipe", ["fnet-calibrated", "hybrid-2-calibrated", "fnet-naive-calibrated"])
def test_only_the_swapped_layers_projections_change(teacher, batch, recipe):
    plain, _ = build_student(teacher, recipe.removesuffix("-calibrated"), gain=False, head="none", seed=0)
    student, report = build_student(teacher, recipe, batch=batch, head="none", seed=0)
    swapped = [i for i, mixer in enumerate(student.config.mixers) if mixer != "attention"]
    assert [part["layer"] for part in report.calibration] == swapped and not student.config.gain
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, plain.state_dict()[name])}
    assert changed == {f"encoder.layer.{i}.attention.output.dense.{part}" for i in swapped for part in ("weight", "bias")}
    assert report.record()["calibration"] == report.calibration


def test_the_first_layer_comes_as_close_to_the_teacher_as_it_can(teacher, batch):
    """On the sentences of the fit, no other projection of the same features is closer; the gain's start is further."""
    reference, _ = build_student(teacher, "bert", head="none")
    real = batch["attention_mask"].bool()

    def first_state(model):
        with torch.no_grad():
            return model.eval()(**batch, output_hidden_states=True).hidden_states[1][real]

    wanted = first_state(reference)
    with_gain, _ = build_student(teacher, "fnet", batch=batch, head="none")
    student, _ = build_student(teacher, "fnet-calibrated", batch=batch, head="none")
    assert mse_loss(first_state(student), wanted) < mse_loss(first_state(with_gain), wanted)


def test_an_attention_model_needs_no_refit_and_a_second_one_changes_little(teacher, batch):
    reference, _ = build_student(teacher, "bert", head="none")
    targets = [part["branch"] for part in branches(reference, batch)]
    assert calibrate(build_student(teacher, "bert", head="none")[0], batch, targets) == []
    student, _ = build_student(teacher, "fnet-calibrated", batch=batch, head="none")
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    calibrate(student, batch, targets)
    assert all(torch.allclose(before[name], tensor, atol=1e-5) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize("recipe, message", [
    ("bert-calibrated", "no output projection of a swapped layer"), ("fnet-paper-calibrated", "no output projection")])
def test_recipes_without_a_projection_to_refit(teacher, batch, recipe, message):
    with pytest.raises(ParameterError, match=message):
        build_student(teacher, recipe, batch=batch)


def test_sentences_are_needed(teacher):
    with pytest.raises(ParameterError, match="refitted on sentences"):
        build_student(teacher, "fnet-calibrated")
