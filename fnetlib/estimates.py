"""What a fine-tuning run will need, before it starts: memory from a formula, time from the 2023 study's own runs.

Both are estimates. The formula counts what training keeps, tensor by tensor: for fp32 within 2% of what torch saves on a
CPU. The peaks that the committed records measured on a GPU, work space included, lie up to 8% above it in fp32 and up
to 16% under autocast. Tests hold it to both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from transformers import BertConfig, PreTrainedTokenizerBase

from . import flops, published
from .config import OF_VALUES, student_config
from .params import EXTRAS, SHAPES, STUDY, FinetuneParams
from .records import RecordStore
from .results import task_title
from .tasks import TaskData, results_folder
from .teacher import load_shape, remembered

GIB = 2**30
LONGEST = 64  # texts that are tokenised to find the longest


class Memory(NamedTuple):
    """Bytes of one training step. Not in it: the CUDA context and libraries (some 0.5 GiB), work space, fragmentation.

    weights, gradients: 4 bytes a parameter each; optimizer: AdamW's two moments, 8 bytes a parameter; copies: the
    half-precision weights that autocast keeps; activations: what the backward pass of a batch needs, see `activations`.
    """

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


def training_memory(config: BertConfig, batch: int, length: int, precision: str = "fp32", fused: bool = True,
                    padded: bool = True) -> Memory:
    """Bytes that training a sequence classifier with AdamW keeps for `batch` examples padded to `length` tokens.

    precision: `fp32`, or `bf16` and `fp16` by autocast. fused: attention never stores its length x length weights, which
    torch's kernels for GPUs do not, those for a CPU do under dropout. padded: examples differ in length.
    """
    count = sum(flops.parameters(config).values())
    products = count - _table_parameters(config) if precision != "fp32" else 0
    return Memory(4 * count, 4 * count, 8 * count, 2 * products, activations(config, batch, length, precision, fused, padded))


def _table_parameters(config: BertConfig) -> int:
    return (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * config.hidden_size


def activations(config: BertConfig, batch: int, length: int, precision: str = "fp32", fused: bool = True,
                padded: bool = True, mask_bytes: int = 1) -> int:
    """Bytes that the forward pass keeps for the backward pass.

    For each of a layer's tokens of width d, inner width i, with h heads (c: 4 bytes, 2 under autocast, which casts the
    input of every product anew; sums and LayerNorm's inputs are always 4 bytes):

    - attention: its input, c·d (three casts of it: 3·c·d); queries, keys, values and context, 4·c·d; the softmax's
      sums, 4·h, and where the batch is `padded` the mask as numbers, c·length; or where attention is not `fused` the
      weights before and after dropout, (2·c + mask_bytes)·h·length
    - Fourier: nothing but the input of the projection, or of the gain where there is no projection, c·d: the transform is
      linear. Once a batch the projection times the gain, c·d², and its matrices, 2·c·length² for each example of a padded batch
    - both LayerNorms' inputs, 2·4·d, means and deviations, 16; the feed-forward's input, c·d, and both sides of its
      activation, 2·c·i; `mask_bytes`·d for each dropout (torch keeps 1 byte an element on a GPU, 4 on a CPU)
    """
    d, tokens, size = config.hidden_size, batch * length, 4 if precision == "fp32" else 2
    mask = mask_bytes if config.hidden_dropout_prob else 0
    mixers = getattr(config, "mixers", None) or ["attention"] * config.num_hidden_layers
    ends = tokens * ((4 + mask) * d + 8) + tokens * 4 * d + 4 * 4 * batch * d  # embeddings, last state, pooler
    layers = sum(_layer(config, mixer, length, size, mask, mask_bytes, fused, padded) for mixer in mixers)
    scaled = size * d**2 * sum(mixer != "attention" for mixer in mixers) * bool(getattr(config, "gain", False) and config.output_projection)
    return round(tokens * layers + ends + scaled + _matrices(config, mixers.count("fourier"), batch if padded else 1, length, size))


def _layer(config: BertConfig, mixer: str, length: int, size: int, mask: int, mask_bytes: int, fused: bool,
           padded: bool) -> float:
    """Bytes a token of one layer."""
    d, heads = config.hidden_size, config.num_attention_heads
    projects = mixer == "attention" or getattr(config, "output_projection", True)
    rest = 8 * d + 16 + size * (d + 2 * config.intermediate_size) + mask * d * (1 + projects)
    if mixer != "attention":
        return rest + size * d * (projects or bool(config.gain))
    dropped = (size + mask_bytes) * bool(config.attention_probs_dropout_prob)
    weights = 4 * heads + size * length * padded if fused else heads * length * (size + dropped)
    return rest + size * d * ((1 if size == 4 else 3) + 4) + weights


def _matrices(config: BertConfig, layers: int, batch: int, length: int, size: int) -> int:
    """Cosines and sines of the Fourier layers: the sequence axis' once a batch, for each of `batch` lengths, the hidden axis' cast
    anew in each layer."""
    if not layers or flops.choose_backend(config.backend, length) != "matmul":
        return 0
    sequence = 2 * length**2 * (batch if config.padding == "mask" else 1)
    hidden = 2 * config.hidden_size * (config.hidden_size // 2 + 1)
    return size * sequence + (layers * size * hidden if size < 4 else 0)


def training_seconds(config: BertConfig, task: str, examples: int, params: FinetuneParams) -> float | None:
    """Seconds of one run on the GPU that the study had on Colab, from its steps per second; evaluation is in them.

    Of BERT, so an upper estimate for the swaps. None where the study has nothing alike: another shape, task, batch,
    precision, length limit or way of batching.
    """
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    same = {name: STUDY[name] for name in ("batch_size", "accumulate", "max_length")} | EXTRAS
    alike = all(getattr(params, name) == value for name, value in same.items())
    if task not in published.EXPECTED.tasks or shape != SHAPES["bert-base"] or not alike or params.precision != "fp32":
        return None
    steps = params.epochs * math.ceil(examples / params.batch_size)
    return steps / published.EXPECTED.tasks[task]["bert"].train_steps_per_s


def longest(data: TaskData, tokenizer: PreTrainedTokenizerBase, limit: int) -> int:
    """Tokens of the longest training example, at most `limit`; the longest texts are tokenised, not all."""
    columns = [data.train[column] for column in data.task.columns]
    texts = sorted(zip(*columns, strict=True), key=lambda row: -sum(map(len, row)))[:LONGEST]
    found = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=limit)["input_ids"]
    return max(map(len, found))


def in_words(params: FinetuneParams, data: TaskData) -> str:
    """What each run of 03_finetune will need on a GPU: a line a model, for the longest batch there can be."""
    known = remembered(params.teacher, RecordStore(results_folder(params.results, data.record.source)))
    config, tokenizer = (known.config, known.tokenizer) if known else load_shape(params.teacher)
    tokens = longest(data, tokenizer, min(params.max_length, config.max_position_embeddings))
    length = math.ceil(tokens / params.pad_to) * params.pad_to
    lines = [f"Estimates for {params.batch_size} examples of up to {length} tokens, {params.precision}, on a GPU:"]
    for model in params.models:
        student = student_config(config, model, num_labels=data.task.num_labels)
        if set(OF_VALUES) & set(student.mixers):  # the formula does not count what they keep
            lines.append(f"  {model}: memory not estimated")
            continue
        memory = training_memory(student, params.batch_size, length, params.precision)
        lines.append(f"  {model}: {memory.total / GIB:.1f} GiB, of which {memory.activations / GIB:.1f} activations")
    seconds = training_seconds(config, data.task.name, len(data.train), params)
    runs = len(params.models) * len(params.all_seeds)
    if seconds and not params.grid:  # a grid's points differ in steps
        lines.append(f"Up to {duration(seconds)} a run, {duration(runs * seconds)} for all {runs}, on the Colab GPU of "
                     "the 2023 study, at the speed that it published for BERT; less on a larger GPU.")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`3 minutes`, `2.6 hours`."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes} minute{'s' if minutes > 1 else ''}" if minutes < 100 else f"{minutes / 60:.1f} hours"


def colab() -> str:
    """README's sentence on the study's runs on Colab: its published times of BERT, and the formula's largest batch."""
    layers, width, heads = SHAPES["bert-base"]
    shape = BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
    batch, length = STUDY["batch_size"], STUDY["max_length"]
    memory = training_memory(student_config(shape, "bert"), batch, length).total / GIB
    times = [f"{duration(runs['bert'].train_runtime_s)} on {task_title(task)}" for task, runs in published.EXPECTED.tasks.items()]
    return (f"Estimates, until they are measured on a T4: the 2023 study's own runs of BERT on its Colab GPU took "
            f"{', '.join(times)}; {batch} examples of {length} tokens in fp32 need {memory:.1f} GiB by the formula in "
            "`fnetlib/estimates.py`, of a T4's 15. 03 prints its own estimate before it starts.\n")
