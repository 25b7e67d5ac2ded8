"""``bias_act``: add a bias, activate, scale, clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pix2gan.ops.activations import activation
from pix2gan.ops.dispatch import define
from pix2gan.ops.instance_norm import sum_planes
from pix2gan.ops.layout import (
    accumulation_dtype,
    new_output,
    require_floating,
    require_same_device,
)

# Floats of fewer bits than Python's: (bits of the significand, smallest exponent of a subnormal's
# unit)
_SIGNIFICANDS = {torch.float32: (24, -149), torch.float16: (11, -24), torch.bfloat16: (8, -133)}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """y = clip(gain * act(x + b), -clamp, clamp), computed in float32 (float64 for float64).

    Args:
        x: any shape, float64, float32, float16 or bfloat16; y has its shape, dtype and memory
            format.
        b: the bias [x.shape[dim]], of any floating dtype.
        dim: the axis of x that b belongs to.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: the slope of lrelu for negative values (0.2, not negative) or the scale of elu (1).
        gain: positive; sqrt(2) by default for relu, lrelu and swish (it preserves the variance, as
            in the StyleGAN2 paper, arXiv:1912.04958), else 1.
        clamp: not negative; None clips nothing.

    First and second derivatives are available. Raises ``ValueError`` or ``TypeError`` for bad
    arguments.
    """
    alpha, gain, clip = settings(act, alpha, gain, clamp)
    require_floating(x, "x")
    dim = check_bias(b, x, x.shape, dim)
    if b is None and act == "linear" and gain == 1 and clip < 0:
        return x
    return _bias_act(x, as_parameter(b, x), dim, act, alpha, gain, clip)


def settings(
    act: str, alpha: float | None, gain: float | None, clamp: float | None
) -> tuple[float, float, float]:
    """(alpha, gain, clamp) with the defaults filled in and checked; a clamp of -1 stands for
    none."""
    known = activation(act)
    alpha = known.default_alpha if alpha is None else float(alpha)
    gain = known.default_gain if gain is None else float(gain)
    if act == "lrelu" and not 0 <= alpha < math.inf:
        raise ValueError(f"alpha of lrelu must not be negative, it is {alpha}")
    if not 0 < gain < math.inf:
        raise ValueError(f"gain must be positive and finite, it is {gain}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp must not be negative, it is {clamp}; None clips nothing")
    return alpha, gain, -1.0 if clamp is None else float(clamp)


def check_bias(b: Tensor | None, x: Tensor, shape: Sequence[int], dim: int) -> int:
    """The axis of ``shape`` counted from the front; ``ValueError`` where b does not fit it."""
    if b is None:
        return 0  # without a bias the axis means nothing
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"dim={dim} is not an axis of x, which has the shape {list(shape)}")
    require_floating(b, "b")
    require_same_device(x, b, "b")
    if b.dim() != 1 or b.shape[0] != shape[dim]:
        raise ValueError(
            f"b must have the shape [{shape[dim]}] to fit axis {dim} of {list(shape)}, "
            f"it has {list(b.shape)}"
        )
    return dim % len(shape)


def as_parameter(b: Tensor | None, x: Tensor) -> Tensor | None:
    """A small vector as backends get it: contiguous, in the accumulation dtype of x."""
    return None if b is None else b.to(accumulation_dtype(x.dtype)).contiguous()


def representable(value: float, dtype: torch.dtype) -> float:
    """``value`` rounded to ``dtype`` (to nearest, ties to even); may give infinity.

    Backward compares a rounded output with the clamp, so the clamp has to be rounded as well.
    Without tensors, as this runs while a graph is traced.
    """
    if dtype not in _SIGNIFICANDS or value <= 0 or not math.isfinite(value):
        return value
    bits, smallest = _SIGNIFICANDS[dtype]
    unit = max(math.frexp(value)[1] - bits, smallest)
    rounded = math.ldexp(round(math.ldexp(value, -unit)), unit)
    return rounded if rounded <= torch.finfo(dtype).max else math.inf


# ------------------------------------------------------------------------------------------ the ops

_SETTINGS = "int dim, str act, float alpha, float gain, float clamp"


def _sum_to_bias(dx: Tensor, b: Tensor, dim: int) -> Tensor:
    # Before it sums half precision in float32, ATen makes a float32 copy: on a CPU that takes
    # several times as long as all the rest. A sum that is differentiated again is ATen's.
    half = dx.dtype in (torch.float16, torch.bfloat16)
    if half and dx.is_cpu and dx.dim() == 4 and dim == 1 and not torch.is_grad_enabled():
        return sum_planes(dx).sum(0).to(b.dtype)
    axes = [axis for axis in range(dx.dim()) if axis != dim]
    return dx.sum(axes, dtype=b.dtype) if axes else dx.to(b.dtype)


def _allocate(x: Tensor, b: Tensor | None, *_: Any) -> Tensor:
    return new_output(x, x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, ctx.dim, ctx.act, ctx.alpha, ctx.gain, clamp = inputs
    ctx.clamp = representable(clamp, x.dtype)
    # From a rounded output the derivative of a smooth activation would be less exact.
    piecewise_linear = activation(ctx.act).piecewise_linear
    ctx.save_for_backward(
        *((None, None, output) if piecewise_linear else (x, b, None)),
        b if piecewise_linear else None,
    )


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, b, y, bias = ctx.saved_tensors
    bias = b if bias is None else bias
    dx = _bias_act_grad(dy, x, b, y, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp)
    db = _sum_to_bias(dx, bias, ctx.dim) if ctx.needs_input_grad[1] else None
    return dx, db, *(None,) * 5


_bias_act = define(
    "bias_act",
    f"(Tensor x, Tensor? b, {_SETTINGS}) -> Tensor",
    _allocate,
    setup_context=_setup_context,
    backward=_backward,
)


def _allocate_grad(
    dy: Tensor, x: Tensor | None, b: Tensor | None, y: Tensor | None, *_: Any
) -> Tensor:
    like = y if x is None else x
    assert like is not None
    return new_output(like, like.shape)


def _setup_context_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, b, y, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp = inputs
    # dy is needed for the curvature only
    ctx.save_for_backward(None if activation(ctx.act).piecewise_linear else dy, x, b, y)


def _backward_grad(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, x, b, y = ctx.saved_tensors
    options = (ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp)
    ddy = _bias_act_grad(ddx, x, b, y, *options) if ctx.needs_input_grad[0] else None
    dx = db = None
    if dy is not None and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        dx = _bias_act_grad2(ddx, dy, x, b, *options)
        if ctx.needs_input_grad[2]:
            db = _sum_to_bias(dx, b, ctx.dim)
    return ddy, dx, db, *(None,) * 6


_bias_act_grad = define(
    "bias_act_grad",
    f"(Tensor dy, Tensor? x, Tensor? b, Tensor? y, {_SETTINGS}) -> Tensor",
    _allocate_grad,
    setup_context=_setup_context_grad,
    backward=_backward_grad,
)


def _allocate_grad2(ddx: Tensor, dy: Tensor, x: Tensor, *_: Any) -> Tensor:
    return new_output(x, x.shape)


def _no_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _no_third_derivative(ctx: Any, grad: Tensor) -> tuple[None, ...]:
    raise NotImplementedError(
        "bias_act has no third derivative for activations that are not piecewise linear"
    )


_bias_act_grad2 = define(
    "bias_act_grad2",
    f"(Tensor ddx, Tensor dy, Tensor x, Tensor? b, {_SETTINGS}) -> Tensor",
    _allocate_grad2,
    setup_context=_no_context,
    backward=_no_third_derivative,
)
