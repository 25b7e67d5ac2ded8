"""The reference backend: every primitive in plain PyTorch, on any device and in any dtype.

It says what the other backends have to compute, and it is the CPU path of those who have no
compiler. So it is exact first: half precision is computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan.ops import compositions
from pix2gan.ops.activations import activation
from pix2gan.ops.compositions import planes, scaled
from pix2gan.ops.layout import accumulation_dtype
from pix2gan.ops.padding import pad_image, pad_image_adjoint

aten = torch.ops.aten

DEVICES = ("*",)  # any


def is_available() -> tuple[bool, str]:
    return True, ""


def supports(primitive: str, *args: Any) -> bool:
    return True


# ----------------------------------------------------------------------------------------- bias_act


def _pre_activation(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    v = x.to(accumulation_dtype(x.dtype))
    return v if b is None else v + compositions.along(b, x, dim)


def bias_act(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    out: Tensor,
) -> None:
    # Computed in place in ``out`` where that has the precision for it, else in one float32
    # temporary.
    dtype = accumulation_dtype(x.dtype)
    v = out if out.dtype == dtype else torch.empty_like(out, dtype=dtype)
    if b is None:
        v.copy_(x)
    else:
        torch.add(x, compositions.along(b, x, dim), out=v)
    _activate_(v, act, alpha)
    if gain != 1:
        v.mul_(gain)
    if clamp >= 0:
        v.clamp_(-clamp, clamp)
    if v is not out:
        out.copy_(v)


def _activate_(v: Tensor, act: str, alpha: float) -> None:
    """Activates v in place; without a temporary where PyTorch can."""
    if act == "linear":
        pass
    elif act == "relu":
        v.relu_()
    elif act == "lrelu":
        F.leaky_relu(v, alpha, inplace=True)
    elif act == "tanh":
        v.tanh_()
    elif act == "sigmoid":
        v.sigmoid_()
    else:
        v.copy_(activation(act).value(v, alpha))


def _times_slope_(g: Tensor, v: Tensor, act: str, alpha: float) -> None:
    """Multiplies g in place by act'(v). Of relu and lrelu, v may be the output just as well.

    PyTorch's own kernels where there are any: on a CPU a torch.where takes twenty times as long.
    """
    if act == "linear":
        pass
    elif act == "relu":
        aten.threshold_backward.grad_input(g, v, 0, grad_input=g)
    elif act == "lrelu":
        aten.leaky_relu_backward.grad_input(g, v, alpha, False, grad_input=g)
    elif act == "tanh":
        aten.tanh_backward.grad_input(g, torch.tanh(v), grad_input=g)
    elif act == "swish":
        aten.silu_backward.grad_input(g, v, grad_input=g)
    else:
        g.mul_(activation(act).slope(v, alpha))


def _clip_gradient_(g: Tensor, y: Tensor, clamp: float) -> None:
    """Zeroes g in place where y has been clipped."""
    if clamp >= 0:
        g.mul_(y.abs() < clamp)


def bias_act_grad(
    dy: Tensor,
    x: Tensor | None,
    b: Tensor | None,
    y: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    out: Tensor,
) -> None:
    known = activation(act)
    dtype = accumulation_dtype(dy.dtype)
    # One factor, relu's or lrelu's, is rounded once in half precision too: no float32 temporary.
    exact = gain == 1 and clamp < 0 and known.piecewise_linear
    g = out if out.dtype == dtype or exact else torch.empty_like(out, dtype=dtype)
    g.copy_(dy)
    if known.piecewise_linear:
        assert y is not None
        # y has the sign of the pre-activation, gain being positive
        _times_slope_(g, y.to(g.dtype), act, alpha)
        _clip_gradient_(g, y, clamp)
    else:
        assert x is not None
        v = _pre_activation(x, b, dim)
        _times_slope_(g, v, act, alpha)
        if clamp >= 0:
            _clip_gradient_(g, known.value(v, alpha) * gain, clamp)
    if gain != 1:
        g.mul_(gain)
    if g is not out:
        out.copy_(g)


def bias_act_grad2(
    ddx: Tensor,
    dy: Tensor,
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    out: Tensor,
) -> None:
    known = activation(act)
    if known.curvature is None:
        out.zero_()
        return
    v = _pre_activation(x, b, dim)
    dv = known.curvature(v, alpha) * ddx.to(v.dtype) * dy * gain
    if clamp >= 0:
        _clip_gradient_(dv, known.value(v, alpha) * gain, clamp)
    out.copy_(dv)


# ---------------------------------------------------------------------------------------- upfirdn2d


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
    out: Tensor,
) -> None:
    if out.numel() > 0:
        padding = (padx0, padx1, pady0, pady1)
        out.copy_(compositions.upfirdn2d(x, f, upx, upy, downx, downy, *padding, flip, gain))


# ------------------------------------------------------------------------------------ instance norm


# Images are taken together up to this many elements, so that what lies between two passes over them
# (float32, a few tensors) stays in a core's cache, and small images do not pay for many calls.
_CHUNK = 2**18


def _chunks(x: Tensor) -> Iterator[slice]:
    """Slices of the batch of x."""
    images = max(1, _CHUNK // max(1, x[0].numel())) if x.shape[0] else 1
    for start in range(0, x.shape[0], images):
        yield slice(start, start + images)


def _of(parameter: Tensor, images: slice) -> Tensor:
    """The rows of [N, C] that belong to some images; [C] serves all."""
    return parameter if parameter.dim() == 1 else parameter[images]


def _centre(x: Tensor, mean: Tensor, m2: Tensor) -> tuple[Tensor, Tensor]:
    """Fills mean and m2 [n, C] from x [n, C, H, W]; returns (z, rest), z - rest being x - mean.

    In two passes, the second of which notices what the rounded mean of the first lacks: without
    ``rest`` data far from zero would be off by a rounding of their mean.
    """
    torch.mean(x, (2, 3), dtype=mean.dtype, out=mean)
    z = x - planes(mean)
    rest = z.mean((2, 3))
    torch.sum(z.square(), (2, 3), out=m2)
    m2.addcmul_(rest, rest, value=-x.shape[2] * x.shape[3])
    mean.add_(rest)
    return z, rest


def instance_norm_stats(x: Tensor, mean: Tensor, m2: Tensor) -> None:
    for n in _chunks(x):
        _centre(x[n], mean[n], m2[n])


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
    out: Tensor,
    mean_out: Tensor,
    rstd_out: Tensor,
) -> None:
    if mean is not None and rstd is not None:
        mean_out.copy_(mean)
        rstd_out.copy_(rstd)
    for n in _chunks(x):
        if mean is None:
            z, shift = _centre(x[n], mean_out[n], rstd_out[n])
            rstd_out[n].div_(x.shape[2] * x.shape[3]).add_(eps).rsqrt_()
        else:
            z, shift = x[n] - planes(mean_out[n]), torch.zeros_like(mean_out[n])
        scale = rstd_out[n] if weight is None else rstd_out[n] * _of(weight, n)
        shift.mul_(-scale)
        if bias is not None:
            shift.add_(_of(bias, n))
        z.mul_(planes(scale)).add_(planes(shift))
        _activate_(z, act, alpha)
        if residual is not None:
            z.add_(residual[n])
        out[n].copy_(pad_image(z, pad, pad_mode))


def instance_norm_act_grad(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    act: str,
    alpha: float,
    pad: int,
    pad_mode: str,
    eps: float,
    frozen: bool,
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor,
) -> None:
    count = x.shape[2] * x.shape[3]
    for n in _chunks(x):
        xhat = (x[n] - planes(mean[n])).mul_(planes(rstd[n]))
        g = torch.empty_like(xhat)
        g.copy_(pad_image_adjoint(dy[n].to(mean.dtype), pad, pad_mode))
        if act != "linear":
            z = xhat if weight is None else xhat * planes(_of(weight, n))
            z = z if bias is None else z + planes(_of(bias, n))
            _times_slope_(g, z, act, alpha)
        torch.sum(g, (2, 3), out=dbias[n])
        torch.sum(g * xhat, (2, 3), out=dweight[n])
        scale = rstd[n] if weight is None else rstd[n] * _of(weight, n)
        g.mul_(planes(scale))
        if not frozen:
            # minus the components along 1 and xhat, which normalisation takes out of x
            g.sub_(xhat.mul_(planes(dweight[n] * scale / count)))
            g.sub_(planes(dbias[n] * scale / count))
        dx[n].copy_(g)


# ------------------------------------------------------------------------------------ scaled_conv2d


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
    out: Tensor,
) -> None:
    if out.numel() == 0:
        return
    sizes = (stride, padding, transposed, out_h, out_w)
    v = compositions.scaled_conv2d(x, w, s, d, *sizes, noise, b, act, alpha, gain, clamp)
    out.copy_(v)


def scaled_conv2d_wgrad(
    x: Tensor,
    dy: Tensor,
    s: Tensor | None,
    d: Tensor | None,
    stride: int,
    padding: int,
    transposed: bool,
    kh: int,
    kw: int,
    out: Tensor,
) -> None:
    if x.numel() == 0 or dy.numel() == 0:
        out.zero_()
        return
    big, small = scaled(x, s), scaled(dy, d)
    if transposed:
        big, small = small, big
    # aten's name for the gradient of a convolution; only the one of the weight is asked for
    _, dw, _ = torch.ops.aten.convolution_backward(
        small,
        big,
        out,  # tells the shape
        None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        1,
        [False, True, False],
    )
    out.copy_(dw)


# --------------------------------------------------------------------------------------------- adam


def adam_step(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    rounded: Tensor | None,
    average: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: float,
    scale: float,
    share: float,
) -> None:
    gradient = gradient.to(weight.dtype) * scale
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    deviation = square.sqrt().div_((1 - beta2**step) ** 0.5)
    weight.addcdiv_(mean, deviation.add_(eps), value=-lr / (1 - beta1**step))
    if rounded is not None:
        rounded.copy_(weight)
    if average is not None:
        average.lerp_(weight, share)


def thin_product(a: Tensor, b: Tensor, form: int, out: Tensor) -> None:
    torch.matmul(a.t() if form == 2 else a, b.t() if form == 0 else b, out=out)


def sum_rows(x: Tensor, index: Tensor, out: Tensor) -> None:
    rows = torch.cat((x, x.new_zeros(1, x.shape[1]))).index_select(0, index.flatten())
    total = rows.view(*index.shape, x.shape[1]).sum(1, dtype=accumulation_dtype(x.dtype))
    out.copy_(total)
