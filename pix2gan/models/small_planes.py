"""Convolutions of small planes with large weights, on a CPU: as one product of matrices.

In the depths of a U-Net a convolution multiplies millions of weights with a handful of pixels. What
takes the time there is the weights' way through memory, and the usual convolution turns them from
one layout into another, forward and twice backward. As a product of matrices it reads them as they
lie in channels-last.
"""

from __future__ import annotations

from torch import Tensor

from pix2gan.ops.thin_product import is_thin, times, times_transposed

from .patches import image_of, overlapped, patches_of, patches_plan, pixels_of

MOST_COLUMNS = 256
"""Pixels of the smaller plane, over the batch, up to which the product is faster."""

LEAST_WEIGHTS = 2**20


def prefers_matmul(weight: Tensor, columns: int) -> bool:
    """Whether the product is faster. ``columns``: of its matrices."""
    return columns <= MOST_COLUMNS and weight.numel() >= LEAST_WEIGHTS


def conv2d_as_matmul(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K]; channels-last."""
    n, ins, *size = x.shape
    outs, _, kernel, _ = weight.shape
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    plan = patches_plan(n, size[0], size[1], height, width, kernel, stride, padding)
    patches = patches_of(pixels_of(x), plan).view(-1, kernel * kernel * ins)  # [P, K K I]
    rows = weight.permute(0, 2, 3, 1).reshape(outs, -1)  # [O, K K I], as channels-last lies
    thin = is_thin(patches, rows)
    pixels = times_transposed(patches, rows) if thin else patches @ rows.t()
    return image_of(pixels, n, height, width)


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
    pixels = pixels_of(x)
    patches = times(pixels, rows) if is_thin(pixels, rows) else pixels @ rows
    return image_of(overlapped(patches.view(-1, outs), plan), n, height, width)  # from [P K K, O]
