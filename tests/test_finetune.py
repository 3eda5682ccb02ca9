"""Fine-tuning: a record per run, resume equal to uninterrupted, accumulation, all nine tasks, failures recorded."""

import shutil
from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import TrainerCallback, set_seed

from factories import finetune_record, student_record
from fnetlib import adapt, callbacks, compiling, estimates, glue_trainer, synthetic, task_distillation
from fnetlib import finetune as module
from fnetlib.distill import layer_errors, prediction_error
from fnetlib.finetune import choose, epochs, finetune, in_words, last_checkpoint, make_trainer, record_path, scores
from fnetlib.params import TASKS, FinetuneParams, ParameterError, TransferParams
from fnetlib.records import RecordStore, label
from fnetlib.tasks import load_task
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student, sentence_batch


@pytest.fixture
def params(tiny_teacher_folder, tmp_path):
    def make(**values) -> FinetuneParams:
        return FinetuneParams.parse({
            "task": "rte", "model": "fnet", "seeds": "1", "teacher": tiny_teacher_folder, "data": "synthetic",
            "results": str(tmp_path / "results"), "epochs": 2, "learning_rate": 1e-3, "train_size": 48,
            "eval_size": 32, "max_length": 48} | values)
    return make


def weights(params: FinetuneParams, work, callbacks=(), resume=None) -> dict[str, torch.Tensor]:
    data = load_task(params.task, params.data, params.train_size, params.eval_size)
    teacher = load_teacher(params.teacher)
    student, _ = build_student(teacher, params.model, seed=params.all_seeds[0], num_labels=data.task.num_labels)
    trainer = make_trainer(params, data, teacher, student, params.all_seeds[0], work)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def test_one_record_a_run_and_none_twice(params, tmp_path, monkeypatch):
    asked = params(model="bert,fnet", seeds="1,2")
    first = finetune(asked)
    assert [(r.model, r.seed) for r in first] == [("bert", 1), ("fnet", 1), ("bert", 2), ("fnet", 2)]
    store = RecordStore(tmp_path / "results")
    assert sorted(r.run_id for r in store.all()) == sorted(r.run_id for r in first)
    assert not list((tmp_path / "results" / "work").glob("*"))
    monkeypatch.setattr(module, "_train", lambda *a: pytest.fail("computed again"))
    assert finetune(asked) == first
    assert record_path(asked, first[0]).is_file()


def test_a_record_holds_what_a_table_needs(params):
    record = finetune(params())[0]
    assert record.status == "finished" and record.data.source == "synthetic" and record.training == "custom"
    assert record.metrics.headline.name == "accuracy" and record.metrics.headline.last == record.metrics.history[-1]["accuracy"]
    assert record.metrics.headline.best == max(e["accuracy"] for e in record.metrics.history)
    assert [e["epoch"] for e in record.metrics.history] == [1, 2] and record.metrics.history[-1]["step"] == 6
    assert all(np.isfinite([e["train_loss"], e["eval_loss"]]).all() for e in record.metrics.history)
    assert sum(record.metrics.predicted.values()) == 32 and set(record.metrics.predicted) <= {"entailment", "not_entailment"}
    assert record.metrics.validation["accuracy"] == record.metrics.headline.last and 0.5 <= record.metrics.validation["chance"] < 1
    assert record.params["learning_rate"] == 1e-3 and record.transfer["copied"]["tensors"] > 20
    assert record.flops.value > 0 and record.timing["train_steps_per_s"] > 0 and record.parameters.total > 10_000
    assert record.code.source and record.env["versions"]["transformers"]


def test_same_seed_same_result_other_seed_other_result(params, tmp_path):
    one = finetune(params())[0]
    again = finetune(params(results=str(tmp_path / "again")))[0]
    assert one.metrics == again.metrics and one.run_id == again.run_id
    assert finetune(params(seeds="2"))[0].metrics.history != one.metrics.history


@pytest.mark.parametrize("task", TASKS)
def test_all_nine_tasks(params, task):
    record = finetune(params(task=task, epochs=1, train_size=16, eval_size=16))[0]
    assert record.status == "finished" and record.metrics.headline.last is not None
    if task == "mnli":
        assert {"accuracy", "mismatched_accuracy", "mismatched_loss"} <= set(record.metrics.validation)
        assert record.metrics.history[0]["accuracy"] == record.metrics.validation["accuracy"]
        assert sum(record.metrics.predicted.values()) == 16
    if task == "stsb":
        assert {"pearson", "spearmanr"} <= set(record.metrics.validation)


class KillAfter(TrainerCallback):
    """Stands for a kill: training breaks off after a step, without any clean-up."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("by_length", [False, True])
def test_resumed_run_equals_the_uninterrupted_one(params, tmp_path, step, by_length):
    """Dropout is on, so that the random state must come back too."""
    asked = params(checkpoint_minutes=0, group_by_length=by_length)
    whole = weights(asked, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        weights(asked, tmp_path / "broken", [KillAfter(step + 1)])
    checkpoint = last_checkpoint(tmp_path / "broken")
    assert checkpoint is not None
    resumed = weights(asked, tmp_path / "broken", resume=checkpoint)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_killed_run_goes_on_and_its_record_equals_the_whole_ones(params, tmp_path, monkeypatch):
    whole = finetune(params())[0]
    asked = params(results=str(tmp_path / "killed"), checkpoint_minutes=0)
    original, steps = callbacks.TimedCheckpoint.on_step_end, []

    def breaks(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if state.global_step == 4 and len(steps) == 4:
            raise KeyboardInterrupt
        return original(self, args, state, control, **kwargs)

    monkeypatch.setattr(callbacks.TimedCheckpoint, "on_step_end", breaks)
    with pytest.raises(KeyboardInterrupt):
        finetune(asked)
    assert not RecordStore(tmp_path / "killed").all()
    resumed = finetune(asked)[0]
    assert resumed.timing["resumed"] and resumed.timing["shared"] and not whole.timing["resumed"]
    assert steps == [1, 2, 3, 4, 4, 5, 6]  # went on after step 3, whose checkpoint is the last
    assert resumed.metrics == whole.metrics and resumed.run_id == whole.run_id


def test_half_written_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, whole in ((9, True), (10, False), (100, True)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path).endswith("checkpoint-100")


@pytest.mark.parametrize("model", ["bert", "fnet"])
def test_accumulation_gives_the_same_gradients(params, tmp_path, model, tiny_teacher_folder):
    """1 x 8 = 4 x 2: also for losses that a Trainer could take for already divided (trap of forward(**kwargs))."""
    data = load_task("cola", "synthetic", 8, 8)
    teacher, norms = load_teacher(tiny_teacher_folder), []

    class Norms(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "grad_norm" in (logs or {}):
                norms.append(float(logs["grad_norm"]))

    results = []
    for batch, accumulate in ((8, 1), (2, 4)):
        asked = params(task="cola", model=model, batch_size=batch, accumulate=accumulate, epochs=1, train_size=8, eval_size=8)
        student, _ = build_student(teacher, model, seed=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer = make_trainer(asked, data, teacher, student, 0, tmp_path / f"{batch}")
        trainer.add_callback(Norms())
        trainer.train()
        results.append({k: v.clone() for k, v in student.state_dict().items()})
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for name, tensor in results[0].items():
        assert torch.allclose(tensor, results[1][name], atol=2e-5), name


def test_bf16_runs_and_is_recorded(params):
    record = finetune(params(precision="bf16", epochs=1))[0]
    assert record.env["precision"] == record.params["precision"] == "bf16" and record.status == "finished"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs fp16")
def test_fp16_without_a_gpu_is_refused_before_anything_is_trained(params, monkeypatch):
    monkeypatch.setattr(module, "_train", lambda *a: pytest.fail("trained"))
    with pytest.raises(ParameterError, match="'fp16' needs a GPU; on this CPU one of: fp32, bf16"):
        finetune(params(precision="fp16"))


def test_a_diverged_run_is_a_record_with_that_status(params, monkeypatch):
    forward = module.build_student

    def broken(*args, **kwargs):
        student, report = forward(*args, **kwargs)
        torch.nn.init.constant_(student.classifier.weight, float("nan"))
        return student, report

    monkeypatch.setattr(module, "build_student", broken)
    record = finetune(params())[0]
    assert record.status == "diverged" and not record.metrics.degenerate and record.metrics.predicted == {}
    stored = finetune(params())[0].metrics  # as read from the file
    assert stored.headline.last is None and stored.headline.best is None and stored.history[-1]["eval_loss"] is None


def test_a_failed_run_is_recorded_the_others_go_on_and_it_is_tried_again(params, tmp_path, monkeypatch):
    build = module.build_student

    def no_memory(teacher, model, **kwargs):
        if model == "bert":
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return build(teacher, model, **kwargs)

    monkeypatch.setattr(module, "build_student", no_memory)
    with pytest.raises(RuntimeError, match="rte/bert/seed 1: RuntimeError: CUDA out of memory"):
        finetune(params(model="bert,fnet", epochs=1))
    store = RecordStore(tmp_path / "results")
    assert {r.model: r.status for r in store.all()} == {"bert": "failed", "fnet": "finished"}
    monkeypatch.setattr(module, "build_student", build)
    finetune(params(model="bert,fnet", epochs=1))
    assert {r.model: r.status for r in store.all()} == {"bert": "finished", "fnet": "finished"}


def test_another_process_that_ran_the_same_meanwhile_is_no_error(params, tmp_path, monkeypatch):
    theirs = finetune(params(epochs=1))[0]
    train, asked = module._train, params(epochs=1, results=str(tmp_path / "raced"))

    def raced(*args):
        outcome = train(*args)
        RecordStore(tmp_path / "raced").write(theirs)
        return outcome

    monkeypatch.setattr(module, "_train", raced)
    assert finetune(asked) == [theirs]


def test_what_decides_a_result_is_in_the_parameters(params, monkeypatch):
    record = finetune(params(epochs=1))[0]
    assert record.params["recipe"]["fourier_norm"] == "ortho" and record.params["eval_batch_size"] == 64
    monkeypatch.setattr(module, "EVAL_BATCH_SIZE", 8)
    assert finetune(params(epochs=1))[0].run_id != record.run_id


def test_more_tokens_than_the_teacher_has_positions(params):
    with pytest.raises(ParameterError, match="max_length: 512 is more than teacher .* has positions \\(64\\)"):
        finetune(params(max_length=512))


def test_force_runs_again(params):
    first = finetune(params(epochs=1))[0]
    second = finetune(params(epochs=1, force=True))[0]
    assert second.metrics == first.metrics and second.run_id == first.run_id


def test_a_recipe_that_the_teacher_is_too_small_for(params):
    with pytest.raises(ParameterError, match="hybrid-9"):
        finetune(params(model="hybrid-9"))


def test_scores_and_words_come_from_the_records(params):
    runs = finetune(params(model="bert,fnet", seeds="1,2", epochs=1))
    table = scores(runs)
    assert list(table["model"]) == ["bert", "fnet", "bert", "fnet"]
    mean = np.mean([r.metrics.headline.last for r in runs if r.model == "fnet"])
    assert f"fnet: accuracy {mean:.3f} over 2 seeds" in in_words(runs)


def test_history_from_the_trainers_log():
    log = [{"loss": 0.7, "epoch": 1.0, "step": 3, "learning_rate": 1e-5}, {"eval_loss": 0.6, "eval_accuracy": 0.5, "eval_runtime": 1.0, "eval_samples_per_second": 3.0, "epoch": 1.0, "step": 3},
           {"train_runtime": 2.0, "train_loss": 0.7, "epoch": 1.0, "step": 3}]
    assert epochs(log) == [{"epoch": 1, "step": 3, "train_loss": 0.7, "eval_loss": 0.6, "accuracy": 0.5}]


def test_a_grid_is_tried_on_the_first_seed_and_its_best_point_run_on_the_others(params, monkeypatch, tmp_path):
    asked = params(model="bert,fnet", seeds="5,6,7", grid="learning_rate 1e-5 3e-3, epochs 1 2", padded_to="")
    records = finetune(asked)
    for model in ("bert", "fnet"):
        tried = [r for r in records if r.model == model and r.training == "tuned_grid"]
        run = [r for r in records if r.model == model and r.training == "tuned"]
        assert [(r.seed, r.params["learning_rate"], r.params["epochs"]) for r in tried] == [
            (5, 1e-5, 1), (5, 1e-5, 2), (5, 3e-3, 1), (5, 3e-3, 2)]
        best = choose(tried)
        assert best.metrics.headline.last == max(r.metrics.headline.last for r in tried)
        assert [r.seed for r in run] == [6, 7] and all(r.params == best.params for r in run)
    monkeypatch.setattr(module, "_train", lambda *a: pytest.fail("computed again"))
    assert finetune(asked) == records
    one = finetune(params(model="fnet", seeds="5", learning_rate=3e-3, epochs=2, training="tuned_grid"))
    assert one[0] in records  # a grid's point run on its own is the same run


def test_equal_scores_are_decided_by_the_loss_and_runs_without_a_score_never_chosen():
    runs = [finetune_record(score=0.3, epochs=2), finetune_record(score=0.3, epochs=3), finetune_record(score=0.1)]
    assert runs[0].metrics.history[-1]["eval_loss"] < runs[1].metrics.history[-1]["eval_loss"]
    assert choose(runs) == runs[0] and choose([finetune_record(score=None, status="diverged")]) is None
    assert choose([finetune_record(status="failed"), runs[2]]) == runs[2]


def test_scores_by_padding_are_in_the_record(params):
    record = finetune(params(task="cola", model="fnet", epochs=1, padded_to="16,48,4096"))[0]
    rows = record.metrics.padding
    assert [r["padded_to"] for r in rows] == [0, 16, 48]  # 4096 is more than the model has positions
    assert all(r["changed"] == 0 and r["score"] == rows[0]["score"] for r in rows)
    assert rows[0]["score"] == pytest.approx(record.metrics.headline.last)
    assert finetune(params(task="cola", model="fnet", epochs=1, padded_to="", learning_rate=2e-3))[0].metrics.padding == []


def test_the_pace_leaves_out_warm_up_and_evaluations(params, monkeypatch):
    monkeypatch.setattr(callbacks.Pace, "WARMUP", 2)
    clock = iter(range(100))
    monkeypatch.setattr(callbacks, "now_on_device", lambda: next(clock))
    record = finetune(params(epochs=2, padded_to=""))[0]  # 2 epochs of 3 steps: one warm step in the first, three in the second
    assert record.timing["steady_steps_per_s"] == pytest.approx((1 + 3) / 2)
    assert finetune(params(epochs=1, train_size=16, padded_to=""))[0].timing["steady_steps_per_s"] is None


def trainer_of(asked: FinetuneParams, work) -> glue_trainer.GlueTrainer:
    data, teacher = load_task(asked.task, asked.data, asked.train_size, asked.eval_size), load_teacher(asked.teacher)
    student, _ = build_student(teacher, asked.model, seed=1, num_labels=data.task.num_labels)
    return make_trainer(asked, data, teacher, student, 1, work)


def test_batches_are_padded_to_multiples(params, tmp_path):
    lengths = {}
    for pad_to in (1, 16):
        trainer = trainer_of(params(pad_to=pad_to), tmp_path)
        lengths[pad_to] = [batch["input_ids"].shape[1] for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader())
                           for batch in loader]
    assert any(length % 16 for length in lengths[1])
    assert lengths[16] == [-(-length // 16) * 16 for length in lengths[1]]


def test_more_padding_than_the_teacher_has_positions(params):
    with pytest.raises(ParameterError, match=r"pad_to: 40 pads max_length, 48, to 80, more than teacher .* has positions \(64\)"):
        finetune(params(pad_to=40))


def test_examples_of_similar_length_train_together_each_once_an_epoch(params, tmp_path):
    def epochs_of(by_length: bool) -> list[list[torch.Tensor]]:
        loader = trainer_of(params(task="cola", train_size=200, group_by_length=by_length), tmp_path).get_train_dataloader()
        return [[batch["attention_mask"] for batch in loader] for _ in range(2)]

    def padding(masks: list[torch.Tensor]) -> int:
        return sum(int((mask == 0).sum()) for mask in masks)

    as_drawn, (grouped, again) = epochs_of(False)[0], epochs_of(True)
    assert padding(grouped) < 0.6 * padding(as_drawn)
    lengths = [Counter(int(n) for mask in masks for n in mask.sum(1)) for masks in (as_drawn, grouped, again)]
    assert lengths[0] == lengths[1] == lengths[2]
    assert [m.shape for m in grouped] != [m.shape for m in again] or any((a != b).any() for a, b in zip(grouped, again))
    assert all(torch.equal(a, b) for a, b in zip(grouped, epochs_of(True)[0], strict=True))


@pytest.fixture
def without_noise(monkeypatch):
    """A compiler draws other random numbers for dropout."""
    build = module.build_student
    monkeypatch.setattr(module, "build_student", partial(build, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


@pytest.fixture
def without_code(monkeypatch):
    """torch.compile traces and guards as ever, but generates no code, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def assert_equal_training(eager, compiled) -> None:
    assert eager.status == compiled.status == "finished" and eager.run_id != compiled.run_id
    assert compiled.env["compile"] and not eager.env["compile"] and eager.metrics.padding == compiled.metrics.padding
    for ours, theirs in zip(compiled.metrics.history, eager.metrics.history, strict=True):
        # Eager layers scale the weights, compiled ones the states: rounded apart, which a correlation near 0 shows most.
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("values", [
    {}, {"model": "bert"}, {"model": "fnet-naive", "precision": "bf16"}, {"task": "stsb", "accumulate": 2},
    {"distill_epochs": 1, "epochs": 1, "pad_to": 48},
], ids=str)
def test_compiled_training_is_the_same_training(params, without_noise, without_code, monkeypatch, values):
    same = {"pad_to": 16, "train_size": 40, "padded_to": "16,48", **values}  # 40: an epoch's last batch is smaller
    eager, compiled = finetune(params(**same))[0], finetune(params(**same, compile="default"))[0]
    assert_equal_training(eager, compiled)
    assert compiled.params["compile"] == "default" and compiled.params["pad_to"] == same["pad_to"] and "compile" not in eager.params
    monkeypatch.setattr(module, "_train", lambda *a: pytest.fail("computed again"))
    assert finetune(params(**same, compile="default")) == [compiled]


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.parametrize("mode, values", [
    ("default", {"model": "bound", "pad_to": 48}),  # one shape, no mixing: what takes its time is the C++ compiler
    pytest.param("graphs", {"pad_to": 16, "train_size": 120, "group_by_length": True}, marks=pytest.mark.skipif(
        not torch.cuda.is_available(), reason="CUDA graphs need a GPU"))])
def test_generated_code_of_one_layer_trains_to_the_same_scores(params, without_noise, mode, values, tmp_path):
    teacher = load_teacher(params().teacher)
    teacher.model.config.num_hidden_layers = 1
    type(teacher.model)(teacher.model.config).save_pretrained(tmp_path / "one")
    teacher.tokenizer.save_pretrained(tmp_path / "one")
    same = {"teacher": str(tmp_path / "one"), "padded_to": "", **values}
    assert_equal_training(finetune(params(**same))[0], finetune(params(**same, compile=mode))[0])


def test_cuda_graphs_are_asked_for_by_options_that_torch_knows(monkeypatch):
    compiling.compiled(torch.nn.Linear(1, 1), graphs=True)  # raises on an unknown one
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how))
    for graphs in (False, True):
        compiling.compiled(torch.nn.Linear(1, 1), graphs)
    assert [bool(how["options"]) for how in asked] == [False, True] and asked[1]["options"]["triton.cudagraphs"]
    assert all(how["fullgraph"] and how["dynamic"] is False for how in asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has CUDA graphs")
def test_graphs_without_a_gpu_are_refused(params):
    with pytest.raises(ParameterError, match="compile: 'graphs' needs a GPU; on this CPU one of: no, default"):
        finetune(params(compile="graphs"))


def test_a_gpu_without_triton_does_not_compile_and_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compiling, "has_triton", lambda: False)
    with pytest.raises(ParameterError, match="compile: torch.compile needs Triton on this GPU .*without it: no"):
        compiling.require_compiler()


def test_more_shapes_than_there_is_room_for_are_an_error_not_eager(params, without_code, tmp_path, monkeypatch):
    monkeypatch.setattr(glue_trainer, "room_for", lambda shapes: compiling.room_for(1))
    with pytest.raises(RuntimeError, match="torch.compile: more than 1 shapes"):
        finetune(params(compile="default", train_size=40))
    assert [r.status for r in RecordStore(tmp_path / "results").all()] == ["failed"]


def test_the_pace_leaves_out_steps_that_compile(params, monkeypatch):
    """Every step of a shape's first two is cold; a step takes 1 s by the clock, a cold one 100."""
    monkeypatch.setattr(callbacks.Pace, "WARMUP", 0)
    monkeypatch.setattr(glue_trainer, "compiled", lambda model, graphs: model)
    now = [0.0]
    monkeypatch.setattr(callbacks, "now_on_device", lambda: now[0])
    step, seen = glue_trainer.Trainer.training_step, Counter()

    def timed(self, model, inputs, *args, **kwargs):
        seen[inputs["input_ids"].shape] += 1
        now[0] += 1 if seen[inputs["input_ids"].shape] > glue_trainer.COLD else 100
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(glue_trainer.Trainer, "training_step", timed)
    same = {"pad_to": 16, "train_size": 120, "padded_to": ""}
    record = finetune(params(**same, compile="default"))[0]
    assert len(seen) >= 2 and record.timing["steady_steps_per_s"] == pytest.approx(1.0)
    seen.clear()
    assert finetune(params(**same))[0].timing["steady_steps_per_s"] < 0.2


def test_a_calibrated_recipe_is_recorded_with_its_fit(params):
    record = finetune(params(model="fnet-calibrated", epochs=1, padded_to=""))[0]
    assert record.params["calibration_sentences"] == 512 and len(record.transfer["calibration"]) == 4
    assert all(part["explained"] < 1 for part in record.transfer["calibration"])


def test_an_adapted_student_is_the_start_and_in_the_record(params, tmp_path, tiny_teacher_folder):
    text = tmp_path / "text"
    text.mkdir()
    (tmp_path / "glue" / "rte").mkdir(parents=True)
    for split in ("train", "validation"):
        pd.DataFrame(synthetic.generate("rte", split, size=48)).to_parquet(tmp_path / "glue" / "rte" / f"{split}.parquet")
    params = partial(params, data=str(tmp_path / "glue"))
    sentences = synthetic.generate("cola", "train", size=1500)["sentence"]
    pd.DataFrame({"text": [f"{s} {i}" for i, s in enumerate(sentences)]}).to_parquet(text / "a.parquet")
    folder = str(tmp_path / "student")
    adapted = adapt.adapt(asked := TransferParams.parse({
        "teacher": tiny_teacher_folder, "model": "fnet", "adapt": "distill", "steps": 6, "batch_size": 8, "length": 16,
        "text": str(text), "data": str(tmp_path / "glue"), "task": "rte", "results": str(tmp_path / "results"), "save": folder}),
        *adapt.prepare(asked))
    swap, started = finetune(params(epochs=1))[0], finetune(params(epochs=1, student=folder))[0]
    assert started.adapted.run_id == adapted.run_id and started.adapted.method == "distill" and swap.adapted is None
    assert started.run_id != swap.run_id == swap.identity and started.run_id == started.identity
    assert started.params == swap.params and started.teacher == swap.teacher
    assert started.metrics.history[0]["train_loss"] != swap.metrics.history[0]["train_loss"]
    assert "@" in scores([started])["model"][0]
    with pytest.raises(ParameterError, match="is 'fnet', not 'hybrid-2'"):
        finetune(params(model="fnet,hybrid-2", student=folder))
    with pytest.raises(ParameterError, match="student: no adapted model with its record in 'nowhere'"):
        finetune(params(student="nowhere"))
    bert = str(tmp_path / "more")  # BERT given the same text
    more = adapt.adapt(asked := asked.model_copy(update={"model": "bert", "adapt": "mlm", "save": bert}), *adapt.prepare(asked))
    baseline, again = finetune(params(model="bert,fnet", epochs=1, student=f"{folder},{bert}"))
    assert baseline.adapted.run_id == more.run_id and again == started
    plain = finetune(params(model="bert", epochs=1))[0]
    assert baseline.metrics.history[0]["train_loss"] != plain.metrics.history[0]["train_loss"]
    for weights in (tmp_path / "student", tmp_path / "more"):
        shutil.rmtree(weights)
    assert finetune(params(model="bert,fnet", epochs=1, student=f"{folder},{bert}")) == [baseline, again]  # by the records


def test_of_two_models_that_had_a_folder_the_teachers_own_is_found(tmp_path):
    """The weights are gone, two records name the folder: each teacher has its own."""
    store, ours = RecordStore(tmp_path), []
    for teacher in ("first", "second"):
        record = student_record("fnet", 100, [7.0, 5.0], teacher_name=teacher)
        store.write(record)
        ours.append(record)
    assert ours[0].transfer["result"]["name"] == ours[1].transfer["result"]["name"] == "fnet-100"
    for record in ours:
        assert module.adaptations(["students/fnet-100"], store, record.teacher.fingerprint) == [record]
    assert module.adaptations(["students/fnet-100"], store, "neither")[0] in ours  # and is refused where it is used


def test_runs_from_a_teacher_whose_weights_are_gone_are_found_by_its_record(params, tmp_path, monkeypatch):
    (tmp_path / "glue" / "rte").mkdir(parents=True)
    for split in ("train", "validation"):
        pd.DataFrame(synthetic.generate("rte", split, size=16)).to_parquet(tmp_path / "glue" / "rte" / f"{split}.parquet")
    (tmp_path / "text").mkdir()
    sentences = synthetic.generate("cola", "train", size=1500)["sentence"]
    pd.DataFrame({"text": [f"{s} {i}" for i, s in enumerate(sentences)]}).to_parquet(tmp_path / "text" / "a.parquet")
    folder, glue, results = str(tmp_path / "refreshed"), str(tmp_path / "glue"), str(tmp_path / "results")
    refresh = TransferParams.parse({
        "teacher": "minilm", "model": "bert", "adapt": "mlm", "steps": 1, "batch_size": 2, "length": 8, "text": str(tmp_path / "text"),
        "data": glue, "task": "rte", "results": results, "save": folder})
    monkeypatch.setattr(adapt, "HELD_OUT_SEQUENCES", 2)
    adapt.adapt(refresh, *adapt.prepare(refresh))
    asked = params(teacher=folder, data=glue, results=results, model="bert,fnet", epochs=1, padded_to="")
    first, estimate = finetune(asked), estimates.in_words(asked, load_task("rte", glue))
    shutil.rmtree(folder)
    assert finetune(asked) == first and estimates.in_words(asked, load_task("rte", glue)) == estimate
    with pytest.raises(ParameterError, match="of 'refreshed' only the record is left") as error:
        finetune(asked.model_copy(update={"seeds": "2"}))
    assert "\n" not in str(error.value)
    with pytest.raises(ParameterError, match="no folder"):
        finetune(asked.model_copy(update={"teacher": str(tmp_path / "another")}))


def test_task_distillation_starts_from_the_same_tasks_bert(params, tmp_path, monkeypatch):
    trained = []
    fit = task_distillation._fit
    monkeypatch.setattr(task_distillation, "_fit", lambda trainer: trained.append(type(trainer).__name__) or fit(trainer))
    asked = params(model="fnet+gated,fnet", distill_epochs=2, epochs=1, train_size=16, eval_size=16)
    first, second = finetune(asked)
    assert trained == ["GlueTrainer", "StatesTrainer", "StatesTrainer"]  # one fine-tuned BERT for both students
    assert first.params["distill_epochs"] == 2 and first.training == "distilled"
    assert first.timing["task_teacher_s"] == second.timing["task_teacher_s"] > 0 and first.timing["task_states_s"] > 0
    assert first.metrics.task_teacher == second.metrics.task_teacher is not None
    assert [e["epoch"] for e in first.metrics.history] == [1]
    assert "distill_epochs" not in params().decisive()


def test_a_tasks_teacher_that_diverged_has_no_score(params, tmp_path, monkeypatch):
    asked = params(model="fnet", distill_epochs=1, epochs=1, train_size=16, eval_size=16)
    data, teacher = load_task("rte", "synthetic", 16, 16), load_teacher(asked.teacher)
    bert = module.build(asked, data, teacher, "bert", 16)[0]
    monkeypatch.setattr(task_distillation, "_fit", lambda trainer: float(trainer.model.classifier.weight.data.fill_(float("nan")).numel()))
    _, _, score = task_distillation.fine_tuned_bert(asked, data, teacher, bert, 1, tmp_path / "work" / "a")
    assert score is None


def test_each_step_of_task_distillation_has_its_own_epochs_and_rate(params, monkeypatch):
    seen = []
    fit = task_distillation._fit
    monkeypatch.setattr(task_distillation, "_fit", lambda trainer: seen.append(
        (trainer.args.num_train_epochs, trainer.args.learning_rate, trainer.args.per_device_train_batch_size)) or fit(trainer))
    asked = params(model="fnet", distill_epochs=2, distill_rate=3e-4, expert_epochs=3, epochs=1, train_size=16, eval_size=16)
    record, = finetune(asked)
    size = asked.batch_size
    assert seen == [(3, asked.learning_rate, size), (2, 3e-4, size)]
    assert record.params["distill_rate"] == 3e-4 and record.params["expert_epochs"] == 3 and record.timing["steps"] == 1
    assert label(record) == "fnet+task"
    finetune(asked.model_copy(update={"expert_rate": 5e-5, "expert_batch_size": 4}))
    assert seen[2:] == [(3, 5e-5, 4), (2, 3e-4, size)]  # another teacher of the task, trained anew


def test_the_tasks_teacher_is_bert_as_it_is_fine_tuned_alone(params):
    """The judge's settings are its own: trained by them, it scores what the recipe `bert` does by them, but for dropout's draws."""
    same = {"task": "stsb", "train_size": 32, "eval_size": 32, "padded_to": ""}
    taught, = finetune(params(model="fnet", distill_epochs=1, epochs=1, expert_epochs=2, expert_rate=1e-3, expert_batch_size=8, **same))
    alone, = finetune(params(model="bert", epochs=2, learning_rate=1e-3, batch_size=8, **same))
    assert taught.metrics.task_teacher == pytest.approx(alone.metrics.headline.last, abs=0.01) and taught.metrics.task_teacher > 0.2 and alone.metrics.task_teacher is None
    assert taught.params["expert_rate"] == 1e-3 and "expert_rate" not in alone.params


def test_new_pairs_are_first_texts_with_other_second_ones(params, tmp_path):
    asked = params(task="qnli", model="fnet", distill_epochs=1, distill_pairs=0.5, epochs=1, max_length=24)
    data, teacher = load_task("qnli", "synthetic", 48, 32), load_teacher(asked.teacher)
    bert, student = (module.build(asked, data, teacher, model, 48)[0] for model in ("bert", "fnet"))
    trainer = make_trainer(asked, data, teacher, student, 1, tmp_path, partial(task_distillation.StatesTrainer, bert))
    known = {(tuple(row["input_ids"][:(cut := row["token_type_ids"].index(1))]), tuple(row["input_ids"][cut:]))
             for row in trainer.train_dataset}

    def pairs(loader) -> list[tuple]:
        found = []
        for batch in loader:
            for ids, types, mask in zip(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]):
                ids, cut = ids[mask.bool()].tolist(), types.tolist().index(1)
                assert len(ids) <= 24 and ids[-1] == teacher.tokenizer.sep_token_id and mask.sum() == len(ids)
                found.append((tuple(ids[:cut]), tuple(ids[cut:])))
        return found

    trainer.state.epoch = 0.5
    seen = pairs(trainer.get_train_dataloader())
    assert {first for first, _ in seen} == {first for first, _ in known}
    assert 0.25 < sum(pair not in known for pair in seen) / len(seen) < 0.6  # some meet their own second text again
    trainer.state.epoch = 1.0
    assert pairs(trainer.get_train_dataloader()) != seen  # drawn anew in every epoch
    assert trainer.data_collator(list(trainer.eval_dataset)[:8])["labels"].tolist() == trainer.eval_dataset["label"][:8]
    judged = {(tuple(row["input_ids"][:(cut := row["token_type_ids"].index(1))]), tuple(row["input_ids"][cut:]))
              for row in trainer.eval_dataset}
    assert set(pairs(trainer.get_eval_dataloader())) == judged
    assert finetune(asked)[0].params["distill_pairs"] == 0.5


def edited_words(rows, share=1.0, limit=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return task_distillation.EditedWords(lambda found: found, share, limit, load_teacher("minilm").tokenizer, lambda _: generator)(rows)


def test_edited_words_change_words_and_nothing_else():
    tokenizer = load_teacher("minilm").tokenizer
    special = set(tokenizer.all_special_ids)
    texts = ["the unbelievably loud sailors rode clear of the rocks", "our friends mispronounce every other word", "she danced"]
    rows = [dict(tokenizer(text)) | {"label": 1} for text in texts] * 8 + [dict(tokenizer(texts[0], texts[1])) | {"label": 0}] * 8
    known = {word for row in rows for word in tokenizer.decode([i for i in row["input_ids"] if i not in special]).split()}
    found, kinds = edited_words(rows), set()
    for old, new in zip(rows, found):
        assert new["label"] == old["label"] and new["attention_mask"] == [1] * len(new["input_ids"]) == [1] * len(new["token_type_ids"])
        marks = [[(i, kind) for i, kind in zip(row["input_ids"], row["token_type_ids"]) if i in special] for row in (old, new)]
        assert marks[0] == marks[1] and new["input_ids"][0] == old["input_ids"][0] and new["input_ids"][-1] == old["input_ids"][-1]
        assert new["token_type_ids"] == sorted(new["token_type_ids"])
        before, after = (tokenizer.decode([i for i in row["input_ids"] if i not in special]).split() for row in (old, new))
        assert set(after) <= known and after  # whole words: no piece goes astray
        assert len(before) - 3 <= len(after) <= len(before)
        assert set(new["token_type_ids"]) == set(old["token_type_ids"])  # no text of a pair is lost
        kinds |= {"dropped"} if len(after) < len(before) else {"moved"} if sorted(after) == sorted(before) and after != before else \
            {"replaced"} if len(after) == len(before) and sorted(after) != sorted(before) else set()
    assert kinds == {"dropped", "moved", "replaced"}
    assert found == edited_words(rows) != edited_words(rows, seed=1)
    assert edited_words(rows, share=0.0) == rows
    share = sum(a != b for a, b in zip(rows * 16, edited_words(rows * 16, share=0.5))) / (16 * len(rows))
    assert 0.35 < share < 0.55  # some edits undo each other
    short = [dict(tokenizer("a", "b")), dict(tokenizer("she danced", "mispronounce it"))] * 16
    longest = max(len(row["input_ids"]) for row in short)
    fits = edited_words(short, limit=longest)
    assert all(len(row["input_ids"]) <= longest and row["input_ids"].count(tokenizer.sep_token_id) == 2 for row in fits)
    assert all(row["token_type_ids"].count(kind) > 2 - kind for row in fits for kind in (0, 1))  # each text keeps a word
    assert any(a != b for a, b in zip(short, fits))


@pytest.mark.parametrize("share", [{"distill_edits": 0.5}, {"distill_pairs": 0.5}, {"distill_edits": 0.5, "distill_pairs": 0.5}])
def test_a_resumed_run_draws_the_same_new_examples(params, tmp_path, share):
    asked = params(task="qnli", model="fnet", distill_epochs=1, checkpoint_minutes=0, **share)
    data, teacher = load_task("qnli", "synthetic", 48, 32), load_teacher(asked.teacher)

    def trained(work, resume=None, kill=None):
        set_seed(1)
        bert, student = (module.build(asked, data, teacher, model, 48)[0] for model in ("bert", "fnet"))
        trainer = make_trainer(asked, data, teacher, student, 1, work, partial(task_distillation.PredictionsTrainer, bert))
        if kill:
            trainer.add_callback(KillAfter(kill))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", kill=3)
    resumed = trained(tmp_path / "broken", resume=last_checkpoint(tmp_path / "broken"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_both_kinds_of_new_examples_go_together(params, tmp_path):
    asked = params(task="qnli", model="fnet", distill_epochs=1, distill_edits=1.0, distill_pairs=1.0, epochs=1)
    data, teacher = load_task("qnli", "synthetic", 48, 32), load_teacher(asked.teacher)
    bert, student = (module.build(asked, data, teacher, model, 48)[0] for model in ("bert", "fnet"))
    trainer = make_trainer(asked, data, teacher, student, 1, tmp_path, partial(task_distillation.StatesTrainer, bert))
    firsts = {tuple(row["input_ids"][:row["token_type_ids"].index(1)]) for row in trainer.train_dataset}
    seen = [tuple(ids[types == 0].tolist()) for batch in trainer.get_train_dataloader()
            for ids, types in zip(batch["input_ids"], batch["token_type_ids"])]
    assert sum(tuple(i for i in ids if i) not in firsts for ids in seen) > len(seen) / 4  # pairs alone leave first texts as they are


def test_edited_words_are_trained_on_and_not_evaluated_on(params, tmp_path):
    asked = params(task="cola", model="fnet", distill_epochs=1, distill_edits=0.5, epochs=1)
    data, teacher = load_task("cola", "synthetic", 48, 32), load_teacher(asked.teacher)
    bert, student = (module.build(asked, data, teacher, model, 48)[0] for model in ("bert", "fnet"))
    trainer = make_trainer(asked, data, teacher, student, 1, tmp_path, partial(task_distillation.PredictionsTrainer, bert))

    def texts(loader) -> list[tuple]:
        return [tuple(ids[mask.bool()].tolist()) for batch in loader for ids, mask in zip(batch["input_ids"], batch["attention_mask"])]

    known = {tuple(row["input_ids"]) for row in trainer.train_dataset}
    assert 0.2 < sum(text not in known for text in texts(trainer.get_train_dataloader())) / 48 < 0.7
    assert texts(trainer.get_eval_dataloader()) == [tuple(row["input_ids"]) for row in trainer.eval_dataset]
    record, = finetune(asked)
    assert record.params["distill_edits"] == 0.5 and label(record) == "fnet+task+edits"


@pytest.mark.parametrize("values, message", [
    ({"distill_edits": 0.5}, "distill_edits: edited texts have no labels"),
    ({"distill_pairs": 0.5}, "distill_pairs: new pairs have no labels"),
    ({"distill_rate": 1e-4}, "distill_rate: nothing is distilled"), ({"expert_epochs": 2}, "expert_epochs: nothing is distilled"),
    ({"expert_rate": 1e-4}, "expert_rate: nothing is distilled"), ({"expert_batch_size": 8}, "expert_batch_size: nothing is distilled"),
    ({"distill_pairs": 0.5, "distill_epochs": 1, "task": "cola"}, "distill_pairs: 'cola' has no pairs"),
    ({"distill_pairs": 1.5, "distill_epochs": 1}, "distill_pairs: 1.5 does not fit")])
def test_new_examples_need_a_judge_and_new_pairs_a_task_of_pairs(params, values, message):
    with pytest.raises(ParameterError, match=message):
        params(**values)


def test_task_distillation_brings_states_and_predictions_nearer(params, tmp_path):
    asked = params(model="fnet+gated", distill_epochs=8, epochs=4, max_length=24)
    data, teacher = load_task("rte", "synthetic", 48, 32), load_teacher(asked.teacher)
    bert, student = (module.build(asked, data, teacher, model, 48)[0] for model in ("bert", "fnet+gated"))
    expert, _, _ = task_distillation.fine_tuned_bert(asked, data, teacher, bert, 1, tmp_path / "work" / "a")
    expert.classifier.weight.data.mul_(10)  # so small a BERT has learned little: make its predictions differ
    batch = sentence_batch(teacher, data, 48, 24)

    @torch.no_grad()
    def distances() -> tuple[float, float]:
        theirs, ours = (m.eval()(**batch, output_hidden_states=True) for m in (expert, student))
        states = layer_errors(ours.hidden_states[1:], theirs.hidden_states[1:], batch["attention_mask"].bool())
        return float(states.mean()), float(prediction_error(ours.logits, theirs.logits))

    before = distances()
    kind, _ = task_distillation.distill_task(asked, data, teacher, expert, student, 1, tmp_path / "work" / "a")
    assert distances()[0] < 0.7 * before[0]
    student.classifier.bias.data.add_(torch.tensor([1.0, -1.0]))  # near states predict alike: set them apart
    apart = distances()[1]
    make_trainer(asked.model_copy(update={"learning_rate": 1e-2}), data, teacher, student, 1, tmp_path / "work" / "b", kind).train()
    assert distances()[1] < 0.2 * apart
