"""What all parameters share: validation, the types of fields, models by their names, and where inputs are."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..config import ACCEPTED, recipe
from ..errors import ParameterError

Task = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
TASKS: tuple[str, ...] = get_args(Task)
Precision = Literal["fp32", "bf16", "fp16"]
STUDY_MODELS = ["bert", "fnet-naive", "fnet-paper", "fnet", "hybrid-2"]  # what `model=all` means


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is expected, not True or False")
    return value


def _comma_list(value: Any) -> Any:
    """papermill's -p gives `1,2` as a string and `1` as an int; a YAML list is welcome too."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(v) for v in value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


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
            problems = [problem_line(e, cls) for e in error.errors()]
            raise ParameterError("; ".join(dict.fromkeys(problems))) from None


def problem_line(error: dict[str, Any], cls: type[Params]) -> str:
    """One of pydantic's errors in one line that names the value and what is accepted."""
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
