"""The notebooks as users start them: papermill with any parameters, from any folder, bad ones in one clear line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from fnetlib import params
from fnetlib.notebook import clean, source_digest
from fnetlib.params import AnalysisParams, BuildParams, EfficiencyParams, FinetuneParams, TransferParams
from fnetlib.records import RecordStore

ROOT = Path(__file__).parents[1]
KINDS = {"01_build": BuildParams, "02_transfer": TransferParams, "03_finetune": FinetuneParams,
         "04_efficiency": EfficiencyParams, "05_analysis": AnalysisParams}
RENDERED = sorted(p for preset in ("minilm", "bert-base") for p in ROOT.glob(f"results/{preset}/notebooks/*.ipynb"))


def source(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def text_of(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(
        o.get("text", "") + "".join(o.get("data", {}).get("text/plain", "")) + " ".join(o.get("traceback", []))
        for cell in notebook.cells for o in cell.get("outputs", []))


def command(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "papermill", *args], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env}, timeout=300)


@pytest.fixture
def quick_run(tiny_teacher_folder, tmp_path) -> dict:
    return {"teacher": tiny_teacher_folder, "data": "synthetic", "results": str(tmp_path / "results"), "epochs": 1,
            "train_size": 32, "eval_size": 16, "max_length": 48}


@pytest.mark.parametrize("name", KINDS)
def test_parameters_cell_is_the_class(name):
    """`papermill --help-notebook` shows every parameter with its meaning, and the defaults are the library's."""
    shown = papermill.inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"))
    fields = KINDS[name].model_fields
    assert list(shown) == list(fields)
    for key, field in fields.items():
        assert eval(shown[key]["default"]) == field.default, key
        assert shown[key]["help"] == field.description, key


@pytest.mark.parametrize("name", KINDS)
def test_sources_are_thin_and_without_outputs(name):
    notebook = source(name)
    assert "parameters" in sum((c.metadata.get("tags", []) for c in notebook.cells), [])
    assert f"papermill notebooks/{name}.ipynb" in notebook.cells[0].source
    assert "colab-badge" in notebook.cells[0].source
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            for body in re.findall(r"^def .*?(?=^\S|\Z)", cell.source, re.MULTILINE | re.DOTALL):
                assert len(body.strip().splitlines()) <= 10


@pytest.mark.parametrize("path", RENDERED, ids=lambda p: f"{p.parts[-3]}-{p.stem}")
def test_rendered_notebooks_come_from_the_current_source(path):
    rendered = nbformat.read(path, as_version=4)
    name = next(n for n in KINDS if path.stem.startswith(n))
    assert rendered.metadata["fnetlib"]["source_digest"] == source_digest(source(name)), f"render {path.name} again"
    assert "widgets" not in rendered.metadata
    for cell in rendered.cells:
        assert cell.get("execution_count") is None
        assert not [o for o in cell.get("outputs", []) if o.output_type == "error"]


def test_02_accounts_for_every_tensor(tiny_teacher_folder, tmp_path):
    out, student = tmp_path / "out.ipynb", tmp_path / "student"
    papermill.execute_notebook(
        ROOT / "notebooks" / "02_transfer.ipynb", out,
        {"teacher": tiny_teacher_folder, "data": "synthetic", "results": str(tmp_path / "results"), "model": "hybrid-2",
         "sentences": 8, "save": str(student)}, progress_bar=False, cwd=tmp_path)
    notebook = nbformat.read(out, as_version=4)
    assert "copied tensors are bit-equal to the teacher's" in text_of(notebook) and "all accounted for" in text_of(notebook)
    record = RecordStore(tmp_path / "results").all("transfer")[0]
    # new: the gains of two Fourier layers, the classifier's and (a masked-LM teacher has none) the pooler's two each
    assert record.model == "hybrid-2" and record.transfer["new"]["tensors"] == 6
    assert any("image/png" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", []))
    from transformers import AutoModelForSequenceClassification

    assert AutoModelForSequenceClassification.from_pretrained(student).config.mixers.count("attention") == 2


def test_03_writes_records_and_takes_them_the_second_time(quick_run, tmp_path):
    values = {**quick_run, "model": "bert,fnet", "seeds": "1,2"}
    for attempt in ("first", "second"):
        papermill.execute_notebook(ROOT / "notebooks" / "03_finetune.ipynb", tmp_path / f"{attempt}.ipynb", values,
                                   progress_bar=False, cwd=tmp_path)
        records = RecordStore(tmp_path / "results").all()
        assert len(records) == 4
        times = {r.run_id: r.started for r in records}
        if attempt == "first":
            before = times
    assert times == before
    notebook = nbformat.read(tmp_path / "second.ipynb", as_version=4)
    assert "fnet: accuracy" in text_of(notebook) and "SYNTHETIC, not GLUE" in text_of(notebook)
    cleaned = nbformat.read(clean(tmp_path / "second.ipynb", tmp_path / "clean.ipynb"), as_version=4)
    assert cleaned.metadata["fnetlib"]["source_digest"] == source_digest(source("03_finetune"))
    assert not [o for c in cleaned.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]


def test_the_command_as_users_write_it_with_stdout_piped(quick_run, tmp_path):
    """`papermill notebooks/03_finetune.ipynb -p task rte`: no output path, the notebook goes to stdout."""
    options = sum((["-p", k, str(v)] for k, v in {**quick_run, "task": "rte", "model": "fnet"}.items()), [])
    done = command(str(ROOT / "notebooks" / "03_finetune.ipynb"), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert nbformat.reads(done.stdout, as_version=4).cells
    assert RecordStore(tmp_path / "results").all()[0].task == "rte"


@pytest.mark.parametrize("options, line", [
    (["-p", "task", "foo"], "ParameterError: task: 'foo' is not one of: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli"),
    (["-p", "tsak", "rte"], "ParameterError: unknown parameter 'tsak'; accepted: teacher, data, results, task"),
    (["-p", "epochs", "many", "-p", "model", "fnett"], "ParameterError: model: 'fnett' is not one of: bert, fnet-naive"),
])
def test_a_bad_parameter_ends_in_one_clear_line(options, line, tmp_path):
    done = command(str(ROOT / "notebooks" / "03_finetune.ipynb"), str(tmp_path / "out.ipynb"), *options, cwd=tmp_path,
                   FNETLIB_ROOT=str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith(line)
    assert not (tmp_path / "results").exists()


def test_cells_can_be_run_again_in_jupyter():
    """The parameters cell edited, and everything from there; or the whole notebook."""
    from fnetlib.notebook import start

    names = {"_names": set(), "preset": "minilm", "results": "auto"}
    assert start(AnalysisParams, names).preset == "minilm"
    names |= {"preset": "quick", "params": object(), "found": [1]}
    assert start(AnalysisParams, names).preset == "quick"
    with pytest.raises(params.ParameterError, match="unknown parameter 'prset'"):
        start(AnalysisParams, {"_names": set(), "prset": "quick"})


def test_no_notebook_gives_a_parameters_name_to_something_else():
    for name, kind in KINDS.items():
        for cell in source(name).cells:
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                assigned = set(re.findall(r"^(\w+(?:, \w+)*) = ", cell.source, re.MULTILINE))
                assert not {n for group in assigned for n in group.split(", ")} & set(kind.model_fields), name


def test_every_kind_of_parameters_has_its_notebook():
    commands = {"PlaceParams", "AdaptParams"}  # placement is a command, its result a recipe for 02; `fnetlib adapt` is 02 for a text of one's own
    assert {cls.__name__ for cls in KINDS.values()} | commands == {n for n in vars(params) if n.endswith("Params")} - {"Params"}
    assert sorted(KINDS) == sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))
    assert json.loads((ROOT / "notebooks" / "01_build.ipynb").read_text())["nbformat"] == 4
