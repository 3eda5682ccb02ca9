"""Parameters of the notebooks and of the command line: one definition, validated before anything is computed.

Each class lists what a notebook takes (`papermill … -p name value`); a test holds the notebooks' parameters cells
to these names and defaults. A bad value raises ParameterError, one line that names what is accepted.
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from .config import ACCEPTED, recipe
from .errors import ParameterError

Task = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
TASKS: tuple[str, ...] = get_args(Task)
SINGLE_TEXTS = ("cola", "sst2")  # tasks whose examples are one text
Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # of the efficiency study; tf32 is fp32 with TF32 matrix products
LEAN = {"lean": 0.5, "leaner": 0.25}  # modes of the efficiency study: share of the activations' memory that backward may keep
MODES = ("eager", "compiled", "layers", "graphs", "autotuned", *LEAN)
SHAPES = {"bert-base": (12, 768, 12), "minilm": (6, 384, 12), "tiny": (2, 64, 1)}  # layers, width, heads
PADDED = ":padded"  # of a model in the efficiency study: sequences of n/2 to n tokens, with a mask
PEER_NAMES = ("bert-eager", "hf-fnet", "modernbert", "longformer", "bigbird", "nystromformer")  # of the efficiency study
STUDY_MODELS = ["bert", "fnet-naive", "fnet-paper", "fnet", "hybrid-2"]  # what `model=all` means

# The 2023 study's training recipe (bert-base-uncased, GLUE).
STUDY = {"epochs": 5, "learning_rate": 2e-5, "batch_size": 16, "weight_decay": 0.01, "warmup": 0.0,
         "accumulate": 1, "max_length": 512, "train_size": 0, "eval_size": 0}
# What the study did without. A run's record has these only where they differ, so that they rename no finished run.
EXTRAS = {"distill_epochs": 0, "distill_pairs": 0.0, "distill_edits": 0.0, "distill_rate": 0.0, "expert_epochs": 0,
          "compile": "no", "pad_to": 1, "group_by_length": False}


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is expected, not True or False")
    return value


def _comma_list(value: Any) -> Any:
    """papermill's -p gives `1,2` as a string and `1` as an int; a YAML list is welcome too."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(v) for v in value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _compile_mode(value: Any) -> Any:
    """YAML takes `no` for False; and True is what TransferParams calls it."""
    return ("default" if value else "no") if isinstance(value, bool) else value


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
CommaList = Annotated[str, BeforeValidator(_comma_list)]


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any]):
        """Validate; raises ParameterError with every problem in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [_line(e, cls) for e in error.errors()]
            raise ParameterError("; ".join(dict.fromkeys(problems))) from None


def _line(error: dict[str, Any], cls: type[Params]) -> str:
    name = str(error["loc"][-1]) if error["loc"] else "parameters"
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {name!r}; accepted: {', '.join(cls.model_fields)}"
    if error["type"] == "literal_error":
        return f"{name}: {error['input']!r} is not one of: {error['ctx']['expected'].replace(chr(39), '')}"
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return text if text.startswith(f"{name}:") or name == "parameters" else f"{name}: {text}"
    return f"{name}: {error['input']!r} does not fit: {error['msg'][0].lower()}{error['msg'][1:]}"


def model_names(text: str, several: bool = True) -> list[str]:
    """`all`, one recipe or a comma list -> recipe names; raises ValueError naming the accepted ones."""
    names = STUDY_MODELS if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError("model: no recipe named")
    for name in names:
        try:
            recipe(name, 99)  # the names only; whether K layers fit is checked against the teacher
        except ValueError as error:
            raise ValueError(f"{error}, or all" if several and str(error).endswith(ACCEPTED) else str(error)) from None
    return list(dict.fromkeys(names))


def one_model(text: str) -> str:
    names = model_names(text, several=False)
    if len(names) != 1:
        raise ValueError(f"model: one recipe is expected, not {text!r}")
    return names[0]


OneModel = Annotated[str, AfterValidator(one_model)]


class Inputs(Params):
    """Where teacher, data and results are."""

    teacher: str = Field("auto", description="auto, a Hub name, a folder, or minilm; auto means bert-base-uncased from "
                                             "the Hub if it answers, else minilm")
    data: str = Field("auto", description="auto, hub, synthetic, or a folder of <task>/<split>.parquet; auto means "
                                          "FNETLIB_GLUE_DIR if set, else the Hub if it answers, else synthetic")
    results: str = Field("auto", description="folder for records; auto means results/local-glue or "
                                             "results/local-synthetic")


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
        if wrong := [name for name in ("distill_rate", "expert_epochs") if getattr(self, name) and not self.distill_epochs]:
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


GRID = {"learning_rate": float, "epochs": int, "batch_size": int, "weight_decay": float, "warmup": float}


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


class AnalysisParams(Params):
    """05_analysis: every table and plot of the report, from records only."""

    preset: str = Field("minilm", description="preset whose results are shown: quick, minilm or bert-base")
    results: str = Field("auto", description="folder with runs/; auto means results/<preset>")


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
