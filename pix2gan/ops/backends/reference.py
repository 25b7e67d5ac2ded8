"""The reference backend: every primitive in plain PyTorch, on any device and in any dtype.

It says what the other backends have to compute, and it is the CPU path of those who have no
compiler. So it is exact first: half precision is computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan.ops.activations import activation
from pix2gan.ops.layout import accumulation_dtype
from pix2gan.ops.padding import pad_image, pad_image_adjoint

aten = torch.ops.aten

DEVICES = ("*",)  # any


def is_available() -> tuple[bool, str]:
    return True, ""


def supports(primitive: str, *args: Any) -> bool:
    return True


# ----------------------------------------------------------------------------------------- bias_act


def _along(b: Tensor, x: Tensor, dim: int) -> Tensor:
    """A vector, shaped to broadcast along axis ``dim`` of x."""
    return b.view([-1 if axis == dim else 1 for axis in range(x.dim())])


def _pre_activation(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    v = x.to(accumulation_dtype(x.dtype))
    return v if b is None else v + _along(b, x, dim)


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
        torch.add(x, _along(b, x, dim), out=v)
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
    if out.numel() == 0:
        return
    taps = f if flip else f.flip(list(range(f.dim())))
    x = x.to(f.dtype)
    if f.dim() == 1 and len(f) <= 6:
        taps, f = taps.outer(taps), f.outer(f)  # one pass with few taps beats two
    if f.dim() == 2:
        y = _filter(x, taps * gain, (upy, upx), (downy, downx), (pady0, padx0), out.shape[2:])
    else:
        rows, columns = taps[:, None], taps[None] * gain
        y = _filter(x, columns, (1, upx), (1, downx), (0, padx0), (x.shape[2], out.shape[3]))
        y = _filter(y, rows, (upy, 1), (downy, 1), (pady0, 0), out.shape[2:])
    out.copy_(y)


def _filter(
    x: Tensor,
    taps: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    pad: tuple[int, int],
    size: Sequence[int],
) -> Tensor:
    """y[o] = sum_k taps[k] up(x)[o down + k - pad] for ``size`` outputs o, pairs being (y, x).

    As a convolution of each channel by itself; a transposed one where that inserts the zeros.
    """
    channels = x.shape[1]
    extent = [(o - 1) * d + 1 for o, d in zip(size, down, strict=True)]  # before down
    if up == (1, 1):
        after = [
            e + k - 1 - p - n
            for e, k, p, n in zip(extent, taps.shape, pad, x.shape[2:], strict=True)
        ]
        if tuple(after) != pad or min(pad) < 0:
            x, pad = F.pad(x, (pad[1], after[1], pad[0], after[0])), (0, 0)
        weight = taps.expand(channels, 1, *taps.shape)
        return F.conv2d(x, weight, stride=down, padding=pad, groups=channels)
    # x[i] reaches full[i up + j] through the reversed taps; y[o] is full[o down + taps - 1 - pad]
    weight = taps.flip((0, 1)).expand(channels, 1, *taps.shape)
    cut = [k - 1 - p for k, p in zip(taps.shape, pad, strict=True)]
    rest = [
        e - ((n - 1) * u - 2 * c + k)
        for e, n, u, c, k in zip(extent, x.shape[2:], up, cut, taps.shape, strict=True)
    ]
    if min(cut) >= 0 and all(0 <= r < u for r, u in zip(rest, up, strict=True)):
        full = F.conv_transpose2d(
            x, weight, stride=up, padding=cut, output_padding=rest, groups=channels
        )
    else:
        full = F.conv_transpose2d(x, weight, stride=up, groups=channels)
        after = [e + c - n for e, c, n in zip(extent, cut, full.shape[2:], strict=True)]
        full = F.pad(full, (-cut[1], after[1], -cut[0], after[0]))
    return full[:, :, :: down[0], :: down[1]]


# ------------------------------------------------------------------------------------ instance norm


# Images are taken together up to this many elements, so that what lies between two passes over them
# (float32, a few tensors) stays in a core's cache, and small images do not pay for many calls.
_CHUNK = 2**18


def _chunks(x: Tensor) -> Iterator[slice]:
    """Slices of the batch of x."""
    images = max(1, _CHUNK // max(1, x[0].numel())) if x.shape[0] else 1
    for start in range(0, x.shape[0], images):
        yield slice(start, start + images)


def _planes(v: Tensor) -> Tensor:
    """[n, C] or [C] as [n or 1, C, 1, 1]."""
    return v.view(-1, v.shape[-1], 1, 1)


def _of(parameter: Tensor, images: slice) -> Tensor:
    """The rows of [N, C] that belong to some images; [C] serves all."""
    return parameter if parameter.dim() == 1 else parameter[images]


def _centre(x: Tensor, mean: Tensor, m2: Tensor) -> tuple[Tensor, Tensor]:
    """Fills mean and m2 [n, C] from x [n, C, H, W]; returns (z, rest), z - rest being x - mean.

    In two passes, the second of which notices what the rounded mean of the first lacks: without
    ``rest`` data far from zero would be off by a rounding of their mean.
    """
    torch.mean(x, (2, 3), dtype=mean.dtype, out=mean)
    z = x - _planes(mean)
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
            z, shift = x[n] - _planes(mean_out[n]), torch.zeros_like(mean_out[n])
        scale = rstd_out[n] if weight is None else rstd_out[n] * _of(weight, n)
        shift.mul_(-scale)
        if bias is not None:
            shift.add_(_of(bias, n))
        z.mul_(_planes(scale)).add_(_planes(shift))
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
        xhat = (x[n] - _planes(mean[n])).mul_(_planes(rstd[n]))
        g = torch.empty_like(xhat)
        g.copy_(pad_image_adjoint(dy[n].to(mean.dtype), pad, pad_mode))
        if act != "linear":
            z = xhat if weight is None else xhat * _planes(_of(weight, n))
            z = z if bias is None else z + _planes(_of(bias, n))
            _times_slope_(g, z, act, alpha)
        torch.sum(g, (2, 3), out=dbias[n])
        torch.sum(g * xhat, (2, 3), out=dweight[n])
        scale = rstd[n] if weight is None else rstd[n] * _of(weight, n)
        g.mul_(_planes(scale))
        if not frozen:
            # minus the components along 1 and xhat, which normalisation takes out of x
            g.sub_(xhat.mul_(_planes(dweight[n] * scale / count)))
            g.sub_(_planes(dbias[n] * scale / count))
        dx[n].copy_(g)


# ------------------------------------------------------------------------------------ scaled_conv2d


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    """x times [N, C], rounded to x's dtype as the operand of a matrix product is."""
    return x if scale is None else (x * scale[:, :, None, None]).to(x.dtype)


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
    c = _convolve(_scaled(x, s), w, stride, padding, transposed, out_h, out_w)
    v = c.to(accumulation_dtype(x.dtype))
    if d is not None:
        v = v * d[:, :, None, None]
    if noise is not None:
        v = v + noise
    if v.dtype == out.dtype and b is None and act == "linear" and gain == 1 and clamp < 0:
        out.copy_(v)
    else:
        _finish(v, b, act, alpha, gain, clamp, out)


def _finish(
    v: Tensor, b: Tensor | None, act: str, alpha: float, gain: float, clamp: float, out: Tensor
) -> None:
    if b is not None:
        v = v + b[:, None, None]
    v = activation(act).value(v, alpha) * gain
    out.copy_(v.clamp(-clamp, clamp) if clamp >= 0 else v)


def _convolve(
    x: Tensor, w: Tensor, stride: int, padding: int, transposed: bool, out_h: int, out_w: int
) -> Tensor:
    if not transposed:
        return F.conv2d(x, w, stride=stride, padding=padding)
    # rows and columns that the strided convolution, whose adjoint this is, left over
    rest = tuple(
        size - ((n - 1) * stride - 2 * padding + taps)
        for size, n, taps in zip((out_h, out_w), x.shape[2:], w.shape[2:], strict=True)
    )
    return F.conv_transpose2d(x, w, stride=stride, padding=padding, output_padding=rest)


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
    big, small = _scaled(x, s), _scaled(dy, d)
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
