"""What the project's runs add to transformers' Trainer: checkpoints by the clock, a quiet bar, and honest speed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .hub import in_notebook


class TimedCheckpoint(TrainerCallback):
    """Ask for a checkpoint every so many minutes: short runs write none, long ones lose little to a kill.

    At an epoch's last step it waits for the evaluation, so that a resumed run has that epoch's scores. (The training
    loss logged for an epoch that was resumed midway is the mean over its remaining steps.)
    """

    def __init__(self, minutes: float):
        self.seconds, self.last = minutes * 60, time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % (state.max_steps // state.num_train_epochs):
            self._save_if_due(state, control)
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        self._save_if_due(state, control)
        return control

    def _save_if_due(self, state, control) -> None:
        if time.monotonic() - self.last >= self.seconds and state.global_step < state.max_steps:
            control.should_save, self.last = True, time.monotonic()


class Pace(TrainerCallback):
    """Training steps a second once the run is warm, evaluations and compilation left out; the device is synchronised only
    at the ends."""

    WARMUP = 50  # steps: kernels are loaded, the allocator has seen the longest batches

    def __init__(self, most_seconds: float | None = None):
        """most_seconds: training stops after so many, on a device for which the warm-up alone is too long; the pace then counts all steps."""
        self.seconds, self.steps, self.start, self.first = 0.0, 0, None, 0
        self.most_seconds, self.began = most_seconds, None

    def on_step_begin(self, args, state, control, **kwargs):
        if self.began is None:
            self.began = time.perf_counter()
        if state.global_step >= self.WARMUP and self.start is None:
            self.start, self.first = now_on_device(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if self.most_seconds and time.perf_counter() - self.began > self.most_seconds:  # no wait for the device in every step
            if self.start is None:
                self.start, self.first = self.began, 0
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        self.pause(state)

    def pause(self, state) -> None:
        """Not counted: the step that has begun, if one has; the next one is."""
        if self.start is not None:
            self.seconds += now_on_device() - self.start
            self.steps += state.global_step - self.first
            self.start = None

    @property
    def steps_per_s(self) -> float | None:
        return self.steps / self.seconds if self.seconds else None


class Clock(TrainerCallback):
    """Seconds of training at every step that is logged, evaluations and saving left out; goes on after a kill.

    file: where they are kept beside the checkpoints. Tokens are those of the batches as they were, see `CountedTrainer`.
    """

    def __init__(self, file: Path):
        self.file, self.start = file, None
        self.at: dict[int, tuple[float, int]] = {}  # step -> seconds, tokens

    @property
    def seconds(self) -> float:
        return max((seconds for seconds, _ in self.at.values()), default=0.0)

    @property
    def tokens(self) -> int:
        return max((tokens for _, tokens in self.at.values()), default=0)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step and self.file.is_file():
            known = json.loads(self.file.read_text())
            self.at = {int(step): tuple(at) for step, at in known.items() if int(step) <= state.global_step}

    def on_step_begin(self, args, state, control, **kwargs):
        if self.start is None:
            self.start = now_on_device()

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_log or control.should_evaluate or control.should_save or state.global_step >= state.max_steps:
            self.at[state.global_step] = self.seconds + now_on_device() - self.start, state.num_input_tokens_seen
            self.start = None
            if not watched() and state.is_world_process_zero:
                say(f"  adapt: step {state.global_step}/{state.max_steps}  {self.seconds:.0f} s")

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.file.write_text(json.dumps(self.at))

    def history(self, log: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The Trainer's log as one entry a step: step, tokens, seconds, train_loss, eval_loss, layer_errors if any."""
        found: dict[int, dict[str, Any]] = {}
        for entry in log:
            step = entry["step"]
            seconds, tokens = self.at.get(step, (0.0, 0))
            row = found.setdefault(step, {"step": step, "tokens": tokens, "seconds": seconds,
                                          "train_loss": None, "eval_loss": None})
            row["train_loss"] = entry.get("loss", row["train_loss"])
            row["eval_loss"] = entry.get("eval_loss", row["eval_loss"])
            if "layer_errors" in entry:
                row["layer_errors"] = entry["layer_errors"]
        return [row for row in found.values() if row["train_loss"] is not None or row["eval_loss"] is not None]


class CountedTrainer(Trainer):
    """The Trainer that counts the tokens of its batches, whatever their lengths, without waiting for the GPU.

    Of several processes each counts its own batches as often as there are processes. after_backward: called before gradients are clipped.
    """

    after_backward: Callable[[], None] | None = None

    def training_step(self, model, inputs, *args, **kwargs):
        self.state.num_input_tokens_seen += inputs["input_ids"].numel() * self.args.world_size
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.after_backward:
            self.after_backward()
        return loss


class Bar(ProgressCallback):
    """The Trainer's progress bar without its log lines."""

    def on_log(self, *args, **kwargs):
        pass


class EpochLine(TrainerCallback):
    """One line an epoch, on stderr."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        shown = {k.removeprefix("eval_"): v for k, v in (metrics or {}).items()
                 if isinstance(v, float) and not k.endswith(("runtime", "per_second", "epoch"))}
        say(f"  epoch {state.epoch:.0f}/{state.num_train_epochs}  "
             + "  ".join(f"{k} {v:.4f}" for k, v in shown.items()))


def now_on_device() -> float:
    """Seconds, once all that was sent to the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def last_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint of a killed run; one that was being written has no trainer_state.json yet."""
    whole = [path.parent for path in work.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[-1]))) if whole else None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def watched() -> bool:
    """Whether somebody sees a progress bar: in a notebook or a terminal."""
    return in_notebook() or sys.stderr.isatty()
