"""Text for continued training: where it comes from, what is held out by hash, how it is packed."""

import hashlib

import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fnetlib.params import ParameterError
from fnetlib.teacher import load_teacher
from fnetlib.text import cut, is_held_out, load_text, pack, sentences


def write(folder, count, column="text", offset=0):
    folder.mkdir(exist_ok=True)
    texts = [f"document {i} has {'a dog ' * (i % 7 + 1)}" for i in range(offset, offset + count)]
    pd.DataFrame({column: texts, "title": texts}).to_parquet(folder / f"{offset}.parquet")
    return texts


def test_sentences_are_even_over_the_documents():
    documents = Dataset.from_dict({"text": [f"{i} begins. Does {i} go on?\n\n{i} ends!  " for i in range(100)]})
    found = sentences(documents, 20)
    assert len(set(found)) == 20 and found[0] == "0 begins." and found[-1] == "99 ends!"
    assert {text.split()[0] for text in found} > {"Does"} and not any("\n" in text for text in found)
    assert sentences(documents.select([4]), 20) == ["4 begins.", "Does 4 go on?", "4 ends!"]


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


def test_text_is_packed_once_for_all_teachers_with_one_tokenizer(tmp_path, tiny_teacher_folder):
    """A folder of another name, and a tokenizer that was used meanwhile, change nothing; another length does."""
    write(tmp_path / "text", 400)
    documents, tokenizer = load_text(str(tmp_path / "text")).train, load_teacher(tiny_teacher_folder).tokenizer
    tokenizer.save_pretrained(tmp_path / "other")
    first = pack(documents, tokenizer, 32)
    other = AutoTokenizer.from_pretrained(tmp_path / "other")
    other(["a dog"], truncation=True, max_length=4, padding="max_length")
    again = pack(documents, other, 32)
    assert again._fingerprint == first._fingerprint and again.cache_files == first.cache_files and first.cache_files
    assert pack(documents, other, 16).cache_files != first.cache_files
    other.add_tokens(["zzz"])
    assert pack(documents, other, 32).cache_files != first.cache_files


class Words:
    """A tokenizer as `cut` sees it: [CLS] is 1, [SEP] 2, a full stop 3, other words follow."""

    cls_token_id, sep_token_id = 1, 2

    @staticmethod
    def convert_tokens_to_ids(tokens):
        return [3 for _ in tokens]


@given(st.integers(8, 30), st.integers(4, 30), st.integers(1, 4), st.integers(0, 9))
def test_cut_sequences_are_pieces_of_the_packed_ones(packed, length, rows, seed):
    torch.manual_seed(seed)
    length = min(length, packed)
    sequences = torch.arange(rows * packed).reshape(rows, packed) + 10  # every token once: a piece says where it is from
    sequences[:, 0], sequences[:, -1] = 1, 2
    found = cut(sequences, length, Words)
    ids, types = found["input_ids"], found["token_type_ids"]
    assert ids.shape == types.shape == (rows * ((packed - 2) // (length - 2)), length)
    assert (ids[:, 0] == 1).all() and (ids[:, -1] == 2).all()
    inner, place = ids[:, 1:-1], torch.arange(length - 2)
    begin = torch.where(inner[:, 0] > 9, inner[:, 0], inner[:, 1] - 1)
    expected = begin[:, None] + place
    separators = inner == 2
    assert ((inner == expected) | separators).all() and separators.sum(1).max() <= 1
    assert torch.isin(expected, sequences[:, 1:-1].contiguous()).all()
    if types.any():  # a pair: type 1 begins behind the separator, which is in every row
        assert separators.any(1).all() and (types.sum(1) == length - 2 - separators.int().argmax(1)).all()
    else:
        assert not separators.any()


def test_cut_sequences_begin_or_end_with_a_sentence_and_pairs_are_half_of_the_batches():
    torch.manual_seed(0)
    sentence = torch.tensor([10, 11, 12, 13, 14, 15, 16, 17, 18, 3])
    sequences = torch.cat([torch.tensor([1]), sentence.repeat(6), torch.tensor([2])]).repeat(50, 1)
    begins, ends, pairs = [], [], []
    for _ in range(40):
        found = cut(sequences, 9, Words)  # pieces of 7: none both begins and ends a sentence of 10
        begins.append((found["input_ids"][:, 1] == 10).float().mean())
        ends.append((found["input_ids"][:, -2] == 3).float().mean())
        pairs.append(bool(found["token_type_ids"].any()))
    assert torch.tensor(begins).mean() == pytest.approx(0.5, abs=0.02) and torch.tensor(ends).mean() == pytest.approx(0.5, abs=0.02)
    assert 8 <= sum(pairs) <= 32
