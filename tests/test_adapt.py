"""Continued training: it learns, is recorded with its loss by step, token and second, resumes, and is not repeated."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from fnetlib import adapt as module
from fnetlib import synthetic
from fnetlib.adapt import Clock, adapt, in_words, make_trainer
from fnetlib.callbacks import last_checkpoint
from fnetlib.params import ParameterError, TransferParams
from fnetlib.records import RecordStore
from fnetlib.teacher import fingerprint, load_teacher
from fnetlib.text import load_text
from fnetlib.transfer import build_student


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    sentences = synthetic.generate("cola", "train", size=1500)["sentence"]
    pd.DataFrame({"text": [f"{s} {i}" for i, s in enumerate(sentences)]}).to_parquet(folder / "a.parquet")
    return load_text(str(folder))


@pytest.fixture
def params(tiny_teacher_folder, tmp_path):
    def make(**values):
        return TransferParams.parse({
            "teacher": tiny_teacher_folder, "model": "bert", "adapt": "mlm", "steps": 40, "batch_size": 16, "length": 32,
            "learning_rate": 5e-3, "results": str(tmp_path / "results"), "save": str(tmp_path / "model")} | values)
    return make


def run(params, text):
    teacher = load_teacher(params.teacher)
    student, report = build_student(teacher, params.model, "mlm", seed=params.seed)
    return adapt(params, teacher, student, report, text), student


@pytest.mark.parametrize("model", ["bert", "fnet"])
def test_the_loss_falls_and_the_record_says_so(params, text, tmp_path, model):
    record, student = run(params(model=model), text)
    history = record.metrics.history
    assert record.stage == "adapt" and record.status == "finished" and record.metrics.headline.name == "heldout_loss"
    assert history[-1]["eval_loss"] == record.metrics.headline.last < history[0]["eval_loss"] - 0.4
    assert [h["step"] for h in history] == list(range(0, 41, 2)) and history[-1]["tokens"] == 40 * 16 * 32
    assert np.all(np.diff([h["seconds"] for h in history]) > 0) and history[-1]["seconds"] == record.timing["train_seconds"]
    loaded = load_teacher(str(tmp_path / "model"))
    assert loaded.fingerprint == fingerprint(student) == record.transfer["result"]["fingerprint"]
    assert RecordStore(tmp_path / "results").get(record.run_id) == record
    assert "40 steps, 0.0 M tokens" in in_words(record) and f"{record.metrics.headline.last:.3f}" in in_words(record)


def test_a_finished_run_is_loaded_and_a_lost_model_is_not_trained_again_unasked(params, text, tmp_path, monkeypatch):
    record, student = run(params(steps=4), text)
    monkeypatch.setattr(module, "_train", lambda *a: pytest.fail("computed again"))
    again, same = run(params(steps=4), text)
    assert again == record and all(torch.equal(a, b) for a, b in zip(student.parameters(), same.parameters()))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ParameterError, match="has a record but no model in .*force True"):
        run(params(steps=4), text)


def test_a_killed_run_goes_on_from_its_checkpoint(params, text, tmp_path):
    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 27:
                raise KeyboardInterrupt

    asked, teacher, losses, first = params(), load_teacher(params().teacher), {}, {}
    for name in ("whole", "killed", "resumed"):
        work, clock = tmp_path / name.replace("resumed", "killed"), Clock(1)
        student, _ = build_student(teacher, "bert", "mlm", seed=0)
        trainer = make_trainer(asked, teacher, student, text, work, clock)
        if name == "killed":
            trainer.add_callback(Kill())
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            trainer.train(resume_from_checkpoint=last_checkpoint(work))
            history = clock.history(trainer.state.log_history)
            assert [h["step"] for h in history] == list(range(0, 41, 2))
            losses[name], first[name] = history[-1]["eval_loss"], min(clock.at)
    assert first == {"whole": 1, "resumed": 21} or first["resumed"] > 20 > first["whole"]
    assert losses["resumed"] == pytest.approx(losses["whole"], rel=0.1)  # masks are drawn anew: close, not equal


def test_held_out_masks_are_the_same_in_every_run(params, text):
    teacher = load_teacher(params().teacher)
    batches = []
    for seed in (0, 1):
        student, _ = build_student(teacher, "bert", "mlm", seed=seed)
        trainer = make_trainer(params(seed=seed), teacher, student, text, "unused", Clock(1))
        batches.append(trainer.eval_dataset[:])
    assert batches[0] == batches[1]
    labels = np.array(batches[0]["labels"])
    assert 0.05 < (labels != -100).mean() < 0.25


@pytest.mark.parametrize("values, message", [
    ({"save": ""}, "save: a folder is needed for the adapted model"), ({"adapt": "magic"}, "adapt: 'magic' is not one of: none or mlm"),
    ({"masking": 1.5}, "masking: 1.5 does not fit"), ({"steps": 0}, "steps: 0 does not fit")])
def test_bad_parameters(params, values, message):
    with pytest.raises(ParameterError, match=message):
        params(**values)


def test_too_little_text_for_a_batch(params, text):
    with pytest.raises(ParameterError, match="are fewer than a batch of 5000"):
        run(params(batch_size=5000), text)
