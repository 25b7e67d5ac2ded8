"""``scaled_conv2d``: a convolution with scales per sample on its inputs and outputs.

The op below ``modulated_conv2d``. With c = conv(x * s, w) * d, where s [N, I] and d [N, O] scale
channels,

    y = clip(gain * act(c + noise + b))

The family closes on itself: the gradient with respect to x is the same op, transposed, with s and d
changing sides; the one with respect to w is ``scaled_conv2d_wgrad``, linear in x and in dy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pix2gan.ops.bias_act import _bias_act_grad, representable
from pix2gan.ops.dispatch import define
from pix2gan.ops.layout import memory_format, new_output

FUSED_ACTIVATIONS = ("linear", "relu", "lrelu")  # their gradient needs the output only


def _scale(x: Tensor, scale: Tensor | None) -> Tensor:
    """x [N, C, H, W] times [N, C], in x's dtype."""
    return x if scale is None else (x * scale[:, :, None, None]).to(x.dtype)


def _plane_dot(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """The inner product of each plane: [N, C]."""
    return (x.to(dtype) * y.to(dtype)).sum((2, 3))


def _allocate(
    x: Tensor,
    w: Tensor,
    s: Tensor | None,
    d: Tensor | None,
    stride: int,
    padding: int,
    transposed: bool,
    out_h: int,
    out_w: int,
    *_: Any,
) -> Tensor:
    return new_output(x, (x.shape[0], w.shape[1 if transposed else 0], out_h, out_w))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, s, d, stride, padding, transposed, _, _, noise, b, act, alpha, gain, clamp = inputs
    if act not in FUSED_ACTIVATIONS and any(ctx.needs_input_grad):
        raise NotImplementedError(
            f"scaled_conv2d has no gradient with {act}; put bias_act behind it"
        )
    ctx.geometry = (stride, padding, transposed)
    ctx.epilogue = (1, act, alpha, gain, representable(clamp, x.dtype))
    ctx.plain = act == "linear" and gain == 1 and clamp < 0
    ctx.has_epilogue = not (ctx.plain and noise is None and b is None)
    ctx.noise_shape = None if noise is None else noise.shape
    ctx.b_dtype = None if b is None else b.dtype
    # y is needed for the slope of the activation, and as conv * d for the gradient of d
    keep_y = not ctx.plain or (ctx.needs_input_grad[3] and not ctx.has_epilogue)
    ctx.save_for_backward(x, w, s, d, output if keep_y else None)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w, s, d, y = ctx.saved_tensors
    stride, padding, transposed = ctx.geometry
    needs = ctx.needs_input_grad
    g = dy if ctx.plain else _bias_act_grad(dy, None, None, y, *ctx.epilogue)
    g = g.contiguous(memory_format=memory_format(x))  # so that dx has x's memory format
    dx = dw = ds = dd = dnoise = db = None
    if needs[0] or needs[2]:
        into_s = s is not None and needs[2]
        # Where s needs a gradient, the unscaled dx serves both.
        dx = convolve(g, w, d, None if into_s else s, stride, padding, not transposed, *x.shape[2:])
        if into_s:
            ds = _plane_dot(x, dx, s.dtype)
            dx = _scale(dx, s)
    if needs[1]:
        dw = _scaled_conv2d_wgrad(x, g, s, d, stride, padding, transposed, *w.shape[2:])
    if d is not None and needs[3]:
        if ctx.has_epilogue:
            c = convolve(x, w, s, None, stride, padding, transposed, *dy.shape[2:])
            dd = _plane_dot(c, g, d.dtype)
        else:
            dd = _plane_dot(y, g, d.dtype) / d
    if ctx.noise_shape is not None and needs[9]:
        dnoise = g.sum_to_size(ctx.noise_shape)
    if ctx.b_dtype is not None and needs[10]:
        db = g.sum((0, 2, 3), dtype=ctx.b_dtype)
    return dx, dw, ds, dd, *(None,) * 5, dnoise, db, *(None,) * 4


_scaled_conv2d = define(
    "scaled_conv2d",
    "(Tensor x, Tensor w, Tensor? s, Tensor? d, int stride, int padding, bool transposed, "
    "SymInt out_h, SymInt out_w, Tensor? noise, Tensor? b, str act, float alpha, float gain, "
    "float clamp) -> Tensor",
    _allocate,
    setup_context=_setup_context,
    backward=_backward,
)


def convolve(
    x: Tensor,
    w: Tensor,
    s: Tensor | None,
    d: Tensor | None,
    stride: int,
    padding: int,
    transposed: bool,
    out_h: int,
    out_w: int,
) -> Tensor:
    """``scaled_conv2d`` with nothing behind the convolution."""
    return _scaled_conv2d(
        x, w, s, d, stride, padding, transposed, out_h, out_w, None, None, "linear", 0.0, 1.0, -1.0
    )


def _allocate_wgrad(
    x: Tensor,
    dy: Tensor,
    s: Tensor | None,
    d: Tensor | None,
    stride: int,
    padding: int,
    transposed: bool,
    kh: int,
    kw: int,
) -> Tensor:
    outer, inner = (x, dy) if transposed else (dy, x)
    return torch.empty([outer.shape[1], inner.shape[1], kh, kw], dtype=x.dtype, device=x.device)


def _setup_context_wgrad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, dy, s, d, *geometry = inputs
    ctx.geometry = tuple(geometry[:3])
    ctx.save_for_backward(x, dy, s, d)


def _backward_wgrad(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    """<v, wgrad> = <dy * d, conv(x * s, v)>: every derivative is a convolution with v as the
    weight."""
    x, dy, s, d = ctx.saved_tensors
    stride, padding, transposed = ctx.geometry
    needs = ctx.needs_input_grad
    dx = ddy = ds = dd = None
    if needs[0] or needs[2]:
        into_s = s is not None and needs[2]
        dx = convolve(
            dy, v, d, None if into_s else s, stride, padding, not transposed, *x.shape[2:]
        )
        if into_s:
            ds = _plane_dot(x, dx, s.dtype)
            dx = _scale(dx, s)
    if needs[1] or needs[3]:
        into_d = d is not None and needs[3]
        ddy = convolve(x, v, s, None if into_d else d, stride, padding, transposed, *dy.shape[2:])
        if into_d:
            dd = _plane_dot(dy, ddy, d.dtype)
            ddy = _scale(ddy, d)
    return dx, ddy, ds, dd, *(None,) * 5


_scaled_conv2d_wgrad = define(
    "scaled_conv2d_wgrad",
    "(Tensor x, Tensor dy, Tensor? s, Tensor? d, int stride, int padding, bool transposed, "
    "int kh, int kw) -> Tensor",
    _allocate_wgrad,
    setup_context=_setup_context_wgrad,
    backward=_backward_wgrad,
)
