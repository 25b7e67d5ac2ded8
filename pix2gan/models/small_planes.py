"""Convolutions of small planes with large weights, on a CPU: as one product of matrices.

In the depths of a U-Net a convolution multiplies millions of weights with a handful of pixels. What
takes the time there is the weights' way through memory, and the usual convolution turns them from
one layout into another, forward and twice backward. As a product of matrices it reads them as they
lie in channels-last. Of larger planes, up to ``MOST_PATCHES``, only the weight's gradient is faster
so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .patches import image_of, overlapped, patches_of, patches_plan, pixels_of

MOST_COLUMNS = 256
"""Pixels of the smaller plane, over the batch, up to which the product is faster."""

MOST_PATCHES = 2048
"""The same for the weight's gradient, in bfloat16."""

LEAST_WEIGHTS = 2**20


def prefers_matmul(weight: Tensor, columns: int) -> bool:
    """Whether the product is faster. ``columns``: of its matrices."""
    return columns <= MOST_COLUMNS and weight.numel() >= LEAST_WEIGHTS


def prefers_matmul_gradient(x: Tensor, weight: Tensor, columns: int) -> bool:
    """Whether the product is faster for the weight's gradient."""
    return (
        columns <= MOST_PATCHES
        and weight.numel() >= LEAST_WEIGHTS
        and x.dtype == weight.dtype == torch.bfloat16
    )


def conv2d_as_matmul(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K]; channels-last."""
    n, ins, *size = x.shape
    outs, _, kernel, _ = weight.shape
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    plan = patches_plan(n, size[0], size[1], height, width, kernel, stride, padding)
    patches = patches_of(pixels_of(x), plan).view(-1, kernel * kernel * ins)  # [P, K K I]
    rows = weight.permute(0, 2, 3, 1).reshape(outs, -1)  # [O, K K I], as channels-last lies
    return image_of(patches @ rows.t(), n, height, width)


def conv_transpose2d_as_matmul(
    x: Tensor, weight: Tensor, stride: int, padding: int, output_padding: int
) -> Tensor:
    """``F.conv_transpose2d`` of [N, I, H, W] with [I, O, K, K]; channels-last."""
    n, ins, *size = x.shape
    _, outs, kernel, _ = weight.shape
    grown = kernel - stride - 2 * padding + output_padding
    height, width = (side * stride + grown for side in size)
    plan = patches_plan(n, height, width, size[0], size[1], kernel, stride, padding)
    rows = weight.permute(0, 2, 3, 1).reshape(ins, -1)  # [I, K K O], as channels-last lies
    patches = (pixels_of(x) @ rows).view(-1, outs)  # [P K K, O]
    return image_of(overlapped(patches, plan), n, height, width)


def conv2d_with_matmul_gradient(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K], both of one type."""
    y: Tensor = _WithMatmulGradient.apply(  # type: ignore[no-untyped-call]
        x, weight, stride, padding
    )
    return y


class _WithMatmulGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        dx = dw = None
        if ctx.needs_input_grad[0]:
            sides = [stride] * 2, [padding] * 2, [1, 1]
            dx, _, _ = torch.ops.aten.convolution_backward(
                dy, x, weight, None, *sides, False, [0, 0], 1, (True, False, False)
            )
        if ctx.needs_input_grad[1]:
            outs, ins, kernel, _ = weight.shape
            plan = patches_plan(len(x), *x.shape[2:], *dy.shape[2:], kernel, stride, padding)
            patches = patches_of(pixels_of(x), plan).view(-1, kernel * kernel * ins)  # [P, K K I]
            rows = pixels_of(dy).t() @ patches  # [O, K K I]
            dw = rows.view(outs, kernel, kernel, ins).permute(0, 3, 1, 2)
        return dx, dw, None, None
