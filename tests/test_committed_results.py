"""What is committed under results/ is what its records give: tables, summary; records are whole and name their code."""

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fnetlib.finetune import decisive_params
from fnetlib.params import SHAPES, FinetuneParams
from fnetlib.provenance import committed_source
from fnetlib.records import RecordStore
from fnetlib.results import load
from fnetlib.teacher import RANDOM

ROOT = Path(__file__).parents[1]
COMMITTED = sorted(p for p in (ROOT / "results").glob("*/summary.json") if p.parent.name in ("minilm", "bert-base"))


@pytest.fixture(scope="module", params=COMMITTED, ids=lambda p: p.parent.name)
def report(request, tmp_path_factory):
    """A committed results folder, and one that the code cells of 05_analysis make from its records alone."""
    folder, made = request.param.parent, tmp_path_factory.mktemp("made")
    shutil.copytree(folder / "runs", made / "runs")
    names = {"found": load(folder.name, made)}
    for cell in nbformat.read(ROOT / "notebooks" / "05_analysis.ipynb", 4).cells:
        for line in cell.source.splitlines():
            if line.startswith(("from fnetlib import ", "found.keep(", "summary.write(")):
                exec(line, names)
    return folder, made


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tables_and_summary_equal_what_the_records_give(report):
    folder, made = report
    assert files(made / "tables") == files(folder / "tables")
    for name in files(made / "tables"):
        ours, theirs = made / "tables" / name, folder / "tables" / name
        if name.endswith(".csv"):  # full digits, whose last one depends on numpy's version
            pd.testing.assert_frame_equal(pd.read_csv(ours), pd.read_csv(theirs), rtol=1e-9)
        else:
            assert ours.read_text() == theirs.read_text(), name
    assert (made / "summary.json").read_text() == (folder / "summary.json").read_text()


def test_figures_equal_what_the_records_give(report):
    """Pixel by pixel on the matplotlib that `make` installs, which drew them; another version places text differently."""
    folder, made = report
    assert files(made / "figures") == files(folder / "figures")
    drawn_with = re.search(r"^matplotlib==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    if matplotlib.__version__ != drawn_with:
        pytest.skip(f"figures were drawn with matplotlib {drawn_with}")
    for name in files(made / "figures"):
        ours, theirs = (np.asarray(Image.open(where / "figures" / name), float) for where in (made, folder))
        assert ours.shape == theirs.shape, name
        assert (np.abs(ours - theirs).max(-1) > 32).mean() < 1e-3, name


@pytest.mark.parametrize("summary", COMMITTED, ids=lambda p: p.parent.name)
def test_every_record_names_the_commit_of_its_code(summary):
    shallow = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("no whole git history here")
    errata = (summary.parent / "ERRATA.md").read_text() if (summary.parent / "ERRATA.md").is_file() else ""
    for commit, source in {(r.code.commit, r.code.source) for r in RecordStore(summary.parent).all()}:
        if source in errata:  # the erratum names the commit that it was
            commit = re.search(rf"`(\w+)`, as (?:its|their) `code.source` \(`{source}`\)", errata.replace("\n  ", " "))[1]
        assert committed_source(ROOT, commit) == source, f"records of {source} are not of commit {commit}"


@pytest.mark.parametrize("summary", COMMITTED, ids=lambda p: p.parent.name)
def test_finished_runs_are_found_again(summary):
    """What today's code would run under a record's parameters has that record's parameters: nothing is computed anew."""
    layers, known = {"minilm": 6, "bert-base": 12}[summary.parent.name], set(FinetuneParams.model_fields)
    found = 0
    for record in RecordStore(summary.parent).all():
        if record.stage == "finetune":
            params = FinetuneParams(task=record.task, training=record.training,
                                    **{name: value for name, value in record.params.items() if name in known})
            depth = SHAPES[record.teacher.name.removeprefix(RANDOM)][0] if record.teacher.source == "random" else layers
            assert decisive_params(params, record.model, depth) == record.params, record.run_id
            found += 1
    assert found


def test_only_real_data_is_committed():
    for path in (ROOT / "results").glob("*/runs/*.json"):
        if path.parts[-3] in ("minilm", "bert-base"):
            record = RecordStore.read(path)
            assert record.data is None or record.data.source in ("folder", "hub"), path.name
