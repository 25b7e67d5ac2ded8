"""Convolutions of small planes with large weights, on a CPU: as one product of matrices.

In the depths of a U-Net a convolution multiplies millions of weights with a handful of pixels. What
takes the time there is the weights' way through memory, and the usual convolution turns them from
one layout into another, forward and twice backward. As a product of matrices it reads them as they
lie in channels-last.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pix2gan.ops.sum_rows import sum_rows

MOST_COLUMNS = 256
"""Pixels of the smaller plane, over the batch, up to which the product is faster."""

LEAST_WEIGHTS = 2**20


def prefers_matmul(x: Tensor, weight: Tensor, columns: int) -> bool:
    """Whether to take the product: in eager training on a CPU. ``columns``: of its matrices."""
    return (
        not torch.compiler.is_compiling()  # first: a size that is asked for would be fixed
        and x.device.type == "cpu"
        and columns <= MOST_COLUMNS
        and weight.numel() >= LEAST_WEIGHTS
        and torch.is_grad_enabled()
    )


def conv2d_as_matmul(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K]; channels-last."""
    n, ins, *size = x.shape
    outs, _, kernel, _ = weight.shape
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    plan = _plan(n, size[0], size[1], height, width, kernel, stride, padding)
    patches = _apply(_Patches, _pixels_of(x), plan).view(-1, kernel * kernel * ins)  # [P, K K I]
    rows = weight.permute(0, 2, 3, 1).reshape(outs, -1)  # [O, K K I], as channels-last lies
    return _image(patches @ rows.t(), n, height, width)


def conv_transpose2d_as_matmul(
    x: Tensor, weight: Tensor, stride: int, padding: int, output_padding: int
) -> Tensor:
    """``F.conv_transpose2d`` of [N, I, H, W] with [I, O, K, K]; channels-last."""
    n, ins, *size = x.shape
    _, outs, kernel, _ = weight.shape
    grown = kernel - stride - 2 * padding + output_padding
    height, width = (side * stride + grown for side in size)
    plan = _plan(n, height, width, size[0], size[1], kernel, stride, padding)
    rows = weight.permute(0, 2, 3, 1).reshape(ins, -1)  # [I, K K O], as channels-last lies
    patches = (_pixels_of(x) @ rows).view(-1, outs)  # [P K K, O]
    return _image(_apply(_Overlapped, patches, plan), n, height, width)


def _pixels_of(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N H W, C], a view of channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(pixels: Tensor, n: int, height: int, width: int) -> Tensor:
    """The inverse."""
    return pixels.view(n, height, width, -1).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------------------ patches


class _Plan(NamedTuple):
    """Which pixel each element of a patch is. What lies outside has the number behind the last."""

    pixels: Tensor  # [P K K, 1], of each element of a patch
    elements: Tensor  # [N H W, most], of each pixel: the elements that it is


@lru_cache(maxsize=64)
def _plan(
    n: int,
    height: int,
    width: int,
    patches_down: int,
    patches_across: int,
    kernel: int,
    stride: int,
    padding: int,
) -> _Plan:
    """Of N images H x W, and of patches K x K in rows and columns, ``stride`` apart."""
    taps = torch.arange(kernel)
    y = (torch.arange(patches_down) * stride - padding)[:, None, None, None] + taps[:, None]
    x = (torch.arange(patches_across) * stride - padding)[:, None, None] + taps
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    image = torch.arange(n).view(-1, 1, 1, 1, 1) * height * width
    outside = n * height * width
    pixels = torch.where(inside, image + y * width + x, outside).flatten()
    # Sorted by pixel, its elements lie behind one another.
    order = torch.argsort(pixels, stable=True)
    counts = torch.bincount(pixels, minlength=outside + 1)
    starts = torch.cumsum(counts, 0) - counts
    rank = torch.arange(int(counts[:-1].max()))
    place = (starts[:-1, None] + rank).clamp(max=len(pixels) - 1)
    elements = torch.where(rank < counts[:-1, None], order[place], len(pixels))
    return _Plan(pixels[:, None], elements)


class _Patches(torch.autograd.Function):
    """[N H W, C] -> [P K K, C]; zeros around the image. The adjoint of ``_Overlapped``."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, plan: _Plan) -> Tensor:
        ctx.plan = plan
        return sum_rows(pixels, plan.pixels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _apply(_Overlapped, grad, ctx.plan), None


class _Overlapped(torch.autograd.Function):
    """[P K K, C] -> [N H W, C]: patches laid over one another and added, in float32."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, plan: _Plan) -> Tensor:
        ctx.plan = plan
        return sum_rows(patches, plan.elements)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _apply(_Patches, grad, ctx.plan), None


def _apply(function: type[torch.autograd.Function], rows: Tensor, plan: _Plan) -> Tensor:
    result: Tensor = function.apply(rows, plan)
    return result
