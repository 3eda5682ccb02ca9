"""What is committed under results/ is what its records give: tables, summary; records are whole and name their code."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from fnetlib import readme, tables, tables_repair, tables_speed, tables_training
from fnetlib.finetune import decisive_params
from fnetlib.params import FinetuneParams
from fnetlib.provenance import committed_source
from fnetlib.records import RecordStore
from fnetlib.results import load

ROOT = Path(__file__).parents[1]
COMMITTED = sorted(p for p in (ROOT / "results").glob("*/summary.json") if p.parent.name in ("minilm", "bert-base"))
TABLES = (tables.missing, tables.quality, tables.runs, tables.differences, tables.compared, tables_speed.speed,
          tables_speed.finetuning, tables_speed.published_speed, tables_repair.ablation, tables_repair.closed_form,
          tables_repair.padding, tables_training.precision, tables_training.grid, tables_training.teachers)


@pytest.mark.parametrize("summary", COMMITTED, ids=lambda p: p.parent.name)
def test_tables_and_summary_equal_what_the_records_give(summary, tmp_path):
    folder = summary.parent
    shutil.copytree(folder / "runs", tmp_path / "runs")
    made = load(folder.name, tmp_path)
    for build in TABLES:
        made.keep(build(made))
    readme.write_summary(made)
    names = sorted(p.name for p in (tmp_path / "tables").iterdir())
    assert names == sorted(p.name for p in (folder / "tables").iterdir())
    for name in names:
        ours, theirs = tmp_path / "tables" / name, folder / "tables" / name
        if name.endswith(".csv"):  # full digits, whose last one depends on numpy's version
            pd.testing.assert_frame_equal(pd.read_csv(ours), pd.read_csv(theirs), rtol=1e-9)
        else:
            assert ours.read_text() == theirs.read_text(), name
    assert (tmp_path / "summary.json").read_text() == summary.read_text()


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
            assert decisive_params(params, record.model, layers) == record.params, record.run_id
            found += 1
    assert found


def test_only_real_data_is_committed():
    for path in (ROOT / "results").glob("*/runs/*.json"):
        if path.parts[-3] in ("minilm", "bert-base"):
            record = RecordStore.read(path)
            assert record.data is None or record.data.source in ("folder", "hub"), path.name
