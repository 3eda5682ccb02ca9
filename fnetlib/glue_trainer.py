"""The Trainer of a fine-tuning run: a GLUE task's metrics on transformers' Trainer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    DataCollatorWithPadding, PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from .callbacks import Bar, EpochLine, Pace, TimedCheckpoint, watched
from .compiling import compiled, room_for
from .hub import cache_lock, in_notebook
from .metrics import GlueMetric
from .params import FinetuneParams
from .tasks import TaskData
from .teacher import Teacher

EVAL_BATCH_SIZE = 64
COLD = 2  # steps of a shape that time compilation: the first compiles, the second records the CUDA graph


def make_trainer(params: FinetuneParams, data: TaskData, teacher: Teacher, student: PreTrainedModel, seed: int,
                 work: Path, kind: Callable[..., GlueTrainer] | None = None) -> GlueTrainer:
    """The Trainer of a run: AdamW, linear decay, dynamic padding, evaluation after each epoch. kind: a GlueTrainer's class."""
    # datasets caches by what the function captures: only these three decide the tokens.
    tokenizer, columns, max_length = teacher.tokenizer, data.task.columns, params.max_length

    def tokenize(examples):
        return tokenizer(*(examples[c] for c in columns), truncation=True, max_length=max_length)

    def prepare(split):
        extra = [c for c in split.column_names if c != "label"]
        with cache_lock(f"tokens-{split._fingerprint}"):
            return split.map(tokenize, batched=True, remove_columns=extra)

    validation = {name.removeprefix("validation_"): prepare(split) for name, split in data.validation.items()}
    if len(validation) == 1:
        validation = next(iter(validation.values()))
    arguments = TrainingArguments(
        output_dir=str(work), use_cpu=not torch.cuda.is_available(), num_train_epochs=params.epochs,
        learning_rate=params.learning_rate,
        per_device_train_batch_size=params.batch_size, per_device_eval_batch_size=EVAL_BATCH_SIZE,
        gradient_accumulation_steps=params.accumulate, weight_decay=params.weight_decay, warmup_steps=params.warmup,
        lr_scheduler_type="linear", bf16=params.precision == "bf16", fp16=params.precision == "fp16",
        seed=seed, data_seed=seed, eval_strategy="epoch", logging_strategy="epoch", logging_nan_inf_filter=False,
        save_strategy="no", save_total_limit=2, report_to=[], disable_tqdm=not watched(), dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # One GPU a run: on a host with several, the Trainer would spread each batch and so change the recipe.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = (kind or GlueTrainer)(
        task=data.task, params=params, model=student, args=arguments, train_dataset=prepare(data.train),
        eval_dataset=validation, processing_class=teacher.tokenizer, callbacks=[TimedCheckpoint(params.checkpoint_minutes)],
        data_collator=DataCollatorWithPadding(teacher.tokenizer, pad_to_multiple_of=params.pad_to),
    )
    # stdout is for the records' paths: the Trainer's own printing goes, one line an epoch goes to stderr instead.
    for printing in (PrinterCallback, ProgressCallback):
        if trainer.pop_callback(printing) and printing is ProgressCallback:
            trainer.add_callback(Bar())
    if not in_notebook():
        trainer.add_callback(EpochLine())
    return trainer


class ByLength(LengthGroupedSampler):
    """transformers' sampler, its order decided by seed and epoch alone: a resumed run goes on in the order it began in."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class GlueTrainer(Trainer):
    """The Trainer with a GLUE task's metrics; keeps the last evaluation's predictions, metrics and speed.

    Only training steps are compiled: evaluation is the same code for every run, and its lengths need no compilation.
    """

    def __init__(self, task, params: FinetuneParams, **kwargs):
        self.task, self.params, self.metric = task, params, GlueMetric(task.name)
        self.pace, self.compiled, self.seen = Pace(), None, Counter()
        self.predicted: dict[str, int] = {}
        self.last_metrics: dict[str, float] = {}
        self.last_speed: dict[str, float] = {}
        super().__init__(compute_metrics=self._compute, **kwargs)
        self.add_callback(self.pace)

    def train(self, *args, **kwargs):
        if self.params.compile == "no":
            return super().train(*args, **kwargs)
        lengths = math.ceil(self.params.max_length / self.params.pad_to)
        with room_for(2 * lengths):  # a batch may be a whole one, or an epoch's last
            return super().train(*args, **kwargs)

    def training_step(self, model, inputs, *args, **kwargs):
        if self.params.compile != "no":
            shape = inputs["input_ids"].shape
            self.seen[shape] += 1
            if self.seen[shape] <= COLD:
                self.pace.pause(self.state)
            if self.compiled is None:
                self.compiled = compiled(model, graphs=self.params.compile == "graphs")
            model = self.compiled
        return super().training_step(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        if not self.params.group_by_length:
            return super()._get_train_sampler(train_dataset)
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        return ByLength(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths, self.args.data_seed)

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
