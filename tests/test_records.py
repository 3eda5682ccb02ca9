"""Records: round trip, atomicity under a kill, refusal of what is corrupt, no overwriting."""

import json
import multiprocessing
import os
import signal
import time

import pytest
import torch
from factories import finetune_record

from fnetlib.provenance import code, environment, source_hash
from fnetlib.records import RecordError, RecordStore, label, make_run_id


def test_round_trip(tmp_path):
    store, record = RecordStore(tmp_path), finetune_record()
    path = store.write(record)
    assert path == store.path(record.run_id) and store.get(record.run_id) == record
    assert store.all() == store.all("finetune") == [record] and store.all("adapt") == []
    row = store.frame().iloc[0]
    assert (row["task"], row["model"], row["last"], row["source"]) == ("cola", "bert", 0.5, "folder")


def test_empty_store_has_an_empty_frame_with_its_columns(tmp_path):
    frame = RecordStore(tmp_path / "none").frame()
    assert frame.empty and "last" in frame.columns and RecordStore(tmp_path).get("x") is None


def test_not_a_number_becomes_null(tmp_path):
    store, record = RecordStore(tmp_path), finetune_record(score=float("nan"), status="diverged")
    store.write(record)
    assert store.get(record.run_id).metrics.headline.last is None
    assert "NaN" not in store.path(record.run_id).read_text()


def test_finished_runs_are_not_overwritten_unasked(tmp_path):
    store, record = RecordStore(tmp_path), finetune_record()
    store.write(record)
    before = store.path(record.run_id).read_bytes()
    with pytest.raises(RecordError, match="exists already"):
        store.write(record.model_copy(update={"ended": "later"}))
    assert store.path(record.run_id).read_bytes() == before
    store.write(record.model_copy(update={"ended": "later"}), force=True)
    assert store.get(record.run_id).ended == "later"


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    store, record = RecordStore(tmp_path), finetune_record()
    store.write(record)
    assert store.get(record.run_id) == record
    with pytest.raises(RecordError, match="exists already"):
        store.write(record)
    assert [p.name for p in store.runs.iterdir()] == [f"{record.run_id}.json"]


@pytest.mark.parametrize("damage", [
    lambda text: text[: len(text) // 2], lambda text: "", lambda text: text.replace('"finetune"', '"finetuning"'),
    lambda text: text.replace('"schema_version": 1', '"schema_version": 99'),
    lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "env"}),
    lambda text: json.dumps(json.loads(text) | {"extra": 1}),
    lambda text: json.dumps(json.loads(text) | {"seed": 7}),
    lambda text: json.dumps(json.loads(text) | {"params": {}}),
])
def test_corrupt_records_are_refused_by_name(tmp_path, damage):
    store, record = RecordStore(tmp_path), finetune_record()
    path = store.write(record)
    path.write_text(damage(path.read_text()))
    with pytest.raises(RecordError, match=path.name):
        store.all()


def test_a_renamed_record_is_refused(tmp_path):
    store = RecordStore(tmp_path)
    path = store.write(finetune_record())
    path.rename(path.with_name("finetune-cola-fnet-1-0123456789.json"))
    with pytest.raises(RecordError, match="disagree"):
        store.all()


def _write_for_ever(folder):
    store = RecordStore(folder)
    for seed in range(10**6):
        store.write(finetune_record(seed=seed))


def test_a_kill_leaves_whole_records_only(tmp_path):
    """Killed at a random moment while writing, many records in: each that has its name is whole."""
    process = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("runs/*.json"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(RecordStore(tmp_path).all()) >= 20


def test_run_id_depends_on_what_decides_the_result_and_nothing_else():
    base = make_run_id("finetune", "rte", "fnet", 1, {"a": 1, "b": (2, 3)}, "data", "teacher")
    assert base.startswith("finetune-rte-fnet-1-")
    assert base == make_run_id("finetune", "rte", "fnet", 1, {"b": [2, 3], "a": 1}, "data", "teacher")
    others = [
        make_run_id("finetune", "rte", "fnet", 1, {"a": 2, "b": [2, 3]}, "data", "teacher"),
        make_run_id("finetune", "rte", "fnet", 1, {"a": 1, "b": [2, 3]}, "other", "teacher"),
        make_run_id("finetune", "rte", "fnet", 1, {"a": 1, "b": [2, 3]}, "data", "other"),
        make_run_id("finetune", "rte", "fnet", 2, {"a": 1, "b": [2, 3]}, "data", "teacher"),
    ]
    assert len({base, *others}) == 5


def test_adapted_models_carry_their_budget_in_their_label():
    assert label(finetune_record(model="fnet", minutes=2.0)) == "fnet@2min" and label(finetune_record()) == "bert"


def test_provenance_names_versions_device_and_code():
    env = environment("cpu", "bf16")
    assert env["versions"]["torch"] and env["device"] == "cpu" and env["precision"] == "bf16"
    assert len(code().commit) == 40 or code().commit == "unknown"
    assert code().source == source_hash() and len(source_hash()) == 16


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="an older torch has one flag only")
def test_provenance_reads_the_tf32_flag_whichever_way_it_was_set():
    """torch raises on its old flag where the new one was set, as compiling through accelerate does."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for value, expected in (("tf32", True), ("ieee", False)):
            matmul.fp32_precision = value
            assert environment("cpu", "fp32")["tf32"] is expected
    finally:
        matmul.fp32_precision = before


def test_an_installed_copy_is_matched_to_the_checkout_with_the_same_files(tmp_path, monkeypatch):
    """And never to some other repository that it happens to lie in."""
    import shutil
    import subprocess
    from pathlib import Path

    import fnetlib
    from fnetlib import provenance

    def checkout(folder, extra=""):
        shutil.copytree(Path(fnetlib.__file__).parent, folder / "fnetlib")
        (folder / "fnetlib" / "config.py").open("a").write(extra)
        (folder / "pyproject.toml").touch()
        (folder / "notebooks").mkdir()
        for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
            subprocess.run(["git", "-C", str(folder), *command], check=True)
        return subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()

    installed = tmp_path / "site-packages" / "fnetlib"
    shutil.copytree(Path(fnetlib.__file__).parent, installed)
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    monkeypatch.delenv("FNETLIB_COMMIT", raising=False)
    same, other = checkout(tmp_path / "same"), checkout(tmp_path / "other", "# changed")
    for folder, expected in (("same", same), ("other", "unknown")):
        monkeypatch.setenv("FNETLIB_ROOT", str(tmp_path / folder))
        assert provenance.code.__wrapped__().commit == expected != other
