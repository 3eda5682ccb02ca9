"""One model of an efficiency block: how it is built, what a training step and an inference step of it are.

Eager, compiled whole, or layer by layer (modes `lean` and `leaner`: with fewer activations kept, see params.LEAN); in mode `graphs` each compiled layer's kernels are recorded as a CUDA graph,
forward and backward, and launched at once, so that little time goes into launches.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedConfig

from . import breakdown
from .compiling import OPTIONS
from .modeling import FNetBertForSequenceClassification
from .params import LEAN, PADDED
from .peers import PEERS, peer_model

KINDS = ("infer", "train")  # inference first: its memory must not hold the optimiser's state


class Setting(NamedTuple):
    """What a block's models have in common."""

    length: int
    batch: int
    precision: str
    mode: str
    device: str


def real_tokens(batch: int, n: int) -> torch.Tensor:
    """Mask of a padded batch, `[batch, n]` bool: true lengths evenly from n/2 to n, the last one n."""
    lengths = (n // 2 + torch.arange(1, batch + 1) * (n - n // 2) // batch).clamp(min=1)
    return torch.arange(n) < lengths[:, None]


def layers_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The blocks of an encoder: its longest list of modules. They share their code, so one compilation serves all."""
    return max((module for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len)


class Contender:
    """One model of a block: its two steps, what they took, and the error that stopped it."""

    def __init__(self, name: str, config: PreTrainedConfig, setting: Setting, seed: int):
        self.name, self.config, self.setting, self.seed = name, config, setting, seed
        self.base, self.padded = name.removesuffix(PADDED), name.endswith(PADDED)
        self.times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.launched: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.peaks: dict[str, int | None] = {kind: None for kind in KINDS}
        self.kernels: dict[str, list[str]] = {}
        self.parts: dict[str, float] = {}
        self.parameters: int | None = None
        self.drop()

    def build(self) -> None:
        """Random weights, random token ids: `[batch, length]`."""
        s = self.setting
        torch.manual_seed(self.seed)
        with torch.device(s.device):  # a hundred million random numbers are a GPU's work
            self.model = (peer_model if self.base in PEERS else FNetBertForSequenceClassification)(self.config)
        self.parameters = self.model.num_parameters()
        self.call = torch.compile(self.model, dynamic=False) if s.mode == "compiled" else self.model
        if s.mode in ("layers", *OPTIONS, *LEAN):
            for layer in layers_of(self.model):
                layer.compile(fullgraph=self.base not in PEERS, dynamic=False, options=OPTIONS.get(s.mode))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.scaler = torch.amp.GradScaler(s.device, enabled=s.precision == "fp16")
        self.batch = {"input_ids": torch.randint(0, self.config.vocab_size, (s.batch, s.length)).to(s.device),
                      "labels": torch.randint(0, 2, (s.batch,)).to(s.device)}
        if self.padded:
            self.batch["attention_mask"] = real_tokens(s.batch, s.length).long().to(s.device)

    def prepare(self, kind: str) -> None:
        self.model.train(kind == "train")

    def step(self, kind: str) -> None:
        """One training step, or one forward pass."""
        if self.setting.mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the step before have left may be overwritten
        if kind == "infer":
            with torch.inference_mode(), autocast(self.setting):
                self.call(**{name: values for name, values in self.batch.items() if name != "labels"})
        else:
            with autocast(self.setting):
                loss = self.call(**self.batch).loss
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)

    def take_apart(self) -> None:
        """Where the time of a training step goes; a compiled step cannot be told apart."""
        if self.error is None and self.setting.mode == "eager":
            with contextlib.suppress(RuntimeError):  # no profiler, no parts; the times stand
                found = breakdown.parts(self.model, lambda: self.step("train"), self.setting.device)
                self.parts = breakdown.with_gaps(found, float(np.median(self.times["train"])), self.setting.device == "cuda")

    def drop(self, error: str | None = None) -> None:
        """Hold no model; with an error, it has failed."""
        self.error = error
        self.model = self.call = self.optimizer = self.scaler = self.batch = None


def autocast(setting: Setting):
    half = torch.float16 if setting.precision == "fp16" else torch.bfloat16
    return torch.autocast(setting.device, dtype=half, enabled=setting.precision in ("bf16", "fp16"))


def attention_kernels(contender: Contender, kind: str) -> list[str]:
    """What the profiler sees attention run: `aten::_scaled_dot_product_flash_attention` or its like."""
    seen: list[str] = []
    with contextlib.suppress(RuntimeError):  # no profiler, no note; a step that cannot run fails where it is timed
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            contender.step(kind)
        seen = [event.key for event in profile.key_averages()]
    return sorted(key for key in seen if key.startswith("aten::_scaled_dot_product") and not key.endswith("backward"))
