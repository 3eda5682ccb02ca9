"""What of a preset its records answer, and what is left to run.

A record answers what has its parameters, and the weights that it started from: of a teacher that has been trained again
since, under the same name, other records answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .params import EXTRAS, GRID, AdaptParams, FinetuneParams
from .presets import Cell, Preset
from .records import Record


def lacking_cells(preset: Preset, finetuned: Iterable[Record], adapted: Iterable[Record]) -> list[Cell]:
    """The cells of the preset that no fine-tuning record answers; a failed run is a record too. Each answers one cell.

    The best point of a grid is answered by a run at any point.
    """
    adapted = list(adapted)
    found: dict[tuple, list[Record]] = {}
    for r in current(finetuned, adapted):
        found.setdefault((r.training, r.teacher.name, r.task, r.model, r.seed), []).append(r)
    students = {name: {r.run_id for r in records} for name, records in _students(preset, adapted).items()} | {"": {None}}
    lacking = []
    for cell in preset.cells():
        runs = found.get((cell.training, cell.teacher, cell.task, cell.model, cell.seed), [])
        wanted = _wanted(preset, cell)
        match = next((i for i, r in enumerate(runs) if (r.adapted.run_id if r.adapted else None) in students[cell.student]
                      and all(r.params.get(name, EXTRAS.get(name)) == value for name, value in wanted.items())), None)
        if match is None:
            lacking.append(cell)
        else:
            runs.pop(match)
    return lacking


def lacking_students(preset: Preset, adapted: Iterable[Record]) -> list[str]:
    """Names of the preset's students that no record of continued training answers."""
    return [name for name, records in _students(preset, list(adapted)).items() if not records]


def current(records: Iterable[Record], adapted: Iterable[Record]) -> list[Record]:
    """Those whose teacher is not one that was trained again since: `adapted` tells the weights of those trained here."""
    weights = {_name(r): r.transfer["result"]["fingerprint"] for r in sorted(adapted, key=lambda r: r.ended)
               if r.model == "bert" and _name(r)}
    return [r for r in records if r.teacher is None or weights.get(r.teacher.name, r.teacher.fingerprint) == r.teacher.fingerprint]


def _students(preset: Preset, adapted: list[Record]) -> dict[str, list[Record]]:
    """The records of each of the preset's students: by teacher, model, seed and parameters."""
    plans = {name: AdaptParams.parse(values) for name, values in preset.adaptations().items()}
    known = current(adapted, adapted)
    return {name: [r for r in known if r.model == plan.model and r.seed == plan.seed and r.params == plan.adaptation()
                   and r.teacher.name == Path(plan.teacher).name] for name, plan in plans.items()}


def _wanted(preset: Preset, cell: Cell) -> dict[str, Any]:
    """What a record's parameters must be for it to answer a cell."""
    own = {**preset.finetune(cell.sweep, cell.task), **cell.options}
    params = FinetuneParams.parse({**own, "model": cell.model, "seeds": own["seeds"] if own.get("grid") else cell.seed})
    decisive = {**{name: getattr(params, name) for name in EXTRAS}, **params.decisive()}
    return {name: value for name, value in decisive.items() if not (params.grid and name in GRID)}


def _name(record: Record) -> str:
    return ((record.transfer or {}).get("result") or {}).get("name", "")
