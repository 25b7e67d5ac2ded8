"""Our ops in terms of PyTorch's own, so that a graph of them runs where pix2gan is not installed.

A generator is traced with the ops of `pix2gan.ops` as single nodes, and each is then replaced by
the function here. These compute what the reference backend computes, in float32, but they are
functions of tensors alone: nothing is written in place, and nothing is decided by height or width,
which a graph of any size must not look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan import ops  # noqa: F401  # defines torch.ops.pix2gan
from pix2gan.ops.activations import activation
from pix2gan.ops.padding import pad_image


def bias_act(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    v = x if b is None else x + b.view([-1 if axis == dim else 1 for axis in range(x.dim())])
    v = activation(act).value(v, alpha)
    v = v if gain == 1 else v * gain
    return v if clamp < 0 else v.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    upx: int,
    upy: int,
    downx: int,
    downy: int,
    padx0: int,
    padx1: int,
    pady0: int,
    pady1: int,
    flip: bool,
    gain: float,
) -> Tensor:
    taps = f if flip else f.flip(list(range(f.dim())))  # [h, w] or [n], as a correlation has them
    taps = (taps.outer(taps) if taps.dim() == 1 else taps) * gain
    height, width = taps.shape
    channels = x.shape[1]
    weight = taps.expand(channels, 1, height, width)
    if upx == upy == 1:
        x = _pad_or_crop(x, padx0, padx1, pady0, pady1)
        return F.conv2d(x, weight, stride=(downy, downx), groups=channels)
    # All that the enlarged image reaches, of which the first taps - 1 - padding are not asked for.
    full = F.conv_transpose2d(x, weight.flip((2, 3)), stride=(upy, upx), groups=channels)
    full = _pad_or_crop(
        full,
        padx0 - width + 1,
        padx1 - width + upx,
        pady0 - height + 1,
        pady1 - height + upy,
    )
    return full[:, :, ::downy, ::downx] if downx * downy > 1 else full


def _pad_or_crop(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Zeros around [N, C, H, W], and where a number is negative, so much less of it."""
    cut = [max(0, -side) for side in (top, bottom, left, right)]
    if any(cut):
        ends = [None if cut[i] == 0 else -cut[i] for i in (1, 3)]
        x = x[:, :, cut[0] : ends[0], cut[2] : ends[1]]
    added = [max(0, side) for side in (left, right, top, bottom)]
    return F.pad(x, added) if any(added) else x


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    act: str,
    alpha: float,
    residual: Tensor | None,
    pad: int,
    pad_mode: str,
    eps: float,
    mean: Tensor | None,
    rstd: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if mean is not None and rstd is not None:
        y = (x - _planes(mean)) * _planes(rstd)
    else:
        # One node: ONNX and OpenVINO know instance norm, and take its statistics in two passes.
        y = torch.instance_norm(x, None, None, None, None, True, 0.0, eps, False)
        # Nothing in a forward pass reads these, and what nothing reads is not exported.
        mean, rstd = x.mean((2, 3)), torch.rsqrt(x.var((2, 3), correction=0) + eps)
    y = y if weight is None else y * _planes(weight)
    y = y if bias is None else y + _planes(bias)
    y = activation(act).value(y, alpha)
    y = y if residual is None else y + residual
    return pad_image(y, pad, pad_mode), mean, rstd


def _planes(v: Tensor) -> Tensor:
    """[N, C] or [C] as [N or 1, C, 1, 1]."""
    return v.view(-1, v.shape[-1], 1, 1)


def scaled_conv2d(
    x: Tensor,
    w: Tensor,
    s: Tensor | None,
    d: Tensor | None,
    stride: int,
    padding: int,
    transposed: bool,
    out_h: int,
    out_w: int,
    noise: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    x = x if s is None else x * s[:, :, None, None]
    if transposed:
        # Rows and columns that the strided convolution, whose adjoint this is, left over.
        rest = [
            int(size - ((n - 1) * stride - 2 * padding + taps))
            for size, n, taps in zip((out_h, out_w), x.shape[2:], w.shape[2:], strict=True)
        ]
        y = F.conv_transpose2d(x, w, stride=stride, padding=padding, output_padding=rest)
    else:
        y = F.conv2d(x, w, stride=stride, padding=padding)
    y = y if d is None else y * d[:, :, None, None]
    y = y if noise is None else y + noise
    return bias_act(y, b, 1, act, alpha, gain, clamp)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """From the ops that a generator's forward pass calls to the functions above."""
    ours = torch.ops.pix2gan
    return {
        ours.bias_act.default: bias_act,
        ours.upfirdn2d.default: upfirdn2d,
        ours.instance_norm_act.default: instance_norm_act,
        ours.scaled_conv2d.default: scaled_conv2d,
    }
