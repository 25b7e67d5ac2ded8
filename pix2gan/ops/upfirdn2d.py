"""``upfirdn2d``: upsample, filter, downsample; and the filters for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pix2gan.ops.dispatch import define
from pix2gan.ops.layout import (
    accumulation_dtype,
    memory_format,
    new_output,
    require_floating,
    require_same_device,
)

Pair = int | Sequence[int]


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Inserts zeros, pads, convolves with a FIR filter, keeps every down-th sample.

    Args:
        x: [N, C, H, W], float64, float32, float16 or bfloat16; the sums are taken in float32 at
            least.
        f: the filter, 1-D (separable: it is applied along both axes) or 2-D; None for the identity.
            It is a
            constant: no gradient reaches it.
        up: up - 1 zeros are inserted behind each sample; an int or (x, y).
        down: every down-th sample is kept, the first one included; an int or (x, y).
        padding: zeros around the upsampled image; an int, (x, y) or (x0, x1, y0, y1). Negative
            crops.
        flip_filter: False convolves, True correlates.
        gain: multiplies the result.

    Returns [N, C, (H up + y0 + y1 - fh) // down + 1, ...] in x's dtype and memory format.
    Raises ``ValueError`` or ``TypeError`` for bad arguments and where no output pixel is left.
    """
    require_image(x)
    ups, downs = _pair(up, "up"), _pair(down, "down")
    return _resample(x, prepare_filter(f, x), ups, downs, parse_padding(padding), flip_filter, gain)


def _resample(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """``upfirdn2d`` of arguments that have been brought into their form."""
    (upx, upy), (downx, downy) = up, down
    padx0, padx1, pady0, pady1 = padding
    fw, fh = filter_size(f)
    if not math.isfinite(gain):
        raise ValueError(f"gain must be finite, it is {gain}")
    for size, u, p0, p1, taps, axis in (
        (x.shape[3], upx, padx0, padx1, fw, "width"),
        (x.shape[2], upy, pady0, pady1, fh, "height"),
    ):
        if size * u + p0 + p1 < taps:
            raise ValueError(
                f"no output pixel is left: the {axis} of x is {size * u + p0 + p1} "
                f"after upsampling and padding, the filter has {taps} taps"
            )
    return _upfirdn2d(
        x, f, upx, upy, downx, downy, padx0, padx1, pady0, pady1, bool(flip_filter), float(gain)
    )


def setup_filter(
    f: Tensor | Sequence[Any] | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A float32 filter for ``upfirdn2d`` from taps: 1-D where it is kept separable, else 2-D.

    Args:
        f: taps, 1-D or 2-D; a number; or None for the identity.
        normalize: scale to the sum 1.
        flip_filter: reverse it.
        gain: scales the filter as a whole (a 1-D one, which is applied twice, by its root).
        separable: keep 1-D taps 1-D. By default where there are eight or more: below that one pass
            with the outer product is cheaper than two passes.
    """
    taps = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32)
    if taps.dim() > 2 or taps.numel() == 0:
        raise ValueError(
            f"a filter is 1-D or 2-D and not empty, this has the shape {list(taps.shape)}"
        )
    if taps.dim() == 0:
        taps = taps[None]
    if separable is None:
        separable = taps.dim() == 1 and taps.numel() >= 8
    if separable and taps.dim() != 1:
        raise ValueError("a filter that is to be separable must be given as 1-D taps")
    if taps.dim() == 1 and not separable:
        taps = taps.outer(taps)
    if normalize:
        total = taps.sum()
        if total == 0:
            raise ValueError(
                "a filter whose taps sum to 0 cannot be normalized; pass normalize=False"
            )
        taps = taps / total
    if flip_filter:
        taps = taps.flip(list(range(taps.dim())))
    if taps.dim() == 1 and gain < 0:
        raise ValueError("a separable filter is applied twice: its gain must not be negative")
    return (taps * gain ** (taps.dim() / 2)).to(device)


def filter2d(
    x: Tensor, f: Tensor | None, padding: Pair = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Filters x with f; the size stays the same where padding is 0, which counts from there."""
    require_image(x)
    filt = prepare_filter(f, x)
    fw, fh = filter_size(filt)
    px0, px1, py0, py1 = parse_padding(padding)
    pads = (px0 + fw // 2, px1 + (fw - 1) // 2, py0 + fh // 2, py1 + (fh - 1) // 2)
    return _resample(x, filt, (1, 1), (1, 1), pads, flip_filter, gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsamples [N, C, H, W] to [N, C, H up, W up] (plus padding), f being the interpolation
    filter.

    The filter is centred on the pixels' areas and the brightness is kept (gain up_x up_y).
    """
    require_image(x)
    upx, upy = _pair(up, "up")
    filt = prepare_filter(f, x)
    fw, fh = filter_size(filt)
    px0, px1, py0, py1 = parse_padding(padding)
    (cx0, cx1), (cy0, cy1) = centring(fw, upx, 1), centring(fh, upy, 1)
    pads = (px0 + cx0, px1 + cx1, py0 + cy0, py1 + cy1)
    return _resample(x, filt, (upx, upy), (1, 1), pads, flip_filter, gain * upx * upy)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Downsamples [N, C, H, W] to [N, C, H / down, W / down] (plus padding), f being the low-pass
    filter."""
    require_image(x)
    downx, downy = _pair(down, "down")
    filt = prepare_filter(f, x)
    fw, fh = filter_size(filt)
    px0, px1, py0, py1 = parse_padding(padding)
    (cx0, cx1), (cy0, cy1) = centring(fw, 1, downx), centring(fh, 1, downy)
    pads = (px0 + cx0, px1 + cx1, py0 + cy0, py1 + cy1)
    return _resample(x, filt, (1, 1), (downx, downy), pads, flip_filter, gain)


def centring(taps: int, up: int, down: int) -> tuple[int, int]:
    """The padding that centres a filter and turns n pixels into n up / down.

    Pixel i covers [i up, (i + 1) up) of the fine grid, its centre lies at i up + (up - 1) / 2, but
    zero insertion puts the sample at i up. An output pixel o stands for the centre o down + (down -
    1) / 2 and is read at o down. A filter without padding delays by taps - 1 - (taps - 1) / 2.
    Together the padding in front has to be (taps - 1 + up - 1 - (down - 1)) / 2, rounded up here,
    and both must add up to taps - down.
    """
    before = (taps + up - down) // 2
    return before, taps - down - before


def require_image(x: Tensor) -> None:
    """``TypeError`` or ``ValueError`` unless x is a floating [N, C, H, W]."""
    require_floating(x, "x")
    if x.dim() != 4:
        raise ValueError(f"x must be [N, C, H, W], it has the shape {list(x.shape)}")


def prepare_filter(f: Tensor | None, x: Tensor) -> Tensor:
    """f as the op takes it: detached, contiguous, in the accumulation dtype."""
    dtype = accumulation_dtype(x.dtype)
    if f is None:
        return torch.ones([1, 1], dtype=dtype, device=x.device)
    require_floating(f, "f")
    require_same_device(x, f, "f")
    if f.dim() not in (1, 2) or 0 in f.shape:
        raise ValueError(f"f must be 1-D or 2-D and not empty, it has the shape {list(f.shape)}")
    # What is so already is not asked to become so: each of the three calls takes about 2 µs.
    if f.requires_grad:
        f = f.detach()
    if f.dtype != dtype:
        f = f.to(dtype)
    return f if f.is_contiguous() else f.contiguous()


def filter_size(f: Tensor) -> tuple[int, int]:
    """(width, height) of a 1-D or 2-D filter."""
    return f.shape[-1], f.shape[0]


def _pair(value: Pair, name: str) -> tuple[int, int]:
    if isinstance(value, int) and value >= 1:
        return value, value
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(f"{name} must be a positive int or a pair (x, y) of them, it is {value!r}")
    return pair[0], pair[1]


def parse_padding(padding: Pair) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1) from an int, (x, y) or (x0, x1, y0, y1)."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    values = tuple(padding) if isinstance(padding, Sequence) else (padding,)
    if len(values) not in (1, 2, 4) or not all(isinstance(v, int) for v in values):
        raise ValueError(f"padding must be an int, (x, y) or (x0, x1, y0, y1), it is {padding!r}")
    if len(values) == 1:
        values *= 4
    elif len(values) == 2:
        values = (values[0], values[0], values[1], values[1])
    return values[0], values[1], values[2], values[3]


# ------------------------------------------------------------------------------------------- the op


def output_size(size: int, up: int, down: int, pad0: int, pad1: int, taps: int) -> int:
    """Pixels along one axis behind upfirdn2d."""
    return (size * up + pad0 + pad1 - taps) // down + 1


def _allocate(
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
    fw, fh = filter_size(f)
    height = output_size(x.shape[2], upy, downy, pady0, pady1, fh)
    width = output_size(x.shape[3], upx, downx, padx0, padx1, fw)
    return new_output(x, (x.shape[0], x.shape[1], height, width))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *ctx.options = inputs
    ctx.in_size, ctx.out_size, ctx.format = x.shape[2:], output.shape[2:], memory_format(x)
    ctx.save_for_backward(f)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # y[o] = sum_k F[k] x_up[o down + k - pad0] has the adjoint dx[i] = sum_k F'[k] dy_up[i up + k -
    # pad0'] with F' = F reversed, pad0' = taps - 1 - pad0 and, for dx to have x's size, the pad1'
    # below.
    (f,) = ctx.saved_tensors
    upx, upy, downx, downy, padx0, _, pady0, _, flip, gain = ctx.options
    fw, fh = filter_size(f)
    (in_h, in_w), (out_h, out_w) = ctx.in_size, ctx.out_size
    dx = _upfirdn2d(
        dy.contiguous(memory_format=ctx.format),  # so that dx has x's memory format
        f,
        downx,
        downy,
        upx,
        upy,
        fw - 1 - padx0,
        (in_w - 1) * upx - out_w * downx + padx0 + 1,
        fh - 1 - pady0,
        (in_h - 1) * upy - out_h * downy + pady0 + 1,
        not flip,
        gain,
    )
    return dx, *(None,) * 11


_upfirdn2d = define(
    "upfirdn2d",
    "(Tensor x, Tensor f, int upx, int upy, int downx, int downy, SymInt padx0, "
    "SymInt padx1, SymInt pady0, SymInt pady1, bool flip, float gain) -> Tensor",
    _allocate,
    setup_context=_setup_context,
    backward=_backward,
)
