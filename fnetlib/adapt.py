"""Continued training of a model on unlabelled text, before any task: masked-LM (Devlin 2019, section 3.1) or
distillation of a teacher's states (`distill.py`), with XATL's freezing where asked (`freezing.py`).

The model may be a student of any recipe, or the teacher itself (recipe `bert`): a sentence encoder, say, is no good
baseline for acceptability before it has seen text as a language model again. XATL (Choi 2024) continues training after
the transfer in the same way. One process trains on one device; several share each batch through `accelerate launch -m
fnetlib adapt ...`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from matplotlib.figure import Figure
from torch import nn
from transformers import (
    DataCollatorForLanguageModeling, PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainingArguments,
    default_data_collator, set_seed,
)

from . import records
from .callbacks import Bar, Clock, CountedTrainer, Pace, TimedCheckpoint, last_checkpoint, say, watched
from .compiling import require_compiler
from .distill import DistillationTrainer
from .freezing import Thaw, frozen_by, set_optimizer
from .model_card import model_card
from .params import AdaptParams, ParameterError, TransferParams
from .provenance import code, environment, find_root, now
from .records import Record, RecordStore, make_run_id
from .tasks import load_task, results_folder
from .teacher import Teacher, fingerprint, load_teacher
from .text import Text, cut, load_text, pack, sentences, unigram_loss
from .transfer import Transfer, build_student, parse_groups, sentence_batch, tokenised

HELD_OUT_SEQUENCES = 2048  # at most so many held-out sequences are scored
EVALUATED_TOGETHER = 256  # sequences; the mean is over batches, so that losses of different batch sizes compare
FORCED = "forced"  # marks the work of a run that is made again
CHECKPOINT_MINUTES = 2.0  # of training between checkpoints, besides those at each quarter
PACE_SHARE = 0.5  # of the minutes: at most so much time goes into measuring the pace, beside them
EVALUATIONS = 20  # times that the held-out loss is taken during a run


def adapt(params: TransferParams, teacher: Teacher, student: PreTrainedModel, report: Transfer, text: Text,
          show_only: bool = False) -> Record:
    """Train `student` (with a masked-LM head) in place and save it in `params.save`; returns the run's record.

    A finished run whose model is in the folder is loaded, not repeated; a killed one goes on from its last checkpoint.
    Raises ParameterError where the record exists but its model is gone: then only `force` trains again. show_only: the
    record is enough then, and the student stays as it is.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))  # what `accelerate launch` says
    decisive = params.adaptation() | ({"processes": processes} if processes > 1 else {})
    run_id = make_run_id("adapt", None, params.model, params.seed, decisive, text.record.fingerprint, teacher.fingerprint)
    store = RecordStore(results_folder(params.results, text.record.source))
    existing = store.get(run_id)
    folder = find_root() / params.save
    if existing and not params.force:
        if not is_saved(params):
            if show_only:
                return existing
            raise ParameterError(f"save: {run_id} has a record but no model in {params.save!r}; `-p force True` trains it again")
        student.load_state_dict(type(student).from_pretrained(folder).state_dict())
        return existing
    if params.compile:
        require_compiler()
    started, work = now(), store.results / "work" / run_id
    env = environment("cuda" if torch.cuda.is_available() else "cpu", params.precision, params.compile)
    outcome, main_process = _train(params, teacher, student, text, work)
    transfer = {**report.record(), "result": {"name": folder.name, "fingerprint": fingerprint(student)}}
    record = Record(
        run_id=run_id, stage="adapt", params=decisive, seed=params.seed, model=params.model, teacher=teacher.record(),
        data=text.record, transfer=transfer, code=code(), started=started, ended=now(), **outcome,
        env=env)
    if main_process:
        student.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
        model_card(record, folder.name, student.config, params.save).save(folder / "README.md")
        store.write(record, force=existing is not None)
        (folder / "record.json").write_text(json.dumps({"run_id": run_id}) + "\n")  # last: the folder is whole
        shutil.rmtree(work, ignore_errors=True)
    return record


def is_saved(params: TransferParams) -> bool:
    """Whether the adapted model is in its folder."""
    return bool(params.save) and (find_root() / params.save / "model.safetensors").is_file()


def adapt_model(teacher: str, model: str, save: str, *, minutes: float = 0, text: str = "auto", how: str = "distill",
                **options: Any) -> Record:
    """Swap a teacher's attention by a recipe, train on for so many minutes with text, and save the model in a folder.

    teacher: Hub name, folder, or minilm; text: hub, or folders of parquet files with a column `text`, whose own sentences then measure
    gains, filters and gates, too (`auto`: those of the GLUE task `task`, as the presets' students); how: distill or mlm; options: any
    of AdaptParams, `steps` or `tokens` in place of minutes among them (on a CPU minutes are few steps). Raises ParameterError, one line, on a
    value that is not accepted. Auto classes load the folder.
    """
    if not minutes and not {"steps", "tokens"} & set(options):
        raise ParameterError("minutes: no budget is given; one of: minutes, steps, tokens")
    params = AdaptParams.parse({"teacher": teacher, "model": model, "save": save, "minutes": minutes, "text": text,
                                "adapt": how, **options})
    return adapt(params, *prepare(params))


def prepare(params: TransferParams) -> tuple[Teacher, PreTrainedModel, Transfer, Text]:
    """Teacher, student with a masked-LM head, what went where, and text: what `adapt` needs."""
    selected, text = parse_groups(params.groups), load_text(params.text)
    teacher = load_teacher(params.teacher)
    if params.measured_on_text:
        batch = tokenised(teacher, [sentences(text.train, params.sentences)], params.length)
    else:
        examples = load_task(params.task, params.data, train_size=params.sentences, eval_size=1)
        batch = sentence_batch(teacher, examples, params.sentences)
    student, report = build_student(teacher, params.model, "mlm", groups=selected, batch=batch, seed=params.seed, layers=params.depth)
    return teacher, student, report, text


def _train(params: TransferParams, teacher: Teacher, student: PreTrainedModel, text: Text,
           work: Path) -> tuple[dict[str, Any], bool]:
    """What goes into the record, and whether this process is the one that writes it."""
    set_seed(params.seed)
    steps = params.planned_steps or _steps_within(params, teacher, student, text, work)
    set_seed(params.seed)
    trainer, clock, thaw = make_trainer(params, steps, teacher, student, text, work)
    trainable = student.num_parameters() - sum(p.numel() for p in (thaw.frozen if thaw else []))
    if trainer.is_world_process_zero():
        say(f"adapt / {params.model} / {params.adapt} / {steps} steps: {work.name}")
        if params.force and not (work / FORCED).exists():  # a killed run of the same order goes on
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            (work / FORCED).touch()
    trainer.accelerator.wait_for_everyone()
    if trainer.args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    checkpoint = last_checkpoint(work)
    with without_dropout(student) if params.adapt == "distill" else contextlib.nullcontext():
        trainer.train(resume_from_checkpoint=checkpoint)
    student.requires_grad_(True)
    student.sparse_prediction = False
    history = clock.history(trainer.state.log_history)
    losses = [entry["eval_loss"] for entry in history if entry["eval_loss"] is not None]
    unigram = unigram_loss(trainer.train_dataset, np.array(trainer.eval_dataset["labels"]), student.config.vocab_size)
    errors = records.last_errors(history)
    return {
        "status": "finished" if all(loss == loss for loss in losses) else "diverged",
        "metrics": records.Metrics(
            headline=records.Headline(name="heldout_loss", last=losses[-1], best=min(losses)), history=history,
            validation={"loss": losses[-1], "unigram_loss": unigram,
                        **{f"layer_{i}_error": error for i, error in enumerate(errors, 1)},
                        **({"errors_with_masks": float(params.logits_weight > 0)} if errors else {})}),
        "timing": {"train_seconds": clock.seconds, "steps": trainer.state.global_step, "resumed": checkpoint is not None,
                   "tokens_per_s": clock.tokens / clock.seconds if clock.seconds else None,
                   "processes": trainer.args.world_size, "unfrozen_at_step": thaw.step if thaw else None,
                   "shared": params.shared or checkpoint is not None},
        "memory": {"peak_bytes": torch.cuda.max_memory_allocated() if trainer.args.device.type == "cuda" else None},
        "parameters": records.Parameters(total=student.num_parameters(), trainable=trainable),
    }, trainer.is_world_process_zero()


def _steps_within(params: TransferParams, teacher: Teacher, student: PreTrainedModel, text: Text, work: Path) -> int:
    """The steps that fit into `params.minutes`, by the pace of a copy's first steps in the first process; kept for a run that is resumed."""
    kept = work / "steps.json"
    if kept.is_file() and (not params.force or (work / FORCED).exists()):
        return json.loads(kept.read_text())
    trainer, _, _ = make_trainer(params, 2 * Pace.WARMUP, teacher, copy.deepcopy(student), text, work / "pace", pace=True)
    if trainer.is_world_process_zero():
        say(f"adapt / {params.model} / {params.adapt} / {params.minutes:g} minutes: measuring the pace over at most {2 * Pace.WARMUP} steps")
    trainer.train()
    steps_per_s = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Pace)).steps_per_s
    steps, = broadcast_object_list([max(1, int(60 * params.minutes * steps_per_s))])  # each process timed its own
    if trainer.is_world_process_zero():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(steps))
    return steps


def make_trainer(params: TransferParams, steps: int, teacher: Teacher, student: PreTrainedModel, text: Text, work: Path,
                 pace: bool = False) -> tuple[Trainer, Clock, Thaw | None]:
    """The Trainer of a run: AdamW, warm-up then linear decay, held-out loss on sequences masked once for all.

    pace: time the steps only; no evaluation, no checkpoint.
    """
    masking = DataCollatorForLanguageModeling(teacher.tokenizer, mlm_probability=params.masking)
    distils = params.adapt == "distill"
    cuda, every = torch.cuda.is_available(), max(1, steps // EVALUATIONS)
    window = max(1, round(params.lit_window * steps)) if params.freeze != "none" else every
    arguments = TrainingArguments(
        output_dir=str(work), use_cpu=not cuda, max_steps=steps, learning_rate=params.learning_rate,
        per_device_eval_batch_size=EVALUATED_TOGETHER, ddp_find_unused_parameters=distils,
        weight_decay=params.weight_decay, warmup_steps=params.warmup, lr_scheduler_type="linear",
        bf16=params.precision == "bf16", fp16=params.precision == "fp16", torch_compile=params.compile,
        seed=params.seed, data_seed=params.seed, eval_strategy="no" if pace else "steps", eval_steps=every,
        eval_on_start=not pace, logging_steps=window, logging_nan_inf_filter=False,
        save_strategy="no" if pace else "steps", save_steps=5 * every, save_total_limit=1, report_to=[],
        disable_tqdm=pace or not watched(), prediction_loss_only=True, dataloader_num_workers=4 if cuda else 0,
        dataloader_pin_memory=cuda, remove_unused_columns=False, label_names=["labels"],
    )
    # One GPU a process; several go through `accelerate launch`. The Trainer alone would split each batch over them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if params.batch_size % arguments.world_size:
        raise ParameterError(f"batch_size: {params.batch_size} cannot be shared by {arguments.world_size} processes")
    arguments.per_device_train_batch_size = params.batch_size // arguments.world_size
    with arguments.main_process_first(desc="packing the text"):
        train = pack(text.train, teacher.tokenizer, params.length)
        held_out = pack(text.held_out, teacher.tokenizer, params.length)
    if len(train) < params.batch_size:
        raise ParameterError(f"text: {len(train)} sequences of {params.length} tokens are fewer than a batch of "
                             f"{params.batch_size}; give more text, or a smaller batch_size")
    if not len(held_out):
        raise ParameterError(f"text: the {len(text.held_out)} documents that are held out do not fill one sequence of {params.length} tokens; "
                             "give more text, or a smaller length")
    train = train.select(range(len(train) - len(train) % params.batch_size))  # whole batches: one shape to compile
    clock = Clock(work / "clock.json")
    plain = distils and params.logits_weight == 0

    def lengths() -> int:
        """Even over the logarithm: as many batches from 8 to 16 tokens as from 64 to 128."""
        low, high = math.log(params.shortest), math.log(params.length + 1)
        return int(math.exp(low + float(torch.rand(())) * (high - low)))

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if "labels" in rows[0]:  # held out: masked once
            batch = default_data_collator(rows)
        else:
            batch = {"input_ids": torch.stack([row["input_ids"] for row in rows])}
            if params.shortest:
                batch = cut(batch["input_ids"], lengths(), teacher.tokenizer)
            if not plain:
                batch |= masking([{"input_ids": ids} for ids in batch["input_ids"]])
        return {name: batch[name] for name in ("input_ids", "token_type_ids", "labels") if name in batch}  # no padding

    # Several processes must make as many steps as each other: no clock of its own may stop one of them.
    most = 60 * params.minutes * PACE_SHARE if arguments.world_size == 1 else None
    common = {"args": arguments, "train_dataset": train, "eval_dataset": masked_once(held_out, masking),
              "processing_class": teacher.tokenizer, "callbacks": [Pace(most) if pace else clock], "data_collator": collate}
    if not pace and arguments.world_size == 1:  # several processes would have to agree on the step; before the clock, which
        common["callbacks"].insert(0, TimedCheckpoint(CHECKPOINT_MINUTES))  # looks whether this one is saved
    model = student.bert if plain else student
    student.sparse_prediction = True
    thaw = None
    if params.freeze != "none":
        frozen = set(frozen_by(params.freeze, model))
        thaw = Thaw([p for name, p in model.named_parameters() if name in frozen], params.lit_threshold, params.lit_patience,
                    alone=arguments.world_size == 1)
        common["callbacks"].append(thaw)
    if distils:
        trainer = DistillationTrainer(
            model=model, student=student, teacher=build_student(teacher, "bert", "mlm")[0],
            blockwise=round(params.blockwise * steps), logits_weight=params.logits_weight, **common)
    else:
        trainer = CountedTrainer(model=model, **common)
    if thaw or params.mixer_rate != 1:
        set_optimizer(trainer, thaw, params.mixer_rate)
    if thaw and arguments.world_size > 1:
        trainer.after_backward = thaw.drop_gradients
    for printing in (PrinterCallback, ProgressCallback):
        if trainer.pop_callback(printing) and printing is ProgressCallback:
            trainer.add_callback(Bar())
    return trainer, clock, thaw


@contextlib.contextmanager
def without_dropout(model: nn.Module):
    """Dropout is off inside: a student that sees every sentence once and matches states needs no noise on them."""
    rates = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    for module in rates:
        module.p = 0.0
    try:
        yield
    finally:
        for module, rate in rates.items():
            module.p = rate


def masked_once(sequences: Dataset, masking: DataCollatorForLanguageModeling) -> Dataset:
    """The first sequences with masks that are the same in every run, so that held-out losses compare."""
    rows = sequences.select(range(min(len(sequences), HELD_OUT_SEQUENCES)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = masking([rows[i] for i in range(len(rows))])
    return Dataset.from_dict({"input_ids": batch["input_ids"].numpy(), "labels": batch["labels"].numpy()})


def curve(record: Record) -> Figure:
    """Masked-LM loss against tokens seen, training (mean since the point before) and held-out; after distillation the
    held-out loss and every layer's error instead."""
    history = record.metrics.history
    errors = [(e["tokens"] / 1e6, e["layer_errors"]) for e in history if "layer_errors" in e]
    figure = Figure(figsize=(10 if errors else 7, 3.2), layout="constrained")
    axis, *right = figure.subplots(1, 2, squeeze=False)[0] if errors else [figure.subplots()]
    for name, word in (("train_loss", "training"), ("eval_loss", "held-out")):
        points = [(e["tokens"] / 1e6, e[name]) for e in history if e[name] is not None]
        if name == "eval_loss" or not errors:  # a distillation's training loss is of another kind
            axis.plot(*zip(*points), marker="o", markersize=3, label=word)
    if step := record.timing.get("unfrozen_at_step"):
        axis.axvline(next(e["tokens"] for e in history if e["step"] >= step) / 1e6, color="0.5", linestyle="--",
                     label="unfrozen")
    axis.set(xlabel="tokens seen, millions", ylabel="masked-LM loss, nats", title=f"Continued training: {record.model}")
    for panel in right:
        for layer, values in enumerate(zip(*(found for _, found in errors)), 1):
            panel.plot([tokens for tokens, _ in errors], values, marker="o", markersize=3, label=f"layer {layer}")
        panel.set(xlabel="tokens seen, millions", ylabel="error, share of the teacher's variance", yscale="log",
                  title="Distance to the teacher's states, held-out text")
    for panel in (axis, *right):
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize="small")
    return figure


def in_words(record: Record) -> str:
    """What a run of continued training did, in one line."""
    first, last = record.metrics.history[0], record.metrics.history[-1]
    ended = record.metrics.headline.last
    errors = [sum(e["layer_errors"]) / len(e["layer_errors"]) for e in record.metrics.history if "layer_errors" in e]
    return (f"{record.model}: held-out masked-LM loss {first['eval_loss']:.3f} -> {'diverged' if ended is None else f'{ended:.3f}'} in "
            f"{last['step']} steps, {last['tokens'] / 1e6:.1f} M tokens, {last['seconds']:.0f} s of training"
            + (f"; mean error of a layer {errors[0]:.3f} -> {errors[-1]:.3f}" if errors else "")
            + (f"; unfrozen at step {record.timing['unfrozen_at_step']}" if record.timing.get("unfrozen_at_step") else "")
            + (" (device shared with other jobs)" if record.timing["shared"] else ""))
