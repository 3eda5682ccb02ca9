"""One fine-tuning run: (task, model, seed) -> record. On transformers' Trainer."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import (
    DataCollatorWithPadding, PrinterCallback, ProgressCallback, Trainer, TrainingArguments, set_seed,
)

from . import records
from .callbacks import Bar, EpochLine, Pace, TimedCheckpoint, last_checkpoint, say, watched
from .config import CALIBRATED, FILTERS, recipe
from .hub import in_notebook
from .metrics import GlueMetric, chance
from .padding import logits_padded_to, score_by_padding
from .params import FinetuneParams, ParameterError, parse_grid
from .provenance import code, environment, now
from .records import Record, RecordStore, choose, make_run_id
from .tasks import TaskData, load_task, results_folder
from .teacher import Teacher, load_teacher
from .transfer import DEFAULT_GROUPS, build_student, sentence_batch

EVAL_BATCH_SIZE = 64
GAIN_SENTENCES = 64  # unlabelled training examples on which a recipe's gain is measured
FILTER_SENTENCES = 256  # on which filters and gates are fitted
CALIBRATION_SENTENCES = 512  # and on which a `-calibrated` recipe's projections are refitted


def finetune(params: FinetuneParams) -> list[Record]:
    """Every (model, seed) of the parameters, in turn; runs whose record exists are not repeated.

    Raises ParameterError for bad inputs before anything is trained. A run that breaks is recorded as `failed` and
    raises after the others have run.
    """
    data = load_task(params.task, params.data, params.train_size, params.eval_size)
    teacher = load_teacher(params.teacher)
    if params.max_length > teacher.config.max_position_embeddings:
        raise ParameterError(f"max_length: {params.max_length} is more than teacher {teacher.name!r} has positions "
                             f"({teacher.config.max_position_embeddings})")
    for model in params.models:
        recipe(model, teacher.config.num_hidden_layers)  # refuses what does not fit
    store = RecordStore(results_folder(params.results, data.record.source))
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
    run_id = make_run_id("finetune", params.task, model, seed, decisive, data.record.fingerprint,
                         teacher.fingerprint)
    existing = store.get(run_id)
    if existing and existing.status != "failed" and not params.force:
        return existing
    if params.precision == "fp16" and not torch.cuda.is_available():
        raise ParameterError("precision: 'fp16' needs a GPU; on this CPU one of: fp32, bf16")
    common = {
        "run_id": run_id, "stage": "finetune", "params": decisive, "seed": seed, "task": params.task, "model": model,
        "training": params.recipe_name, "teacher": teacher.record(), "data": data.record, "code": code(),
        "started": now(),
    }
    say(f"{params.task} / {model} / seed {seed}: {run_id}")
    work = store.results / "work" / run_id
    if params.force:
        shutil.rmtree(work, ignore_errors=True)
    try:
        outcome = _train(params, data, teacher, model, seed, work, decisive)
    except RuntimeError as error:
        failed = Record(**common, status="failed", error=_one_line(error), env=_environment(params.precision),
                        ended=now())
        store.write(failed, force=existing is not None)
        raise
    record = Record(**common, **outcome, env=_environment(params.precision), ended=now())
    if existing is None and (other := store.get(run_id)):
        return other  # another process ran the same meanwhile; its record stands
    store.write(record, force=existing is not None)
    shutil.rmtree(work, ignore_errors=True)
    return record


def _train(params: FinetuneParams, data: TaskData, teacher: Teacher, model: str, seed: int,
           work: Path, decisive: dict[str, Any]) -> dict[str, Any]:
    set_seed(seed)
    sentences = max(count for name, count in decisive.items() if name.endswith("_sentences"))
    student, report = build_student(
        teacher, model, batch=sentence_batch(teacher, data, sentences, params.max_length), num_labels=data.task.num_labels,
        problem_type="regression" if data.task.regression else "single_label_classification")
    trainer = make_trainer(params, data, teacher, student, seed, work)
    if trainer.args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    checkpoint = last_checkpoint(work)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    wall = time.perf_counter() - start

    pace = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Pace))
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
            history=history, predicted=predicted, degenerate=len(predicted) == 1,
            padding=[] if diverged else padding_scores(params, trainer)),
        "timing": {
            "train_runtime_s": result.metrics["train_runtime"], "wall_s": wall,
            "train_steps_per_s": result.metrics["train_steps_per_second"],
            "train_samples_per_s": result.metrics["train_samples_per_second"],
            "steady_steps_per_s": pace.steps_per_s,
            "eval_runtime_s": trainer.last_speed["runtime"], "eval_steps_per_s": trainer.last_speed["steps_per_second"],
            "eval_samples_per_s": trainer.last_speed["samples_per_second"],
            "steps": trainer.state.global_step, "resumed": checkpoint is not None,
            # what was timed is this session only: a resumed run's speed is no measurement either
            "shared": params.shared or checkpoint is not None,
        },
        "memory": {"peak_bytes": peak},
        "flops": records.Flops(value=trainer.state.total_flos, method="Trainer.total_flos (6 x parameters x tokens)"),
        "parameters": records.Parameters(
            total=student.num_parameters(), trainable=student.num_parameters(only_trainable=True)),
        "transfer": report.record(),
    }


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


def make_trainer(params: FinetuneParams, data: TaskData, teacher: Teacher, student, seed: int,
                 work: Path) -> GlueTrainer:
    """The Trainer of a run: AdamW, linear decay, dynamic padding, evaluation after each epoch."""
    # datasets caches by what the function captures: only these three decide the tokens.
    tokenizer, columns, max_length = teacher.tokenizer, data.task.columns, params.max_length

    def tokenize(examples):
        return tokenizer(*(examples[c] for c in columns), truncation=True, max_length=max_length)

    def prepare(split):
        extra = [c for c in split.column_names if c != "label"]
        return split.map(tokenize, batched=True, remove_columns=extra)

    validation = {name.removeprefix("validation_"): prepare(split) for name, split in data.validation.items()}
    if len(validation) == 1:
        validation = next(iter(validation.values()))
    arguments = TrainingArguments(
        output_dir=str(work), use_cpu=not torch.cuda.is_available(), num_train_epochs=params.epochs, learning_rate=params.learning_rate,
        per_device_train_batch_size=params.batch_size, per_device_eval_batch_size=EVAL_BATCH_SIZE,
        gradient_accumulation_steps=params.accumulate, weight_decay=params.weight_decay, warmup_steps=params.warmup,
        lr_scheduler_type="linear", bf16=params.precision == "bf16", fp16=params.precision == "fp16",
        seed=seed, data_seed=seed, eval_strategy="epoch", logging_strategy="epoch", logging_nan_inf_filter=False,
        save_strategy="no", save_total_limit=2, report_to=[], disable_tqdm=not watched(), dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # One GPU a run: on a host with several, the Trainer would spread each batch and so change the recipe.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = GlueTrainer(
        task=data.task, model=student, args=arguments, train_dataset=prepare(data.train), eval_dataset=validation,
        processing_class=teacher.tokenizer, data_collator=DataCollatorWithPadding(teacher.tokenizer),
        callbacks=[TimedCheckpoint(params.checkpoint_minutes), Pace()],
    )
    # stdout is for the records' paths: the Trainer's own printing goes, one line an epoch goes to stderr instead.
    for printing in (PrinterCallback, ProgressCallback):
        if trainer.pop_callback(printing) and printing is ProgressCallback:
            trainer.add_callback(Bar())
    if not in_notebook():
        trainer.add_callback(EpochLine())
    return trainer


class GlueTrainer(Trainer):
    """The Trainer with a GLUE task's metrics; keeps the last evaluation's predictions, metrics and speed."""

    def __init__(self, task, **kwargs):
        self.task, self.metric = task, GlueMetric(task.name)
        self.predicted: dict[str, int] = {}
        self.last_metrics: dict[str, float] = {}
        self.last_speed: dict[str, float] = {}
        super().__init__(compute_metrics=self._compute, **kwargs)

    def _compute(self, outcome) -> dict[str, float]:
        logits, references = outcome.predictions, outcome.label_ids
        if not np.isfinite(logits).all():
            self.predicted = {}  # a diverged model predicts nothing and has no score; its record says `diverged`
            return {name: float("nan") for name in self.task.metrics}
        predictions = logits.squeeze(-1) if self.task.regression else logits.argmax(-1)
        self._count(predictions)
        return self.metric.compute(predictions=predictions, references=references)

    def _count(self, predictions: np.ndarray) -> None:
        if self.task.regression:
            self.predicted = {"constant": len(predictions)} if np.ptp(predictions) < 1e-6 else {}
        else:
            labels, counts = np.unique(predictions, return_counts=True)
            self.predicted = {self.task.labels[int(i)]: int(n) for i, n in zip(labels, counts)}

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        found = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if not isinstance(eval_dataset if eval_dataset is not None else self.eval_dataset, dict):
            # From the log, because Jupyter's progress table takes entries out of `found`.
            logged = self.state.log_history[-1]
            own = {k.removeprefix(f"{metric_key_prefix}_"): v for k, v in logged.items()}
            # Of several validation splits the first is the headline's; the others keep their name in front.
            first = metric_key_prefix in ("eval", "eval_matched")
            mark = "" if first else metric_key_prefix.removeprefix("eval_") + "_"
            self.last_metrics |= {mark + k: v for k, v in own.items() if k in ("loss", *self.task.metrics)}
            if first:
                self.last_speed = {k: own[k] for k in ("runtime", "steps_per_second", "samples_per_second")}
                self.first_predicted = self.predicted
            self.predicted = self.first_predicted
        return found


def epochs(log: list[dict[str, float]]) -> list[dict[str, Any]]:
    """The Trainer's log as one entry an epoch: epoch, step, train_loss, eval_loss and the metrics."""
    found: dict[int, dict[str, Any]] = {}
    for entry in log:
        number = round(entry["epoch"])
        row = found.setdefault(number, {"epoch": number, "step": entry["step"], "train_loss": None, "eval_loss": None})
        if "loss" in entry:
            row["train_loss"] = entry["loss"]
        for key, value in entry.items():
            name = key.removeprefix("eval_").removeprefix("matched_")
            if key.startswith("eval_") and not name.endswith(("runtime", "per_second")):
                row["eval_loss" if name == "loss" else name] = value
    return [row for row in found.values() if row["eval_loss"] is not None]


def _environment(precision: str) -> dict[str, Any]:
    return environment("cuda" if torch.cuda.is_available() else "cpu", precision)


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
