"""One fine-tuning run: (task, model, seed) -> record. On transformers' Trainer."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, set_seed

from . import records
from .callbacks import last_checkpoint, say
from .compiling import require_compiler
from .config import CALIBRATED, FILTERS, recipe
from .glue_trainer import EVAL_BATCH_SIZE, GlueTrainer, epochs, make_trainer
from .metrics import chance
from .padding import logits_padded_to, score_by_padding
from .params import FinetuneParams, ParameterError, parse_grid
from .provenance import code, environment, find_root, now
from .records import Record, RecordStore, choose, make_run_id
from .tasks import TaskData, load_task, results_folder
from .task_distillation import distill_task, fine_tuned_bert
from .teacher import Teacher, load_teacher, remembered
from .transfer import DEFAULT_GROUPS, Transfer, build_student, sentence_batch

GAIN_SENTENCES = 64  # unlabelled training examples on which a recipe's gain is measured
FILTER_SENTENCES = 256  # on which filters and gates are fitted
CALIBRATION_SENTENCES = 512  # and on which a `-calibrated` recipe's projections are refitted


def finetune(params: FinetuneParams) -> list[Record]:
    """Every (model, seed) of the parameters, in turn; runs whose record exists are not repeated, and found again even
    where the teacher that they started from has left nothing but its own record.

    Raises ParameterError for bad inputs before anything is trained. A run that breaks is recorded as `failed` and
    raises after the others have run.
    """
    data = load_task(params.task, params.data, params.train_size, params.eval_size)
    store = RecordStore(results_folder(params.results, data.record.source))
    teacher = remembered(params.teacher, store) or load_teacher(params.teacher)
    if params.max_length > teacher.config.max_position_embeddings:
        raise ParameterError(f"max_length: {params.max_length} is more than teacher {teacher.name!r} has positions "
                             f"({teacher.config.max_position_embeddings})")
    if (padded := -(-params.max_length // params.pad_to) * params.pad_to) > teacher.config.max_position_embeddings:
        raise ParameterError(f"pad_to: {params.pad_to} pads max_length, {params.max_length}, to {padded}, more than teacher "
                             f"{teacher.name!r} has positions ({teacher.config.max_position_embeddings})")
    for model in params.models:
        recipe(model, teacher.config.num_hidden_layers)  # refuses what does not fit
    for model in params.models if params.student else []:
        adaptation_of(params, model, teacher, store)  # refuses before anything is trained
    done, errors = [], []

    def attempt(params: FinetuneParams, model: str, seed: int) -> None:
        try:
            done.append(run(params, data, teacher, model, seed, store))
        except RuntimeError as error:  # out of memory, a kernel that is missing: the other runs go on
            errors.append(f"{params.task}/{model}/seed {seed}: {_one_line(error)}")

    if params.grid:
        for model in params.models:
            first, *others = params.all_seeds
            tried = len(done)
            for point in params.grid_points():
                attempt(params.model_copy(update={**point, "grid": "", "training": params.grid_name}), model, first)
            if best := choose(done[tried:]):
                point = {name: best.params[name] for name in parse_grid(params.grid)}
                for seed in others:
                    attempt(params.model_copy(update={**point, "grid": "", "training": params.recipe_name}), model, seed)
    else:
        for seed in params.all_seeds:
            for model in params.models:
                attempt(params, model, seed)
    if errors:
        raise RuntimeError("; ".join(errors))
    return done


def decisive_params(params: FinetuneParams, model: str, layers: int) -> dict[str, Any]:
    """All that decides a run's outcome but seed, data and teacher: what its record holds and its name is hashed from.

    A change here is another run: finished ones are computed anew.
    """
    decisive = {**params.decisive(), "eval_batch_size": EVAL_BATCH_SIZE, "gain_sentences": GAIN_SENTENCES,
                "groups": list(DEFAULT_GROUPS), "recipe": recipe(model, layers)}
    if model.endswith(CALIBRATED):
        decisive["calibration_sentences"] = CALIBRATION_SENTENCES
    elif set(FILTERS) & set(decisive["recipe"]["mixers"]):
        decisive["filter_sentences"] = FILTER_SENTENCES
    return decisive


def run(params: FinetuneParams, data: TaskData, teacher: Teacher, model: str, seed: int,
        store: RecordStore) -> Record:
    """One run, or its record if there is one. A killed run goes on from its last checkpoint."""
    decisive = decisive_params(params, model, teacher.config.num_hidden_layers)
    folder, adapted = adaptation_of(params, model, teacher, store) if params.student else ("", None)
    run_id = make_run_id("finetune", params.task, model, seed, decisive, data.record.fingerprint, teacher.fingerprint,
                         adapted.run_id if adapted else None)
    existing = store.get(run_id)
    if existing and existing.status != "failed" and not params.force:
        return existing
    if params.precision == "fp16" and not torch.cuda.is_available():
        raise ParameterError("precision: 'fp16' needs a GPU; on this CPU one of: fp32, bf16")
    if params.compile == "graphs" and not torch.cuda.is_available():
        raise ParameterError("compile: 'graphs' needs a GPU; on this CPU one of: no, default")
    if params.compile != "no":
        require_compiler()
    common = {
        "run_id": run_id, "stage": "finetune", "params": decisive, "seed": seed, "task": params.task, "model": model,
        "training": params.recipe_name, "teacher": teacher.record(), "data": data.record, "code": code(),
        "adapted": adapted, "started": now(),
    }
    say(f"{params.task} / {model} / seed {seed}: {run_id}")
    work = store.results / "work" / run_id
    if params.force:
        shutil.rmtree(work, ignore_errors=True)
    try:
        outcome = _train(params, data, teacher, model, seed, work, decisive, folder)
    except RuntimeError as error:
        failed = Record(**common, status="failed", error=_one_line(error), env=_environment(params),
                        ended=now())
        store.write(failed, force=existing is not None)
        raise
    record = Record(**common, **outcome, env=_environment(params), ended=now())
    if existing is None and (other := store.get(run_id)):
        return other  # another process ran the same meanwhile; its record stands
    store.write(record, force=existing is not None)
    shutil.rmtree(work, ignore_errors=True)
    return record


def _train(params: FinetuneParams, data: TaskData, teacher: Teacher, model: str, seed: int,
           work: Path, decisive: dict[str, Any], adapted: str) -> dict[str, Any]:
    set_seed(seed)
    sentences = max(count for name, count in decisive.items() if name.endswith("_sentences"))
    student, report = build(params, data, teacher, model, sentences, adapted)
    extra, kind, task_teacher = {}, GlueTrainer, None
    if params.distill_epochs:
        set_seed(seed)
        bert, _ = build(params, data, teacher, "bert", sentences)
        expert, seconds, task_teacher = fine_tuned_bert(params, data, teacher, bert, seed, work)
        kind, states_s = distill_task(params, data, teacher, expert, student, seed, work)
        extra = {"task_teacher_s": seconds, "task_states_s": states_s}
    trainer = make_trainer(params, data, teacher, student, seed, work, kind)
    if trainer.args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    checkpoint = last_checkpoint(work)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    wall = time.perf_counter() - start

    history = epochs(trainer.state.log_history)
    headline = data.task.headline
    scores = [entry[headline] for entry in history if math.isfinite(entry[headline])]
    values = [v for e in history for v in (e["train_loss"], e["eval_loss"], e[headline]) if v is not None]
    diverged = not all(math.isfinite(v) for v in values)
    predicted, last = trainer.predicted, trainer.last_metrics
    peak = torch.cuda.max_memory_allocated() if trainer.args.device.type == "cuda" else None
    return {
        "status": "diverged" if diverged else "finished",
        "metrics": records.Metrics(
            headline=records.Headline(
                name=headline, last=None if diverged else scores[-1], best=max(scores, default=None)),
            validation={**last, "chance": chance(data.task, np.array(_labels(data)))},
            task_teacher=task_teacher, history=history, predicted=predicted, degenerate=len(predicted) == 1,
            padding=[] if diverged else padding_scores(params, trainer)),
        "timing": {
            "train_runtime_s": result.metrics["train_runtime"], "wall_s": wall,
            "train_steps_per_s": result.metrics["train_steps_per_second"],
            "train_samples_per_s": result.metrics["train_samples_per_second"],
            "steady_steps_per_s": trainer.pace.steps_per_s,
            "eval_runtime_s": trainer.last_speed["runtime"], "eval_steps_per_s": trainer.last_speed["steps_per_second"],
            "eval_samples_per_s": trainer.last_speed["samples_per_second"],
            "steps": trainer.state.global_step, "resumed": checkpoint is not None,
            # what was timed is this session only: a resumed run's speed is no measurement either
            "shared": params.shared or checkpoint is not None, **extra,
        },
        "memory": {"peak_bytes": peak},
        "flops": records.Flops(value=trainer.state.total_flos, method="Trainer.total_flos (6 x parameters x tokens)"),
        "parameters": records.Parameters(
            total=student.num_parameters(), trainable=student.num_parameters(only_trainable=True)),
        "transfer": report.record(),
    }


def build(params: FinetuneParams, data: TaskData, teacher: Teacher, model: str, sentences: int,
          adapted: str = "") -> tuple[PreTrainedModel, Transfer]:
    """The classifier that a run starts from: the swap of the teacher, or the adapted model in a folder."""
    start = load_teacher(str(find_root() / adapted)) if adapted else teacher
    return build_student(
        start, model, batch=sentence_batch(teacher, data, sentences, params.max_length), num_labels=data.task.num_labels,
        problem_type="regression" if data.task.regression else "single_label_classification")


def adaptation_of(params: FinetuneParams, model: str, teacher: Teacher, store: RecordStore) -> tuple[str, records.Adapted]:
    """The folder of `params.student` that holds the recipe `model`, and what was spent on it. Raises ParameterError unless
    one folder's record is there and fits."""
    found = {record.model: (folder, record) for folder, record in zip(params.students, adaptations(params.students, store, teacher.fingerprint))}
    if model not in found:
        raise ParameterError(f"student: {params.student!r} is {', '.join(map(repr, found))}, not {model!r}")
    folder, record = found[model]
    if record.teacher.fingerprint != teacher.fingerprint:
        raise ParameterError(f"student: {folder!r} is of teacher {record.teacher.name!r}, not of {teacher.name!r}")
    both = "+mlm" if record.params.get("logits_weight") else ""  # the states' and the predictions' losses together
    return folder, records.Adapted(minutes=records.solo_minutes(record, store.all("adapt")), method=record.params["adapt"] + both,
                                   run_id=record.run_id)


def adaptations(folders: list[str], store: RecordStore, teacher: str | None = None) -> list[Record]:
    """The records of adapted models, by their folders. The records tell, so finished runs are found where the weights are
    gone; of several models that had that folder, one from `teacher` (its fingerprint). Raises ParameterError naming a folder that
    has none."""
    known, found = store.all("adapt"), []
    for folder in folders:
        file = find_root() / folder / "record.json"
        run_id = json.loads(file.read_text())["run_id"] if file.is_file() else None
        had = [r for r in known if run_id == r.run_id or not run_id and r.transfer["result"]["name"] == Path(folder).name]
        record = next((r for r in had if r.teacher.fingerprint == teacher), next(iter(had), None))
        if record is None:
            raise ParameterError(f"student: no adapted model with its record in {folder!r}; 02_transfer makes one (-p adapt "
                                 f"distill -p save {folder})")
        found.append(record)
    return found


def padding_scores(params: FinetuneParams, trainer: GlueTrainer) -> list[dict[str, Any]]:
    """The headline score on the validation set by padding length, see `padding.py`; empty where none is asked for."""
    task, model = trainer.task, trainer.model
    limit = model.config.max_position_embeddings
    lengths = [int(part) for part in params.padded_to.split(",") if part and int(part) <= limit]
    if not lengths or task.regression:
        return []
    examples = trainer.eval_dataset
    if isinstance(examples, dict):
        examples = next(iter(examples.values()))
    labels = np.array(examples["label"])

    def predict(length: int) -> np.ndarray:
        with trainer.accelerator.autocast():
            logits = logits_padded_to(model, trainer.processing_class, examples, length, EVAL_BATCH_SIZE)
        return logits.argmax(-1)

    def score(predictions: np.ndarray) -> float:
        return trainer.metric.compute(predictions=predictions, references=labels)[task.headline]

    return score_by_padding(predict, score, lengths)


def _labels(data: TaskData) -> list:
    return list(data.validation[data.task.validation[0]]["label"])


def _environment(params: FinetuneParams) -> dict[str, Any]:
    return environment("cuda" if torch.cuda.is_available() else "cpu", params.precision, params.compile != "no")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]


def record_path(params: FinetuneParams, record: Record) -> Path:
    """Where a run's record is."""
    return RecordStore(results_folder(params.results, record.data.source)).path(record.run_id)


def scores(runs: list[Record]) -> pd.DataFrame:
    """One row a run: the headline metric after the last epoch and at its best epoch, loss, and anything odd."""
    return pd.DataFrame([{
        "model": records.label(r), "seed": r.seed, r.metrics.headline.name: r.metrics.headline.last,
        "best epoch": r.metrics.headline.best, "chance": r.metrics.validation["chance"],
        "eval loss": r.metrics.history[-1]["eval_loss"], "status": r.status,
        "note": f"predicts only {next(iter(r.metrics.predicted))}" if r.metrics.degenerate else "",
        "train steps/s": r.timing["train_steps_per_s"] if not r.timing["shared"] else None,
    } for r in runs]).round(4)


def in_words(runs: list[Record]) -> str:
    """What the runs say: mean score of each model, and how it stands to BERT and to chance."""
    table = scores(runs)
    metric, floor = runs[0].metrics.headline.name, runs[0].metrics.validation["chance"]
    means = table.groupby("model", sort=False)[metric].mean()
    def found(values) -> str:
        return ", ".join(dict.fromkeys(values))

    lines = [f"Computed on {found(r.env['device_name'] for r in runs)}, torch "
             f"{found(r.env['versions']['torch'] for r in runs)}, code {found(r.code.commit[:10] for r in runs)}, "
             f"{found(r.ended[:10] for r in runs)} ({len(runs)} runs)."]
    for model, mean in means.items():
        part = table[table["model"] == model]
        line = f"{model}: {metric} {mean:.3f} over {len(part)} seed{'s' if len(part) > 1 else ''} (chance {floor:.3f})"
        if "bert" in means and model != "bert":
            line += f", {mean - means['bert']:+.3f} against bert"
        collapsed = int((part["note"] != "").sum())
        lines.append(line + (f"; {collapsed} of {len(part)} runs predict a single class" if collapsed else ""))
    return "\n".join(lines)
