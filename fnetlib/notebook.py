"""What every notebook does around its own subject: parameters, provenance, and clean rendered copies."""

from __future__ import annotations

import hashlib
import os
import types
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from .params import Params
from .provenance import code, environment, find_root, now

# Progress bars flood rendered notebooks; each notebook keeps one tidy bar or table of its own.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def start(params: type[Params], names: dict[str, Any]) -> Params:
    """Validate a notebook's parameters and show where it runs.

    `names` are the notebook's globals; its set-up cell stores the names that existed before the parameters cell in
    `_names`, so that a parameter that papermill injected and nobody knows is found. Raises ParameterError.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    values = {name: names[name] for name in params.model_fields if name in names}
    before = names.pop("_names", None)  # once: a cell that is run again sees the notebook's own variables
    if before is not None:
        values |= {k: v for k, v in names.items() if k not in before and k not in values and _is_parameter(k, v)}
    parsed = params.parse(values)
    _show_figures_as_png()
    _show(provenance())
    return parsed


def _show_figures_as_png() -> None:
    """Figures made without pyplot are displayed too."""
    from IPython import get_ipython
    from IPython.core.pylabtools import select_figure_formats

    if get_ipython():
        select_figure_formats(get_ipython(), {"png"})


def _is_parameter(name: str, value: Any) -> bool:
    ipython = ("In", "Out", "exit", "quit", "get_ipython", "open")
    return not name.startswith("_") and name not in ipython and not isinstance(value, types.ModuleType) \
        and not callable(value)


def provenance() -> pd.DataFrame:
    """One small table: where and with what this notebook runs."""
    import torch

    env = environment("cuda" if torch.cuda.is_available() else "cpu", "fp32")
    commit = code()
    rows = {
        "run at": now(), "device": f"{env['device']}: {env['device_name']}",
        "code": commit.commit[:10] + (" + uncommitted changes" if commit.dirty else ""), "project": find_root().name,
        **{name: version for name, version in env["versions"].items() if version},
    }
    return pd.DataFrame({"": rows})


def _show(table: pd.DataFrame) -> None:
    from IPython.display import display

    display(table)


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """sha256 (16 hex digits) over a notebook's cells, less what papermill injects: names the source it came from."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if "injected-parameters" not in cell.metadata.get("tags", []):
            digest.update(f"{cell.cell_type}\0{cell.source}\0".encode())
    return digest.hexdigest()[:16]


def clean(source: str | Path, target: str | Path) -> Path:
    """Copy a rendered notebook without noise: counts, timings, widget state, stderr chatter, machine paths.

    Stores the digest of the source's cells, so that a stale rendering is found. The target appears in one step.
    """
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata = nbformat.from_dict({
        "kernelspec": notebook.metadata.get("kernelspec", {}),
        "language_info": {"name": "python"},
        "fnetlib": {"source_digest": source_digest(notebook)},
    })
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_clean_output(o) for o in cell.outputs if o.get("name") != "stderr" and not _widget(o)]
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, target)
    return target


def _widget(output: nbformat.NotebookNode) -> bool:
    """A live widget (a progress bar): its state is not stored, and GitHub shows nothing but its text."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _clean_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "execution_count" in output:
        output.execution_count = None
    root = str(find_root())
    if output.output_type == "stream":
        output.text = output.text.replace(root + os.sep, "")
    for kind in ("text/plain", "text/html"):
        if kind in output.get("data", {}):
            output.data[kind] = "".join(output.data[kind]).replace(root + os.sep, "")
    return output
