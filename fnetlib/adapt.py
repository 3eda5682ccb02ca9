"""Continued training of a model on unlabelled text, before any task: masked-LM (Devlin 2019, section 3.1).

The model may be a student of any recipe, or the teacher itself (recipe `bert`): a sentence encoder, say, is no good
baseline for acceptability before it has seen text as a language model again. XATL (Choi 2024) continues training after
the transfer in the same way.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from matplotlib.figure import Figure
from transformers import (
    DataCollatorForLanguageModeling, PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainerCallback,
    TrainingArguments, default_data_collator, set_seed,
)

from . import records
from .callbacks import Bar, last_checkpoint, say, watched
from .params import ParameterError, TransferParams
from .provenance import code, environment, find_root, now
from .records import Record, RecordStore, make_run_id
from .tasks import results_folder
from .teacher import Teacher, fingerprint
from .text import Text, pack
from .transfer import Transfer

HELD_OUT_SEQUENCES = 2048  # at most so many held-out sequences are scored
EVALUATIONS = 20  # times that the held-out loss is taken during a run


def adapt(params: TransferParams, teacher: Teacher, student: PreTrainedModel, report: Transfer, text: Text) -> Record:
    """Train `student` (with a masked-LM head) in place and save it in `params.save`; returns the run's record.

    A finished run whose model is in the folder is loaded, not repeated; a killed one goes on from its last checkpoint.
    Raises ParameterError where the record exists but its model is gone: then only `force` trains again.
    """
    decisive = params.adaptation()
    run_id = make_run_id("adapt", None, params.model, params.seed, decisive, text.record.fingerprint, teacher.fingerprint)
    store = RecordStore(results_folder(params.results, text.record.source))
    existing = store.get(run_id)
    folder = find_root() / params.save
    if existing and not params.force:
        if not (folder / "model.safetensors").is_file():
            raise ParameterError(f"save: {run_id} has a record but no model in {params.save!r}; `-p force True` trains it again")
        student.load_state_dict(type(student).from_pretrained(folder).state_dict())
        return existing
    started, work = now(), store.results / "work" / run_id
    if params.force:
        shutil.rmtree(work, ignore_errors=True)
    env = environment("cuda" if torch.cuda.is_available() else "cpu", params.precision, params.compile)
    say(f"adapt / {params.model} / {params.steps} steps: {run_id}")
    outcome = _train(params, teacher, student, text, work)
    transfer = {**report.record(), "result": {"name": folder.name, "fingerprint": fingerprint(student)}}
    record = Record(
        run_id=run_id, stage="adapt", params=decisive, seed=params.seed, model=params.model, teacher=teacher.record(),
        data=text.record, transfer=transfer, code=code(), started=started, ended=now(), **outcome,
        env=env)
    student.save_pretrained(folder)
    teacher.tokenizer.save_pretrained(folder)
    store.write(record, force=existing is not None)
    (folder / "record.json").write_text(json.dumps({"run_id": run_id}) + "\n")  # last: the folder is whole
    shutil.rmtree(work, ignore_errors=True)
    return record


def _train(params: TransferParams, teacher: Teacher, student: PreTrainedModel, text: Text, work: Path) -> dict[str, Any]:
    set_seed(params.seed)
    clock = Clock(params.batch_size * params.length)
    trainer = make_trainer(params, teacher, student, text, work, clock)
    if trainer.args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    checkpoint = last_checkpoint(work)
    trainer.train(resume_from_checkpoint=checkpoint)
    history = clock.history(trainer.state.log_history)
    losses = [entry["eval_loss"] for entry in history if entry["eval_loss"] is not None]
    seconds = history[-1]["seconds"]
    return {
        "status": "finished" if all(loss == loss for loss in losses) else "diverged",
        "metrics": records.Metrics(headline=records.Headline(name="heldout_loss", last=losses[-1], best=min(losses)),
                                   validation={"loss": losses[-1]}, history=history),
        "timing": {"train_seconds": seconds, "steps": trainer.state.global_step, "resumed": checkpoint is not None,
                   "tokens_per_s": trainer.state.global_step * clock.tokens / seconds if seconds else None,
                   "shared": params.shared or checkpoint is not None},
        "memory": {"peak_bytes": torch.cuda.max_memory_allocated() if trainer.args.device.type == "cuda" else None},
        "parameters": records.Parameters(
            total=student.num_parameters(), trainable=student.num_parameters(only_trainable=True)),
    }


def make_trainer(params: TransferParams, teacher: Teacher, student: PreTrainedModel, text: Text, work: Path,
                 clock: Clock) -> Trainer:
    """The Trainer of a run: AdamW, warm-up then linear decay, held-out loss on sequences masked once for all."""
    masking = DataCollatorForLanguageModeling(teacher.tokenizer, mlm_probability=params.masking)
    train = pack(text.train, teacher.tokenizer, params.length)
    held_out = pack(text.held_out, teacher.tokenizer, params.length)
    if len(train) < params.batch_size or not len(held_out):
        raise ParameterError(f"text: {len(train)} sequences of {params.length} tokens are fewer than a batch of "
                             f"{params.batch_size}")
    train = train.select(range(len(train) - len(train) % params.batch_size))  # whole batches: one shape to compile
    cuda, every = torch.cuda.is_available(), max(1, params.steps // EVALUATIONS)
    arguments = TrainingArguments(
        output_dir=str(work), use_cpu=not cuda, max_steps=params.steps, learning_rate=params.learning_rate,
        per_device_train_batch_size=params.batch_size, per_device_eval_batch_size=params.batch_size,
        weight_decay=params.weight_decay, warmup_steps=params.warmup, lr_scheduler_type="linear",
        bf16=params.precision == "bf16", fp16=params.precision == "fp16", torch_compile=params.compile,
        seed=params.seed, data_seed=params.seed, eval_strategy="steps", eval_steps=every, eval_on_start=True,
        logging_steps=every, logging_nan_inf_filter=False, save_strategy="steps", save_steps=5 * every,
        save_total_limit=1, report_to=[], disable_tqdm=not watched(), prediction_loss_only=True,
        dataloader_num_workers=4 if cuda else 0, dataloader_pin_memory=cuda,
    )
    # One GPU a process; several go through `accelerate launch`. The Trainer alone would split each batch over them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = Trainer(
        model=student, args=arguments, train_dataset=train, eval_dataset=masked_once(held_out, masking),
        processing_class=teacher.tokenizer, callbacks=[clock],
        data_collator=lambda rows: default_data_collator(rows) if "labels" in rows[0] else masking(rows))
    for printing in (PrinterCallback, ProgressCallback):
        if trainer.pop_callback(printing) and printing is ProgressCallback:
            trainer.add_callback(Bar())
    return trainer


def masked_once(sequences: Dataset, masking: DataCollatorForLanguageModeling) -> Dataset:
    """The first sequences with masks that are the same in every run, so that held-out losses compare."""
    rows = sequences.select(range(min(len(sequences), HELD_OUT_SEQUENCES)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = masking([rows[i] for i in range(len(rows))])
    return Dataset.from_dict({"input_ids": batch["input_ids"].numpy(), "labels": batch["labels"].numpy()})


class Clock(TrainerCallback):
    """Seconds of training at every step that is logged; evaluations and saving are left out."""

    def __init__(self, tokens: int):
        self.tokens, self.seconds, self.start, self.at = tokens, 0.0, None, {}

    def on_step_begin(self, args, state, control, **kwargs):
        if self.start is None:
            self.start = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_log or control.should_evaluate or control.should_save or state.global_step >= state.max_steps:
            self._stop()
            self.at[state.global_step] = self.seconds
            if not watched():
                say(f"  adapt: step {state.global_step}/{state.max_steps}  {self.seconds:.0f} s")

    def _stop(self) -> None:
        if self.start is not None:
            self.seconds, self.start = self.seconds + self._now() - self.start, None

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def history(self, log: list[dict[str, float]]) -> list[dict[str, Any]]:
        """The Trainer's log as one entry a step: step, tokens, seconds, train_loss, eval_loss."""
        found: dict[int, dict[str, Any]] = {}
        for entry in log:
            step = entry["step"]
            row = found.setdefault(step, {"step": step, "tokens": step * self.tokens, "seconds": self.at.get(step, 0.0),
                                          "train_loss": None, "eval_loss": None})
            row["train_loss"] = entry.get("loss", row["train_loss"])
            row["eval_loss"] = entry.get("eval_loss", row["eval_loss"])
        return [row for row in found.values() if row["train_loss"] is not None or row["eval_loss"] is not None]


def curve(record: Record) -> Figure:
    """Masked-LM loss against tokens seen: training (mean since the point before) and held-out."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, word in (("train_loss", "training"), ("eval_loss", "held-out")):
        points = [(e["tokens"] / 1e6, e[name]) for e in record.metrics.history if e[name] is not None]
        axis.plot(*zip(*points), marker="o", markersize=3, label=word)
    axis.set(xlabel="tokens seen, millions", ylabel="masked-LM loss, nats", title=f"Continued training: {record.model}")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def in_words(record: Record) -> str:
    """What a run of continued training did, in one line."""
    first, last = record.metrics.history[0], record.metrics.history[-1]
    return (f"{record.model}: held-out masked-LM loss {first['eval_loss']:.3f} -> {record.metrics.headline.last:.3f} in "
            f"{last['step']} steps, {last['tokens'] / 1e6:.1f} M tokens, {last['seconds']:.0f} s of training"
            + (" (device shared with other jobs)" if record.timing["shared"] else ""))
