"""Convolutions without bias, each in the fastest of several ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .few_channels import (
    conv2d_to_few,
    conv2d_to_few_by_fours,
    takes_fours,
    takes_taps,
)
from .small_planes import (
    conv2d_as_matmul,
    conv_transpose2d_as_matmul,
    prefers_matmul,
)


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K]."""
    if trains_on_cpu(x):
        outs, ins, kernel, _ = weight.shape
        # Width and height are halved if at all: so many columns has the smaller plane.
        columns = x.shape[0] * x.shape[2] * x.shape[3] // stride**2
        if prefers_matmul(weight, columns):
            return conv2d_as_matmul(x, weight, stride, padding)
        if takes_taps(outs, ins, kernel):
            return conv2d_to_few(x, weight, stride, padding)
        if takes_fours(outs, ins, kernel) and stride == 1:
            return conv2d_to_few_by_fours(x, weight, padding)
    return F.conv2d(x, weight, None, stride, padding)


def conv_transpose2d(
    x: Tensor, weight: Tensor, stride: int, padding: int, output_padding: int
) -> Tensor:
    """``F.conv_transpose2d`` of [N, I, H, W] with [I, O, K, K]."""
    if trains_on_cpu(x):
        ins, outs, kernel, _ = weight.shape
        if prefers_matmul(weight, x.shape[0] * x.shape[2] * x.shape[3]) or takes_taps(
            outs, ins, kernel
        ):
            return conv_transpose2d_as_matmul(x, weight, stride, padding, output_padding)
    return F.conv_transpose2d(x, weight, None, stride, padding, output_padding)


def trains_on_cpu(x: Tensor) -> bool:
    """Whether this is eager training on a CPU: what the other ways were measured for."""
    return (
        not torch.compiler.is_compiling()  # first: a size that is asked for would be fixed
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
    )
