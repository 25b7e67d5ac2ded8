"""Patches of images, and patches laid over one another, as rows of matrices.

With them a convolution is a product of matrices. Twice differentiable; on a CPU, each way is one
pass over memory.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pix2gan.ops.sum_rows import sum_rows


def pixels_of(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N H W, C], a view of channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def image_of(pixels: Tensor, n: int, height: int, width: int) -> Tensor:
    """The inverse."""
    return pixels.view(n, height, width, -1).permute(0, 3, 1, 2)


class Plan(NamedTuple):
    """Which pixel each element of a patch is. What lies outside has the number behind the last."""

    pixels: Tensor  # [P K K, 1], of each element of a patch
    elements: Tensor  # [N H W, most], of each pixel: the elements that it is


def patches_of(pixels: Tensor, plan: Plan) -> Tensor:
    """[N H W, C] -> [P K K, C]; zeros around the image. The adjoint of ``overlapped``."""
    return _apply(_Patches, pixels, plan)


def overlapped(patches: Tensor, plan: Plan) -> Tensor:
    """[P K K, C] -> [N H W, C]: patches laid over one another and added, in float32."""
    return _apply(_Overlapped, patches, plan)


@lru_cache(maxsize=64)
def patches_plan(
    n: int,
    height: int,
    width: int,
    patches_down: int,
    patches_across: int,
    kernel: int,
    stride: int,
    padding: int,
) -> Plan:
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
    return Plan(pixels[:, None], elements)


@lru_cache(maxsize=64)
def taps_plan(
    n: int,
    height: int,
    width: int,
    patches_down: int,
    patches_across: int,
    kernel: int,
    stride: int,
    padding: int,
) -> Plan:
    """For pixels that were multiplied with all taps before patches are cut out: then the patches
    are the pixels of the result, each the sum of K K of the products [N H W K K, C].

    Of the same images and patches as ``patches_plan``.
    """
    cut = patches_plan(
        n, height, width, patches_down, patches_across, kernel, stride, padding
    ).pixels.view(-1, kernel * kernel)
    products = n * height * width * kernel * kernel
    inside = cut < n * height * width
    elements = torch.where(inside, cut * kernel * kernel + torch.arange(kernel * kernel), products)
    pixels = torch.full((products,), len(cut))
    pixels[elements[inside]] = inside.nonzero()[:, 0]
    return Plan(pixels[:, None], elements)


class _Patches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return sum_rows(pixels, plan.pixels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return overlapped(grad, ctx.plan), None


class _Overlapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return sum_rows(patches, plan.elements)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return patches_of(grad, ctx.plan), None


def _apply(function: type[torch.autograd.Function], rows: Tensor, plan: Plan) -> Tensor:
    result: Tensor = function.apply(rows, plan)
    return result
