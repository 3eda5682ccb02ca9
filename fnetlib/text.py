"""Unlabelled text for continued training: where it comes from, what is held out, and how it is packed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset, load_dataset
from transformers import PreTrainedTokenizerBase

from . import records
from .hub import cache_lock, from_hub
from .params import ParameterError

HUB_NAME, HUB_CONFIG = "wikimedia/wikipedia", "20231101.en"
HUB_SHARDS = "20231101.en/train-0000[0-2]-of-00041.parquet"  # about as much text as the report's own corpus
FOLDER_VARIABLE = "FNETLIB_TEXT_DIR"
SOURCES = f"auto, hub, or folders of parquet files with a column `text`, separated by commas ({FOLDER_VARIABLE} sets it too)"
COUNTED_SEQUENCES = 50_000  # that token frequencies are counted over
HELD_OUT = 5  # of 1000 documents, decided by each document's own hash, so that no training run ever sees them


@dataclass(frozen=True)
class Text:
    """Documents to train on and documents never trained on: data sets with a column `text`."""

    train: Dataset
    held_out: Dataset
    record: records.Data = field(repr=False)


def load_text(source: str = "auto") -> Text:
    """`auto` is FNETLIB_TEXT_DIR where it is set, else the Hub. Raises ParameterError, one line, where there is none."""
    if source == "auto":
        source = os.environ.get(FOLDER_VARIABLE) or "hub"
    if source == "hub":
        try:
            documents = from_hub(lambda: load_dataset(HUB_NAME, data_files=HUB_SHARDS, split="train"), f"text {HUB_NAME!r}")
        except FileNotFoundError as error:
            raise ParameterError(f"{error}; accepted: {SOURCES}") from None
        kind = "hub"
    else:
        files = [str(file) for part in source.split(",") for file in sorted(Path(part.strip()).rglob("*.parquet"))]
        if not files:
            raise ParameterError(f"text: no parquet file in {source!r}; accepted: {SOURCES}")
        documents, kind = _read(files), "folder"
    documents = documents.select_columns("text").filter(lambda text: bool(text and text.strip()), input_columns="text")
    marks = [is_held_out(text) for batch in documents.iter(1000) for text in batch["text"]]
    held_out, train = (documents.select([i for i, mark in enumerate(marks) if mark is kept]) for kept in (True, False))
    if not len(train) or not len(held_out):
        raise ParameterError(f"text: {len(documents)} documents in {source!r} are too few to hold some out; at least a few "
                             "hundred are needed")
    sizes = {"train": len(train), "held_out": len(held_out)}
    return Text(train, held_out, records.Data(
        source=kind, revision=HUB_CONFIG if kind == "hub" else None, fingerprint=fingerprint(documents), sizes=sizes,
        note="sizes are documents"))


def _read(files: list[str]) -> Dataset:
    """Only the column `text`: the files may differ in the others."""
    lacking = [file for file in files if "text" not in pq.read_schema(file).names]
    if lacking:
        raise ParameterError(f"text: no column 'text' in {lacking[0]!r}; it has: {', '.join(pq.read_schema(lacking[0]).names)}")
    return load_dataset("parquet", data_files=files, split="train", columns=["text"])


def is_held_out(text: str) -> bool:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 1000 < HELD_OUT


def sentences(documents: Dataset, count: int) -> list[str]:
    """`count` sentences, or all where there are fewer, evenly over those of at most `count` documents, which are even over all."""
    def spread(size: int) -> list[int]:
        return np.linspace(0, size - 1, min(count, size)).astype(int).tolist()

    chosen = documents.select(spread(len(documents)))["text"]
    found = [part for text in chosen for part in re.split(r"(?<=[.?!])\s+|\n+", text.strip()) if part.strip()]
    return [found[i] for i in spread(len(found))]


def processes(documents: Dataset) -> int | None:
    """Worker processes that tokenising is worth: one for every few hundred documents, up to sixteen."""
    count = min(16, os.cpu_count() or 1, len(documents) // 500)
    return count if count > 1 else None


def fingerprint(documents: Dataset) -> str:
    """sha256 (16 hex digits) over all documents."""
    digest = hashlib.sha256()
    for batch in documents.iter(1000):
        for text in batch["text"]:
            digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def unigram_loss(train: Dataset, labels: np.ndarray, vocabulary: int) -> float:
    """What token frequencies alone give: mean -log p(label) in nats, p counted over packed sequences (plus one each).

    labels: token ids, negative where nothing is to be predicted. A model that has learned no more than frequencies is here.
    """
    rows = train.select(range(min(len(train), COUNTED_SEQUENCES))).with_format("numpy")
    counts = np.ones(vocabulary)
    for batch in rows.iter(1000):
        counts += np.bincount(np.asarray(batch["input_ids"]).ravel(), minlength=vocabulary)
    wanted = labels[labels >= 0]
    return float(-np.log(counts / counts.sum())[wanted].mean())


def cut(sequences: torch.Tensor, length: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Shorter sequences out of packed ones: `[batch, seq]` ids -> `input_ids`, `token_type_ids` `[more, length]`.

    As many as fit side by side, at places drawn so that half of them begin a sentence and half of them end one; half of
    the batches are pairs, with a separator at a place of its own in each and token type 1 behind it. A mixer that depends
    on the length (a Fourier transform does) must see the lengths and forms of what it will be used on.
    """
    start, end, body = tokenizer.cls_token_id, tokenizer.sep_token_id, length - 2
    inner = sequences[:, 1:-1].contiguous()
    room, count = inner.shape[1] - body, inner.shape[1] // body
    stops = torch.tensor([end, *tokenizer.convert_tokens_to_ids([".", "?", "!"])])
    after_stop = torch.isin(inner, stops)[:, :-1]  # a sentence begins at the place behind
    begins = torch.cat([torch.ones_like(after_stop[:, :1]), after_stop], 1)[:, :room + 1]
    ends = torch.cat([after_stop, torch.ones_like(after_stop[:, :1])], 1)[:, body - 1:]
    places = torch.cat([torch.multinomial(odds + 1e-6, n, replacement=True)
                        for odds, n in ((begins.float(), count - count // 2), (ends.float(), count // 2)) if n], 1)
    pieces = inner.gather(1, (places[..., None] + torch.arange(body)).flatten(1)).reshape(-1, body)
    ids = torch.cat([torch.full_like(pieces[:, :1], start), pieces, torch.full_like(pieces[:, :1], end)], 1)
    types = torch.zeros_like(ids)
    if length >= 8 and torch.rand(()) < 0.5:
        split = torch.randint(2, length - 2, (len(ids), 1))
        ids.scatter_(1, split, end)
        types = (torch.arange(length) > split).long()
    return {"input_ids": ids, "token_type_ids": types}


def pack(documents: Dataset, tokenizer: PreTrainedTokenizerBase, length: int) -> Dataset:
    """Documents one after the other, cut into sequences of exactly `length` tokens: `input_ids` `[length]` each.

    A document ends with the separator; each sequence starts with `[CLS]` and ends with `[SEP]`, as in pre-training.
    The last tokens of every batch of documents that do not fill a sequence are dropped.
    """
    start, end, body = tokenizer.cls_token_id, tokenizer.sep_token_id, length - 2

    def sequences(texts: list[str]) -> dict[str, list[list[int]]]:
        ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False,
                        verbose=False)["input_ids"]
        stream = [token for document in ids for token in (*document, end)]
        cuts = range(0, len(stream) - body + 1, body)
        return {"input_ids": [[start, *stream[i:i + body], end] for i in cuts]}

    identity = _identity(documents, tokenizer, length)
    with cache_lock(f"pack-{identity}"):
        packed = documents.map(sequences, input_columns="text", batched=True, batch_size=500, remove_columns="text",
                               num_proc=processes(documents), new_fingerprint=identity)
    return packed.with_format("torch")


def _identity(documents: Dataset, tokenizer: PreTrainedTokenizerBase, length: int) -> str:
    """What packed text depends on, 16 hex digits: teachers in different folders share a tokenizer, and so its work."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = {name: value for name, value in rules.items() if name not in ("truncation", "padding")}  # of its last call
    known = [documents._fingerprint, rules, tokenizer.cls_token_id, tokenizer.sep_token_id, length]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
