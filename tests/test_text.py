"""Text for continued training: where it comes from, what is held out by hash, how it is packed."""

import hashlib

import pandas as pd
import pytest

from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher
from fnetlib.text import is_held_out, load_text, pack


def write(folder, count, column="text", offset=0):
    folder.mkdir(exist_ok=True)
    texts = [f"document {i} has {'a dog ' * (i % 7 + 1)}" for i in range(offset, offset + count)]
    pd.DataFrame({column: texts, "title": texts}).to_parquet(folder / f"{offset}.parquet")
    return texts


def test_held_out_by_each_documents_own_hash(tmp_path, monkeypatch):
    texts = write(tmp_path / "a", 800) + write(tmp_path / "b", 400, offset=5000)
    found = load_text(f"{tmp_path / 'a'}, {tmp_path / 'b'}")
    held_out, train = set(found.held_out["text"]), set(found.train["text"])
    assert held_out | train == set(texts) and not held_out & train
    assert held_out == {t for t in texts if int(hashlib.sha256(t.encode()).hexdigest()[:16], 16) % 1000 < 5}
    assert found.record.sizes == {"train": len(train), "held_out": len(held_out)} and found.record.source == "folder"
    monkeypatch.setenv("FNETLIB_TEXT_DIR", str(tmp_path / "a"))
    assert set(load_text().held_out["text"]) == held_out & set(texts[:800])  # other documents around do not matter
    assert load_text().record.fingerprint != found.record.fingerprint


def test_about_one_document_in_two_hundred_is_held_out():
    share = sum(is_held_out(f"text {i}") for i in range(20_000)) / 20_000
    assert 0.003 < share < 0.007


@pytest.mark.parametrize("make, message", [
    (lambda folder: None, "no parquet file in"), (lambda folder: write(folder, 50, column="body"), "no column 'text'"),
    (lambda folder: write(folder, 3), "too few to hold some out")])
def test_bad_sources(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ParameterError, match=message) as error:
        load_text(str(tmp_path))
    assert "\n" not in str(error.value)


def test_without_a_folder_the_hub_is_asked_and_its_absence_is_one_line(monkeypatch):
    monkeypatch.delenv("FNETLIB_TEXT_DIR", raising=False)
    with pytest.raises(ParameterError, match="wikimedia/wikipedia.*accepted: auto, hub, or folders") as error:
        load_text()
    assert "\n" not in str(error.value)


def test_packed_sequences_hold_the_documents_in_order(tmp_path, tiny_teacher_folder):
    tokenizer = load_teacher(tiny_teacher_folder).tokenizer
    write(tmp_path, 400)
    documents = load_text(str(tmp_path)).train
    packed = pack(documents, tokenizer, 32)
    assert set(map(len, packed["input_ids"])) == {32}
    ids = packed["input_ids"].numpy() if hasattr(packed["input_ids"], "numpy") else [list(map(int, r)) for r in packed["input_ids"]]
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in ids)
    stream = [int(token) for row in ids for token in row[1:-1]]
    wanted = [t for text in documents["text"] for t in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]]
    assert stream == wanted[:len(stream)] and len(wanted) - len(stream) < 30
