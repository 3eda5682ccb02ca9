"""Shared by all tests: offline, few threads, tiny models."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two pytest workers on two cores
os.environ.pop("FNETLIB_GLUE_DIR", None)

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 64}


@pytest.fixture(scope="session")
def tiny_config() -> BertConfig:
    return BertConfig(vocab_size=200, **SHAPE)


@pytest.fixture(scope="session")
def tiny_teacher_folder(tmp_path_factory) -> str:
    """A random BERT with a masked-LM head and a word tokenizer over the synthetic tasks' words, in a folder."""
    from fnetlib import synthetic

    words = set()
    for task, column in (("cola", "sentence"), ("rte", "sentence1"), ("rte", "sentence2"), ("qnli", "question"),
                         ("qnli", "sentence")):
        for text in synthetic.generate(task, "train", size=200)[column]:
            words.update(BertPreTokenizer().pre_tokenize_str(text.lower())[i][0]
                         for i in range(len(BertPreTokenizer().pre_tokenize_str(text.lower()))))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])])
    tokenizer = BertTokenizerFast(tokenizer_object=backend)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher")
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **SHAPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
