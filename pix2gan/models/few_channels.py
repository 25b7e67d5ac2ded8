"""Convolutions to a few channels, on a CPU: so that no channels are computed that nobody asked for.

The usual convolution computes 16 channels where 1 or 3 are wanted. Small kernels are taken to every
pixel in one product of matrices, in which taps are channels, and then summed. Of large kernels that
would be many, and several pixels are computed at a time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .patches import image_of, overlapped, pixels_of, taps_plan

MOST_CHANNELS, LEAST_INPUTS = 4, 32

MOST_TAPS = 64
"""Times channels: up to which all taps are taken to every pixel."""


def takes_taps(outs: int, ins: int, kernel: int) -> bool:
    """Whether a convolution is faster as one product of all taps."""
    return _to_few(outs, ins) and 1 < kernel * kernel <= MOST_TAPS // outs


def takes_fours(outs: int, ins: int, kernel: int) -> bool:
    """Whether a convolution is faster by 2x2 pixels at a time."""
    return _to_few(outs, ins) and kernel * kernel > MOST_TAPS // outs


def _to_few(outs: int, ins: int) -> bool:
    return outs <= MOST_CHANNELS and ins >= LEAST_INPUTS


def conv2d_to_few(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K]; channels-last."""
    n, ins, *size = x.shape
    outs, _, kernel, _ = weight.shape
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    plan = taps_plan(n, size[0], size[1], height, width, kernel, stride, padding)
    rows = weight.permute(2, 3, 0, 1).reshape(-1, ins)  # [K K O, I], as channels-last lies if O = 1
    taps = (pixels_of(x) @ rows.t()).view(-1, outs)  # [N H W K K, O]
    return image_of(overlapped(taps, plan), n, height, width)


def conv2d_to_few_by_fours(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """``F.conv2d`` of [N, I, H, W] with [O, I, K, K], 2x2 pixels at a time.

    Each of the four is a channel of its own, whose kernel lies at its place in a larger one.
    """
    kernel = weight.shape[-1]
    places = [F.pad(weight, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)]
    fours = torch.stack(places, 1).flatten(0, 1)  # [4 O, I, K + 1, K + 1]
    fours = fours.contiguous(memory_format=torch.channels_last)
    height, width = (side + 2 * padding - kernel + 1 for side in x.shape[-2:])
    odd = (height % 2, width % 2)
    if any(odd):
        x = F.pad(x, (0, odd[1], 0, odd[0]))
    y = F.pixel_shuffle(F.conv2d(x, fours, None, 2, padding), 2)
    return y[:, :, :height, :width] if any(odd) else y
