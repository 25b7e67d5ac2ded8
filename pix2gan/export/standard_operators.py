"""Our ops in terms of PyTorch's own, so that a graph of them runs where pix2gan is not installed.

A generator is traced with the ops of `pix2gan.ops` as single nodes, and each is then replaced by
what the reference backend computes (`pix2gan.ops.compositions`). Only normalisation has a form of
its own here, of one node that other runtimes know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pix2gan import ops  # noqa: F401  # defines torch.ops.pix2gan
from pix2gan.ops import compositions
from pix2gan.ops.activations import activation
from pix2gan.ops.compositions import planes
from pix2gan.ops.padding import pad_image


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
        y = (x - planes(mean)) * planes(rstd)
    else:
        # One node, which ONNX and OpenVINO know. Centred before: runtimes fold the mean into an
        # offset, and few pixels that are nearly equal would come out as rounding, magnified.
        centred = x - x.mean((2, 3), keepdim=True)
        y = torch.instance_norm(centred, None, None, None, None, True, 0.0, eps, False)
        # Nothing in a forward pass reads these, and what nothing reads is not exported.
        mean, rstd = x.mean((2, 3)), torch.rsqrt(x.var((2, 3), correction=0) + eps)
    y = y if weight is None else y * planes(weight)
    y = y if bias is None else y + planes(bias)
    y = activation(act).value(y, alpha)
    y = y if residual is None else y + residual
    return pad_image(y, pad, pad_mode), mean, rstd


def decompositions() -> dict[Any, Callable[..., Any]]:
    """From the ops that a generator's forward pass calls to the functions that take their place."""
    ours = torch.ops.pix2gan
    return {
        ours.bias_act.default: compositions.bias_act,
        ours.upfirdn2d.default: compositions.upfirdn2d,
        ours.instance_norm_act.default: instance_norm_act,
        ours.scaled_conv2d.default: compositions.scaled_conv2d,
    }
