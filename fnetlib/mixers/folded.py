"""Fourier mixing and the output projection as one, with both axes folded about their middles.

    Re(F_n X F_d) W = C_n X C_d W − S_n X S_d W        (FNet: Lee-Thorp 2021, equation 3; W: gain and projection)

A cosine has the same value at j and n−j, a sine the opposite one. So C_n sees of X the sums of rows j and n−j alone, S_n the
differences, and both give rows that mirror each other; likewise C_d, S_d and the columns. Folded, each product is one
on half of the rows and half of the columns (the even-odd step of every fast transform), and the projection, which
takes C_d W and S_d W on half of the rows each, costs half of what it costs elsewhere: less than no mixing at all. Without a mask, and
where n divides by 4, long sequences are folded once more: even frequencies are the same about n/4, odd ones opposite.

All that is not a product is sums of a few rows, which a compiler joins with what comes before and after. With a mask
every example has a length of its own, see `fourier.py`, and so rows and matrices of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .fourier import MATMUL_MAX_LENGTH, matrix_dtype

# In half precision on a GPU: the longest sequences that are folded, without a mask and with one; and up to which length those
# with a mask are not folded by `auto`, for rows of each example's own cost more to gather than they save.
FOLDED_HALF_MAX_LENGTH = 16384
FOLDED_MASKED_MAX_LENGTH = 4096
UNFOLDED_MASKED_MAX_LENGTH = 512
# From here on sequences without a mask are folded twice. (On an H200 it pays at 8,192 tokens in inference and not yet in training.)
TWICE_MIN_LENGTH = 16384


def folds(backend: str, length: int, masked: bool, device: str, dtype: torch.dtype, few: bool, projects: bool,
          compiled: bool = False) -> bool:
    """Whether Fourier layers are folded into their projections. backend: of the configuration; few: see `few_tokens`;
    projects: whether there is a projection; compiled: whether layers are, by torch.compile.

    `auto` folds in half precision on a GPU where there are not few tokens and a compiler joins the sums; launched one by
    one they cost more than the products save. Longer sequences than are measured to be faster so are never folded.
    """
    on_tensor_cores = device == "cuda" and dtype != torch.float32
    longest = MATMUL_MAX_LENGTH
    if on_tensor_cores:
        longest = FOLDED_MASKED_MAX_LENGTH if masked else FOLDED_HALF_MAX_LENGTH
    pays = projects and on_tensor_cores and compiled and not few and not (masked and length <= UNFOLDED_MASKED_MAX_LENGTH)
    return length <= longest and (backend == "folded" or backend == "auto" and pays)


class Fold(NamedTuple):
    """An axis of `places` folded to `rows`, which place j and its mirror, `total` − j, share. Rows beyond the middle count for
    nothing.

    Slices, flips and zeros around them, no index and nothing concatenated: a compiler reads the places from where they are.
    """

    places: int
    rows: int
    total: int

    @property
    def alone(self) -> int:
        """How many places at the beginning have no mirror: place 0 of a transform, where `total` = `places`."""
        return int(self.total == self.places)

    @property
    def pairs(self) -> int:
        return (self.total + 1) // 2 - self.alone

    def fold(self, x: torch.Tensor, dim: int, sine: int) -> torch.Tensor:
        """Sums of places and their mirrors for cosines, differences for sines. (A place alone stays what it is: for sines that
        meets a column of zeros.)"""
        here = x.narrow(dim, 0, self.rows)
        there = x.flip(dim).narrow(dim, self.places - 1 - self.total + self.alone, self.pairs)
        there = padded(there, dim, self.alone, self.rows - self.alone - self.pairs)
        return here - there if sine else here + there

    def unfold(self, x: torch.Tensor, dim: int, sine: int) -> torch.Tensor:
        """The transpose of `fold`: every place has its row's value, for sines with its sign."""
        middle = self.total // 2 + 1
        here = padded(x.narrow(dim, 0, middle), dim, 0, self.places - middle)
        there = padded(x.narrow(dim, self.alone, self.pairs).flip(dim), dim, middle, self.places - middle - self.pairs)
        return here - there if sine else here + there


class OwnFolds(NamedTuple):
    """A sequence axis of which every example folds its own real tokens, wherever its padding is. All `[batch, rows or seq]`.

    here, mirror: positions of the tokens that share a row; twice: 0 where they are one, else 1; row, sign: of a position, −1
    beyond the middle, 0 where there is padding; real: 0 there, else 1.
    """

    here: torch.Tensor
    mirror: torch.Tensor
    twice: torch.Tensor
    row: torch.Tensor
    sign: torch.Tensor
    real: torch.Tensor

    @classmethod
    def of(cls, real: torch.Tensor, lengths: torch.Tensor, rows: int) -> OwnFolds:
        """real: `[batch, seq]` bool; lengths: `[batch, 1]`."""
        order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)  # the k-th real token's position
        k, place = torch.arange(rows, device=real.device)[None], (real.cumsum(1) - 1).clamp(min=0)
        mirror, opposite = (-k) % lengths, (-place) % lengths
        return cls(order[:, :rows], order.gather(1, mirror), (mirror != k).float(), torch.minimum(place, opposite),
                   torch.where(opposite < place, -1.0, 1.0) * real, real.float())

    def fold(self, x: torch.Tensor, dim: int, sine: int) -> torch.Tensor:
        """As `Fold.fold`, of dimension 1."""
        here, there = take(x, self.here), take(x, self.mirror)
        return here - there if sine else here + there * self.twice[..., None].to(x.dtype)

    def unfold(self, x: torch.Tensor, dim: int, sine: int) -> torch.Tensor:
        """As `Fold.unfold`; 0 where there is padding."""
        return take(x, self.row) * (self.sign if sine else self.real)[..., None].to(x.dtype)


class FoldedPlan(NamedTuple):
    """Both axes' transforms for one batch, cosines and sines.

    tokens, twice: how the sequence axis is folded, and its folded half again or None; columns: the hidden axis.
    matrices: for cosines and for sines those of the sequence axis, `[batch or 1, k, k]`, scaled; of what is folded twice
    that of the sums and that of the differences. hidden: `[k, k]` each of the hidden axis.
    """

    tokens: Fold | OwnFolds
    columns: Fold
    matrices: tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]
    hidden: tuple[torch.Tensor, torch.Tensor]
    twice: Fold | None = None


def aligned(rows: int, places: int) -> int:
    """Up to a multiple of 8, see `fourier.hidden_dft`, where there are as many places."""
    return rows + -rows % 8 if rows + -rows % 8 <= places else rows


def cosines_and_sines(frequencies: torch.Tensor, places: torch.Tensor, lengths: torch.Tensor,
                      folds: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of 2π k j / n, `[batch or 1, frequencies, places]`, 0 for those beyond the middle, of places the middle
    after so many folds. lengths: `[batch or 1, 1, 1]`."""
    angle = (frequencies[:, None] * places % lengths).float() * (2 * math.pi / lengths)
    used = ((2 * frequencies <= lengths).mT & (2**folds * places <= lengths)).float()
    return angle.cos() * used, angle.sin() * used


def plan_folded(length: int, width: int, real: torch.Tensor | None, norm: str, device=None,
                dtype: torch.dtype = torch.float32, twice: bool | None = None) -> FoldedPlan:
    """Prepare one batch, shared by all layers.

    real: `[batch, seq]` bool, or None; norm: `backward` or `ortho`; dtype: of the matrices; twice: whether the sequence axis
    is folded twice, None: if it is long. With a mask, or where 4 does not divide the length, it is folded once.
    """
    def count(n: int) -> torch.Tensor:
        return torch.arange(n, device=device)

    half, again = aligned(width // 2 + 1, width), None
    lengths = torch.full((1, 1), length, device=device) if real is None else real.sum(1).clamp(min=1)[:, None]
    if real is None and length % 4 == 0 and (length >= TWICE_MIN_LENGTH if twice is None else twice):
        rows = aligned(length // 4 + 1, length // 2)
        again = Fold(2 * rows, rows, length // 2)
        parts = [cosines_and_sines(2 * count(rows) + odd, count(rows), lengths[..., None], folds=2) for odd in (0, 1)]
        cosines, sines = zip(*parts)
        matrices = cosines, sines[::-1]  # sums have the even frequencies' cosines, and the odd ones' sines
        tokens = Fold(length, 2 * rows, length)
    else:
        rows = aligned(length // 2 + 1, length)
        matrices = [(part,) for part in cosines_and_sines(count(rows), count(rows), lengths[..., None])]
        tokens = Fold(length, rows, length) if real is None else OwnFolds.of(real, lengths, rows)
    scale = (lengths[..., None] * width).float().rsqrt() if norm == "ortho" else 1.0
    hidden = cosines_and_sines(count(half), count(half), torch.full((1, 1, 1), width, device=device))
    return FoldedPlan(tokens, Fold(width, half, width), tuple(tuple((part * scale).to(dtype) for part in kind) for kind in matrices),
                      tuple(matrix[0].to(dtype) for matrix in hidden), again)


def folded_mix(x: torch.Tensor, plan: FoldedPlan, weight: torch.Tensor) -> torch.Tensor:
    """Re(FFT2) of `[batch, seq, hidden]` times `weight` transposed: `[batch, seq, out]`; padded positions are 0.

    weight: `[out, hidden]`, times the gain. The gradients are of first order only.
    """
    return _FoldedMix.apply(x, weight, plan, matrix_dtype(x))


class _FoldedMix(torch.autograd.Function):
    """The gradient of folding is unfolding, sums no less: left to autograd it would scatter, number by number."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, plan: FoldedPlan, dtype: torch.dtype) -> torch.Tensor:
        ctx.plan, ctx.dtype, ctx.dtypes = plan, dtype, (x.dtype, weight.dtype)
        saved, out = [], []
        with torch.autocast(x.device.type, enabled=False):
            for sine in (0, 1):  # numbers: a compiler looks nothing up by a truth value
                columns = plan.hidden[sine].to(dtype) @ plan.columns.fold(weight.T, 0, sine).to(dtype)
                folded = halves(plan.columns.fold(plan.tokens.fold(x, 1, sine), -1, sine).to(dtype), plan.twice)
                made = [matrix.to(dtype) @ (rows @ columns) for matrix, rows in zip(plan.matrices[sine], folded)]
                saved += [columns, *folded]
                out.append(plan.tokens.unfold(woven(made, sine), 1, sine))
        ctx.save_for_backward(*saved)
        return out[0] - out[1]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan, dtype, saved, of_x, of_weight = ctx.plan, ctx.dtype, iter(ctx.saved_tensors), [], []
        with torch.autocast(gradient.device.type, enabled=False):
            for sine in (0, 1):
                columns, folded = next(saved), [next(saved) for _ in plan.matrices[sine]]
                rows = plan.tokens.fold(gradient, 1, sine)
                made = [matrix.to(dtype).mT @ part.to(dtype) for matrix, part in zip(plan.matrices[sine], unwoven(rows, plan.twice, sine))]
                rows = plan.columns.unfold(whole([part @ columns.T for part in made], plan.twice), -1, sine)
                of_x.append(plan.tokens.unfold(rows, 1, sine))
                of_columns = [ours.flatten(0, 1).T @ theirs.flatten(0, 1) for ours, theirs in zip(folded, made)]
                of_columns = of_columns[0] if len(of_columns) == 1 else of_columns[0] + of_columns[1]
                of_weight.append(plan.columns.unfold(plan.hidden[sine].to(dtype).T @ of_columns, 0, sine).T)
        kinds = ctx.dtypes
        return (of_x[0] - of_x[1]).to(kinds[0]), (of_weight[0] - of_weight[1]).to(kinds[1]), None, None


def take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of each example, `[batch, rows, width]`. index: `[batch, rows]`."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def padded(x: torch.Tensor, dim: int, before: int, after: int) -> torch.Tensor:
    """x with zeros along one dimension, counted from the front or −1."""
    behind = 0 if dim == -1 else x.dim() - 1 - dim
    return F.pad(x, [0, 0] * behind + [before, after]) if before or after else x


def halves(x: torch.Tensor, twice: Fold | None) -> list[torch.Tensor]:
    """The sums and the differences of what is folded twice."""
    return [x] if twice is None else [twice.fold(x, 1, 0), twice.fold(x, 1, 1)]


def whole(parts: list[torch.Tensor], twice: Fold | None) -> torch.Tensor:
    """The transpose of `halves`."""
    return parts[0] if twice is None else twice.unfold(parts[0], 1, 0) + twice.unfold(parts[1], 1, 1)


def woven(parts: list[torch.Tensor], sine: int) -> torch.Tensor:
    """The two halves' frequencies in turn, even ones first: of sines the sums have the odd ones."""
    if len(parts) == 1:
        return parts[0]
    even, odd = (part.repeat_interleave(2, 1) for part in (parts[::-1] if sine else parts))  # stacked, they would be copied
    return torch.where(torch.arange(even.shape[1], device=even.device)[:, None] % 2 == 0, even, odd)


def unwoven(x: torch.Tensor, twice: Fold | None, sine: int) -> list[torch.Tensor]:
    """The transpose of `woven`."""
    return [x] if twice is None else [x[:, 1::2], x[:, ::2]] if sine else [x[:, ::2], x[:, 1::2]]
