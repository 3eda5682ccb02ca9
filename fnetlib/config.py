"""The student's configuration, and the recipes: named choices of mixers and Fourier options."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import BertConfig

from .errors import ParameterError

MIXER_NAMES = ("fourier", "filter", "gated", "aft", "taylor", "values", "attention", "identity")
FILTERS = ("filter", "gated", "aft", "taylor")  # mixers of `FilterPlan`
OF_VALUES = (*FILTERS, "values")  # mixers of BERT's value projection
FOURIER_NORMS = ("backward", "ortho")
PADDINGS = ("ignore", "mask")
BACKENDS = ("auto", "fft", "matmul", "folded")


@strict
class FNetBertConfig(BertConfig):
    """BERT's configuration with a token mixer per layer.

    mixers: one name a layer, of `fourier`, `filter`, `gated`, `aft`, `taylor`, `values`, `attention`, `identity`; None means
        `fourier` everywhere.
    fourier_norm: `backward` is the plain sum (FNet, section 3.2; the 2023 study), `ortho` divides by sqrt(n·d).
    padding: `ignore` mixes padding like any token; `mask` gives an example of true length L its length-L transform.
    output_projection: keep BERT's output dense layer (and its dropout) after the mixer; FNet has none.
    gain: a learned per-channel factor on the mixer's output; the transfer sets its start, see `transfer.py`.
    backend: `fft`, `matmul` (real DFT matrices), `folded` (the hidden axis' transform within the output projection) or
    `auto`; same numbers, other speed.
    """

    model_type = "fnet_bert"

    mixers: list | tuple | None = None
    fourier_norm: str = "ortho"
    padding: str = "mask"
    output_projection: bool = True
    gain: bool = True
    backend: str = "auto"

    def __post_init__(self, **kwargs):
        if self.mixers is None:
            self.mixers = ["fourier"] * self.num_hidden_layers
        self.mixers = list(self.mixers)
        super().__post_init__(**kwargs)
        for name, allowed in (("fourier_norm", FOURIER_NORMS), ("padding", PADDINGS), ("backend", BACKENDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of: {', '.join(allowed)}")
        for mixer in self.mixers:
            if mixer not in MIXER_NAMES:
                raise ValueError(f"mixers: {mixer!r} is not one of: {', '.join(MIXER_NAMES)}")
        if len(self.mixers) != self.num_hidden_layers:
            raise ValueError(
                f"mixers: {len(self.mixers)} names for {self.num_hidden_layers} layers (num_hidden_layers)")
        if self.backend == "folded" and not self.output_projection:
            raise ValueError("backend: 'folded' needs the output projection; without it one of: auto, fft, matmul")
        if self.is_decoder:
            raise ValueError("is_decoder: Fourier mixing sees the whole sequence; only encoders are supported")


REPAIRED = {"fourier_norm": "ortho", "padding": "mask", "output_projection": True, "gain": True}
NAIVE = {"fourier_norm": "backward", "padding": "ignore", "output_projection": True, "gain": False}

RECIPES: dict[str, dict[str, Any]] = {
    "bert": {"mixer": "attention", "output_projection": True, "gain": False},  # the unchanged baseline
    "fnet-naive": {"mixer": "fourier", **NAIVE},  # what the 2023 study ran
    "fnet-paper": {"mixer": "fourier", **NAIVE, "output_projection": False},  # FNet as published: no projection
    "fnet": {"mixer": "fourier", **REPAIRED},  # the repaired swap
    "bound": {"mixer": "identity", **REPAIRED},  # mixing removed, all else as `fnet`: the speed limit
}
# The repairs that separate `fnet-naive` from `fnet`, and the projection as an axis of its own: name -> (config choice,
# its value with the repair, its value without).
REPAIRS: dict[str, tuple[str, Any, Any]] = {
    "norm": ("fourier_norm", "ortho", "backward"),
    "mask": ("padding", "mask", "ignore"),
    "gain": ("gain", True, False),
    "projection": ("output_projection", True, False),
}
# Other mixers in the place of a recipe's Fourier layers (`fnet+filter`, `hybrid-2+taylor`): name -> config choices.
MIXED_BY: dict[str, dict[str, Any]] = {**{mixer: {"gain": False} for mixer in FILTERS}, "values": {}}  # a filter scales its branch itself
CALIBRATED = "-calibrated"
ACCEPTED = (f"{', '.join(RECIPES)}, hybrid-K (attention in K layers), hybrid-at-I-J-... (in these layers, from 0), any of "
            f"them with a repair added or left out (fnet-naive+norm, fnet-no-mask; {', '.join(REPAIRS)}), with another mixer "
            f"in place of the Fourier transform (fnet+filter, hybrid-2+gated; {', '.join(MIXED_BY)}), or refitted in closed form "
            f"(fnet{CALIBRATED})")
_NAME = re.compile(r"(?P<base>.+?)(?P<added>(?:\+[a-z]+)*)(?P<left_out>(?:-no-[a-z]+)*)(?P<calibrated>-calibrated)?")


def hybrid_layers(kept: int, layers: int) -> list[int]:
    """Layers (from 0) that keep attention in `hybrid-k`: spread evenly, the last always among them."""
    return [(i + 1) * layers // kept - 1 for i in range(kept)]


def recipe(name: str, layers: int) -> dict[str, Any]:
    """Config choices of a recipe for a model of `layers` layers.

    Repairs change single choices: `fnet-naive+norm` adds one, `fnet-no-norm` leaves one out; both can be chained.
    `+filter`, `+gated`, `+aft`, `+taylor` and `+values` put that mixer in the place of the Fourier transform. In a
    `-calibrated` recipe the gain is part of the refitted projection, see `calibrate.py`. Raises ParameterError naming
    the accepted recipes.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ParameterError(f"model: {name!r} is not one of: {ACCEPTED}")
    choices = _base(name, match["base"], layers)
    added, left_out = match["added"].split("+")[1:], match["left_out"].split("-no-")[1:]
    for repair in added + left_out:
        if repair in MIXED_BY and repair in added and "fourier" in choices["mixers"]:
            mixers = [repair if mixer == "fourier" else mixer for mixer in choices["mixers"]]
            choices |= {"mixers": mixers, **MIXED_BY[repair]}
            continue
        if repair not in REPAIRS:
            parts = [*REPAIRS, *(MIXED_BY if repair in added else ())]
            raise ParameterError(f"model: {name!r}: {repair!r} is not one of: {', '.join(parts)}")
        choice, with_it, without = REPAIRS[repair]
        value = with_it if repair in added else without
        if set(choices["mixers"]) == {"attention"} or choices[choice] == value:
            raise ParameterError(f"model: {name!r}: {repair!r} changes nothing in {match['base']!r}")
        choices[choice] = value
    if match["calibrated"]:
        if set(choices["mixers"]) == {"attention"} or not choices["output_projection"]:
            raise ParameterError(f"model: {name!r} has no output projection of a swapped layer to refit")
        choices["gain"] = False
    return choices


def _base(name: str, base: str, layers: int) -> dict[str, Any]:
    if base in RECIPES:
        choices = dict(RECIPES[base])
        return {"mixers": [choices.pop("mixer")] * layers, **choices}
    if match := re.fullmatch(r"hybrid-(\d+)", base):
        count = int(match[1])
        if not 1 <= count <= layers:
            raise ParameterError(f"model: {name!r} keeps {count} of {layers} layers; K is from 1 to {layers}")
        kept = hybrid_layers(count, layers)
    elif match := re.fullmatch(r"hybrid-at((?:-\d+)+)", base):
        kept = [int(i) for i in match[1].split("-")[1:]]
        if len(set(kept)) != len(kept) or max(kept) >= layers:
            raise ParameterError(f"model: {name!r} needs distinct layers from 0 to {layers - 1}")
    else:
        raise ParameterError(f"model: {name!r} is not one of: {ACCEPTED}")
    return {"mixers": ["attention" if i in kept else "fourier" for i in range(layers)], **REPAIRED}


def student_config(teacher: BertConfig, name: str, **overrides: Any) -> FNetBertConfig:
    """The configuration of recipe `name` with the shape of a teacher's; `overrides` set single choices, `num_hidden_layers` the depth."""
    shared = {k: v for k, v in teacher.to_dict().items()
              if k not in ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype")}
    choices = {**recipe(name, overrides.get("num_hidden_layers", teacher.num_hidden_layers)), **overrides}
    return FNetBertConfig(**{**shared, **choices})
