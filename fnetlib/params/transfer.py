"""Parameters of 01_build and 02_transfer, of `fnetlib adapt`, and of the search for where attention should stay."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from .base import Float, Inputs, Int, OneModel, Params, Precision, Task


class BuildParams(Params):
    """01_build: what the mixing layer computes, and the model beside BERT."""

    teacher: str = Field("auto", description="gives the model its shape: auto, a Hub name, a folder, or minilm; "
                                             "auto means bert-base-uncased from the Hub if it answers, else minilm")
    model: OneModel = Field("fnet", description="recipe shown beside BERT")
    seq_length: Int = Field(128, ge=2, description="tokens for which FLOPs are counted")
    seed: Int = Field(0, ge=0, description="seed of the random inputs")


class TransferParams(Inputs):
    """02_transfer: teacher -> student, every tensor accounted for; if asked, trained on with text."""

    model: OneModel = Field("fnet", description="recipe of the student; bert is the teacher itself")
    task: Task = Field("cola", description="GLUE task whose training sentences measure the gain and the plots")
    groups: str = Field("all", description="component groups to copy: all, none (a student from scratch), or a "
                                            "comma list")
    sentences: Int = Field(256, ge=1, description="unlabelled sentences used to measure")
    save: str = Field("", description="folder for the student (save_pretrained); empty: not saved")
    seed: Int = Field(0, ge=0, description="seed of what is newly initialised, and of the data order")
    adapt: Literal["none", "mlm", "distill"] = Field(
        "none", description="none; mlm: train on with masked language modelling; distill: to match the teacher's states")
    text: str = Field("auto", description="text to train on: auto, hub, or folders of parquet files with a column text; "
                                          "auto means FNETLIB_TEXT_DIR if set, else the Hub")
    steps: Int = Field(1000, ge=1, description="budget of the adaptation: optimiser steps")
    tokens: Int = Field(0, ge=0, description="budget in tokens instead, 0: steps decides")
    minutes: Float = Field(0.0, ge=0, description="budget in minutes of training instead, at the pace below, 0: steps decides")
    pace: Float = Field(0.0, ge=0, description="minutes: steps a second, alone on the device; 0: measured first")
    batch_size: Int = Field(256, ge=1, description="sequences a step")
    length: Int = Field(128, ge=8, description="tokens a sequence")
    shortest: Int = Field(0, ge=0, description="cut each batch to a length drawn from here to `length`, half of the batches "
                                               "as pairs of sentences; 0: all sequences have `length` tokens")
    learning_rate: Float = Field(5e-4, gt=0, description="peak learning rate of AdamW, linear decay to 0")
    weight_decay: Float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    warmup: Float = Field(0.06, ge=0, lt=1, description="share of the steps with rising learning rate")
    masking: Float = Field(0.15, gt=0, lt=1, description="share of the tokens to predict")
    freeze: Literal["none", "embeddings", "feed_forward", "output_projection"] = Field(
        "none", description="transferred parts that rest until the loss stops improving: none; embeddings (and head); "
                            "feed_forward (and those); output_projection (and those)")
    lit_threshold: Float = Field(0.01, ge=0, lt=1, description="freeze: relative improvement of a window that counts as none")
    lit_patience: Int = Field(1, ge=1, description="freeze: windows without improvement until all is unfrozen")
    lit_window: Float = Field(0.034, gt=0, lt=1, description="freeze: share of the steps that a window averages over")
    blockwise: Float = Field(0.1, ge=0, le=1, description="distill: share of the steps in which each block is matched alone")
    logits_weight: Float = Field(0.0, ge=0, description="distill: weight of the masked-LM predictions beside the states")
    mixer_rate: Float = Field(1.0, gt=0, description="learning rate of the mixers' own weights, as a multiple of the rest's")
    precision: Precision = Field("fp32", description="fp32, bf16 or fp16 (the last two by autocast)")
    compile: bool = Field(False, description="True: torch.compile; pays on a GPU from some hundred steps on")
    shared: bool = Field(False, description="True: other jobs share the device, so its speed is not a measurement")
    force: bool = Field(False, description="True: adapt again and replace the record that exists")

    @model_validator(mode="after")
    def _an_adapted_model_is_kept(self):
        if self.adapt != "none" and not self.save:
            raise ValueError("save: a folder is needed for the adapted model, e.g. -p save models/bert-mlm")
        return self

    @model_validator(mode="after")
    def _one_budget(self):
        if self.tokens and self.minutes:
            raise ValueError("minutes: tokens is given too; one budget decides")
        if self.pace and not self.minutes:
            raise ValueError("pace: it turns minutes into steps, and minutes is 0")
        if self.minutes and self.shared and not self.pace:
            raise ValueError("minutes: other jobs share the device, so the pace cannot be measured; give `pace`, or steps")
        if self.shortest and not 4 <= self.shortest <= self.length:
            raise ValueError(f"shortest: {self.shortest} is not 0, nor from 4 to the length, {self.length}")
        if self.adapt == "distill" and self.model == "bert":
            raise ValueError("adapt: 'distill' teaches a student; bert is the teacher itself")
        return self

    @property
    def planned_steps(self) -> int | None:
        """Steps of the adaptation; None where they follow from the minutes."""
        if self.minutes:
            return max(1, round(60 * self.minutes * self.pace)) if self.pace else None
        return max(1, self.tokens // (self.batch_size * self.length)) if self.tokens else self.steps

    @property
    def measured_on_text(self) -> bool:
        """Whether gains, filters and gates are set to sentences of the text rather than of the task."""
        return False

    @property
    def depth(self) -> int:
        """Layers of the student; 0: as many as the teacher has."""
        return 0

    def adaptation(self) -> dict[str, Any]:
        """What decides the result of the adaptation besides teacher, text, model and seed. What is not used is left out,
        so that a new option renames no finished run."""
        names = ["adapt", "groups", "batch_size", "length", "learning_rate", "weight_decay", "warmup", "masking", "precision",
                 "compile"]
        names += ["freeze", "lit_threshold", "lit_patience", "lit_window"] if self.freeze != "none" else []
        names += ["blockwise", "logits_weight"] if self.adapt == "distill" else []
        names += ["task", "sentences"] if self.model != "bert" else []  # they set gains and filters
        names += ["shortest"] if self.shortest else []
        names += ["mixer_rate"] if self.mixer_rate != 1 else []
        budget = {"minutes": self.minutes, "pace": self.pace} if self.minutes else {"steps": self.planned_steps}
        return {**{name: getattr(self, name) for name in names}, **budget}


class AdaptParams(TransferParams):
    """`fnetlib adapt` and adapt_model. Given a text, gains, filters and gates are measured on its own sentences, not on a task's; the
    presets give none, so that their students start as those of the finished runs, and as in 02_transfer."""

    layers: Int = Field(0, ge=0, description="layers of the student, the teacher's first so many; 0: as many as the teacher has")

    @model_validator(mode="after")
    def _states_are_matched_layer_by_layer(self):
        if self.adapt == "distill" and self.layers:
            raise ValueError(f"layers: {self.layers} layers have no counterparts in the teacher's whole stack; with adapt='distill' 0 is accepted")
        return self

    @property
    def measured_on_text(self) -> bool:
        return self.text != "auto" and self.model != "bert"

    @property
    def depth(self) -> int:
        return self.layers

    def adaptation(self) -> dict[str, Any]:
        own = {"layers": self.layers} if self.layers else {}
        return {**{name: value for name, value in super().adaptation().items() if name != "task" or not self.measured_on_text}, **own}


class PlaceParams(Inputs):
    """Where should a hybrid keep its attention? Measured on an adapted student that has none."""

    student: str = Field(description="folder of an adapted student without attention")
    keep: Int = Field(2, ge=1, description="layers that get attention back")
    by: Literal["last", "mean"] = Field("last", description="what decides: the error of the last layer's states, or the mean over all layers")
    task: Task = Field("cola", description="GLUE task whose training sentences are measured on")
    sentences: Int = Field(256, ge=1, description="unlabelled sentences used to measure")
