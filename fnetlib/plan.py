"""What of a preset its records answer, and what is left to run.

A record answers for what it started from as well: one whose teacher or student has been trained again since, under the same
name, is of other weights and answers nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from .params import GRID, TransferParams
from .presets import Cell, Preset
from .records import Record


def lacking_cells(preset: Preset, finetuned: Iterable[Record], adapted: Iterable[Record]) -> list[Cell]:
    """The cells of the preset that no fine-tuning record answers; a failed run is a record too.

    A record answers a cell of its training recipe, teacher, task, model, seed, adapted student (by its folder's name) and, of
    a grid's points, values; each answers one.
    """
    adapted = _current(adapted)
    students, teachers, found = {r.run_id: _name(r) for r in adapted}, _weights(adapted), defaultdict(list)
    for r in finetuned:
        student = students.get(r.adapted.run_id) if r.adapted else ""
        if teachers.get(r.teacher.name, r.teacher.fingerprint) == r.teacher.fingerprint:
            found[r.training, r.teacher.name, r.task, r.model, r.seed, student].append(r.params)
    lacking = []
    for cell in preset.cells():
        runs = found[cell.training, cell.teacher, cell.task, cell.model, cell.seed, cell.student]
        point = {name: value for name, value in cell.options.items() if name in GRID}
        match = next((i for i, run in enumerate(runs) if all(run.get(name) == value for name, value in point.items())), None)
        if match is None:
            lacking.append(cell)
        else:
            runs.pop(match)
    return lacking


def lacking_students(preset: Preset, adapted: Iterable[Record]) -> list[str]:
    """Names of the preset's students that no record of continued training answers."""
    have = [(r.model, r.seed, r.params) for r in _current(adapted)]
    plans = {name: TransferParams.parse(values) for name, values in preset.adaptations().items()}
    return [name for name, plan in plans.items() if (plan.model, plan.seed, plan.adaptation()) not in have]


def _current(adapted: Iterable[Record]) -> list[Record]:
    """Those whose teacher is not one that was trained again since."""
    adapted = [r for r in adapted if (r.transfer or {}).get("result")]
    teachers = _weights(adapted)
    return [r for r in adapted if teachers.get(r.teacher.name, r.teacher.fingerprint) == r.teacher.fingerprint]


def _weights(adapted: Iterable[Record]) -> dict[str, str]:
    """The fingerprints of the teachers that were trained on here, by name."""
    return {_name(r): r.transfer["result"]["fingerprint"] for r in adapted if r.model == "bert"}


def _name(record: Record) -> str:
    return record.transfer["result"]["name"]
