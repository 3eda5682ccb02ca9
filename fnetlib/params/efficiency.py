"""Parameters of 04_efficiency: models, shapes, modes and precisions that are measured side by side."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ..config import recipe
from .base import CommaList, Int, Params, model_names

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # tf32 is fp32 with TF32 matrix products
LEAN = {"lean": 0.5, "leaner": 0.25}  # modes: share of the activations' memory that backward may keep
MODES = ("eager", "compiled", "layers", "graphs", "autotuned", *LEAN)
SHAPES = {"bert-base": (12, 768, 12), "minilm": (6, 384, 12), "tiny": (2, 64, 1)}  # layers, width, heads
PADDED = ":padded"  # of a model: sequences of n/2 to n tokens, with a mask
PEER_NAMES = ("bert-eager", "hf-fnet", "modernbert", "longformer", "bigbird", "nystromformer")


class EfficiencyParams(Params):
    """04_efficiency: time, memory and FLOPs of the recipes side by side, on random weights and random tokens."""

    results: str = Field("auto", description="folder for records; auto means results/local-efficiency")
    models: str = Field("bert,fnet-naive,fnet,hybrid-2,bound",
                        description="recipes and peers, comma list or all; fnet:padded is fnet on n/2 to n tokens with a mask")
    shape: str = Field("bert-base", description="bert-base (12x768), minilm (6x384), tiny (2x64) or layers x width, "
                                                "e.g. 4x256")
    lengths: CommaList = Field("128,512", description="sequence lengths, comma list")
    tokens: Int = Field(4096, ge=1, description="tokens a step; the batch is tokens / length, at least 1")
    precisions: str = Field("fp32", description="comma list of fp32, tf32, bf16, fp16")
    modes: str = Field("eager", description="comma list of eager, compiled, layers (each layer compiled by itself, one "
                                                "compilation for all of them), graphs (layers, each launched as one CUDA graph), "
                                                "autotuned (layers, the compiler's kernels chosen by timing them), lean, "
                                                "leaner (layers that keep half, a quarter of the activations' memory and compute the rest again)")
    backend: Literal["auto", "fft", "matmul", "folded"] = Field("auto", description="Fourier layers by fft, by matmul, folded, or auto")
    repeats: Int = Field(10, ge=3, description="measured steps of each model, interleaved")
    warmup: Int = Field(3, ge=1, description="rounds before measuring")
    device: str = Field("auto", min_length=1, description="auto, cpu or cuda; or a device's name, e.g. NVIDIA H200: its records are "
                                                          "shown, nothing is measured")
    seed: Int = Field(0, ge=0, description="seed of weights and inputs")
    mixing: bool = Field(True, description="True: measure the mixing alone too, every way to compute it")
    fit_gb: CommaList = Field("", description="memory sizes in GB, comma list, e.g. 16,140: the longest sequence that fits each is "
                                              "looked for on a GPU; empty: not done")
    onnx: bool = Field(False, description="True: measure inference in onnxruntime on the CPU too (extra onnx)")
    force: bool = Field(False, description="True: measure again and replace the records that exist")

    @field_validator("fit_gb")
    @classmethod
    def _fit_gb(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not all(part.isdigit() and int(part) > 1 for part in parts):
            raise ValueError(f"fit_gb: {value!r} is not a comma list of whole numbers from 2, e.g. 16,140")
        return ",".join(dict.fromkeys(parts))

    @field_validator("models")
    @classmethod
    def _models(cls, value: str) -> str:
        asked = [name.strip() for name in value.split(",") if name.strip()]
        plain = [name.removesuffix(PADDED) for name in asked]
        try:
            recipes = model_names(",".join(name for name in plain if name not in PEER_NAMES) or ("bert" if asked else ""))
        except ValueError as error:
            raise ValueError(f"{str(error).replace('model:', 'models:', 1)}; or a peer: {', '.join(PEER_NAMES)}") from None
        if asked == ["all"]:
            return ",".join([*recipes, "bound"])
        return ",".join(dict.fromkeys(asked))

    @field_validator("shape")
    @classmethod
    def _shape(cls, value: str) -> str:
        parse_shape(value)
        return value

    @field_validator("lengths")
    @classmethod
    def _lengths(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts or not all(part.isdigit() and int(part) >= 2 for part in parts):
            raise ValueError(f"lengths: {value!r} is not a comma list of whole numbers from 2, e.g. 128,512")
        return ",".join(dict.fromkeys(str(int(part)) for part in parts))

    @field_validator("precisions")
    @classmethod
    def _precisions(cls, value: str) -> str:
        return _choices("precisions", value, PRECISIONS)

    @field_validator("modes")
    @classmethod
    def _modes(cls, value: str) -> str:
        return _choices("modes", value, MODES)

    @model_validator(mode="after")
    def _models_fit_the_shape(self):
        for name in (name.removesuffix(PADDED) for name in self.all_models):
            try:
                choices = {} if name in PEER_NAMES else recipe(name, parse_shape(self.shape)[0])
            except ValueError as error:
                raise ValueError(f"models: {str(error).removeprefix('model: ')} (shape {self.shape})") from None
            if self.backend == "folded" and not choices.get("output_projection", True):
                raise ValueError(f"backend: 'folded' needs an output projection, and {name!r} has none")
        return self

    @property
    def all_models(self) -> list[str]:
        return self.models.split(",")

    @property
    def memory_sizes(self) -> list[int]:
        return [int(size) for size in self.fit_gb.split(",") if size]

    def blocks(self) -> list[tuple[int, str, str]]:
        """(length, precision, mode): what is measured together, all models interleaved."""
        return [(int(length), precision, mode) for length in self.lengths.split(",")
                for precision in self.precisions.split(",") for mode in self.modes.split(",")]


def parse_shape(text: str) -> tuple[int, int, int]:
    """Layers, width and attention heads of a named shape or of `4x256`; raises ValueError naming the accepted."""
    if text in SHAPES:
        return SHAPES[text]
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or int(match[1]) < 1 or int(match[2]) < 64 or int(match[2]) % 64:
        raise ValueError(f"shape: {text!r} is not one of: {', '.join(SHAPES)}, or layers x width with a width that is "
                         "a multiple of 64, e.g. 4x256")
    return int(match[1]), int(match[2]), int(match[2]) // 64


def _choices(name: str, text: str, allowed: tuple[str, ...]) -> str:
    """A comma list of `allowed` words, without spaces and repetitions."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words or [text]:
        if word not in allowed:
            raise ValueError(f"{name}: {word!r} is not one of: {', '.join(allowed)}")
    return ",".join(dict.fromkeys(words))
