"""The ops written out step by step with torch.nn.functional: slow, and easy to see to be right."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "linear": lambda v, alpha: v,
    "relu": lambda v, alpha: F.relu(v),
    "lrelu": lambda v, alpha: F.leaky_relu(v, alpha),
    "tanh": lambda v, alpha: torch.tanh(v),
    "sigmoid": lambda v, alpha: 1 / (1 + torch.exp(-v)),
    "elu": lambda v, alpha: F.elu(v, alpha),
    "selu": lambda v, alpha: F.selu(v),
    "softplus": lambda v, alpha: torch.logaddexp(v, torch.zeros_like(v)),
    "swish": lambda v, alpha: F.silu(v),
}
GAINS = {"relu": math.sqrt(2), "lrelu": math.sqrt(2), "swish": math.sqrt(2)}
MODES = {"reflect": "reflect", "replicate": "replicate", "zeros": "constant"}


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    v = x if b is None else x + b.view([-1 if i == dim else 1 for i in range(x.dim())])
    alpha = {"lrelu": 0.2, "elu": 1.0}.get(act) if alpha is None else alpha
    y = ACTIVATIONS[act](v, alpha) * (GAINS.get(act, 1.0) if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def insert_zeros(x, up):
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, h * up[1], w * up[0])
    y[:, :, :: up[1], :: up[0]] = x
    return y


def upfirdn2d(x, f, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1):
    f = f.outer(f) if f.dim() == 1 else f
    f = f if flip_filter else f.flip((0, 1))
    x = F.pad(insert_zeros(x, up), padding)
    y = F.conv2d(x, f.expand(x.shape[1], 1, *f.shape), groups=x.shape[1])
    return y[:, :, :: down[1], :: down[0]] * gain


def instance_norm_act(
    x,
    weight=None,
    bias=None,
    act="linear",
    alpha=0.2,
    residual=None,
    pad=0,
    pad_mode="reflect",
    eps=1e-5,
    mean=None,
    rstd=None,
):
    if mean is None:
        mean = x.mean((2, 3))
        rstd = 1 / ((x - mean[:, :, None, None]).square().mean((2, 3)) + eps).sqrt()
    y = (x - mean[:, :, None, None]) * rstd[:, :, None, None]
    y = y if weight is None else y * weight.reshape(-1, x.shape[1], 1, 1)
    y = y if bias is None else y + bias.reshape(-1, x.shape[1], 1, 1)
    y = ACTIVATIONS[act](y, alpha)
    y = y if residual is None else y + residual
    return F.pad(y, (pad,) * 4, mode=MODES[pad_mode]) if pad else y


def scaled_conv2d(
    x, w, s, d, stride, padding, transposed, out_h, out_w, noise, b, act, alpha, gain, clamp
):
    """One convolution an image, with a weight that is scaled for it."""
    into, out = (0, 1) if transposed else (1, 0)
    y = x.new_zeros(x.shape[0], w.shape[out], out_h, out_w)
    for n in range(x.shape[0]):
        wn = w
        if s is not None:
            wn = wn * s[n].view([-1 if axis == into else 1 for axis in range(4)])
        if d is not None:
            wn = wn * d[n].view([-1 if axis == out else 1 for axis in range(4)])
        if transposed:
            # all that is reached, zeros beyond it, and of that the rows and columns asked for
            full = F.pad(
                F.conv_transpose2d(x[n : n + 1], wn, stride=stride), (0, stride, 0, stride)
            )
            yn = full[:, :, padding : padding + out_h, padding : padding + out_w]
        else:
            yn = F.conv2d(x[n : n + 1], wn, stride=stride, padding=padding)
        y = torch.cat([y[:n], yn, y[n + 1 :]])
    y = y if noise is None else y + noise
    return bias_act(y, b, 1, act, alpha, gain, None if clamp < 0 else clamp)


def modulated_conv2d(
    x,
    weight,
    styles,
    noise=None,
    up=1,
    down=1,
    padding=0,
    resample_filter=None,
    demodulate=True,
    flip_weight=True,
    b=None,
    act="linear",
    alpha=None,
    gain=None,
    clamp=None,
):
    """A weight for each sample, all in one grouped convolution over a wide border of zeros."""
    n, channels = x.shape[:2]
    empty = n == 0
    if empty:  # convolved as one image, of which nothing is kept
        n, x, styles = 1, x.new_zeros(1, *x.shape[1:]), styles.new_zeros(1, channels)
    out_channels, _, kh, kw = weight.shape
    w = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    w = w if flip_weight else w.flip((3, 4))
    f = resample_filter
    f = torch.ones(1, 1, dtype=x.dtype) if f is None else f.outer(f) if f.dim() == 1 else f
    f = f.flip((0, 1))

    border = 40  # wide enough for anything; position p of the padded image is p - border of x
    wide = F.pad(insert_zeros(x, (up, up)), (border,) * 4)
    wide = wide.reshape(1, n * channels, *wide.shape[2:])
    y = F.conv2d(wide, w.reshape(n * out_channels, channels, kh, kw), groups=n)
    y = y.reshape(n, out_channels, *y.shape[2:])
    y = F.conv2d(y, f.expand(out_channels, 1, *f.shape), groups=out_channels) * up * up
    # y[0] is now the sum that starts at x[-border]: from there to the first output
    sizes, starts = [], []
    for size, k, taps in zip(x.shape[2:], (kh, kw), f.shape, strict=True):
        length = size * up + 2 * padding - k + 1  # of the convolution, before resampling
        if resample_filter is None:
            sizes.append(-(-length // down))
            starts.append(border - padding)
        else:
            sizes.append(length // down)
            # (taps - 1) / 2 is the filter's centre, (up - 1) / 2 that of the zeros behind a sample,
            # (down - 1) / 2 that of the pixels that become one; rounded up
            starts.append(border - padding - math.ceil((taps - 1 + up - 1 - (down - 1)) / 2))
    rows, columns = (
        slice(start, start + (size - 1) * down + 1, down)
        for start, size in zip(starts, sizes, strict=True)
    )
    y = y[: 0 if empty else n, :, rows, columns]
    y = y if noise is None else y + noise
    return bias_act(y, b, 1, act, alpha, gain, clamp)
