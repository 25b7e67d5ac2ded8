"""The reference backend: every primitive in plain PyTorch, on any device and in any dtype.

It says what the other backends have to compute, and it is the CPU path of those who have no
compiler. So it is exact first: half precision is computed in float32 and rounded once. Images are
taken one at a time where that keeps intermediate results in the cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan.ops.activations import activation
from pix2gan.ops.layout import accumulation_dtype
from pix2gan.ops.padding import pad_image, pad_image_adjoint

DEVICES = ("cpu", "cuda", "mps", "xpu")


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
    if known.piecewise_linear:
        assert y is not None
        # y has the sign of the pre-activation, gain being positive
        if act == "linear":
            dv = dy.to(dtype) * gain
        elif act == "relu":
            dv = torch.where(y > 0, dy.to(dtype), 0.0).mul_(gain)
        else:
            # scaled as a tensor: torch.where of two Python numbers would round them to float32
            dv = dy.to(dtype) * gain
            dv = torch.where(y > 0, dv, dv * alpha)
        clipped = y
    else:
        assert x is not None
        v = _pre_activation(x, b, dim)
        dv = known.slope(v, alpha) * dy * gain
        clipped = known.value(v, alpha) * gain if clamp >= 0 else v
    if clamp >= 0:
        dv.masked_fill_(clipped.abs() >= clamp, 0)
    out.copy_(dv)


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
        dv.masked_fill_((known.value(v, alpha) * gain).abs() >= clamp, 0)
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
    taps = f if flip else f.flip(list(range(f.dim())))
    v = x.to(f.dtype)
    if f.dim() == 1:
        taps = taps * math.sqrt(gain) if gain >= 0 else taps
        v = _filter_axis(v, taps, upx, downx, padx0, 3, out.shape[3])
        v = _filter_axis(v, taps, upy, downy, pady0, 2, out.shape[2])
        if gain < 0:
            v = v * gain
        out.copy_(v)
        return
    target = out if out.dtype == f.dtype else torch.empty_like(out, dtype=f.dtype)
    target.zero_()
    taps = taps * gain
    for ky in range(taps.shape[0]):
        for kx in range(taps.shape[1]):
            rows = _overlap(x.shape[2], target.shape[2], upy, downy, pady0, ky)
            columns = _overlap(x.shape[3], target.shape[3], upx, downx, padx0, kx)
            if rows is not None and columns is not None:
                target[:, :, rows[0], columns[0]].addcmul_(
                    v[:, :, rows[1], columns[1]], taps[ky, kx]
                )
    if target is not out:
        out.copy_(target)


def _filter_axis(
    x: Tensor, taps: Tensor, up: int, down: int, pad0: int, axis: int, size: int
) -> Tensor:
    """upfirdn along one axis: y[o] = sum_k taps[k] up(x)[o down + k - pad0].

    As a sum over the taps of slices: no zeros are inserted, none multiplied, and nothing is padded.
    """
    shape = list(x.shape)
    shape[axis] = size
    y = x.new_zeros(shape)
    for k in range(len(taps)):
        pair = _overlap(x.shape[axis], size, up, down, pad0, k)
        if pair is not None:
            inside = (slice(None),) * axis
            y[(*inside, pair[0])].addcmul_(x[(*inside, pair[1])], taps[k])
    return y


def _overlap(
    in_size: int, out_size: int, up: int, down: int, pad0: int, k: int
) -> tuple[slice, slice] | None:
    """Which outputs read which inputs through tap k: (slice of the output, slice of the input) or
    None.

    Output o reads the fine grid at o down + k - pad0, where there is a sample i if that is i up.
    """
    shift = k - pad0
    common = math.gcd(up, down)
    out_step, in_step = up // common, down // common
    # the first o in [0, out_step) with (o down + shift) divisible by up
    first = next((o for o in range(out_step) if (o * down + shift) % up == 0), None)
    if first is None:
        return None
    # o = first + t out_step reads i = i0 + t in_step
    i0 = (first * down + shift) // up
    start = max(0, -(i0 // in_step))  # the smallest t with i >= 0
    stop = min(
        (out_size - 1 - first) // out_step, (in_size - 1 - i0) // in_step
    )  # the largest t with both inside
    if stop < start:
        return None
    o, i = first + start * out_step, i0 + start * in_step
    count = stop - start
    return (
        slice(o, o + count * out_step + 1, out_step),
        slice(i, i + count * in_step + 1, in_step),
    )


# ------------------------------------------------------------------------------------ instance norm


def instance_norm_stats(x: Tensor, mean: Tensor, m2: Tensor) -> None:
    for n in range(x.shape[0]):
        _centre(x[n], mean[n], m2[n])


def _centre(x: Tensor, mean: Tensor, m2: Tensor) -> Tensor:
    """Fills mean and m2 [C] from x [C, H, W] in two passes and returns x - mean, in their dtype."""
    v = x.to(mean.dtype)
    torch.mean(v, (1, 2), out=mean)
    centred = v - mean[:, None, None]
    # The mean is rounded: what it lacks is the mean of the deviations. Without this second look the
    # variance of data far from zero would be off by the square of that.
    rest = centred.mean((1, 2))
    mean += rest
    centred -= rest[:, None, None]
    torch.sum(centred.square(), (1, 2), out=m2)
    return centred


def _per_image(parameter: Tensor | None, n: int) -> Tensor | None:
    """Row n of [N, C], or [C], as [C, 1, 1]."""
    if parameter is None:
        return None
    return (parameter if parameter.dim() == 1 else parameter[n])[:, None, None]


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
    count = x.shape[2] * x.shape[3]
    for n in range(x.shape[0]):
        if mean is None:
            z = _centre(x[n], mean_out[n], rstd_out[n])
            rstd_out[n].div_(count).add_(eps).rsqrt_()
        else:
            z = x[n].to(mean_out.dtype) - mean_out[n][:, None, None]
        scale = rstd_out[n][:, None, None]
        w, b = _per_image(weight, n), _per_image(bias, n)
        z.mul_(scale if w is None else scale * w)
        if b is not None:
            z.add_(b)
        _activate_(z, act, alpha)
        if residual is not None:
            z.add_(residual[n])
        out[n : n + 1].copy_(pad_image(z[None], pad, pad_mode))


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
    known = activation(act)
    count = x.shape[2] * x.shape[3]
    for n in range(x.shape[0]):
        xhat = (x[n].to(mean.dtype) - mean[n][:, None, None]).mul_(rstd[n][:, None, None])
        w, b = _per_image(weight, n), _per_image(bias, n)
        g = pad_image_adjoint(dy[n : n + 1].to(mean.dtype), pad, pad_mode)[0]
        if act != "linear":
            z = xhat if w is None else xhat * w
            z = z if b is None else z + b
            g = known.slope(z, alpha).mul_(g)
        torch.sum(g, (1, 2), out=dbias[n])
        torch.sum(g * xhat, (1, 2), out=dweight[n])
        if not frozen:
            g = g - dbias[n][:, None, None] / count
            g.addcmul_(xhat, dweight[n][:, None, None], value=-1 / count)
        scale = rstd[n][:, None, None]
        torch.mul(g, scale if w is None else scale * w, out=g) if not frozen else None
        dx[n].copy_(g if not frozen else g * (scale if w is None else scale * w))


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
