"""The command line: what the notebooks do, without a notebook; help that helps, errors in one line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from factories import finetune_record

from fnetlib.__main__ import main
from fnetlib.params import FinetuneParams
from fnetlib.readme import PAGES, update_readme
from fnetlib.records import RecordStore

ROOT = Path(__file__).parents[1]


def test_finetune_prints_the_records_paths(tiny_teacher_folder, tmp_path, capsys):
    arguments = ["finetune", "--task", "cola", "--model", "fnet", "--seeds", "1,2", "--teacher", tiny_teacher_folder,
                 "--data", "synthetic", "--results", str(tmp_path), "--epochs", "1", "--train-size", "32",
                 "--eval-size", "16", "--max-length", "48"]
    assert main(arguments) == 0
    paths = capsys.readouterr().out.split()
    assert len(paths) == 2 and all(Path(p).is_file() for p in paths)
    assert main(arguments) == 0 and capsys.readouterr().out.split() == paths


def test_list_and_show(tmp_path, capsys):
    record = finetune_record(model="fnet", score=0.1234)
    path = RecordStore(tmp_path).write(record)
    assert main(["list", "--results", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "fnet" in listed and "0.1234" in listed and record.run_id in listed
    for name in (record.run_id, record.run_id[:20], str(path)):
        assert main(["show", name, "--results", str(tmp_path)]) == 0
        assert f'"run_id": "{record.run_id}"' in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["finetune", "--task", "foo"], "error: task: 'foo' is not one of: cola"),
    (["finetune", "--model", "fnett"], "error: model: 'fnett' is not one of: bert"),
    (["finetune", "--epochs", "x"], "error: epochs: 'x' does not fit"),
    (["finetune", "--compile", "graphs", "--pad-to", "32", "--group-by-length", "--accumulate", "2"], "error: compile: 'graphs'"),
    (["list", "--results", "/no/such"], "error: results: no records in /no/such/runs"),
    (["show", "nothing", "--results", "/no/such"], "error: run: 0 records in /no/such/runs begin with 'nothing'"),
])
def test_bad_values_are_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith(message) and "\n" not in shown


def test_a_corrupt_record_is_one_line(tmp_path, capsys):
    path = RecordStore(tmp_path).write(finetune_record())
    path.write_text("{")
    assert main(["list", "--results", str(tmp_path)]) == 2
    assert path.name in capsys.readouterr().err


def test_unknown_options_and_commands_end_with_status_2(capsys):
    for arguments in (["finetune", "--bogus", "1"], ["fly"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and "usage" in capsys.readouterr().err


def test_help_names_every_parameter(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(f"--{name.replace('_', '-')}" in shown for name in FinetuneParams.model_fields)


def test_list_takes_a_part_and_a_pipe_that_ends(tmp_path, capsys):
    store = RecordStore(tmp_path)
    for record in [finetune_record("cola", "fnet"), finetune_record("rte", "bert")]:
        store.write(record)
    assert main(["list", "--results", str(tmp_path), "--task", "rte"]) == 0
    shown = capsys.readouterr().out
    assert "bert" in shown and "fnet" not in shown and "NaN" not in shown
    assert main(["list", "--results", str(tmp_path), "--model", "fent"]) == 2
    assert "model: no record of 'fent'" in (error := capsys.readouterr().err) and "there are: bert, fnet" in error
    assert main(["list", "--results", str(tmp_path), "--model", "fnet", "--task", "rte"]) == 2
    command = f"{sys.executable} -m fnetlib list --results {ROOT}/results/minilm | head -1"
    told = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert told.returncode == 0 and len(told.stdout.splitlines()) == 1 and "Traceback" not in told.stderr


@pytest.mark.parametrize("page", PAGES)
def test_generated_numbers_are_what_the_records_give(page):
    assert update_readme(ROOT / page, ROOT / "results", check=True) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Files and headings, as GitHub names them."""
    def anchors(path):
        titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if not link.startswith("http"):
            path, _, heading = link.partition("#")
            target = ROOT / (path or page)
            assert target.exists(), link
            assert not heading or heading in anchors(target), link
