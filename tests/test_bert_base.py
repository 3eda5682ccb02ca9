"""The preset `bert-base` as far as it can be checked without the Hub: the model's true shape, a stand-in for the Hub and
the cache that it leaves, one clear line where neither has anything, and the estimates that a run starts with."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from hubs import stand_in, use_cache
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining

from fnetlib import estimates, hub, synthetic, tasks
from fnetlib.__main__ import main
from fnetlib.config import student_config
from fnetlib.modeling import FNetBertForSequenceClassification
from fnetlib.params import FinetuneParams
from fnetlib.presets import load_preset
from fnetlib.records import RecordStore
from fnetlib.tasks import load_task
from fnetlib.teacher import load_teacher
from fnetlib.transfer import build_student, verify

ROOT = Path(__file__).parents[1]
PRESET = load_preset("bert-base")
STUDY = ("cola", "qnli", "rte")


# The true shape

QKV = 12 * 3 * (768 * 768 + 768)  # queries, keys and values of twelve layers
PROJECTIONS = QKV // 3
BERT = 109_482_240 + 768 * 2 + 2  # bert-base-uncased's encoder with its pooler, and a classifier for two labels
PARAMETERS = {"bert": BERT, "fnet-naive": BERT - QKV, "fnet-paper": BERT - QKV - PROJECTIONS,
              "fnet": BERT - QKV + 12 * 768, "hybrid-2": BERT - QKV * 10 // 12 + 10 * 768}


@pytest.fixture(scope="module")
def true_shape(tiny_teacher_folder, tmp_path_factory):
    """A folder as the Hub has bert-base-uncased: its shape, tensor names and declared class; small random weights."""
    folder = tmp_path_factory.mktemp("bert-base")
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in BertForPreTraining(BertConfig()).state_dict().items()}
    old_names = {name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                 for name in shapes if "predictions.decoder" not in name}  # tied: not stored
    generator = torch.Generator().manual_seed(0)
    save_file({stored: torch.empty(shapes[name]).normal_(float(stored.endswith("gamma")), 0.02, generator=generator)
               for name, stored in old_names.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**BertConfig().to_dict(), "architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    for file in Path(tiny_teacher_folder).iterdir():
        if "token" in file.name or "vocab" in file.name:
            shutil.copy(file, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def teacher(true_shape):
    return load_teacher(str(true_shape))


def test_the_true_shape_is_read_whole(teacher, true_shape):
    """The pooler too: the checkpoint declares a masked-LM model, which has none, but classifiers start from it."""
    encoder = sum(t.numel() for name, t in teacher.state.items() if name.startswith("bert."))
    assert encoder == 109_482_240
    stored = load_file(true_shape / "model.safetensors")
    for ours, theirs in (("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
                         ("bert.encoder.layer.11.attention.output.LayerNorm.bias",
                          "bert.encoder.layer.11.attention.output.LayerNorm.beta"),
                         ("bert.pooler.dense.weight", "bert.pooler.dense.weight"),
                         ("bert.pooler.dense.bias", "bert.pooler.dense.bias")):
        assert torch.equal(teacher.state[ours], stored[theirs]), ours


def test_a_checkpoint_that_is_not_whole_is_refused(tiny_teacher_folder, tmp_path):
    shutil.copytree(tiny_teacher_folder, tmp_path, dirs_exist_ok=True)
    stored = load_file(tmp_path / "model.safetensors")
    del stored["bert.encoder.layer.2.output.dense.bias"]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(tasks.ParameterError, match="lacks 1 of its weights, the first is bert.encoder.layer.2.output"):
        load_teacher(str(tmp_path))


@pytest.mark.parametrize("name", PRESET.models)
def test_the_true_shape_transfers_to_every_recipe(teacher, name):
    batch = dict(teacher.tokenizer(["the author sleeps .", "she saw the old man near a house ."], padding=True,
                                   return_tensors="pt"))
    student, report = build_student(teacher, name, batch=batch if name in ("fnet", "fnet-naive") else None, seed=0)
    verify(teacher, student, report)
    table = report.table()
    new = set(table[table.fate == "new"].group)
    assert new == {"classifier"} | ({"gain"} if name in ("fnet", "hybrid-2") else set())  # the pooler is BERT's own
    assert student.num_parameters() == PARAMETERS[name]
    if name in ("fnet", "fnet-naive"):
        with torch.no_grad():
            logits = student(**batch).logits
        assert logits.shape == (2, 2) and bool(logits.isfinite().all())


# The Hub, and its cache

READ = """
import json, sys
from fnetlib.tasks import load_task
from fnetlib.teacher import load_teacher
found = {"teacher": load_teacher("bert-base-uncased").record().model_dump()}
found |= {task: load_task(task, "hub").record.model_dump() for task in ("cola", "qnli", "rte")}
print(json.dumps(found))
"""


def run(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess:
    """python with a Hugging Face home of its own, and no word about the Hub but what `env` says."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "FNETLIB_GLUE_DIR")
                 and not k.lower().endswith("_proxy")}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=home, env={
        **inherited, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), "FNETLIB_ROOT": str(home), **env})


@pytest.fixture(scope="module")
def downloaded(tiny_teacher_folder, tmp_path_factory):
    """(Hugging Face home after everything was read from a stand-in for the Hub, what was read)."""
    glue, home = tmp_path_factory.mktemp("glue"), tmp_path_factory.mktemp("home")
    for task in STUDY:
        for split in ("train", "validation", "test"):
            data = datasets.Dataset.from_dict(synthetic.generate(task, "train" if split == "test" else split, size=30))
            (glue / task).mkdir(exist_ok=True)
            data.to_parquet(str(glue / task / f"{split}-00000-of-00001.parquet"))
    (glue / "README.md").write_text("not read")
    repos = {"models/bert-base-uncased": ("a" * 40, Path(tiny_teacher_folder)),
             "datasets/nyu-mll/glue": (tasks.HUB_REVISION, glue)}
    with stand_in(repos) as address:
        done = run("-c", READ, home=home, HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout.splitlines()[-1])


def test_teacher_and_data_come_from_the_hub(downloaded, tiny_teacher_folder):
    home, found = downloaded
    assert found["teacher"] == {"name": "bert-base-uncased", "source": "hub",
                                "fingerprint": load_teacher(tiny_teacher_folder).fingerprint}
    for task in STUDY:
        record = found[task]
        assert (record["source"], record["revision"], record["note"]) == ("hub", tasks.HUB_REVISION, "")
        assert record["sizes"] == {"train": 30, "validation": 30}
    assert {path.name for path in (home / "hub").iterdir()} >= {"models--bert-base-uncased", "datasets--nyu-mll--glue"}
    assert not list((home / "hub").rglob("test-*.parquet"))


def test_the_cache_is_enough_without_the_hub(downloaded):
    home, found = downloaded
    for file in ("blobs", "refs/main", "snapshots"):
        assert (home / "hub" / "models--bert-base-uncased" / file).exists()
    done = run("-c", READ, home=home, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == found


@pytest.fixture
def cached(downloaded, tmp_path, monkeypatch):
    """This process sees a copy of the cache, and no Hub."""
    shutil.copytree(downloaded[0] / "hub", tmp_path / "hub", symlinks=True)
    use_cache(monkeypatch, tmp_path / "hub")
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    return tmp_path / "hub"


def test_files_without_the_clients_own_notes_are_enough(cached):
    """Blobs, snapshots and links, as another version of the client or a copy leaves them."""
    for path in cached.glob("*"):
        for part in path.glob("*") if path.is_dir() else ():
            if part.name not in ("blobs", "refs", "snapshots"):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
    assert len(load_task("rte", "hub").train) == 30


@pytest.mark.parametrize("broken, message", [
    ("{snapshot}", "Hub is switched off"), ("{snapshot}/cola/train-00000-of-00001.parquet", "cola"),
])
def test_another_revision_or_half_of_one_is_not_taken(cached, broken, message):
    snapshot = cached / "datasets--nyu-mll--glue" / "snapshots" / tasks.HUB_REVISION
    path = Path(broken.format(snapshot=snapshot))
    path.rename(path.with_name("b" * 40))
    with pytest.raises(tasks.ParameterError, match=message):
        load_task("cola", "hub")


# Neither

def arguments(task: str, results: Path) -> list[str]:
    values = {**PRESET.finetune("study", task), "results": str(results)}
    return ["finetune", *(part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value)))]


def test_without_hub_and_cache_the_preset_stops_with_one_line(tmp_path):
    start = time.perf_counter()
    done = run("-m", "fnetlib", *arguments("cola", tmp_path / "results"), home=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert time.perf_counter() - start < 60  # most of it imports; retries would take minutes
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: data 'nyu-mll/glue' (cola): the Hugging Face Hub does not answer, and it is "
                                  f"not in the local cache {tmp_path / 'hub'}")
    assert "run once where the Hub answers, or name a folder" in done.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_with_data_but_no_teacher_the_preset_stops_with_one_line(cached, tmp_path, capsys):
    shutil.rmtree(cached / "models--bert-base-uncased")
    assert main(arguments("rte", tmp_path / "results")) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.strip().splitlines()) == 1
    assert shown.err.startswith("error: teacher 'bert-base-uncased': the Hugging Face Hub is switched off (HF_HUB_OFFLINE")
    assert "accepted: auto, minilm, a Hub name, or a folder" in shown.err and not (tmp_path / "results").exists()


# Estimates

TINY = BertConfig(vocab_size=200, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256,
                  max_position_embeddings=128)


def saved_bytes(model, batch: int, length: int) -> int:
    """What autograd really keeps of a forward pass, parameters aside; each storage once."""
    ids = torch.randint(5, 150, (batch, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, length // 2:] = 0
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=mask, labels=torch.zeros(batch, dtype=torch.long))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", [*PRESET.models, "bound"])
def test_activations_are_what_torch_saves(name, dropout):
    """Within 2%. On a CPU torch's attention stores its weights where there is dropout, and dropout four bytes."""
    config = student_config(TINY, name, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, backend="matmul")
    model = FNetBertForSequenceClassification(config).train()
    for batch, length in ((8, 96), (4, 40)):
        estimate = estimates.activations(config, batch, length, fused=not dropout, mask_bytes=4)
        assert estimate == pytest.approx(saved_bytes(model, batch, length), rel=0.02)


def test_weights_gradients_and_moments_are_those_of_the_model():
    config = student_config(TINY, "fnet")
    model = FNetBertForSequenceClassification(config)
    weights = sum(4 * p.numel() for p in model.parameters())
    memory = estimates.training_memory(config, 2, 16)
    assert memory[:4] == (weights, weights, 2 * weights, 0) and memory.total == sum(memory)
    half = estimates.training_memory(config, 2, 16, "bf16")
    assert half.weights == weights and 0 < half.copies < weights / 2 and half.activations < memory.activations


def test_memory_is_what_the_committed_records_measured_on_a_gpu():
    """bert-base's shape, 32,768 tokens a step. The peaks have work space in them, which the estimate has not."""
    measured = [r for r in RecordStore(ROOT / "results" / "minilm").all("efficiency")
                if r.params["shape"] == "bert-base" and r.params["mode"] == "eager" and r.memory.get("train_peak_bytes")
                and r.params["precision"] in ("fp32", "bf16") and r.params["length"] <= 512
                and r.model in ("bert", "fnet-naive", "fnet")]  # not the peers, which the estimate does not know
    assert {r.model for r in measured} == {"bert", "fnet-naive", "fnet"}
    for r in measured:
        config = student_config(BertConfig(), r.model, backend=r.params["backend"])
        memory = estimates.training_memory(config, r.params["batch"], r.params["length"], r.params["precision"], padded=False)
        if r.model == "fnet" and r.started < "2026-11-29":  # until then the gain kept every token's states once more
            more = 12 * 768 * r.params["batch"] * r.params["length"] * (4 if r.params["precision"] == "fp32" else 2)
            memory = memory._replace(activations=memory.activations + more)
        low = 0.92 if r.params["precision"] == "fp32" else 0.84
        assert low <= memory.total / r.memory["train_peak_bytes"] <= 1.01, (r.model, r.params["precision"])


def test_the_studys_longest_batch_fits_a_t4():
    """15 GiB of it are free; even where attention stores its weights, with a gibibyte for context and work space."""
    for name in PRESET.models:
        config = student_config(BertConfig(), name)
        assert estimates.training_memory(config, 16, 512).total < 7 * estimates.GIB
        assert estimates.training_memory(config, 16, 512, fused=False).total < 12 * estimates.GIB


def test_time_is_the_studys_own():
    params = FinetuneParams.parse(PRESET.finetune("study", "rte"))
    assert estimates.training_seconds(BertConfig(), "rte", 2490, params) == pytest.approx(406.4, rel=1e-3)
    assert estimates.training_seconds(BertConfig(), "qnli", 104_743, params) == pytest.approx(9227, rel=1e-3)
    assert estimates.training_seconds(TINY, "rte", 2490, params) is None  # another shape
    assert estimates.training_seconds(BertConfig(), "sst2", 2490, params) is None  # a task that it did not run
    for other in ({"precision": "fp16"}, {"compile": "graphs"}):
        assert estimates.training_seconds(BertConfig(), "rte", 2490, params.model_copy(update=other)) is None
    assert estimates.duration(59) == "1 minute" and estimates.duration(406.4) == "7 minutes"
    assert estimates.duration(9227) == "2.6 hours"


def test_the_longest_example_is_found():
    class Words:
        """A token a word; what matters is which rows it is shown."""

        def __call__(self, first, second, truncation, max_length):
            assert truncation and len(first) <= estimates.LONGEST
            return {"input_ids": [f"{a} {b}".split()[:max_length] for a, b in zip(first, second)]}

    data = load_task("rte", "synthetic", train_size=300)
    lengths = [len(f"{a} {b}".split()) for a, b in zip(data.train["sentence1"], data.train["sentence2"])]
    assert estimates.longest(data, Words(), 512) == max(lengths) > 5 == estimates.longest(data, Words(), 5)


def test_the_estimate_in_words(true_shape):
    data = load_task("rte", "synthetic")
    params = FinetuneParams.parse({"teacher": str(true_shape), "task": "rte", "model": "bert,fnet", "seeds": "1,2"})
    first, bert, fnet, last = estimates.in_words(params, data).splitlines()
    assert first.startswith("Estimates for 16 examples of up to ") and "fp32" in first
    assert bert.startswith("  bert: 1.") and "GiB" in bert and fnet.startswith("  fnet: 1.")
    assert last.startswith("Up to ") and "for all 4" in last and "2023 study" in last
    assert "\n".join([first, bert]) == estimates.in_words(params.model_copy(update={
        "model": "bert", "precision": "fp32", "batch_size": 16, "max_length": 511}), data)  # no time: not the study's




def test_readmes_sentence_on_colab_is_the_studys_times_and_the_formula():
    text = estimates.colab()
    assert "6 minutes on CoLA, 2.6 hours on QNLI, 7 minutes on RTE" in text  # 316.6, 9227.0 and 406.4 s
    whole = estimates.training_memory(student_config(BertConfig(), "bert"), 16, 512).total / 2**30
    assert f"16 examples of 512 tokens in fp32 need {whole:.1f} GiB" in text


def test_what_the_formula_does_not_count_is_not_estimated(true_shape):
    data = load_task("rte", "synthetic", 16, 16)
    lines = estimates.in_words(FinetuneParams(task="rte", model="fnet,fnet+gated,hybrid-2+taylor", teacher=str(true_shape), train_size=16),
                               data).splitlines()
    assert "GiB" in lines[1] and [line.strip() for line in lines[2:4]] == [
        "fnet+gated: memory not estimated", "hybrid-2+taylor: memory not estimated"]
