"""Fourier mixing and the output projection as one, with both axes folded about their middles.

    Re(F_n X F_d) W = C_n X C_d W − S_n X S_d W        (FNet: Lee-Thorp 2021, equation 3; W: gain and projection)

A cosine has the same value at j and n−j, a sine the opposite one. So C_n sees of X the sums of rows j and n−j alone, S_n the
differences, and both give rows that mirror each other; likewise C_d, S_d and the columns. Folded, each product is one
on half of the rows and half of the columns (the even-odd step of every fast transform), and the projection, which
takes C_d W and S_d W on half of the rows each, costs half of what it costs elsewhere: up to 512 tokens that is less than no mixing.
C_d W and S_d W are themselves one product a forward pass, of all layers at once: layer by layer they were some ten small kernels.

What is left grows with (n/2)² a column. Long sequences without a mask are decimated in time, once, before they are folded (J. W. Cooley
and J. W. Tukey, An algorithm for the machine calculation of complex Fourier series, 1965): of even places e and odd places o

    (C_n X)[k] = (C_{n/2} X_e)[k mod n/2] + Σ_i cos(2π k (2i+1) / n) X_o[i]        (S_n alike, with sines)

The even places are a transform half as long. The odd ones' mirror is n/2−1−i, their outputs change sign at k + n/2 and mirror each
other about n/4. Both fold to n/4 rows, and (n/4)² twice is half of (n/2)².

All that is not a product is sums of a few rows, which a compiler joins with what comes before and after. With a mask
every example has a length of its own, see `fourier.py`, and so rows and matrices of its own.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .fourier import MATMUL_MAX_LENGTH, choose_backend, is_traced, matrix_dtype
from .whole import few_tokens

# In half precision on a GPU, by 04_efficiency on an H200, layers compiled: the longest sequences that are folded in training, in
# inference, and with a mask. Beyond, FFTs are faster: in inference at 16,384 .782 of the speed without mixing, folded .737. (In
# training nothing longer was measured: there .767, FFTs .732. These are runs to tune it, models side by side, that are no records.)
FOLDED_HALF_MAX_LENGTH = 16384
FOLDED_INFERENCE_MAX_LENGTH = 8192
FOLDED_MASKED_MAX_LENGTH = 4096
# Up to here rows of each example's own cost more to gather than folding saves: `auto` does not fold with a mask.
UNFOLDED_MASKED_MAX_LENGTH = 512
# From which length on sequences without a mask are decimated, by the same runs, in training: at 8,192 .808 (without: not measured
# side by side), at 2,048 .837 (without: .895). Decimated again all train slower: what the products save goes into the sums around.
DECIMATED_MIN_LENGTH = 8192


def folds(backend: str, length: int, masked: bool, device: str, dtype: torch.dtype, few: bool, projects: bool,
          compiled: bool = False, training: bool = True) -> bool:
    """Whether Fourier layers are folded into their projections. backend: of the configuration; few: see `few_tokens`;
    projects: whether there is a projection; compiled: whether layers are, by torch.compile; training: whether there will be a
    backward pass.

    `auto` folds in half precision on a GPU where there are not few tokens and a compiler joins the sums; launched one by
    one they cost more than the products save. Longer sequences than are measured to be faster so are never folded. (In float32 with a
    mask, up to 512 tokens on an H200, the folded transform alone takes 2.0 to 2.2 ms and matrices 2.7 to 3.9, and a model folded trains 3 to
    7% faster. `auto` takes matrices all the same: folded there are no second derivatives and no tracing.)
    """
    on_tensor_cores = device == "cuda" and dtype != torch.float32
    longest = MATMUL_MAX_LENGTH
    if on_tensor_cores:
        longest = FOLDED_MASKED_MAX_LENGTH if masked else FOLDED_HALF_MAX_LENGTH if training else FOLDED_INFERENCE_MAX_LENGTH
    pays = projects and on_tensor_cores and compiled and not few and not (masked and length <= UNFOLDED_MASKED_MAX_LENGTH)
    return length <= longest and (backend == "folded" or backend == "auto" and pays)


def fourier_backend(config, shape: tuple[int, int, int], masked: bool, device: str, dtype: torch.dtype, compiled: bool,
                    training: bool = True) -> str:
    """How the Fourier layers of `config` transform `[batch, seq, hidden]` of this shape: `folded`, `matmul` or `fft`. Other
    arguments as in `folds`."""
    length, few = shape[1], few_tokens(*shape)
    if folds(config.backend, length, masked, device, dtype, few, config.output_projection, compiled, training):
        return "folded"
    return choose_backend(config.backend, length, masked, device, dtype, few)


class Fold(NamedTuple):
    """An axis of `places` folded to `rows`, which place j and its mirror share: −j mod n, or where place 0 has one too, n−1−j.
    Rows beyond the middle count for nothing.

    odd: 1 for the outputs of odd places. There a mirror has the opposite cosine and the same sine, and rows are places 0 to n/2−1 for
    cosines, 1 to n/2 for sines: a wave is 0 at the place left out.

    Slices, flips and zeros around them, no index and nothing concatenated: a compiler reads the places from where they are.
    """

    places: int
    rows: int
    alone: int = 1
    odd: int = 0

    @classmethod
    def of(cls, places: int) -> Fold:
        """A whole transform's axis."""
        return cls(places, aligned(places // 2 + 1, places))

    @property
    def pairs(self) -> int:
        """So many places from `alone` on have a mirror: not place 0 of a transform, nor the middle of an even n."""
        return (self.places - self.alone) // 2

    def fold(self, x: torch.Tensor, dim: int, sine: int) -> torch.Tensor:
        """Sums of places and their mirrors for cosines, differences for sines. (A place without one stays what it is: for sines
        that meets a column of zeros.)"""
        first = self.odd * sine
        mirrored = padded(x.flip(dim).narrow(dim, 0, self.pairs), dim, self.alone - first, self.rows - self.alone + first - self.pairs)
        here = x.narrow(dim, first, self.rows)
        return here - mirrored if sine != self.odd else here + mirrored

    def unfold(self, x: torch.Tensor, dim: int, sine: int) -> torch.Tensor:
        """The transpose of `fold`: every place has its row's value, for sines with its sign."""
        first, used = self.odd * sine, self.places - self.pairs - self.odd
        here = padded(x.narrow(dim, 0, used), dim, first, self.places - used - first)
        mirrored = padded(x.narrow(dim, self.alone - first, self.pairs).flip(dim), dim, self.places - self.pairs, 0)
        return here - mirrored if sine != self.odd else here + mirrored


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


class Part(NamedTuple):
    """The sequence axis, or half of it, and what it gives to all outputs. inputs, outputs: how its places and its outputs are folded;
    matrices: of cosines and of sines in between, `[batch or 1, rows, rows]`, scaled; odd: of a half, 0 for even places, 1 for odd ones.

    What is unfolded has all places at once: a compiler joins sums over the same places, but would write halves to put together.
    """

    inputs: Fold | OwnFolds
    outputs: Fold | OwnFolds
    matrices: tuple[torch.Tensor, torch.Tensor]
    odd: int | None = None

    def fold_inputs(self, x: torch.Tensor, sine: int) -> torch.Tensor:
        """`[batch, seq, width]` -> `[batch, rows, width]`."""
        return self.inputs.fold(x if self.odd is None else x[:, self.odd::2], 1, sine)

    def unfold_inputs(self, x: torch.Tensor, sine: int) -> torch.Tensor:
        """The transpose of `fold_inputs`: 0 at the other half's places."""
        own = self.inputs.unfold(x, 1, sine)
        return own if self.odd is None else padded(own[:, :, None], 2, self.odd, 1 - self.odd).flatten(1, 2)

    def unfold_outputs(self, x: torch.Tensor, sine: int) -> torch.Tensor:
        """`[batch, rows, width]` -> `[batch, seq, width]`: a half's outputs are the same again after n/2, of odd places the opposite."""
        own = self.outputs.unfold(x, 1, sine)
        return own if self.odd is None else (own[:, None] * self.signs(x)).flatten(1, 2)

    def fold_outputs(self, x: torch.Tensor, sine: int) -> torch.Tensor:
        """The transpose of `unfold_outputs`."""
        return self.outputs.fold(x if self.odd is None else (x.unflatten(1, (2, -1)) * self.signs(x)).sum(1), 1, sine)

    def signs(self, x: torch.Tensor) -> torch.Tensor:
        """Of outputs and of those n/2 later, `[2, 1, 1]`."""
        return (1 - 2 * self.odd * torch.arange(2, device=x.device)[:, None, None]).to(x.dtype)


class FoldedPlan(NamedTuple):
    """How both axes are folded for one batch. tokens: the whole sequence axis, or its even and its odd places."""

    tokens: tuple[Part, ...]
    columns: Fold


def aligned(rows: int, places: int) -> int:
    """Up to a multiple of 8, see `fourier.hidden_dft`, where there are as many places."""
    return rows + -rows % 8 if rows + -rows % 8 <= places else rows


def cosines_and_sines(rows: int, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of 2π k j / n, `[batch or 1, rows, rows]`, 0 beyond the middle. lengths: `[batch or 1, 1, 1]`."""
    j = torch.arange(rows, device=lengths.device)
    angle = (j[:, None] * j % lengths).float() * (2 * math.pi / lengths)  # integers keep the angle exact
    inside = 2 * j <= lengths
    used = (inside & inside.mT).float()
    return angle.cos() * used, angle.sin() * used


def odd_cosines_and_sines(rows: int, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of 2π k (2i+1) / n as `Fold` has k of odd places' outputs, `[1, rows, rows]`, 0 beyond the middle."""
    i = torch.arange(rows, device=device)
    used = (4 * i < length).float()
    angles = [((i[:, None] + sine) * (2 * i + 1) % length).float() * (2 * math.pi / length) for sine in (0, 1)]
    return tuple((wave * used[:, None] * used)[None] for wave in (angles[0].cos(), angles[1].sin()))


def is_decimated(length: int, wanted: bool | None = None) -> bool:
    """Whether a sequence without a mask is, as wanted (None: by its length), where 4 divides it."""
    return length % 4 == 0 and (length >= DECIMATED_MIN_LENGTH if wanted is None else wanted)


def token_folds(length: int, decimated: bool) -> tuple[Fold, ...]:
    """How the places of each part are folded, in `FoldedPlan`'s order. (Sines' outputs of odd places leave out one place.)"""
    half = length // 2
    return (Fold.of(half), Fold(half, aligned(half // 2, half - 1), alone=0)) if decimated else (Fold.of(length),)


@functools.lru_cache(maxsize=4)
def matrices_of(length: int, decimated: bool, scale: float, device: torch.device,
                dtype: torch.dtype) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Each part's matrices of one length, scaled, kept for the next batch: they grow with the square of the length.

    Normal tensors whoever asks first: those of inference mode could not be used in training.
    """
    first, *odd = token_folds(length, decimated)
    with torch.inference_mode(False), torch.no_grad():
        made = [cosines_and_sines(first.rows, torch.full((1, 1, 1), first.places, device=device))]
        made += [odd_cosines_and_sines(own.rows, length, device) for own in odd]
        return tuple(tuple((matrix * scale).to(dtype) for matrix in matrices) for matrices in made)


def plan_folded(length: int, width: int, real: torch.Tensor | None, norm: str, device=None,
                dtype: torch.dtype = torch.float32, decimated: bool | None = None) -> FoldedPlan:
    """Prepare one batch, shared by all layers.

    real: `[batch, seq]` bool, or None; norm: `backward` or `ortho`; dtype: of the matrices; decimated: see `is_decimated`.
    """
    columns = Fold.of(width)
    if real is not None:
        lengths = real.sum(1).clamp(min=1)[:, None]
        scale = (lengths[..., None] * width).float().rsqrt() if norm == "ortho" else 1.0
        scale = scale * real.any(1)[:, None, None]  # of no tokens at all nothing is mixed, nor learned
        rows = Fold.of(length).rows
        own, matrices = OwnFolds.of(real, lengths, rows), cosines_and_sines(rows, lengths[..., None])
        return FoldedPlan((Part(own, own, tuple((matrix * scale).to(dtype) for matrix in matrices)),), columns)
    scale, decimated = (length * width) ** -0.5 if norm == "ortho" else 1.0, is_decimated(length, decimated)
    make = matrices_of.__wrapped__ if is_traced() else matrices_of
    (first, *odd), matrices = token_folds(length, decimated), make(length, decimated, scale, torch.device(device or "cpu"), dtype)
    parts = [Part(first, first, matrices[0], 0 if odd else None)]
    parts += [Part(own, Fold(own.places, own.rows, odd=1), matrices[1], 1) for own in odd]
    return FoldedPlan(tuple(parts), columns)


def fold_projections(weights: torch.Tensor, plan: FoldedPlan, hidden_matrices: tuple[torch.Tensor, torch.Tensor],
                     dtype: torch.dtype) -> torch.Tensor:
    """The hidden axis' transform within each projection, C_d W beside S_d W on half of the rows: `[layers, 2, rows, out]`.

    weights: `[layers, out, hidden]`, times the gain; hidden_matrices: see `fourier.hidden_dft`; dtype: of the product.
    """
    rows, (layers, out, _) = plan.columns.rows, weights.shape
    with torch.autocast(weights.device.type, enabled=False):
        transforms = torch.cat([matrix[:, :rows] for matrix in hidden_matrices], 1).T.to(dtype)
        return (transforms @ weights.mT.to(dtype)).view(layers, 2, rows, out)


def folded_mix(x: torch.Tensor, plan: FoldedPlan, projection: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Re(FFT2) of `[batch, seq, hidden]`, projected: `[batch, seq, out]`; padded positions are 0.

    projection: `[2, rows, out]`, of `fold_projections`; bias: `[out]`, added at all positions. The gradients are of first order only.
    """
    if bias is not None and isinstance(plan.tokens[0].inputs, OwnFolds):  # padded positions have it too, and a gradient for it
        return folded_mix(x, plan, projection) + bias
    return _FoldedMix.apply(x, projection, bias, plan, matrix_dtype(x))


class _FoldedMix(torch.autograd.Function):
    """The gradient of folding is unfolding, sums no less: left to autograd it would scatter, number by number.

    The bias' gradient, the sum over all positions, is there already: wave 0's row of the first part, whose cosines are all 1.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, projection: torch.Tensor, bias: torch.Tensor | None, plan: FoldedPlan,
                dtype: torch.dtype) -> torch.Tensor:
        ctx.plan, ctx.dtype, ctx.dtypes = plan, dtype, (x.dtype, projection.dtype)
        projection, saved, out = projection.to(dtype), [], []
        with torch.autocast(x.device.type, enabled=False):
            for part in plan.tokens:
                waves = []
                for sine in (0, 1):  # numbers: a compiler looks nothing up by a truth value
                    folded = plan.columns.fold(part.fold_inputs(x, sine), -1, sine).to(dtype)
                    saved.append(folded)
                    waves.append(part.unfold_outputs(part.matrices[sine].to(dtype) @ (folded @ projection[sine]), sine))
                out.append(waves[0] - waves[1])
        ctx.save_for_backward(projection, *saved)
        return total(out) if bias is None else total(out) + bias

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan, dtype, (projection, *saved), of_x, products = ctx.plan, ctx.dtype, ctx.saved_tensors, [], ([], [])
        needed, of_bias = ctx.needs_input_grad, None
        with torch.autocast(gradient.device.type, enabled=False):
            for part, *folded in zip(plan.tokens, saved[0::2], saved[1::2]):
                waves = []
                for sine in (0, 1):
                    rows = part.matrices[sine].to(dtype).mT @ part.fold_outputs(gradient, sine).to(dtype)
                    if needed[2] and of_bias is None:
                        of_bias = rows[:, 0].to(gradient.dtype).sum(0) / part.matrices[0][0, 0, 0].to(gradient.dtype)
                    if needed[0]:
                        waves.append(plan.columns.unfold(part.unfold_inputs(rows @ projection[sine].T, sine), -1, sine))
                    if needed[1]:
                        products[sine].append(folded[sine].flatten(0, 1).T @ rows.flatten(0, 1))
                of_x += [waves[0] - waves[1]] if needed[0] else []
            of_x = total(of_x).to(ctx.dtypes[0]) if needed[0] else None
            of_projection = torch.stack([total(products[0]), -total(products[1])]).to(ctx.dtypes[1]) if needed[1] else None
        return of_x, of_projection, of_bias, None, None


def total(parts: list[torch.Tensor]) -> torch.Tensor:
    """The sum: from 0 it would be an addition more."""
    return sum(parts[1:], parts[0])


def take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of each example, `[batch, rows, width]`. index: `[batch, rows]`."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def padded(x: torch.Tensor, dim: int, before: int, after: int) -> torch.Tensor:
    """x with zeros along one dimension, counted from the front or −1."""
    behind = 0 if dim == -1 else x.dim() - 1 - dim
    return F.pad(x, [0, 0] * behind + [before, after]) if before or after else x
