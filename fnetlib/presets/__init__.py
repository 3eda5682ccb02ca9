"""Presets: what `make report PRESET=name` runs. Each is a YAML file beside this one, validated here."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from ..params import STUDY_MODELS, AdaptParams, FinetuneParams, ParameterError, Params, Task


@dataclass(frozen=True)
class Cell:
    """One run of a sweep, and one job of the graph.

    options: the parameters of 03_finetune that differ from the sweep's. needs: names of the cells that must be done
    before (a grid's points). student: the preset's student that it starts from. solo: nothing else may run meanwhile, since
    it measures speed.
    """

    sweep: str
    training: str
    teacher: str
    task: str
    model: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    needs: tuple[str, ...] = ()
    student: str = ""
    solo: bool = False

    @property
    def name(self) -> str:
        point = "".join(f"-{name}-{value:g}" for name, value in self.options.items() if not isinstance(value, str))
        return f"{self.sweep}-{self.task}-{self.model}-{self.seed}{point}"


class Target(Params):
    """A figure of summary.json that was aimed for: names from the top, separated by slashes."""

    what: str
    at: str = Field(description="where the figure is, e.g. quality/qnli/fnet@2min/recovery")
    within: float | None = Field(None, description="minutes of adaptation: the best of `at`'s model, e.g. quality/qnli/fnet/recovery, with at most "
                                                   "so many")
    least: float | None = None
    most: float | None = None
    aim: float | None = Field(None, description="further than `least`, where the plan names one: met or missed goes by `least`")
    limit: str = Field("", description="where the same figure is of a model that does not mix at all; empty: there is none")


class Preset(Params):
    """A preset: teacher, data, and the grid of fine-tuning runs."""

    name: str
    title: str = Field(description="one line for the report; says so where data is synthetic")
    teacher: str
    data: str = Field(description="hub, synthetic, a folder, or glue (FNETLIB_GLUE_DIR if set, else the Hub); a preset never falls back to synthetic data")
    models: list[str] = STUDY_MODELS
    sweeps: dict[str, dict[Task, dict[str, Any]]] = Field(
        description="sweep -> task -> {seeds, models or students, solo and any parameter of 03_finetune}; a sweep's name is the name "
                    "of its training recipe unless it gives `training`")
    teachers: dict[str, dict[str, Any]] = Field(
        {}, description="teachers that the preset trains itself: name -> parameters of 02_transfer")
    students: dict[str, dict[str, Any]] = Field(
        {}, description="students that are trained on with text: name -> {solo and parameters of 02_transfer}; a list of "
                        "values is one student for each, every combination, named after them")
    expected: dict[str, Any] = Field({}, description="what a published study found with this preset's recipe")
    targets: list[Target] = Field([], description="what was aimed for: figures of summary.json with bounds")
    transfer: dict[str, Any] = Field({}, description="parameters of 02_transfer")
    build: dict[str, Any] = Field({}, description="parameters of 01_build")
    efficiency: dict[str, Any] = Field({}, description="parameters of 04_efficiency")

    @model_validator(mode="after")
    def _sweeps_are_runnable(self):
        for sweep, tasks in self.sweeps.items():
            for task, own in tasks.items():
                if not own.get("seeds"):
                    raise ValueError(f"sweeps: {sweep}/{task} names no seeds")
        for name, values in self.adaptations().items():
            AdaptParams.parse(values)
        for sweep, tasks in self.sweeps.items():
            for task, own in tasks.items():
                if unknown := [name for name in own.get("students", []) if name not in self.adaptations()]:
                    raise ValueError(f"sweeps: {sweep}/{task}: student {unknown[0]!r} is not one of: "
                                     f"{', '.join(self.adaptations()) or 'none'}")
                models = [self.adaptations()[name]["model"] for name in own.get("students", [])]
                if twice := [name for name, model in zip(own.get("students", []), models) if models.count(model) > 1]:
                    raise ValueError(f"sweeps: {sweep}/{task}: students {' and '.join(twice)} are one model; give each a sweep of its own, with "
                                     "the same `training`")
        return self

    @property
    def results(self) -> str:
        return f"results/{self.name}"

    def inputs(self) -> dict[str, str]:
        return {"teacher": self.teacher, "data": self.data, "results": self.results}

    def teacher_folder(self, name: str) -> str:
        """Where a teacher that the preset trains is kept."""
        return f"{self.results}/teachers/{name}"

    def student_folder(self, name: str) -> str:
        """Where a student that the preset trains on is kept."""
        return f"{self.results}/students/{name}"

    def adaptations(self) -> dict[str, dict[str, Any]]:
        """Every student's parameters of 02_transfer, by the student's name."""
        found = {}
        for name, own in self.students.items():
            own = {key: value for key, value in own.items() if key != "solo"}
            several = {key: value for key, value in own.items() if isinstance(value, list)}
            for point in itertools.product(*several.values()):
                full = "-".join([name, *(value if isinstance(value, str) else f"{value:g}" for value in point)])
                values = {**self.inputs(), **own, **dict(zip(several, point)), "save": self.student_folder(full)}
                found[full] = {**values, "teacher": self._teacher(values["teacher"])}
        return found

    def is_solo(self, student: str) -> bool:
        """Whether a student's training measures its pace: nothing else may run meanwhile."""
        return any(own.get("solo") for name, own in self.students.items() if student == name or student.startswith(f"{name}-"))

    def _teacher(self, name: str) -> str:
        return self.teacher_folder(name) if name in self.teachers else name

    def finetune(self, sweep: str, task: str) -> dict[str, Any]:
        """Every parameter of 03_finetune for one task of one sweep; `model` and `seeds` are comma lists."""
        own = {"training": sweep, **self.sweeps[sweep][task]}
        seeds, models = own.pop("seeds"), own.pop("models", self.models)
        own.pop("solo", None)
        if "teacher" in own:
            own["teacher"] = self._teacher(own["teacher"])
        if names := own.pop("students", []):  # each is one model of the sweep
            adaptations = self.adaptations()
            own["student"] = ",".join(self.student_folder(name) for name in names)
            models = [adaptations[name]["model"] for name in names]
        return {**self.inputs(), "task": task, "model": ",".join(models),
                "seeds": ",".join(str(seed) for seed in seeds), **own}

    def cells(self) -> list[Cell]:
        """Every run of the preset: the graph's jobs, and what 05 expects."""
        return [cell for sweep, tasks in self.sweeps.items() for task in tasks for cell in self._cells(sweep, task)]

    def _cells(self, sweep: str, task: str) -> list[Cell]:
        params = FinetuneParams.parse(self.finetune(sweep, task))
        common = {"sweep": sweep, "teacher": Path(params.teacher).name, "task": task,
                  "solo": bool(self.sweeps[sweep][task].get("solo"))}
        points, tries, seeds = params.grid_points(), {}, params.all_seeds
        students = dict(zip(params.models, self.sweeps[sweep][task].get("students", [])))

        def cell(model: str, seed: int, options: dict[str, Any], **own: Any) -> Cell:
            start = {"student": self.student_folder(students[model])} if model in students else {}
            return Cell(**common, model=model, seed=seed, options={**options, **start}, student=students.get(model, ""), **own)

        if points:  # tried on the first seed, chosen, run on the others
            tries = {model: [cell(model, seeds[0], {**point, "grid": "", "training": params.grid_name},
                                  training=params.grid_name) for point in points]
                     for model in params.models}
            seeds = seeds[1:]
        runs = [cell(model, seed, {"seeds": f"{params.all_seeds[0]},{seed}"} if points else {},
                     training=params.recipe_name, needs=tuple(tried.name for tried in tries.get(model, [])))
                for model in params.models for seed in seeds]
        return [tried for cells in tries.values() for tried in cells] + runs


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
