"""Primitives composed of PyTorch's own operators, as functions of tensors.

The reference backend writes what they give into its outputs; graphs that leave pix2gan hold them in
place of its ops (`pix2gan.export`). So nothing here is written in place, and nothing is decided by
a height or a width, which a graph of any size must not look at. Half precision is computed in
float32, and rounded where it is the operand of a convolution.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pix2gan.ops.activations import activation
from pix2gan.ops.layout import accumulation_dtype

# Filters of so many taps make one pass over both axes: with few taps that beats two.
_FEW_TAPS = 6


def along(b: Tensor, x: Tensor, dim: int) -> Tensor:
    """A vector, shaped to broadcast along axis ``dim`` of x."""
    return b.view([-1 if axis == dim else 1 for axis in range(x.dim())])


def planes(v: Tensor) -> Tensor:
    """[N, C] or [C] as [N or 1, C, 1, 1]."""
    return v.view(-1, v.shape[-1], 1, 1)


def bias_act(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    v = x.to(accumulation_dtype(x.dtype))
    v = v if b is None else v + along(b, x, dim)
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
    taps = f if flip else f.flip(list(range(f.dim())))  # as a correlation has them
    x = x.to(f.dtype)
    pad = (pady0, pady1, padx0, padx1)
    if f.dim() == 1 and len(f) > _FEW_TAPS:
        x = _filtered(x, taps[None] * gain, (1, upx), (1, downx), (0, 0, *pad[2:]))
        return _filtered(x, taps[:, None], (upy, 1), (downy, 1), (*pad[:2], 0, 0))
    taps = taps.outer(taps) if f.dim() == 1 else taps
    return _filtered(x, taps * gain, (upy, upx), (downy, downx), pad)


def _filtered(
    x: Tensor,
    taps: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    pad: tuple[int, int, int, int],
) -> Tensor:
    """y[o] = sum_k taps[k] up(x)[o down + k - pad], pairs being (y, x), pad (y0, y1, x0, x1).

    As a convolution of each channel by itself; a transposed one where that inserts the zeros.
    """
    channels, (height, width) = x.shape[1], taps.shape
    first, last = (pad[0], pad[2]), (pad[1], pad[3])
    if up == (1, 1):
        even = first == last and min(first) >= 0
        x = x if even else _padded_or_cut(x, pad)
        weight = taps.expand(channels, 1, height, width)
        return F.conv2d(x, weight, stride=down, padding=first if even else 0, groups=channels)
    # x[i] reaches full[i up + j] through the reversed taps; y[o] is full[o down + taps - 1 - pad]
    weight = taps.flip((0, 1)).expand(channels, 1, height, width)
    cut = [k - 1 - p for k, p in zip((height, width), first, strict=True)]
    rest = [u - 1 + q - p for u, p, q in zip(up, first, last, strict=True)]
    if min(cut) >= 0 and all(0 <= r < u for r, u in zip(rest, up, strict=True)):
        full = F.conv_transpose2d(
            x, weight, stride=up, padding=cut, output_padding=rest, groups=channels
        )
    else:
        full = F.conv_transpose2d(x, weight, stride=up, groups=channels)
        after = [r - c for r, c in zip(rest, cut, strict=True)]
        full = _padded_or_cut(full, (-cut[0], after[0], -cut[1], after[1]))
    return full[:, :, :: down[0], :: down[1]] if max(down) > 1 else full


def _padded_or_cut(x: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    """Zeros around [N, C, H, W], (top, bottom, left, right), and where a number is negative, so
    much less of it."""
    top, bottom, left, right = (max(0, -side) for side in pad)
    if any((top, bottom, left, right)):
        x = x[:, :, top : -bottom or None, left : -right or None]
    top, bottom, left, right = (max(0, side) for side in pad)
    return F.pad(x, (left, right, top, bottom)) if any((top, bottom, left, right)) else x


def scaled(x: Tensor, scale: Tensor | None) -> Tensor:
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
) -> Tensor:
    c = _convolved(scaled(x, s), w, stride, padding, transposed, out_h, out_w)
    v = c.to(accumulation_dtype(x.dtype))
    v = v if d is None else v * d[:, :, None, None]
    v = v if noise is None else v + noise
    return bias_act(v, b, 1, act, alpha, gain, clamp)


def _convolved(
    x: Tensor, w: Tensor, stride: int, padding: int, transposed: bool, out_h: int, out_w: int
) -> Tensor:
    if not transposed:
        return F.conv2d(x, w, stride=stride, padding=padding)
    # Rows and columns that the strided convolution, whose adjoint this is, left over: a plain
    # number even where sizes are symbols.
    rest = [
        int(size - ((n - 1) * stride - 2 * padding + taps))
        for size, n, taps in zip((out_h, out_w), x.shape[2:], w.shape[2:], strict=True)
    ]
    return F.conv_transpose2d(x, w, stride=stride, padding=padding, output_padding=rest)
