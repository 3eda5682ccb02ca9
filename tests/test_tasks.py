"""All nine tasks from folder, Hub layout and synthetic; bad data in one clear line."""

from pathlib import Path

import datasets
import pytest
from hubs import use_cache

from fnetlib import hub, synthetic, tasks
from fnetlib.params import TASKS as NAMES
from fnetlib.params import ParameterError
from fnetlib.tasks import TASKS, load_task, resolve_source, results_folder


def write_folder(root: Path, task: str, size: int = 40) -> Path:
    for split in ("train", *TASKS[task].validation):
        path = root / task / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(synthetic.generate(task, split, size=size)).to_parquet(str(path))
    return root


def test_the_table_covers_glue():
    assert set(TASKS) == set(NAMES) and len(TASKS) == 9


@pytest.mark.parametrize("name", NAMES)
def test_synthetic_and_folder_give_the_same_examples(name, tmp_path):
    made = load_task(name, "synthetic", train_size=30, eval_size=20)
    assert made.record.source == "synthetic" and "synthetic" in made.record.note
    assert made.record.sizes["train"] == 30 == len(made.train)
    read = load_task(name, str(write_folder(tmp_path, name)))
    assert read.record.source == "folder" and read.record.note == ""
    assert {"label", *TASKS[name].columns} <= set(read.train.column_names)
    assert list(read.validation) == list(TASKS[name].validation)
    assert len(read.head()) == 4


def test_fingerprint_follows_the_content_not_the_file(tmp_path):
    first = load_task("rte", str(write_folder(tmp_path / "a", "rte"))).record.fingerprint
    assert load_task("rte", str(write_folder(tmp_path / "b", "rte"))).record.fingerprint == first
    assert load_task("rte", str(tmp_path / "a"), train_size=20).record.fingerprint != first


def test_sizes_take_a_fixed_subset(tmp_path):
    folder = str(write_folder(tmp_path, "cola"))
    once, again = (load_task("cola", folder, train_size=10).train["sentence"] for _ in range(2))
    assert list(once) == list(again) and len(once) == 10


def test_qnli_reconstruction_is_used_and_noted(tmp_path):
    write_folder(tmp_path, "qnli")
    (tmp_path / "qnli_squad").mkdir()
    (tmp_path / "qnli" / "train.parquet").rename(tmp_path / "qnli_squad" / "train.parquet")
    assert "reconstruction" in load_task("qnli", str(tmp_path)).record.note


def test_environment_variable_sets_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(tasks.FOLDER_VARIABLE, str(write_folder(tmp_path, "rte")))
    assert load_task("rte").record.source == load_task("rte", "glue").record.source == "folder"


def test_auto_falls_back_loudly(monkeypatch, capfd, tmp_path):
    use_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    assert load_task("rte", "auto", 10, 10).record.source == "synthetic"
    assert "SYNTHETIC" in capfd.readouterr().err


@pytest.mark.parametrize("source", ["hub", "glue"])
def test_real_data_never_falls_back(monkeypatch, source, tmp_path):
    use_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(ParameterError, match="is switched off .HF_HUB_OFFLINE is set., and it is not in the local cache") as error:
        load_task("rte", source)
    assert "\n" not in str(error.value)


def test_the_hub_path_asks_for_the_pinned_official_set(monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(name, repo_type, revision, allow_patterns, local_files_only):
        asked.update(name=name, repo_type=repo_type, revision=revision, patterns=allow_patterns)
        assert not local_files_only
        (tmp_path / "mnli").mkdir()
        for split in ("train", "validation_matched", "validation_mismatched"):
            data = datasets.Dataset.from_dict(synthetic.generate("mnli", split, size=12))
            for part in range(2):  # two files a split
                data.shard(2, part).to_parquet(str(tmp_path / "mnli" / f"{split}-0000{part}-of-00002.parquet"))
        return str(tmp_path)

    monkeypatch.setattr(tasks, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(tasks.constants, "HF_HUB_OFFLINE", False)
    found = load_task("mnli", "auto")
    assert asked == {"name": "nyu-mll/glue", "repo_type": "dataset", "revision": tasks.HUB_REVISION, "patterns": [
        "mnli/train-*.parquet", "mnli/validation_matched-*.parquet", "mnli/validation_mismatched-*.parquet"]}
    assert found.record.source == "hub" and found.record.revision == tasks.HUB_REVISION
    assert found.record.note == "" and set(found.record.sizes.values()) == {12}
    (tmp_path / "mnli" / "train-00001-of-00002.parquet").unlink()
    monkeypatch.setattr(tasks, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    with pytest.raises(ParameterError, match="lacks mnli/train"):  # half a split is none
        load_task("mnli", "hub")


def test_hub_flags_are_put_back(monkeypatch):
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(FileNotFoundError):
        hub.from_hub(lambda: (_ for _ in ()).throw(OSError("no")), "x")
    assert constants.HF_HUB_OFFLINE == before


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder"])
def test_unknown_sources_name_the_accepted(source):
    with pytest.raises(ParameterError, match="is not one of: auto, hub, glue, synthetic, or a folder"):
        resolve_source(source)


def test_unknown_task_names_the_accepted():
    with pytest.raises(ParameterError, match="'foo' is not one of: cola, sst2"):
        load_task("foo")


def bad_folder(tmp_path, **columns) -> str:
    write_folder(tmp_path, "cola")
    datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "cola" / "train.parquet"))
    return str(tmp_path)


@pytest.mark.parametrize("columns, message", [
    ({"text": ["a"], "label": [0]}, "lacks column 'sentence'"),
    ({"sentence": ["a", "b"], "label": [0, 7]}, "labels 0 to 7, expected 0 to 1"),
    ({"sentence": ["a"], "label": [-1]}, "a test split without labels"),
    ({"sentence": [], "label": []}, "is empty or not a parquet file"),
])
def test_bad_folders_are_named(tmp_path, columns, message):
    with pytest.raises(ParameterError, match=message):
        load_task("cola", bad_folder(tmp_path, **columns))


def test_missing_file_is_named(tmp_path):
    write_folder(tmp_path, "rte")
    (tmp_path / "rte" / "validation.parquet").unlink()
    with pytest.raises(ParameterError, match="no rte/validation.parquet in folder"):
        load_task("rte", str(tmp_path))


def test_results_of_glue_and_synthetic_never_share_a_folder(tmp_path):
    from factories import finetune_record

    from fnetlib.records import RecordStore

    RecordStore(tmp_path).write(finetune_record(source="synthetic"))
    assert results_folder(str(tmp_path), "synthetic") == tmp_path
    with pytest.raises(ParameterError, match="holds records of synthetic data"):
        results_folder(str(tmp_path), "folder")
