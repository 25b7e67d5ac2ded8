"""``instance_norm_act``: instance norm, activation, residual and padding in one; and its
statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pix2gan.ops.activations import activation
from pix2gan.ops.dispatch import compute, define
from pix2gan.ops.layout import (
    accumulation_dtype,
    new_output,
    require_floating,
    require_same_device,
)
from pix2gan.ops.padding import check_padding, pad_image, pad_image_adjoint


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: str = "reflect",
    eps: float = 1e-5,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
) -> Tensor:
    """y = pad(residual + act(weight * (x - mean) * rstd + bias)), per image and channel.

    Args:
        x: [N, C, H, W], float64, float32, float16 or bfloat16; statistics and arithmetic are
            float32 at least.
        weight, bias: [C], or [N, C], which makes it adaptive (AdaIN, arXiv:1703.06868); any
            floating dtype.
        act: as in ``bias_act``; the gain is 1.
        alpha: the slope of lrelu for negative values (not negative), or the scale of elu.
        residual: [N, C, H, W], added behind the activation.
        pad: the width of the border; ``pad_mode``: reflect, replicate or zeros.
        eps: added to the variance (the biased one, as in arXiv:1607.08022).
        mean, rstd: [N, C], [1, C] or [C]; statistics to use instead of x's own, as for tiles of a
            larger image. They are constants: no gradient reaches them, and none goes through them.

    Returns [N, C, H + 2 pad, W + 2 pad] in x's dtype and memory format. First and second
    derivatives are available. Raises ``ValueError`` or ``TypeError`` for bad arguments.
    """
    if isinstance(x, Tensor) and x.is_cpu:
        # On a small image, checks and allocations take as long as a third of the arithmetic.
        settings = (act, alpha, residual, pad, pad_mode, eps, mean, rstd)
        y = compute("instance_norm_act", (x, weight, bias, *settings))
        if y is not None:
            return y
    _, _, height, width = _require_planes(x)
    known = activation(act)
    if act == "lrelu" and not 0 <= alpha < math.inf:
        raise ValueError(f"alpha of lrelu must not be negative, it is {alpha}")
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, it is {eps}")
    check_padding(height, width, pad, pad_mode)
    if residual is not None:
        require_floating(residual, "residual")
        require_same_device(x, residual, "residual")
        if residual.shape != x.shape:
            raise ValueError(
                f"residual must have the shape of x, {list(x.shape)}, it has {list(residual.shape)}"
            )
        residual = residual.to(x.dtype)
    if (mean is None) != (rstd is None):
        raise ValueError("mean and rstd must be given together")
    if mean is not None and rstd is not None:
        mean, rstd = _statistics(mean, x, "mean"), _statistics(rstd, x, "rstd")
    y, _, _ = _instance_norm_act(
        x,
        None if weight is None else _affine(weight, x, "weight"),
        None if bias is None else _affine(bias, x, "bias"),
        known.name,
        float(alpha),
        residual,
        pad,
        pad_mode,
        float(eps),
        mean,
        rstd,
    )
    return y


def _require_planes(x: Tensor) -> torch.Size:
    """The shape of x; ``TypeError`` or ``ValueError`` unless it is [N, C, H, W] with pixels."""
    require_floating(x, "x")
    shape = x.shape
    if len(shape) != 4:
        raise ValueError(f"x must be [N, C, H, W], it has the shape {list(shape)}")
    if shape[2] == 0 or shape[3] == 0:
        raise ValueError(f"x has no pixels to take statistics of: its shape is {list(shape)}")
    return shape


def _affine(parameter: Tensor, x: Tensor, name: str) -> Tensor:
    """weight or bias as backends get it: [C] or [N, C], contiguous, in the accumulation dtype."""
    require_floating(parameter, name)
    require_same_device(x, parameter, name)
    n, c = x.shape[:2]
    shape = tuple(parameter.shape)
    if shape != (c,) and shape != (n, c):
        raise ValueError(f"{name} must be [{c}] or [{n}, {c}], it has the shape {list(shape)}")
    return parameter.to(accumulation_dtype(x.dtype)).contiguous()


def _statistics(value: Tensor, x: Tensor, name: str) -> Tensor:
    """mean or rstd as backends get it: [N, C], contiguous, in the accumulation dtype, detached."""
    require_floating(value, name)
    require_same_device(x, value, name)
    n, c = x.shape[:2]
    if tuple(value.shape) not in ((c,), (1, c), (n, c)):
        raise ValueError(
            f"{name} must be [{n}, {c}], [1, {c}] or [{c}], it has the shape {list(value.shape)}"
        )
    return value.detach().to(accumulation_dtype(x.dtype)).expand(n, c).contiguous()


# --------------------------------------------------------------------------------------- statistics


class InstanceNormStats(NamedTuple):
    """Statistics of the planes of [N, C, H, W] that can be merged over tiles.

    ``count``: pixels a plane; ``mean`` [N, C]; ``m2`` [N, C], the sum of squared deviations from
    the mean.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    mean: Tensor
    m2: Tensor

    def rstd(self, eps: float = 1e-5) -> Tensor:
        """1 / sqrt(variance + eps), as ``instance_norm_act`` takes it: [N, C]."""
        return torch.rsqrt(self.m2 / self.count + eps)


def instance_norm_stats(x: Tensor) -> InstanceNormStats:
    """The statistics of [N, C, H, W] in float32 (float64 for float64), without gradients."""
    _require_planes(x)
    mean, m2 = _instance_norm_stats(x.detach())
    return InstanceNormStats(x.shape[2] * x.shape[3], mean, m2)


def sum_planes(x: Tensor) -> Tensor:
    """The sum over each plane of [N, C, H, W] as [N, C], in the accumulation dtype, without
    gradients."""
    pixels = x.shape[2] * x.shape[3]
    if pixels == 0:
        return x.new_zeros(x.shape[:2], dtype=accumulation_dtype(x.dtype))
    return _instance_norm_stats(x)[0] * pixels


def merge_instance_norm_stats(parts: Iterable[InstanceNormStats]) -> InstanceNormStats:
    """The statistics of all parts together (Chan, Golub and LeVeque, 1979); ``ValueError`` for no
    part."""
    merged: InstanceNormStats | None = None
    for part in parts:
        if merged is None:
            merged = part
            continue
        count = merged.count + part.count
        delta = part.mean - merged.mean
        share = part.count / count
        merged = InstanceNormStats(
            count,
            merged.mean + delta * share,
            merged.m2 + part.m2 + delta.square() * (merged.count * share),
        )
    if merged is None:
        raise ValueError("there are no statistics to merge")
    return merged


# ------------------------------------------------------------------------------------------ the ops


def _new_statistics(x: Tensor) -> Tensor:
    return torch.empty(x.shape[:2], dtype=accumulation_dtype(x.dtype), device=x.device)


def _allocate_stats(x: Tensor) -> tuple[Tensor, ...]:
    return _new_statistics(x), _new_statistics(x)


def _setup_context_stats(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output)


def _backward_stats(ctx: Any, *grads: Tensor) -> None:
    return None


_instance_norm_stats = define(
    "instance_norm_stats",
    "(Tensor x) -> (Tensor, Tensor)",
    _allocate_stats,
    setup_context=_setup_context_stats,
    backward=_backward_stats,
)


def _allocate(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    act: str,
    alpha: float,
    residual: Tensor | None,
    pad: int,
    *_: Any,
) -> tuple[Tensor, ...]:
    mean = _new_statistics(x)
    return _new_image(x, pad), mean, torch.empty_like(mean)


def _new_image(x: Tensor, pad: int) -> Tensor:
    n, c, height, width = x.shape
    return new_output(x, (n, c, height + 2 * pad, width + 2 * pad))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, act, alpha, _, pad, pad_mode, eps, given, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, rstd)
    ctx.options = (act, alpha, pad, pad_mode, eps, given is not None)


def _backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 11
    x, weight, bias, mean, rstd = ctx.saved_tensors
    act, alpha, pad, pad_mode, eps, frozen = ctx.options
    dx = dweight = dbias = dresidual = None
    if any(ctx.needs_input_grad[:3]):
        dx, dweight, dbias = _instance_norm_act_grad(
            dy, x, weight, bias, mean, rstd, act, alpha, pad, pad_mode, eps, frozen
        )
        dweight, dbias = _sum_like(dweight, weight), _sum_like(dbias, bias)
    if ctx.needs_input_grad[5]:
        # several elements of dy meet in one pixel: summed in float32, rounded once
        total = pad_image_adjoint(dy.to(rstd.dtype), pad, pad_mode) if pad else dy
        dresidual = total.to(x.dtype)
    return dx, dweight, dbias, None, None, dresidual, *(None,) * 5


def _sum_like(gradient: Tensor, parameter: Tensor | None) -> Tensor | None:
    """[N, C] reduced to the shape of a parameter that was broadcast over the batch."""
    if parameter is None:
        return None
    return gradient.sum(0) if parameter.dim() == 1 else gradient


_instance_norm_act = define(
    "instance_norm_act",
    "(Tensor x, Tensor? weight, Tensor? bias, str act, float alpha, Tensor? residual, int pad, "
    "str pad_mode, float eps, Tensor? mean, Tensor? rstd) -> (Tensor, Tensor, Tensor)",
    _allocate,
    setup_context=_setup_context,
    backward=_backward,
)


def _allocate_grad(dy: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return new_output(x, x.shape), _new_statistics(x), _new_statistics(x)


def _setup_context_grad(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, x, weight, bias, mean, rstd, *ctx.options = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, x, weight, bias, mean, rstd)


def _plane(v: Tensor) -> Tensor:
    """The mean over each plane, kept as [N, C, 1, 1]."""
    return v.mean((2, 3), keepdim=True)


def _backward_grad(
    ctx: Any, u: Tensor | None, gdw: Tensor | None, gdb: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The second derivative; docs/ops.md derives it. ``u``, ``gdw``, ``gdb``: cotangents of dx,
    dweight, dbias.

    Composed of differentiable ATen, with the statistics recomputed from x where a third derivative
    may be asked for, so that this one can be differentiated again.
    """
    dy, x, weight, bias, mean, rstd = ctx.saved_tensors
    act, alpha, pad, pad_mode, eps, frozen = ctx.options
    if u is None and gdw is None and gdb is None:
        return (None,) * 12
    dtype, known = mean.dtype, activation(act)
    x_ = x.to(dtype)
    if torch.is_grad_enabled() and not frozen:
        var, mean_ = torch.var_mean(x_, (2, 3), correction=0, keepdim=True)
        r = torch.rsqrt(var + eps)
    else:
        mean_, r = mean[:, :, None, None], rstd[:, :, None, None]
    xhat = (x_ - mean_) * r
    w = _broadcast(weight)
    z = xhat if w is None else xhat * w
    b = _broadcast(bias)
    z = z if b is None else z + b
    slope = known.slope(z, alpha)
    p = pad_image_adjoint(dy.to(dtype), pad, pad_mode)
    g = p * slope  # the cotangent of z in the first backward
    u_ = torch.zeros_like(x_) if u is None else u.to(dtype)
    ru = r * u_ if w is None else r * w * u_

    def project(v: Tensor) -> Tensor:
        """v without its components along 1 and xhat, which normalisation takes out (its Jacobian /
        r)."""
        return v if frozen else v - _plane(v) - xhat * _plane(v * xhat)

    q = project(ru)  # the cotangent of g
    if gdw is not None:
        q = q + gdw[:, :, None, None] * xhat
    if gdb is not None:
        q = q + gdb[:, :, None, None]
    ddy = pad_image(q * slope, pad, pad_mode).to(dy.dtype) if ctx.needs_input_grad[0] else None

    dz = None if known.curvature is None else q * p * known.curvature(z, alpha)
    dx = dweight = dbias = None
    if ctx.needs_input_grad[1]:
        into_xhat = torch.zeros_like(x_) if dz is None else (dz if w is None else dz * w)
        if gdw is not None:
            into_xhat = into_xhat + gdw[:, :, None, None] * g
        if not frozen:
            into_xhat = into_xhat - ru * _plane(g * xhat) - g * _plane(ru * xhat)
        total = r * project(into_xhat)
        if not frozen:
            # dx of the first backward is proportional to r, which falls as x moves along xhat
            total = total - r * xhat * _plane(ru * project(g))
        dx = total.to(x.dtype)
    if weight is not None and ctx.needs_input_grad[2]:
        terms = r * u_ * project(g)
        dweight = _sum_like((terms if dz is None else terms + dz * xhat).sum((2, 3)), weight)
    if bias is not None and ctx.needs_input_grad[3] and dz is not None:
        dbias = _sum_like(dz.sum((2, 3)), bias)
    return ddy, dx, dweight, dbias, *(None,) * 8


def _broadcast(parameter: Tensor | None) -> Tensor | None:
    """[C] or [N, C] as [1 or N, C, 1, 1]."""
    if parameter is None:
        return None
    return parameter.reshape(-1, parameter.shape[-1], 1, 1)


_instance_norm_act_grad = define(
    "instance_norm_act_grad",
    "(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, str act, "
    "float alpha, int pad, str pad_mode, float eps, bool frozen) -> (Tensor, Tensor, Tensor)",
    _allocate_grad,
    setup_context=_setup_context_grad,
    backward=_backward_grad,
)
