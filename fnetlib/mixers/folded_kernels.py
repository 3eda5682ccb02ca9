"""Folded mixing (see `folded.py`) by kernels of its own, in Triton, for a GPU whose layers are not compiled.

Launched one by one, the sums that fold and unfold two axes cost more than the products save. Here they are part of two kernels, and of the
products along the sequence:

    fold        X -> sums of the four mirror places, [X_cc; X_ss]           (both axes at once: a quarter of X each)
    a product   with C_d W and S_d W, on half of the rows each              (a library's)
    transform   Y[k], Y[n−k] = C Z_c ∓ S Z_s                                (both products of a tile, unfolded as they are stored)

and backward their transposes. So a forward pass moves 250 MB where X has 50, of which 100 are those of a projection alone.

Importing this needs Triton; `folded.has_kernels` says whether it is of use.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

# Tiles of sums: rows, columns.
SUM_TILE = (1, 512)
# Tiles of products: rows, columns, depth, warps and stages, up to FEW_ROWS rows and beyond.
FEW_ROWS = 640
TRANSFORM_TILES = ((64, 256, 64, 8, 3), (64, 256, 64, 8, 3))
TRANSFORM_BACK_TILES = ((64, 256, 64, 8, 3), (64, 256, 64, 8, 3))


class Rows(NamedTuple):
    """The sequence axis folded. here, mirror: positions of the tokens that share a row, int32 `[batch or 1, rows]`, −1 where there is
    none; matrices: of cosines and of sines, the latter negative, scaled, `[2, batch or 1, rows, rows]`, symmetric; padded: whether
    there are positions without a row."""

    here: torch.Tensor
    mirror: torch.Tensor
    matrices: torch.Tensor
    padded: bool


@triton.jit
def _fold(x, out, here, mirror, length, width, rows, columns, half, index_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """x `[batch, length, width]` -> out `[2, batch, rows, columns]`, half: of out's elements."""
    example = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    own = tl.load(here + example * index_stride + r, mask=r < rows, other=-1)[:, None]
    other = tl.load(mirror + example * index_stride + r, mask=r < rows, other=-1)[:, None]
    left, right = (2 * c <= width)[None, :], ((c > 0) & (2 * c < width))[None, :]
    x += example * length * width
    a = tl.load(x + own * width + c[None, :], mask=(own >= 0) & left, other=0.0).to(tl.float32)
    b = tl.load(x + own * width + (width - c)[None, :], mask=(own >= 0) & right, other=0.0).to(tl.float32)
    d = tl.load(x + other * width + c[None, :], mask=(other >= 0) & left, other=0.0).to(tl.float32)
    e = tl.load(x + other * width + (width - c)[None, :], mask=(other >= 0) & right, other=0.0).to(tl.float32)
    place, inside = out + (example * rows + r[:, None]) * columns + c[None, :], (r < rows)[:, None] & (c < columns)[None, :]
    tl.store(place, ((a + b) + (d + e)).to(out.dtype.element_ty), mask=inside)
    tl.store(place + half, ((a - b) - (d - e)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _unfold(x, out, here, mirror, length, width, rows, columns, half, index_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The transpose of `_fold`: x `[2, batch, rows, columns]` -> out `[batch, length, width]`."""
    example = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    own = tl.load(here + example * index_stride + r, mask=r < rows, other=-1)[:, None]
    other = tl.load(mirror + example * index_stride + r, mask=r < rows, other=-1)[:, None]
    left, right = (2 * c <= width)[None, :], ((c > 0) & (2 * c < width))[None, :]
    place, inside = x + (example * rows + r[:, None]) * columns + c[None, :], (r < rows)[:, None] & left
    cosine = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    plus, minus = (cosine + sine).to(out.dtype.element_ty), (cosine - sine).to(out.dtype.element_ty)
    out += example * length * width
    tl.store(out + own * width + c[None, :], plus, mask=(own >= 0) & left)
    tl.store(out + own * width + (width - c)[None, :], minus, mask=(own >= 0) & right)
    tl.store(out + other * width + c[None, :], minus, mask=(other >= 0) & left)
    tl.store(out + other * width + (width - c)[None, :], plus, mask=(other >= 0) & right)


@triton.jit
def _transform(x, matrices, bias, out, here, mirror, length, width, rows, half, matrices_half, matrix_stride, index_stride,
               ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    """x `[2, batch, rows, width]` -> out `[batch, length, width]`: both products, unfolded, with the bias."""
    example = tl.program_id(2).to(tl.int64)
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x += example * rows * width
    matrices += example * matrix_stride
    cosine = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sine = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, rows, DEPTH):
        j = start + tl.arange(0, DEPTH)
        waves, used = matrices + k[:, None] * rows + j[None, :], (k < rows)[:, None] & (j < rows)[None, :]
        values, inside = x + j[:, None] * width + c[None, :], (j < rows)[:, None] & (c < width)[None, :]
        cosine = tl.dot(tl.load(waves, mask=used, other=0.0), tl.load(values, mask=inside, other=0.0), cosine)
        sine = tl.dot(tl.load(waves + matrices_half, mask=used, other=0.0), tl.load(values + half, mask=inside, other=0.0), sine)
    own = tl.load(here + example * index_stride + k, mask=k < rows, other=-1)[:, None]
    other = tl.load(mirror + example * index_stride + k, mask=k < rows, other=-1)[:, None]
    cosine += tl.load(bias + c, mask=c < width, other=0.0).to(tl.float32)[None, :]
    out += example * length * width
    tl.store(out + own * width + c[None, :], (cosine + sine).to(out.dtype.element_ty), mask=(own >= 0) & (c < width)[None, :])
    tl.store(out + other * width + c[None, :], (cosine - sine).to(out.dtype.element_ty), mask=(other >= 0) & (c < width)[None, :])


@triton.jit
def _transform_back(x, matrices, out, here, mirror, length, width, rows, half, matrices_half, matrix_stride, index_stride,
                    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    """The transpose of `_transform`: x `[batch, length, width]`, folded as it is read -> out `[2, batch, rows, width]`."""
    example = tl.program_id(2).to(tl.int64)
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x += example * length * width
    matrices += example * matrix_stride
    here += example * index_stride
    mirror += example * index_stride
    cosine = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sine = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, rows, DEPTH):
        j = start + tl.arange(0, DEPTH)
        own = tl.load(here + j, mask=j < rows, other=-1)[:, None]
        other = tl.load(mirror + j, mask=j < rows, other=-1)[:, None]
        waves, used = matrices + k[:, None] * rows + j[None, :], (k < rows)[:, None] & (j < rows)[None, :]
        a = tl.load(x + own * width + c[None, :], mask=(own >= 0) & (c < width)[None, :], other=0.0).to(tl.float32)
        b = tl.load(x + other * width + c[None, :], mask=(other >= 0) & (c < width)[None, :], other=0.0).to(tl.float32)
        cosine = tl.dot(tl.load(waves, mask=used, other=0.0), (a + b).to(matrices.dtype.element_ty), cosine)
        sine = tl.dot(tl.load(waves + matrices_half, mask=used, other=0.0), (a - b).to(matrices.dtype.element_ty), sine)
    place, inside = out + (example * rows + k[:, None]) * width + c[None, :], (k < rows)[:, None] & (c < width)[None, :]
    tl.store(place, cosine.to(out.dtype.element_ty), mask=inside)
    tl.store(place + half, sine.to(out.dtype.element_ty), mask=inside)


def _of_sums(kernel, x: torch.Tensor, out: torch.Tensor, states: torch.Tensor, folded: torch.Tensor, at: Rows) -> torch.Tensor:
    """Launches `_fold` or `_unfold`; states `[batch, seq, width]` and folded `[2, batch, rows, columns]` are x and out, or out and x."""
    (batch, length, width), (_, _, rows, columns) = states.shape, folded.shape
    tile_rows, tile_columns = SUM_TILE
    grid = (batch, triton.cdiv(rows, tile_rows), triton.cdiv(columns, tile_columns))
    with _on(x):
        kernel[grid](x, out, at.here, at.mirror, length, width, rows, columns, folded.numel() // 2,
                     rows if at.here.shape[0] > 1 else 0, ROWS=tile_rows, COLUMNS=tile_columns)
    return out


def _of_products(kernel, x: torch.Tensor, more: tuple[torch.Tensor, ...], out: torch.Tensor, states: torch.Tensor, folded: torch.Tensor,
                 at: Rows) -> torch.Tensor:
    """Launches `_transform` or `_transform_back`, as `_of_sums` does. more: further tensors, after the matrices."""
    (batch, length, width), rows = states.shape, folded.shape[2]
    tile_rows, tile_columns, depth, warps, stages = (TRANSFORM_TILES if kernel is _transform else TRANSFORM_BACK_TILES)[rows > FEW_ROWS]
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(width, tile_columns), batch)
    with _on(x):
        kernel[grid](x, at.matrices, *more, out, at.here, at.mirror, length, width, rows, folded.numel() // 2, at.matrices[0].numel(),
                     rows * rows if at.matrices.shape[1] > 1 else 0, rows if at.here.shape[0] > 1 else 0,
                     ROWS=tile_rows, COLUMNS=tile_columns, DEPTH=depth, num_warps=warps, num_stages=stages)
    return out


def _on(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


class KernelMix(torch.autograd.Function):
    """`folded.folded_mix` of `[batch, seq, hidden]`: `(x, projection [2, columns, out], bias [out], rows, dtype)`; padded positions are
    the bias."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, projection: torch.Tensor, bias: torch.Tensor, at: Rows, dtype: torch.dtype) -> torch.Tensor:
        (batch, length, ctx.width), (_, columns, out) = x.shape, projection.shape
        ctx.at, ctx.dtypes = at, (x.dtype, projection.dtype, bias.dtype)
        x, projection = x.contiguous(), projection.to(dtype)
        folded = x.new_empty(2, batch, at.here.shape[1], columns, dtype=dtype)
        _of_sums(_fold, x, folded, x, folded, at)
        with torch.autocast(x.device.type, enabled=False):
            projected = torch.bmm(folded.flatten(1, 2), projection).view(*folded.shape[:3], out)
        mixed = bias.to(dtype).repeat(batch, length, 1) if at.padded else x.new_empty(batch, length, out, dtype=dtype)
        ctx.save_for_backward(projection, folded)
        return _of_products(_transform, projected, (bias,), mixed, mixed, projected, at)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        at, (projection, folded), needed, of_x, of_projection, of_bias = ctx.at, ctx.saved_tensors, ctx.needs_input_grad, None, None, None
        gradient = gradient.contiguous()
        batch, length, out = gradient.shape
        rows = folded.new_empty(*folded.shape[:3], out)
        _of_products(_transform_back, gradient, (), rows, gradient, rows, at)
        with torch.autocast(gradient.device.type, enabled=False):
            if needed[0]:
                own = torch.bmm(rows.flatten(1, 2), projection.mT).view_as(folded)
                of_x = (torch.zeros if at.padded else torch.empty)(batch, length, ctx.width, dtype=ctx.dtypes[0], device=gradient.device)
                _of_sums(_unfold, own, of_x, of_x, own, at)
            if needed[1]:
                of_projection = torch.bmm(folded.flatten(1, 2).mT, rows.flatten(1, 2)).to(ctx.dtypes[1])
            if needed[2] and at.padded:
                of_bias = gradient.sum((0, 1))
            elif needed[2]:  # wave 0's row, whose cosines are all 1
                of_bias = rows[0, :, 0].float().sum(0) / at.matrices[0, 0, 0, 0].float()
        return of_x, of_projection, None if of_bias is None else of_bias.to(ctx.dtypes[2]), None, None
