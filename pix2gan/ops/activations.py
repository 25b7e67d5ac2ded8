"""The activations: value, first and second derivative, and their default settings.

Differentiable ATen compositions; the op modules and the reference backend share them. All functions
take the pre-activation ``v`` in the accumulation dtype. Where a derivative jumps (relu, lrelu and
elu at 0) it takes the value of the negative side, as PyTorch's do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def _where_positive(v: Tensor, positive: Tensor | float, negative: Tensor | float) -> Tensor:
    return torch.where(v > 0, positive, negative)


def _elu(v: Tensor, alpha: float) -> Tensor:
    # expm1 of the clipped value, so that the branch not taken cannot overflow and poison gradients
    return _where_positive(v, v, alpha * torch.expm1(v.clamp(max=0)))


def _elu_slope(v: Tensor, alpha: float) -> Tensor:
    return _where_positive(v, torch.ones_like(v), alpha * torch.exp(v.clamp(max=0)))


def _elu_curvature(v: Tensor, alpha: float) -> Tensor:
    return _where_positive(v, torch.zeros_like(v), alpha * torch.exp(v.clamp(max=0)))


def _tanh_slope(v: Tensor, alpha: float) -> Tensor:
    return 1 - torch.tanh(v).square()


def _tanh_curvature(v: Tensor, alpha: float) -> Tensor:
    t = torch.tanh(v)
    return -2 * t * (1 - t.square())


def _sigmoid_slope(v: Tensor, alpha: float) -> Tensor:
    # s(v) s(-v) rather than s (1 - s), which cancels for large v
    return torch.sigmoid(v) * torch.sigmoid(-v)


def _sigmoid_curvature(v: Tensor, alpha: float) -> Tensor:
    s, c = torch.sigmoid(v), torch.sigmoid(-v)
    return s * c * (c - s)


def _swish_slope(v: Tensor, alpha: float) -> Tensor:
    s, c = torch.sigmoid(v), torch.sigmoid(-v)
    return s * (1 + v * c)


def _swish_curvature(v: Tensor, alpha: float) -> Tensor:
    s, c = torch.sigmoid(v), torch.sigmoid(-v)
    return s * c * (2 + v * (c - s))


@dataclass(frozen=True)
class Activation:
    """One activation. ``alpha`` is a parameter of lrelu and elu; the others ignore it."""

    name: str
    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]
    curvature: Callable[[Tensor, float], Tensor] | None  # None: zero, piecewise linear
    default_alpha: float = 0.0
    default_gain: float = 1.0

    @property
    def piecewise_linear(self) -> bool:
        """Whether the sign of the output tells the derivative, so that backward can do with the
        output."""
        return self.curvature is None


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("linear", lambda v, alpha: v, lambda v, alpha: torch.ones_like(v), None),
        Activation(
            "relu",
            lambda v, alpha: torch.relu(v),
            lambda v, alpha: (v > 0).to(v.dtype),
            None,
            default_gain=math.sqrt(2),
        ),
        Activation(
            "lrelu",
            lambda v, alpha: F.leaky_relu(v, alpha),
            lambda v, alpha: _where_positive(v, torch.ones_like(v), torch.full_like(v, alpha)),
            None,
            default_alpha=0.2,
            default_gain=math.sqrt(2),
        ),
        Activation("tanh", lambda v, alpha: torch.tanh(v), _tanh_slope, _tanh_curvature),
        Activation(
            "sigmoid", lambda v, alpha: torch.sigmoid(v), _sigmoid_slope, _sigmoid_curvature
        ),
        Activation("elu", _elu, _elu_slope, _elu_curvature, default_alpha=1.0),
        Activation(
            "selu",
            lambda v, alpha: SELU_SCALE * _elu(v, SELU_ALPHA),
            lambda v, alpha: SELU_SCALE * _elu_slope(v, SELU_ALPHA),
            lambda v, alpha: SELU_SCALE * _elu_curvature(v, SELU_ALPHA),
        ),
        Activation(
            "softplus",
            # not F.softplus, which is linear from 20 on: 2e-9 off in float64
            lambda v, alpha: -F.logsigmoid(-v),
            lambda v, alpha: torch.sigmoid(v),
            _sigmoid_slope,
        ),
        Activation(
            "swish",
            lambda v, alpha: v * torch.sigmoid(v),
            _swish_slope,
            _swish_curvature,
            default_gain=math.sqrt(2),
        ),
    )
}


def activation(name: str) -> Activation:
    """The activation of that name; ``ValueError`` that lists the names where there is none."""
    found = ACTIVATIONS.get(name)
    if found is None:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    return found
