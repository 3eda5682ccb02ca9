"""Parameters of the notebooks and of the command line: one definition, validated before anything is computed.

Each class lists what a notebook takes (`papermill … -p name value`); a test holds the notebooks' parameters cells
to these names and defaults. A bad value raises ParameterError, one line that names what is accepted.
"""

from __future__ import annotations

from pydantic import Field

from ..errors import ParameterError
from .base import STUDY_MODELS, TASKS, CommaList, Inputs, Params, Precision, Task, model_names, one_model, problem_line
from .efficiency import LEAN, MODES, PADDED, PEER_NAMES, PRECISIONS, SHAPES, EfficiencyParams, parse_shape
from .finetune import EXTRAS, GRID, SINGLE_TEXTS, STUDY, FinetuneParams, parse_grid
from .transfer import AdaptParams, BuildParams, PlaceParams, TransferParams

__all__ = [
    "EXTRAS", "GRID", "LEAN", "MODES", "PADDED", "PEER_NAMES", "PRECISIONS", "SHAPES", "SINGLE_TEXTS", "STUDY", "STUDY_MODELS", "TASKS",
    "AdaptParams", "AnalysisParams", "BuildParams", "CommaList", "EfficiencyParams", "FinetuneParams", "Inputs", "ParameterError", "Params",
    "PlaceParams", "Precision", "Task", "TransferParams", "model_names", "one_model", "parse_grid", "parse_shape", "problem_line",
]


class AnalysisParams(Params):
    """05_analysis: every table and plot of the report, from records only."""

    preset: str = Field("minilm", description="preset whose results are shown: quick, minilm or bert-base")
    results: str = Field("auto", description="folder with runs/; auto means results/<preset>")
