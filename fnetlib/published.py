"""What the 2023 study published, as data, so that our tables can stand beside it.

bert-base-uncased against the same model with attention replaced by an unnormalised 2-D Fourier transform (our recipe
`fnet-naive`). The numbers are the preset's (`presets/bert-base.yaml`, `expected`): here they are checked and tabulated.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Annotated, Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ParameterError

PRESET = "bert-base"
Positive = Annotated[float, Field(gt=0)]


class _Checked(BaseModel):
    # strict: YAML reads `4.5e14`, without a sign in the exponent, as text
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Run(_Checked):
    """One run of the study; times in seconds."""

    score: float = Field(ge=-1, le=1)
    train_loss: Positive
    eval_loss: Positive
    train_steps_per_s: Positive
    train_runtime_s: Positive
    eval_samples_per_s: Positive
    flops: Positive


class Expected(_Checked):
    """A preset's `expected`. metrics: task -> metric of the scores; tasks: task -> recipe -> its run."""

    source: str
    training: str = Field(description="the sweep that repeats it")
    seed: int
    decimals: int = Field(ge=0, description="with which scores and losses are published")
    metrics: dict[str, str]
    tasks: dict[str, dict[str, Run]] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_cell_is_there(self):
        if set(self.metrics) != set(self.tasks):
            raise ValueError(f"metrics are given for {', '.join(self.metrics)}, runs for {', '.join(self.tasks)}")
        models = {model: None for runs in self.tasks.values() for model in runs}
        for task, runs in self.tasks.items():
            if lacking := [model for model in models if model not in runs]:
                raise ValueError(f"tasks.{task} has no {lacking[0]!r}")
        return self


def parse(values: dict[str, Any]) -> Expected:
    """A preset's `expected`, checked. Raises ParameterError, one line that names every bad number and where it is."""
    try:
        return Expected.model_validate(values)
    except ValidationError as error:
        raise ParameterError("; ".join(map(_line, error.errors()))) from None


def _line(error: dict[str, Any]) -> str:
    where = ".".join(["expected", *map(str, error["loc"])])
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    return f"{where}: {error['input']!r} does not fit: {error['msg'][0].lower()}{error['msg'][1:]}"


@functools.cache
def _preset() -> dict[str, Any]:
    # read as a file: the presets' module may check what it loads with ours
    return yaml.safe_load((resources.files(__package__) / "presets" / f"{PRESET}.yaml").read_text(encoding="utf-8"))


EXPECTED = parse(_preset().get("expected", {}))
SOURCE, TRAINING, SEED = EXPECTED.source, EXPECTED.training, EXPECTED.seed
TEACHER: str = _preset()["teacher"]


def study() -> pd.DataFrame:
    """One row per (task, model): score, speeds, FLOs and final losses (train: the mean over the whole run)."""
    runs = EXPECTED.tasks
    models = next(iter(runs.values()))
    return pd.DataFrame([
        {"task": task, "model": model, "metric": EXPECTED.metrics[task], "digits": EXPECTED.decimals,
         **runs[task][model].model_dump()} for model in models for task in runs])


def study_ratios() -> pd.DataFrame:
    """Per task, `fnet-naive` over `bert`: how many times the steps and samples per second, and the FLOs."""
    columns = ["train_steps_per_s", "eval_samples_per_s", "flops"]
    by_model = study().set_index(["model", "task"])[columns]
    return by_model.loc["fnet-naive"] / by_model.loc["bert"]
