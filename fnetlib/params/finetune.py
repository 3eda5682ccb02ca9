"""Parameters of 03_finetune, and of the values that it may choose from."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .base import TASKS, CommaList, Float, Inputs, Int, Precision, Task, model_names

SINGLE_TEXTS = ("cola", "sst2")  # tasks whose examples are one text

# The 2023 study's training recipe (bert-base-uncased, GLUE).
STUDY = {"epochs": 5, "learning_rate": 2e-5, "batch_size": 16, "weight_decay": 0.01, "warmup": 0.0,
         "accumulate": 1, "max_length": 512, "train_size": 0, "eval_size": 0}
# What the study did without. A run's record has these only where they differ, so that they rename no finished run.
EXTRAS = {"distill_epochs": 0, "distill_pairs": 0.0, "distill_edits": 0.0, "distill_rate": 0.0, "expert_epochs": 0,
          "expert_rate": 0.0, "expert_batch_size": 0, "compile": "no", "pad_to": 1, "group_by_length": False}
GRID = {"learning_rate": float, "epochs": int, "batch_size": int, "weight_decay": float, "warmup": float}


def _compile_mode(value: Any) -> Any:
    """YAML takes `no` for False; and True is what TransferParams calls it."""
    return ("default" if value else "no") if isinstance(value, bool) else value


class FinetuneParams(Inputs):
    """03_finetune: fine-tune recipes on one GLUE task, one record per (task, model, seed)."""

    task: Task = Field("rte", description="GLUE task: " + ", ".join(TASKS))
    model: str = Field("bert,fnet-naive,fnet", description="recipe, comma list of recipes, or all")
    seed: Int = Field(42, ge=0, lt=2**32, description="random seed of initialisation, data order and dropout")
    seeds: CommaList = Field("", description="comma list of seeds; if given, it replaces seed")
    grid: str = Field("", description="values to choose from on the first seed, e.g. learning_rate 3e-5 1e-4, epochs 3 10; "
                                      "the best combination is run on the other seeds")
    epochs: Int = Field(5, ge=1, description="passes over the training set")
    learning_rate: Float = Field(2e-5, gt=0, description="peak learning rate of AdamW, linear decay to 0")
    batch_size: Int = Field(16, ge=1, description="examples a step (times accumulate)")
    weight_decay: Float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    warmup: Float = Field(0.0, ge=0, lt=1, description="share of the steps with rising learning rate")
    accumulate: Int = Field(1, ge=1, description="gradient accumulation steps")
    max_length: Int = Field(512, ge=8, description="tokens an example is cut to")
    precision: Precision = Field("fp32", description="fp32, bf16 or fp16 (the last two by autocast)")
    compile: Annotated[Literal["no", "default", "graphs"], BeforeValidator(_compile_mode)] = Field(
        "no", description="torch.compile of the training steps: no, default, or graphs (as CUDA graphs, on a GPU); pays from "
                          "some hundred steps on, every shape of a batch is compiled anew: give pad_to")
    pad_to: Int = Field(1, ge=1, description="batches are padded to a multiple of so many tokens")
    group_by_length: bool = Field(False, description="True: training batches of examples of similar length")
    train_size: Int = Field(0, ge=0, description="use only this many training examples, 0 for all")
    eval_size: Int = Field(0, ge=0, description="use only this many validation examples, 0 for all")
    student: CommaList = Field("", description="folder of an adapted model (02_transfer) to start from, or a comma list with "
                                               "one for each recipe; empty: the swap as it is")
    distill_epochs: Int = Field(0, ge=0, description="task distillation: epochs on the states of the fine-tuned teacher, "
                                                     "before the epochs, then on its predictions; 0: none")
    distill_pairs: Float = Field(0.0, ge=0, le=1, description="task distillation of a task of pairs: share of the pairs that get "
                                                              "another example's second text; the fine-tuned teacher judges them")
    distill_edits: Float = Field(0.0, ge=0, le=1, description="task distillation: share of the examples that have one to three words "
                                                              "dropped, exchanged or replaced; the fine-tuned teacher judges them")
    distill_rate: Float = Field(0.0, ge=0, description="task distillation: peak learning rate of the epochs on states; 0: learning_rate")
    expert_epochs: Int = Field(0, ge=0, description="task distillation: epochs of the teacher's own fine-tuning; 0: epochs")
    expert_rate: Float = Field(0.0, ge=0, description="task distillation: peak learning rate of the teacher's own fine-tuning, which has all else of the run; 0: learning_rate")
    expert_batch_size: Int = Field(0, ge=0, description="task distillation: examples a step of the teacher's own fine-tuning; 0: batch_size")
    training: str = Field("auto", pattern=r"^[a-z0-9_]+$",
                          description="name of the training recipe in tables; auto means study if the values are the "
                                      "study's, else custom")
    padded_to: CommaList = Field("16,32,64,128", description="after training, score again with every example padded to at "
                                                             "least so many tokens, comma list; empty: not done")
    checkpoint_minutes: Float = Field(10.0, ge=0, description="minutes between checkpoints that a killed run "
                                                              "resumes from")
    shared: bool = Field(False, description="True: other jobs share the device, so its speed is not a measurement")
    force: bool = Field(False, description="True: run again and replace the record that exists")

    @field_validator("model")
    @classmethod
    def _models(cls, value: str) -> str:
        return ",".join(model_names(value))

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: str) -> str:
        if value and not all(part.strip().isdigit() for part in value.split(",")):
            raise ValueError(f"seeds: {value!r} is not a comma list of whole numbers, e.g. 1,2,3")
        return ",".join(dict.fromkeys(value.replace(" ", "").split(",")))

    @field_validator("padded_to")
    @classmethod
    def _padded_to(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not all(part.isdigit() and int(part) for part in parts):
            raise ValueError(f"padded_to: {value!r} is not a comma list of whole numbers, e.g. 16,128")
        return ",".join(dict.fromkeys(parts))

    @field_validator("grid")
    @classmethod
    def _grid(cls, value: str) -> str:
        parse_grid(value)
        return value

    @model_validator(mode="after")
    def _grid_needs_seeds(self):
        if self.grid and len(self.all_seeds) < 2:
            raise ValueError("grid: two seeds are needed, one to choose on and one to run; e.g. seeds 1,2,3")
        for point in self.grid_points():
            type(self).parse({**self.model_dump(), **point, "grid": "", "training": self.grid_name})
        return self

    @model_validator(mode="after")
    def _study_is_the_study(self):
        if self.training == "study" and self.recipe_name != "study":
            wrong = [f"{k}={getattr(self, k)} (the study: {v})" for k, v in {**STUDY, **EXTRAS}.items()
                     if getattr(self, k) != v]
            raise ValueError(f"training: 'study' is the 2023 study's recipe, but {', '.join(wrong)}")
        return self

    @model_validator(mode="after")
    def _graphs_keep_no_gradients(self):
        if self.compile == "graphs" and self.accumulate > 1:
            raise ValueError(f"compile: 'graphs' overwrites the gradients that accumulate={self.accumulate} adds up; one of: "
                             "no, default")
        return self

    @model_validator(mode="after")
    def _new_examples_need_a_judge(self):
        if self.distill_pairs and not self.distill_epochs:
            raise ValueError("distill_pairs: new pairs have no labels; distill_epochs of 1 or more lets the fine-tuned teacher judge them")
        if self.distill_edits and not self.distill_epochs:
            raise ValueError("distill_edits: edited texts have no labels; distill_epochs of 1 or more lets the fine-tuned teacher judge them")
        if wrong := [name for name in ("distill_rate", "expert_epochs", "expert_rate", "expert_batch_size") if getattr(self, name) and not self.distill_epochs]:
            raise ValueError(f"{wrong[0]}: nothing is distilled; give distill_epochs of 1 or more too")
        if self.distill_pairs and self.task in SINGLE_TEXTS:
            raise ValueError(f"distill_pairs: {self.task!r} has no pairs; without them one of: {', '.join(SINGLE_TEXTS)}")
        return self

    @property
    def models(self) -> list[str]:
        return self.model.split(",")

    @property
    def students(self) -> list[str]:
        return [folder.strip() for folder in self.student.split(",") if folder.strip()]

    @property
    def all_seeds(self) -> list[int]:
        return [int(s) for s in self.seeds.split(",")] if self.seeds else [self.seed]

    def grid_points(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values; empty without a grid."""
        values = parse_grid(self.grid)
        return [dict(zip(values, point)) for point in itertools.product(*values.values())] if values else []

    @property
    def grid_name(self) -> str:
        """The training recipe's name of the grid's own runs: they choose, and are not reported as its result."""
        return f"{'tuned' if self.training == 'auto' else self.training}_grid"

    @property
    def recipe_name(self) -> str:
        """Name of the training recipe, resolved."""
        if self.grid:
            return "tuned" if self.training == "auto" else self.training
        if self.distill_epochs:
            return "distilled" if self.training in ("auto", "study") else self.training
        if all(getattr(self, name) == value for name, value in {**STUDY, **EXTRAS}.items()):
            return "study" if self.training == "auto" else self.training
        return "custom" if self.training in ("auto", "study") else self.training

    def decisive(self) -> dict[str, Any]:
        """What decides a run's result besides task, model, seed, data and teacher: goes into the run_id."""
        names = [*STUDY, "precision", *(name for name, value in EXTRAS.items() if getattr(self, name) != value)]
        return {name: getattr(self, name) for name in names}


def parse_grid(text: str) -> dict[str, list[float | int]]:
    """`learning_rate 3e-5 1e-4, epochs 3 10` -> {"learning_rate": [3e-5, 1e-4], "epochs": [3, 10]}.

    Raises ValueError naming what is accepted.
    """
    found: dict[str, list[float | int]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, *values = part.split()
        if name not in GRID:
            raise ValueError(f"grid: {name!r} is not one of: {', '.join(GRID)}")
        try:
            found[name] = [GRID[name](value) for value in dict.fromkeys(values)]
        except ValueError:
            raise ValueError(f"grid: {part!r} is not a name and its values, e.g. learning_rate 3e-5 1e-4") from None
        if not values:
            raise ValueError(f"grid: {name} has no values")
    return found
