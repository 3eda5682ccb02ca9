"""The generated parts of README.md and FINDINGS.md, and the findings in sentences."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from . import (
    answer, choice, distilled, estimates, recovery, tables, tables_glance, tables_gpus, tables_placement, tables_repair, tables_scaling, tables_speed,
    tables_targets, tables_throughput, tables_training, xatl, xatl_seeds, xatl_settings,
)
from .presets import names as preset_names
from .results import (
    GROUP, NoRecords, Results, ResultsError, cells, footnotes, load, metric_title, task_title, write_text,
)
from .tables import bert_is_clear, mean_sd, number, went_wrong

PAGES = ("README.md", "FINDINGS.md")
BLOCK = re.compile(r"(<!-- generated:(?P<name>\S+) -->\n)(?P<body>.*?)(<!-- /generated -->)", re.DOTALL)


Sentences = Callable[[Results], list[str]]
FINDINGS: dict[str, list[Sentences]] = {  # sections that are sentences
    "repair": [tables_repair.ablation_sentences], "xatl": [xatl.transferred_sentences, xatl_settings.sentences],
    "recovery": [recovery.main_sentences, tables_placement.sentences],
    "speed": [choice.sentences, tables_scaling.sentences, tables_throughput.sentences, tables_gpus.sentences],
}


def findings(results: Results, parts: list[Sentences]) -> str:
    """Sentences from the records, and the footnotes of the tasks they name."""
    lines = [line for sentences in parts for line in sentences(results)]
    notes = [note for note in footnotes(results.primary) if note.removeprefix("\\* ").split(":")[0] + "*" in " ".join(lines)]
    return "\n".join([*_synthetic(results), *lines, *(f"\n{note}" for note in notes)]) + "\n"


def headline(results: Results) -> str:
    """All findings as sentences; every number in them is from the records."""
    return _sentences(results, [tables_repair.ablation_sentences, tables_repair.closed_form_sentences,
                                tables_repair.padding_sentences, tables_training.precision_sentences, xatl.sentences, xatl_settings.sentences,
                                recovery.sentences, tables_placement.sentences, tables_gpus.sentences])


def _sentences(results: Results, parts: list[Sentences]) -> str:
    lines, runs = _synthetic(results), results.primary
    for (training, teacher, task), group in cells(runs).groupby([*GROUP, "task"], sort=False, dropna=False):
        where = (f"- **{task_title(task, group.note)}** ({metric_title(group.metric)}; recipe `{training}`, teacher "
                 f"`{teacher}`): ")
        clear = bert_is_clear(group)
        weak = "" if clear is not False else " BERT itself is within two standard deviations of chance."
        lines.append(where + "; ".join(_scored(r, clear is not False) for r in group.itertuples()) + "." + weak)
    for sentences in parts:
        lines += sentences(results)
    lines += _speed_sentences(tables_speed.speed_frame(results.efficiency)) + (
        tables_throughput.sentences(results) + choice.sentences(results) + tables_scaling.sentences(results))
    return "\n".join([*lines, *(f"\n{note}" for note in footnotes(runs))]) + "\n"


def _synthetic(results: Results) -> list[str]:
    return ["**SYNTHETIC data, not GLUE:** the quality figures below say nothing about GLUE."] * bool(results.tag)


def _scored(cell: Any, recovery: bool = True) -> str:
    text = f"`{cell.label}` {mean_sd(cell.mean, cell.sd, cell.n).replace('(', '(n=')}"
    if recovery and cell.label != "bert" and pd.notna(cell.recovery):
        text += f", {number(100 * cell.recovery, 0)}% of BERT's lead over chance"
    return text + (f" [{went_wrong(cell)}]" if went_wrong(cell) else "")


def _speed_sentences(data: pd.DataFrame) -> list[str]:
    """One sentence a setting with the backends that `auto` takes, at its shortest and longest sequences."""
    lines = []
    data = data[data.backend.isna() | data.backend.eq("auto")]
    data = data[data.model.ne("bert") & ~data.padded.astype(bool) & data.train_vs_bert.notna() & data.infer_vs_bert.notna()]
    for key, group in data.groupby(tables_speed.SETTING, sort=False, dropna=False):
        for length in sorted({group.length.min(), group.length.max()}):
            parts = [f"`{r.model}` {number(r.train_vs_bert, 2)} and {number(r.infer_vs_bert, 2)}"
                     for r in group[group.length == length].itertuples()]
            lines.append(f"- **Speed** at length {length} ({tables_speed.setting_title(key)}), times BERT's in training "
                         f"and inference: {'; '.join(parts)}.")
    return lines


def _markdown(build: Callable[[Results], tables.Table]) -> Callable[[Results], str]:
    return lambda results: build(results).markdown(level=4)


SECTIONS: dict[str, Callable[[Results], str]] = {
    "answer": answer.markdown, "headline": headline, "xatl-answer": xatl.answer,
    **{f"{name}-findings": lambda results, parts=parts: findings(results, parts) for name, parts in FINDINGS.items()},
    **{name: _markdown(build) for name, build in {
        "glance": tables_glance.glance, "quality": tables.quality, "runs": tables.runs, "differences": tables.differences, "missing": tables.missing,
        "published": tables.compared, "ablation": tables_repair.ablation, "closed_form": tables_repair.closed_form,
        "padding": tables_repair.padding, "precision": tables_training.precision, "grid": tables_training.grid,
        "teachers": tables_training.teachers, "xatl": xatl.table, "xatl-arms": xatl.arms, "xatl-rates": xatl.rates, "xatl-glue": xatl.glue, "xatl-seeds": xatl_seeds.table, "xatl-settings": xatl_settings.table,
        "recovery": recovery.table, "placement": tables_placement.table, "gpus": tables_gpus.table, "distilled": distilled.table,
        "choice": choice.choice, "speed": tables_speed.speed, "finetuning": tables_speed.finetuning,
        "throughput": tables_throughput.table, "runtimes": tables_throughput.runtimes, "targets": tables_targets.table,
        "published-speed": tables_speed.published_speed}.items()},
}


RECORDLESS: dict[str, Callable[[], str]] = {"estimates": estimates.colab}  # what is said before there are runs


def update_readme(path: str | Path, results: str | Path, check: bool = False) -> list[str]:
    """Replace what stands between `<!-- generated:NAME -->` and `<!-- /generated -->`, NAME being a section and a
    preset (`quality-minilm`), by what the records in `<results>/<preset>` give. With `check` nothing is written.

    Returns the names of the blocks that were out of date. Raises ResultsError on a name or marker it cannot read.
    """
    path = Path(path)
    if not path.is_file():
        raise ResultsError(f"{path}: no such file")
    text = path.read_text()
    if text.count("<!-- generated:") != len(BLOCK.findall(text)) or "<!-- /generated -->" in BLOCK.sub("", text):
        raise ResultsError(f"{path}: each <!-- generated:NAME --> needs a line of its own and a <!-- /generated --> "
                           "before the next")
    loaded: dict[str, Results | None] = {}
    stale = []

    def replace(block: re.Match) -> str:
        body = _section(block["name"], Path(results), loaded)
        stale.extend([block["name"]] * (body != block["body"]))
        return block[1] + body + block[4]

    new = BLOCK.sub(replace, text)
    if stale and not check:
        write_text(path, new)
    return stale


def _section(name: str, results: Path, loaded: dict[str, Results | None]) -> str:
    preset = next((p for p in sorted(preset_names(), key=len, reverse=True) if name.endswith(f"-{p}")), None)
    section = name.removesuffix(f"-{preset}")
    if preset and section in RECORDLESS:
        return RECORDLESS[section]()
    if preset is None or section not in SECTIONS:
        raise ResultsError(f"generated:{name}: a section ({', '.join([*SECTIONS, *RECORDLESS])}), then a dash and a preset "
                           f"({', '.join(preset_names())}) are expected")
    if preset not in loaded:
        try:
            loaded[preset] = load(preset, results.resolve() / preset)
        except NoRecords:
            loaded[preset] = None
    found = loaded[preset]
    if found is None:
        return f"*No records yet: `make report PRESET={preset}` makes them.*\n"
    return SECTIONS[section](found)
