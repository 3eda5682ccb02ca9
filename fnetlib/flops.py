"""FLOPs and parameters of every part of a model, from its configuration alone.

Counters that watch torch's operators miss FFTs, so the counts are formulas; where a counter can see, a test holds
them to it. The conventions, for a batch of B sequences of n tokens and width d:

- a product of an a x b and a b x c matrix is 2abc (a multiplication and an addition);
- a complex FFT of N points is 5 N log2 N (Cooley and Tukey's radix-2 count, customary whatever the algorithm), one of
  real input half of that; any N, powers of two or not;
- LayerNorm is 7 an element; other elementwise work (biases, softmax, GELU, dropout, residual sums, gain, scale) and
  what is done once a batch rather than once a layer (masks, DFT matrices) is neglected, and so are columns of zeros
  that only align a matrix;
- a training step is three forward passes (the usual count: each product has two in the backward pass). It is exact
  for layers with weights and too high for the Fourier transform, which has none: its backward pass is one transform.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import pandas as pd
from transformers import BertConfig

from .config import FILTERS
from .mixers.folded import FOLDED_HALF_MAX_LENGTH, FOLDED_MASKED_MAX_LENGTH, aligned, is_decimated, token_folds
from .mixers.fourier import choose_backend

PARTS = ("embeddings", "mixing", "projection", "feed-forward", "norms", "pooler", "classifier")
TRAIN_STEP = 3  # forward passes that a training step is counted as
NORM = 7  # mean, centring, square, sum, division, scale, shift
FOLDED = "Fourier, folded"


class Part(NamedTuple):
    """One part of one layer. where: `embeddings`, the layer's number, or `head`; flops: of one forward pass."""

    where: str
    part: str
    what: str
    flops: float
    parameters: int


def fft_flops(points: float, real: bool = False) -> float:
    """5 N log2 N, half of it for real input."""
    return (2.5 if real else 5.0) * points * math.log2(points)


def attention_flops(n: int, d: int) -> float:
    """6 n d² for queries, keys and values, 2 n² d for the scores, 2 n² d for softmax·V; the projection is apart."""
    return 6.0 * n * d * d + 4.0 * n * n * d


def fourier_fft_flops(n: int, d: int) -> float:
    """2.5 n d log2(d) for the real hidden axis, 5 n log2(n) for each of its d/2 + 1 columns: about 2.5 nd log2(nd)."""
    return n * fft_flops(d, real=True) + (d // 2 + 1) * fft_flops(n)


def fourier_matmul_flops(n: int, d: int) -> float:
    """4 n d h + 4 n² h with h = d/2 + 1: cosine and sine products of each axis, half of the hidden spectrum."""
    half = d // 2 + 1
    return 4.0 * n * d * half + 4.0 * n * n * half


def folded_rows(n: int, masked: bool) -> list[int]:
    """Rows of cosines, and as many of sines, of each part of a folded sequence: n/2 + 1, or decimated n/4 + 1 and n/4.
    Their zeros to multiples of 8 are counted. masked: the batch has a mask, and so is not decimated."""
    return [fold.rows for fold in token_folds(n, not masked and is_decimated(n))]


def fourier_folded_flops(n: int, d: int, masked: bool = False) -> float:
    """4 m² d for cosines and sines of m rows, of each part, see `folded_rows`. The projection takes less than elsewhere, see
    `folded_projection_flops`."""
    return sum(4.0 * rows**2 * d for rows in folded_rows(n, masked))


def folded_projection_flops(n: int, d: int, masked: bool = False) -> float:
    """4 m h d with m rows in all, see `folded_rows`, and h = d/2 + 1 columns of cosines and of sines, in the place of 2 n d². The
    4 h d² that a layer spends once a forward pass to fold it are neglected."""
    return 4.0 * sum(folded_rows(n, masked)) * aligned(d // 2 + 1, d) * d


def fourier_bluestein_flops(n: int, d: int) -> float:
    """FFTs of m points, a power of two from 2n, there and back, with three complex products (6 each) by the chirp."""
    half, size = d // 2 + 1, 1 << (2 * n - 1).bit_length()
    return n * fft_flops(d, real=True) + half * (2 * fft_flops(size) + 6.0 * (size + 2 * n))


def values_flops(n: int, d: int, backend: str, masked: bool) -> float:
    """2 n d² for the values; 2 n² d by matrices, or by FFTs 2.5 n log2(n) a real column, 2 n d to take real and imaginary part together;
    with a mask Bluestein's, see `fourier_bluestein_flops`, of all d columns."""
    if backend == "matmul":
        return 2.0 * n * d * d + 2.0 * n * n * d
    size = 1 << (2 * n - 1).bit_length()
    column = 2 * fft_flops(size) + 6.0 * (size + 2 * n) if masked else fft_flops(n, real=True)
    return 2.0 * n * d * d + d * column + 2.0 * n * d


def convolution_flops(n: int, columns: int, backend: str) -> float:
    """2 n² a column by Toeplitz matrices, or FFTs of m points there and back, a power of two from 2n − 1."""
    size = 1 << (2 * n - 2).bit_length()
    return columns * (2.0 * n * n if backend == "matmul" else 2 * fft_flops(size, real=True) + 3.0 * size)


def filter_flops(n: int, d: int, heads: int, backend: str) -> float:
    """2 n d² for the values, the convolutions; the ends' weights 4 n a head, 2 n d to apply them, 2 n d for the first
    token's own."""
    return 2.0 * n * d * d + convolution_flops(n, d, backend) + 4.0 * n * heads + 4.0 * n * d


def gated_flops(n: int, d: int, heads: int, backend: str) -> float:
    """2 n d² for the values, convolutions of d columns and a sum of weights a head; 8 n d a head for four numbers a
    token (its gate, what it takes from both ends, its gate for the first token), 12 n d to apply the last three."""
    return 2.0 * n * d * d + convolution_flops(n, d + heads, backend) + 8.0 * n * d * heads + 12.0 * n * d


def aft_flops(n: int, d: int, heads: int, backend: str) -> float:
    """6 n d² for values and gates by key and query, convolutions of d columns and their d sums of weights; 6 n d a head for
    three numbers a token (what it takes from both ends, its gate for the first token), 6 n d to apply them."""
    return 6.0 * n * d * d + convolution_flops(n, 2 * d, backend) + 6.0 * n * d * heads + 6.0 * n * d


def taylor_flops(n: int, d: int, heads: int, backend: str) -> float:
    """6 n d² for queries, keys and values, convolutions as in the gated filter, 6 n d a head for three numbers a token; with
    e = d/heads 4 n d e for the covariances there and back, 4 n d + 4 d e for means, 16 n d for the ends and the first token's
    attention."""
    size = d // heads
    return (6.0 * n * d * d + convolution_flops(n, d + heads, backend) + 6.0 * n * d * heads + 4.0 * n * d * size
            + 4.0 * d * size + 20.0 * n * d)


def mixing_flops(config: BertConfig, mixer: str, seq: int, masked: bool = False) -> tuple[str, float]:
    """What a layer's mixer does and its FLOPs for one sequence. masked: the batch has padding that is masked."""
    width = config.hidden_size
    if mixer == "attention":
        return "attention", attention_flops(seq, width)
    if mixer == "identity":
        return "none", 0.0
    if mixer in FILTERS:
        count, what = {"filter": (filter_flops, "filter"), "gated": (gated_flops, "gated filter"),
                       "aft": (aft_flops, "attention-free"), "taylor": (taylor_flops, "attention, expanded")}[mixer]
        backend = choose_backend(config.backend, seq)
        kind = "matrices" if backend == "matmul" else "FFT"
        return f"{what}, {kind}", count(seq, width, config.num_attention_heads, backend)
    masked = masked and config.padding == "mask"
    if mixer == "values":
        backend = choose_backend(config.backend, seq, masked)
        return f"values, {'matrices' if backend == 'matmul' else 'FFT (Bluestein)' if masked else 'FFT'}", values_flops(seq, width, backend, masked)
    longest = FOLDED_MASKED_MAX_LENGTH if masked else FOLDED_HALF_MAX_LENGTH
    if config.backend == "folded" and seq <= longest:  # as a GPU trains in half precision
        return FOLDED, fourier_folded_flops(seq, width, masked)
    if choose_backend(config.backend, seq) == "matmul":
        return "Fourier, matrices", fourier_matmul_flops(seq, width)
    if masked:
        return "Fourier, FFT (Bluestein)", fourier_bluestein_flops(seq, width)
    return "Fourier, FFT", fourier_fft_flops(seq, width)


def parts(config: BertConfig, batch: int, seq: int, masked: bool = False, labels: int | None = None) -> list[Part]:
    """Every part of a sequence classifier, in order. A plain BertConfig is a model of attention layers."""
    d, tokens = config.hidden_size, batch * seq
    labels = config.num_labels if labels is None else labels
    tables = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    found = [Part("embeddings", "embeddings", "look-up", 0.0, tables * d),
             Part("embeddings", "norms", "LayerNorm", NORM * tokens * d, 2 * d)]
    for i, mixer in enumerate(getattr(config, "mixers", None) or ["attention"] * config.num_hidden_layers):
        found += _layer(config, str(i), mixer, batch, seq, masked)
    return [*found, Part("head", "pooler", "dense, tanh", 2.0 * batch * d * d, d * d + d),
            Part("head", "classifier", "dense", 2.0 * batch * d * labels, d * labels + labels)]


def _layer(config: BertConfig, where: str, mixer: str, batch: int, seq: int, masked: bool) -> list[Part]:
    d, inner, tokens = config.hidden_size, config.intermediate_size, batch * seq
    what, mixing = mixing_flops(config, mixer, seq, masked)
    weights = 3 * (d * d + d) if mixer == "attention" else d * bool(getattr(config, "gain", False))
    if mixer == "filter":
        weights += d * d + d + config.num_attention_heads * (3 * config.max_position_embeddings + 1)
    if mixer == "values":
        weights += d * d + d
    if mixer == "gated":
        weights += d * d + d + config.num_attention_heads * (4 * d + 2 + 2 * config.max_position_embeddings - 1)
    if mixer == "aft":
        weights += 3 * d * d + 2 * d + config.num_attention_heads * (3 * d + 2 + 2 * config.max_position_embeddings - 1)
    if mixer == "taylor":
        weights += 3 * (d * d + d) + d + config.num_attention_heads * (3 * d + 3 + 2 * config.max_position_embeddings - 1)
    projects = mixer == "attention" or config.output_projection
    projection = 2.0 * tokens * d * d * projects
    if what == FOLDED:
        projection = batch * folded_projection_flops(seq, d, masked and config.padding == "mask")
    return [
        Part(where, "mixing", what, batch * mixing, weights),
        Part(where, "projection", "dense" if projects else "none", projection, (d * d + d) * projects),
        Part(where, "feed-forward", "dense, GELU, dense", 4.0 * tokens * d * inner, 2 * d * inner + inner + d),
        Part(where, "norms", "2 LayerNorms", 2.0 * NORM * tokens * d, 4 * d),
    ]


def flops(config: BertConfig, batch: int, seq: int, masked: bool = False) -> dict[str, float]:
    """FLOPs of one forward pass by part, summed over the layers; the values' sum is the whole model's."""
    return _sums(parts(config, batch, seq, masked), "flops")


def parameters(config: BertConfig) -> dict[str, int]:
    """Parameters by part, summed over the layers."""
    return _sums(parts(config, 1, 1), "parameters")


def _sums(found: list[Part], field: str) -> dict:
    return {part: sum(getattr(p, field) for p in found if p.part == part) for part in PARTS}


def trainer_flos(config: BertConfig, tokens: int) -> float:
    """What transformers' Trainer reports as `total_flos` for a training step: 6 times the tokens times the parameters that
    are no embedding tables. It knows neither attention's products of states with states nor FFTs."""
    own = parameters(config)
    return 6.0 * tokens * (sum(own.values()) - own["embeddings"])


def compare(ours: BertConfig, theirs: BertConfig, batch: int, seq: int, names: tuple[str, str] = ("ours", "BERT"),
            masked: bool = False) -> pd.DataFrame:
    """Two models of one shape part by part, and their totals. Consecutive layers that are alike share their rows.

    Index (layer, part); for each name the columns what, flops, parameters; of a shared row they are one layer's.
    """
    both = [parts(config, batch, seq, masked) for config in (ours, theirs)]
    blocks = [[[p for p in found if p.where == where] for found in both]
              for where in dict.fromkeys(p.where for p in both[0])]
    rows = {}
    for _, alike in itertools.groupby(blocks, key=lambda block: [p[1:] for found in block for p in found]):
        block, *more = list(alike)
        first, last = block[0][0].where, (more or [block])[-1][0][0].where
        where = first if not first.isdigit() else f"layer {first}" if not more else f"each of layers {first}-{last}"
        for a, b in zip(*block, strict=True):
            rows[where, a.part] = [*a[2:], *b[2:]]
    totals = [v for found in both for v in ("", sum(p.flops for p in found), sum(p.parameters for p in found))]
    rows["model", "total"] = totals
    columns = pd.MultiIndex.from_product([names, ("what", "flops", "parameters")])
    return pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(rows, names=["layer", "part"]), columns)


def growth(width: int, lengths: list[int]) -> pd.DataFrame:
    """FLOPs per token of one layer's mixing, by sequence length: one column a way to mix."""
    ways = {"attention": attention_flops, "Fourier, matrices": fourier_matmul_flops,
            "Fourier, FFT": fourier_fft_flops, "Fourier, FFT (Bluestein)": fourier_bluestein_flops}
    return pd.DataFrame({way: [count(n, width) / n for n in lengths] for way, count in ways.items()},
                        index=pd.Index(lengths, name="n"))
