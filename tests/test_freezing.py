"""XATL's freezing: what each plan freezes, when LIT unfreezes, and the learning rates of both groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer, TrainerCallback, TrainingArguments

from fnetlib.freezing import Thaw, frozen_by, linear, set_optimizer, thawing, unfreeze_step
from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student


@pytest.fixture
def student(tiny_teacher_folder):
    return lambda recipe: build_student(load_teacher(tiny_teacher_folder), recipe, "mlm", seed=0)[0]


@pytest.mark.parametrize("plan, trained", [
    ("embeddings", {"attention.self.", "attention.gain", "attention.output.", "intermediate.", "output."}),
    ("feed_forward", {"attention.self.", "attention.gain", "attention.output."}),
    ("output_projection", {"attention.self.", "attention.gain"})])
def test_each_plan_freezes_more(student, plan, trained):
    model = student("hybrid-2")
    frozen = set(frozen_by(plan, model))
    rest = {name.split("layer.")[1].split(".", 1)[1] for name, _ in model.named_parameters() if name not in frozen}
    assert all(any(name.startswith(part) for part in trained) for name in rest)
    assert trained == {part for part in trained if any(name.startswith(part) for name in rest)}
    assert {"bert.embeddings.LayerNorm.weight", "cls.predictions.bias"} <= frozen
    assert frozen_by("none", model) == []


def test_in_a_fourier_model_the_last_plan_leaves_the_gains(student):
    model = student("fnet")
    left = [name for name, _ in model.named_parameters() if name not in frozen_by("output_projection", model)]
    assert left == [f"bert.encoder.layer.{i}.attention.gain" for i in range(4)]
    with pytest.raises(ParameterError, match="'output_projection' leaves this model nothing to train"):
        frozen_by("output_projection", student("fnet-naive"))


@pytest.mark.parametrize("losses, threshold, patience, step", [
    ([4.0, 3.0, 2.9, 2.89], 0.01, 1, 40),  # 25 %, 3 %, 0.3 %
    ([4.0, 3.99, 3.0, 2.999], 0.01, 2, 40),  # two windows under the threshold, one between them above
    ([4.0, 3.99, 3.0, 2.9], 0.01, 2, None),
    ([4.0, 4.1], 0.01, 1, 20),  # a rising loss does not improve
    ([4.0], 0.01, 1, None)])
def test_lit(losses, threshold, patience, step):
    assert unfreeze_step([(10 * (i + 1), loss) for i, loss in enumerate(losses)], threshold, patience) == step


@given(st.lists(st.floats(0.1, 10), max_size=12), st.floats(0, 0.5), st.integers(1, 4))
def test_lit_decides_once_and_more_patience_is_never_earlier(losses, threshold, patience):
    windows = list(enumerate(losses))
    step = unfreeze_step(windows, threshold, patience)
    if step is not None:
        assert unfreeze_step(windows[:step + 1], threshold, patience) == step
        assert unfreeze_step(windows[:step], threshold, patience) is None
    later = unfreeze_step(windows, threshold, patience + 1)
    assert later is None or later > step


def test_schedules():
    thaw = Thaw([], 0.01, 1)
    common, late = linear(10, 110), thawing(thaw, 10, 110)
    assert [common(s) for s in (0, 5, 10, 60, 110)] == [0, 0.5, 1, 0.5, 0]
    assert late(60) == 0
    thaw.step = 50
    assert [late(s) for s in (50, 55, 60, 85)] == [0, 0.5 * common(55), common(60), common(85)]
    assert late(48) == 0  # never a negative rate


def test_frozen_weights_rest_until_the_threshold_then_learn(student, tmp_path):
    """A task whose loss stands still: LIT unfreezes after the second window; before, nothing frozen has moved."""
    model = student("hybrid-2")
    frozen = [dict(model.named_parameters())[name] for name in frozen_by("feed_forward", model)]
    before, seen = [p.detach().clone() for p in frozen], {}
    thaw = Thaw(frozen, 0.9, 1)
    rows = [{"input_ids": torch.randint(5, 40, (8,)), "labels": torch.randint(5, 40, (8,))} for _ in range(64)]

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen[state.global_step] = all(torch.equal(a, b) for a, b in zip(before, frozen))

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=20, logging_steps=4, report_to=[],
                                  per_device_train_batch_size=4, learning_rate=1e-2, warmup_steps=0.1, disable_tqdm=True)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[thaw, Watch()])
    set_optimizer(trainer, thaw, mixer_rate=2.0)
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert rates == {1e-2, 2e-2} and sum(len(g["params"]) for g in trainer.optimizer.param_groups) == len(list(model.parameters()))
    trainer.train()
    assert thaw.step == 8 and all(seen[s] for s in range(1, 9)) and not seen[10]
