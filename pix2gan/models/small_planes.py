"""Convolutions of small planes with large weights, on a CPU: as one product of matrices.

In the depths of a U-Net a convolution multiplies millions of weights with a handful of pixels. What
takes the time there is the weights' way through memory, and the usual convolution turns them from
one layout into another, forward and twice backward. As a product of matrices it reads them as they
lie in channels-last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_COLUMNS = 64
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
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K]."""
    n, ins = x.shape[:2]
    outs, _, kernel, _ = weight.shape
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
    patches = F.unfold(x, kernel, stride=stride, padding=padding)  # [N, I K K, P]
    patches = patches.view(n, ins, kernel * kernel, -1).permute(2, 1, 0, 3)
    rows = weight.permute(0, 2, 3, 1).reshape(outs, -1)  # [O, K K I], as channels-last lies
    y = rows @ patches.reshape(rows.shape[1], -1)  # [O, N P]
    return y.view(outs, n, height, width).transpose(0, 1)


def conv_transpose2d_as_matmul(
    x: Tensor, weight: Tensor, stride: int, padding: int, output_padding: int
) -> Tensor:
    """``F.conv_transpose2d`` of [N, I, H, W] with [I, O, K, K]; overlaps are added in float32."""
    n, ins, height, width = x.shape
    _, outs, kernel, _ = weight.shape
    rows = weight.permute(2, 3, 1, 0).reshape(-1, ins)  # [K K O, I]
    y = rows @ x.transpose(0, 1).reshape(ins, -1)  # [K K O, N P]
    patches = y.view(kernel * kernel, outs, n, height * width).permute(2, 1, 0, 3)
    grown = kernel - stride - 2 * padding + output_padding
    size = (height * stride + grown, width * stride + grown)
    patches = patches.reshape(n, outs * kernel * kernel, -1).float()
    return F.fold(patches, size, kernel, stride=stride, padding=padding).to(y.dtype)
