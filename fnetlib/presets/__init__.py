"""Presets: what `make report PRESET=name` runs. Each is a YAML file beside this one, validated here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from ..params import STUDY_MODELS, ParameterError, Params, Task


class Preset(Params):
    """A preset: teacher, data, and the grid of fine-tuning runs."""

    name: str
    title: str = Field(description="one line for the report; says so where data is synthetic")
    teacher: str
    data: str = Field(description="hub, synthetic, a folder, or glue (FNETLIB_GLUE_DIR if set, else the Hub); a preset never falls back to synthetic data")
    models: list[str] = STUDY_MODELS
    sweeps: dict[str, dict[Task, dict[str, Any]]] = Field(
        description="training recipe -> task -> {seeds, models and any other parameter of 03_finetune}")
    transfer: dict[str, Any] = Field({}, description="parameters of 02_transfer")
    build: dict[str, Any] = Field({}, description="parameters of 01_build")
    efficiency: dict[str, Any] = Field({}, description="parameters of 04_efficiency")

    @property
    def results(self) -> str:
        return f"results/{self.name}"

    def inputs(self) -> dict[str, str]:
        return {"teacher": self.teacher, "data": self.data, "results": self.results}

    def finetune(self, training: str, task: str) -> dict[str, Any]:
        """Every parameter of 03_finetune for one task of one sweep; `model` and `seeds` are comma lists."""
        own = dict(self.sweeps[training][task])
        seeds, models = own.pop("seeds"), own.pop("models", self.models)
        return {**self.inputs(), "task": task, "training": training, "model": ",".join(models),
                "seeds": ",".join(str(seed) for seed in seeds), **own}

    def cells(self) -> list[tuple[str, str, str, int]]:
        """Every (training, task, model, seed) of the preset: the sweep's jobs, and the cells 05 expects."""
        return [
            (training, task, model, int(seed))
            for training, tasks in self.sweeps.items() for task in tasks
            for model in self.finetune(training, task)["model"].split(",")
            for seed in self.finetune(training, task)["seeds"].split(",")
        ]


def names() -> list[str]:
    return sorted(f.name.removesuffix(".yaml") for f in resources.files(__name__).iterdir() if f.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """A preset by its name, or by the path of a YAML file of your own.

    Raises ParameterError naming the presets there are.
    """
    own = Path(name)
    if own.suffix in (".yaml", ".yml") and own.is_file():
        return Preset.parse(yaml.safe_load(own.read_text()))
    if name not in names():
        raise ParameterError(f"preset: {name!r} is not one of: {', '.join(names())}, nor a YAML file")
    return Preset.parse(yaml.safe_load((resources.files(__name__) / f"{name}.yaml").read_text()))
