# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc, no-any-return"
"""``scaled_conv2d`` as an implicit matrix product on tensor cores, and its weight gradient.

    y = clip(gain * act(conv(x * s, w) * d + noise + b)),   s [N, I], d [N, O]

The product's rows are the pixels of one image, its columns the output channels, and the sum runs
over taps and input channels. A block never spans two images, so that s is one vector on load, and
d, noise and b are vectors or columns on store. A transposed convolution of stride 2 falls into four
classes of output pixels, by which taps reach them; each is a product of its own with 4, 2, 2 or 1
of nine taps.

Tensor cores want rows of channels. x in NCHW is packed into channels-last by a first kernel, which
then also applies s; 1x1 convolutions read either layout as it is. w [O, I, kh, kw] is packed as
[kh, kw, O, I]. Channels-last x is scaled on load, or beforehand where the sums are so long that
multiplying in each of the k^2 O / block reads of an element costs more than two passes over memory.

The gradient of the weights is a product over pixels for each tap. s and d come out of the sum over
the pixels of an image, and multiply the float32 sums. Images, or pieces of them, are divided among
programs, whose float32 results a last kernel adds in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pix2gan.ops.backends.triton.elements import (
    activate,
    clip,
    divisor,
    operand,
    quick_divide,
    to_element,
)
from pix2gan.ops.backends.triton.launch import (
    Architecture,
    Launch,
    ceil_div,
    index_type,
    planes_grid,
    power_of_2,
    primitive,
    registers,
)

# ------------------------------------------------------------------------------------------ packing


@triton.jit
def pack_pixels_kernel(
    x,  # [N, C, pixels]
    s,  # [N, C] or None
    out,  # [N, pixels, packed], zeros from C on
    images,
    channels,
    packed,
    size,
    x_image,
    x_channel,
    x_pixel,
    channel_blocks,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Brings images into channels-last, times s."""
    n = tl.program_id(1) + tl.program_id(2) * 32768
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.program_id(0) // channel_blocks * PIXELS + tl.arange(0, PIXELS)
    limit = tl.where(n < images, size, 0)
    mask = (c < channels)[:, None] & (p < limit)[None, :]
    into = c[:, None].to(tl.int64) * x_channel + p[None, :].to(tl.int64) * x_pixel
    into += n.to(tl.int64) * x_image
    v = tl.load(x + into, mask, other=0).to(tl.float32)
    if s is not None:
        v *= tl.load(s + (n * channels + c), c < channels, other=0)[:, None]
    to = n.to(tl.int64) * size * packed + p[None, :].to(tl.int64) * packed + c[:, None]
    mask = (c < packed)[:, None] & (p < limit)[None, :]
    tl.store(out + to, to_element(v, out.dtype.element_ty), mask)


@triton.jit
def pack_weight_kernel(
    w,
    out,  # [kh, kw, O, packed], zeros from I on
    out_channels,
    in_channels,
    packed,
    w_out,  # strides
    w_in,
    w_row,
    w_column,
    in_blocks,
    KH: tl.constexpr,
    KW: tl.constexpr,
    OUTS: tl.constexpr,
    INS: tl.constexpr,
):
    """All taps of a block of channels: they share cache lines, which are read from memory once."""
    o = tl.program_id(0) // in_blocks * OUTS + tl.arange(0, OUTS)
    i = tl.program_id(0) % in_blocks * INS + tl.arange(0, INS)
    from_ = o[:, None] * w_out + i[None, :] * w_in
    to = o[:, None] * packed + i[None, :]
    mask = (o < out_channels)[:, None] & (i < in_channels)[None, :]
    store = (o < out_channels)[:, None] & (i < packed)[None, :]
    for ky in range(0, KH):
        for kx in range(0, KW):
            v = tl.load(w + (from_ + ky * w_row + kx * w_column), mask, other=0)
            tap = (ky * KW + kx) * out_channels * packed
            tl.store(out + (to + tap), v, store)


# -------------------------------------------------------------------------------------- convolution


@triton.jit
def scaled_conv2d_kernel(
    x,
    w,
    s,
    d,
    noise,
    b,
    out,
    images,
    in_channels,  # as the sum runs over them: padded with zeros where packed, s being None then
    out_channels,
    height,
    width,
    out_height,
    out_width,
    x_image,  # strides
    x_channel,
    x_row,
    x_column,
    w_out,
    w_in,
    w_row,
    w_column,
    out_pixel,
    out_channel,
    noise_image,
    padding,
    lift,  # -padding modulo STRIDE
    pixel_blocks,
    out_blocks,
    alpha,
    gain,
    clamp,
    KH: tl.constexpr,
    KW: tl.constexpr,
    STRIDE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    POINTWISE: tl.constexpr,  # output pixel i is of input pixel i alone
    EVEN: tl.constexpr,  # in_channels is a multiple of INS
    EVEN_OUTS: tl.constexpr,  # out_channels is a multiple of OUTS
    ACT: tl.constexpr,
    CLAMP: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTS: tl.constexpr,
    INS: tl.constexpr,
    INDEX: tl.constexpr,
):
    # Blocks of output channels follow each other: they read the same pixels.
    block = tl.program_id(0)
    out_block = block % out_blocks
    block = block // out_blocks
    pixel_block = block % pixel_blocks
    block = block // pixel_blocks
    n = block % images
    x += n.to(tl.int64) * x_image

    m = pixel_block * PIXELS + tl.arange(0, PIXELS)
    if TRANSPOSED:
        # The class of output pixels that taps first + STRIDE t reach; most taps come first.
        class_ = block // images
        tap_y, tap_x = class_ // STRIDE, class_ % STRIDE
        first_y, first_x = (tap_y + lift) % STRIDE, (tap_x + lift) % STRIDE
        rows = (out_height - first_y + STRIDE - 1) // STRIDE
        columns = (out_width - first_x + STRIDE - 1) // STRIDE
        taps_y, taps_x = (KH - tap_y + STRIDE - 1) // STRIDE, (KW - tap_x + STRIDE - 1) // STRIDE
        row = m // tl.maximum(columns, 1)
        column = m - row * columns
        live = m < rows * columns
        pixel = (row * STRIDE + first_y) * out_width + column * STRIDE + first_x
        y = row + (first_y + padding - tap_y) // STRIDE
        at = column + (first_x + padding - tap_x) // STRIDE
        w += tap_y * w_row + tap_x * w_column
        w_row *= STRIDE
        w_column *= STRIDE
        y_step, x_step = -x_row, -x_column
    else:
        taps_y, taps_x = KH, KW
        live = m < out_height * out_width
        pixel = m
        row = m // out_width
        column = m - row * out_width
        y = row * STRIDE - padding
        at = column * STRIDE - padding
        y_step, x_step = x_row, x_column
    if POINTWISE:
        start = m.to(INDEX) * x_column
    else:
        start = y.to(INDEX) * x_row + at.to(INDEX) * x_column

    o = out_block * OUTS + tl.arange(0, OUTS)
    i = tl.arange(0, INS)
    w_at = w + (i[:, None] * w_in + o[None, :] * w_out)
    # A mask that is known to be true costs no registers (on AMD it would, two scalar ones each).
    inside = tl.full([OUTS], 1, tl.int1) if EVEN_OUTS else o < out_channels
    total = tl.zeros([PIXELS, OUTS], tl.float32)
    tap_y, tap_x, first = 0, 0, 0
    for _ in range(0, taps_y * taps_x * ((in_channels + INS - 1) // INS)):
        if POINTWISE:
            reached = live
        else:
            ty = y - tap_y if TRANSPOSED else y + tap_y
            tx = at - tap_x if TRANSPOSED else at + tap_x
            reached = live & (ty >= 0) & (ty < height) & (tx >= 0) & (tx < width)
        x_mask, w_mask = reached[:, None], inside[None, :]
        if not EVEN:
            x_mask = x_mask & (first + i < in_channels)[None, :]
            w_mask = w_mask & (first + i < in_channels)[:, None]
        x_at = start if POINTWISE else start + (tap_y * y_step + tap_x * x_step)
        x_at = x_at[:, None] + ((first + i).to(INDEX) * x_channel)[None, :]
        left = tl.load(x + x_at, x_mask, other=0)
        right = tl.load(w_at + (tap_y * w_row + tap_x * w_column + first * w_in), w_mask, other=0)
        if s is not None:
            styled = tl.full([INS], 1, tl.int1) if EVEN else first + i < in_channels
            style = tl.load(s + (n * in_channels + first + i), styled, other=0)
            left = to_element(left.to(tl.float32) * style[None, :], x.dtype.element_ty)
        total = tl.dot(operand(left), operand(right), total, input_precision=PRECISION)
        # channels within taps, taps row by row
        first += INS
        last = first >= in_channels
        first = tl.where(last, 0, first)
        tap_x += last.to(tl.int32)
        last = tap_x >= taps_x
        tap_x = tl.where(last, 0, tap_x)
        tap_y += last.to(tl.int32)

    if d is not None:
        total *= tl.load(d + (n * out_channels + o), inside, other=0)[None, :]
    if noise is not None:
        total += tl.load(noise + (n.to(tl.int64) * noise_image + pixel), live, other=0).to(
            tl.float32
        )[:, None]
    if b is not None:
        total += tl.load(b + o, inside, other=0)[None, :]
    total = activate(total, alpha, ACT) * gain
    if CLAMP:
        total = clip(total, clamp)
    out += n.to(tl.int64) * out_channels * (out_height * out_width)
    to = pixel.to(INDEX)[:, None] * out_pixel + o.to(INDEX)[None, :] * out_channel
    tl.store(out + to, to_element(total, out.dtype.element_ty), live[:, None] & inside[None, :])


# --------------------------------------------------------------------------- gradient of the weight


@triton.jit
def weight_gradient_kernel(
    small,  # [N, A, ...], the tensor with fewer pixels: dy, or x where transposed
    big,  # [N, B, ...]
    small_scale,  # [N, A] or None
    big_scale,  # [N, B] or None
    out,  # [splits, kh, kw, A, B]
    rows,  # A
    columns,  # B
    size,  # pixels of small
    width,  # of small
    big_height,
    big_width,
    small_image,  # strides; the channels' are 1
    small_pixel,
    big_image,
    big_row,
    big_column,
    padding,
    row_blocks,
    column_blocks,
    segments,  # pieces of images, all together
    chunks,  # pieces of an image
    chunk,  # pixels
    per_split,  # segments of a program
    multiplier,  # division by width
    shift,
    KH: tl.constexpr,
    KW: tl.constexpr,
    STRIDE: tl.constexpr,
    UNIT_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    block = tl.program_id(0)
    column_block = block % column_blocks
    block = block // column_blocks
    row_block = block % row_blocks
    block = block // row_blocks
    tap = block % (KH * KW)
    split = block // (KH * KW)
    r = row_block * ROWS + tl.arange(0, ROWS)
    c = column_block * COLUMNS + tl.arange(0, COLUMNS)
    row_inside, column_inside = r < rows, c < columns
    lane = tl.arange(0, PIXELS)
    up, left = tap // KW - padding, tap % KW - padding

    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    begin = split * per_split
    for segment in range(begin, tl.minimum(begin + per_split, segments)):
        n = segment // chunks
        start = (segment - n * chunks) * chunk
        small_at = small + n.to(tl.int64) * small_image
        big_at = big + n.to(tl.int64) * big_image
        part = tl.zeros([ROWS, COLUMNS], tl.float32)
        end = tl.minimum(start + chunk, size)
        for first in range(start, end, PIXELS):
            p = first + lane
            y = quick_divide(p, multiplier, shift, UNIT_WIDTH)
            at = (p - y * width) * STRIDE + left
            y = y * STRIDE + up
            live = p < end
            from_small = r[:, None] + p.to(INDEX)[None, :] * small_pixel
            v = tl.load(small_at + from_small, row_inside[:, None] & live[None, :], other=0)
            reached = live & (y >= 0) & (y < big_height) & (at >= 0) & (at < big_width)
            from_big = (y.to(INDEX) * big_row + at.to(INDEX) * big_column)[:, None] + c[None, :]
            u = tl.load(big_at + from_big, reached[:, None] & column_inside[None, :], other=0)
            part = tl.dot(operand(v), operand(u), part, input_precision=PRECISION)
        if small_scale is not None:
            part *= tl.load(small_scale + (n * rows + r), row_inside, other=0)[:, None]
        if big_scale is not None:
            part *= tl.load(big_scale + (n * columns + c), column_inside, other=0)[None, :]
        total += part
    to = r[:, None] * columns + c[None, :]
    out += (split * (KH * KW) + tap).to(tl.int64) * rows * columns
    tl.store(out + to, total, row_inside[:, None] & column_inside[None, :])


@triton.jit
def add_splits_kernel(
    parts,  # [splits, taps, elements]
    out,  # [elements, taps]
    splits,
    elements,
    TAPS: tl.constexpr,
    PADDED_TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds the splits in order, and turns the taps to the end."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.arange(0, PADDED_TAPS)
    mask = (e < elements)[:, None] & (tap < TAPS)[None, :]
    at = parts + (tap.to(tl.int64)[None, :] * elements + e[:, None])
    total = tl.zeros([BLOCK, PADDED_TAPS], tl.float32)
    for _ in range(0, splits):
        total += tl.load(at, mask, other=0)
        at += TAPS * elements
    to = e.to(tl.int64)[:, None] * TAPS + tap[None, :]
    tl.store(out + to, to_element(total, out.dtype.element_ty), mask)


# ---------------------------------------------------------------------------------------- launchers


@dataclass(frozen=True)
class _Tile:
    """Blocks of a matrix product: rows, columns, and how far it sums in one step."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def _largest(precision: str, kind: str, arch: Architecture) -> _Tile:
    """The blocks of a large product on an architecture. ``precision``: "half", "tf32" or "ieee";
    ``kind``: "plain", "scaled" (on load), "pointwise" (either) or "gradient" (of the weights, with
    two sets of sums)."""
    if arch.kind == "interpreter":
        return _Tile(64, 64, 64, 4, 1)
    if precision == "ieee":
        # float32 on ordinary cores: 32 sums a thread, and what they are made of, in registers.
        return _Tile(64, 64, 16, 8 if arch.name == "gfx1100" else 4, 2)
    if precision == "tf32":
        # Tensor cores take float32 by rows of the sum only: gradients turn it in registers.
        # Twice the threads where half as many would put a few bytes on the stack: for sm_100 the
        # gradient, which takes twice the registers there, for sm_80 the others.
        if kind == "gradient":
            return _Tile(64, 64, 32, 8 if arch.at_least(100) else 4, 2)
        return _Tile(128, 64, 32, 4 if arch.at_least(90) else 8, 3)
    if arch.at_least(100):
        # The sums lie in tensor memory, and pass through registers at the end. The gradient's
        # second set of sums and its steps of 64 pixels together put a few bytes on the stack.
        return _Tile(128, 64, 32, 8, 3) if kind == "gradient" else _Tile(128, 128, 64, 8, 3)
    if arch.at_least(90):
        # Two warp groups. 128 x 256: 144 KiB in three stages. 128 x 128: 96 KiB, two blocks share
        # a multiprocessor, and one computes while the other stores.
        return _Tile(128, 256 if kind == "plain" else 128, 64, 8, 3)
    if arch.kind == "cuda":
        # 64 KiB in four stages: fits the 99 KiB of smaller GPUs, twice the 163 KiB of sm_80.
        return _Tile(128, 128, 32, 8, 4)
    if arch.warp == 64:
        # 256 threads, one step in LDS while the next is in flight in registers. 512 where s is
        # multiplied in: the masks of a thread's pixels take two scalar registers each, and with
        # fewer pixels a thread they fit.
        return _Tile(128, 128, 32, 8 if kind == "scaled" else 4, 2)
    return _Tile(128, 64, 32, 8, 2)


def _tile(
    rows: int, columns: int, products: int, precision: str, kind: str, arch: Architecture
) -> _Tile:
    """The blocks for ``products`` products of rows x columns: the largest that pay, but smaller
    ones where these are too few to fill the GPU."""
    largest = _largest(precision, kind, arch)
    height = max(min(power_of_2(rows), largest.rows), 16)
    breadth = max(min(power_of_2(columns), largest.columns), 16)
    while products * ceil_div(rows, height) * ceil_div(columns, breadth) < arch.processors:
        if breadth > 64:
            breadth //= 2
        elif height > 64:
            height //= 2
        else:
            break
    share = 2 * largest.warps * height * breadth // (largest.rows * largest.columns)
    least = 4 if height >= 64 else 2  # a warp-group instruction takes four warps and 64 rows
    warps = max(min(share, largest.warps), least)
    return _Tile(height, breadth, largest.depth, warps, largest.stages)


def _precision(dtype: torch.dtype, arch: Architecture) -> str:
    """ "half", "ieee", or "tf32": that only where PyTorch lets convolutions use it."""
    if dtype != torch.float32:
        return "half"
    if arch.kind == "cuda" and torch.backends.cudnn.conv.fp32_precision == "tf32":  # type: ignore[attr-defined]
        return "tf32"
    return "ieee"


def _alignment(t: Tensor) -> int:
    return 16 if t.element_size() == 2 else 4


def _round_up(n: int, multiple: int) -> int:
    return ceil_div(n, multiple) * multiple


def _is_channels_last(x: Tensor) -> bool:
    """Whether the channels, where there are several, lie side by side."""
    return x.shape[1] == 1 or x.stride(1) == 1


def _pack(x: Tensor, s: Tensor | None, arch: Architecture) -> tuple[Tensor, Launch]:
    """x * s as [N, packed, H, W] in channels-last, the channels padded with zeros so that rows are
    aligned; and the launch that fills it."""
    n, c, height, width = x.shape
    if x.stride(2) != width * x.stride(3) and height > 1:
        x = x.contiguous()
    packed = _round_up(c, _alignment(x))
    out = torch.empty((n, height, width, packed), dtype=x.dtype, device=x.device)
    channels, pixels = min(power_of_2(packed), 64), min(power_of_2(height * width), 64)
    channel_blocks = ceil_div(packed, channels)
    launch = Launch(
        pack_pixels_kernel,
        planes_grid(channel_blocks * ceil_div(height * width, pixels), n),
        {
            "x": x,
            "s": s,
            "out": out,
            "images": n,
            "channels": c,
            "packed": packed,
            "size": height * width,
            "x_image": x.stride(0),
            "x_channel": x.stride(1),
            "x_pixel": x.stride(3) if width > 1 else x.stride(2),
            "channel_blocks": channel_blocks,
            "CHANNELS": channels,
            "PIXELS": pixels,
        },
        registers=registers(arch, Launch.num_warps),
    )
    return out.permute(0, 3, 1, 2), launch


def _pack_weight(w: Tensor, in_channels: int) -> tuple[Tensor, Launch]:
    """w [O, I, kh, kw] as [O, in_channels, kh, kw] on the memory of [kh, kw, O, in_channels]; and
    the launch that fills it."""
    o, i, kh, kw = w.shape
    out = torch.empty((kh, kw, o, in_channels), dtype=w.dtype, device=w.device)
    outs, ins = min(power_of_2(o), 16), min(power_of_2(in_channels), 64)
    in_blocks = ceil_div(in_channels, ins)
    launch = Launch(
        pack_weight_kernel,
        (ceil_div(o, outs) * in_blocks,),
        {
            "w": w,
            "out": out,
            "out_channels": o,
            "in_channels": i,
            "packed": in_channels,
            "w_out": w.stride(0),
            "w_in": w.stride(1),
            "w_row": w.stride(2),
            "w_column": w.stride(3),
            "in_blocks": in_blocks,
            "KH": kh,
            "KW": kw,
            "OUTS": outs,
            "INS": ins,
        },
    )
    return out.permute(2, 3, 0, 1), launch


def plan_scaled_conv2d(
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
    arch: Architecture,
) -> Iterator[Launch]:
    if out.numel() == 0:
        return
    n, in_channels, height, width = x.shape
    out_channels = out.shape[1]
    if transposed:
        w = w.transpose(0, 1)  # [O, I, kh, kw], as without
    kh, kw = w.shape[2:]
    pointwise = kh == kw == stride == 1 and padding == 0
    rows_even = height == 1 or x.stride(2) == width * x.stride(3)
    long_sums = s is not None and arch.at_least(90) and out_channels * kh * kw >= 1024
    # Rows of a few channels, of an RGB image say, cannot be loaded in vectors: packed, they can.
    aligned = _is_channels_last(x) and in_channels % _alignment(x) == 0
    readable = aligned or (pointwise and rows_even)
    if not readable or (long_sums and x.element_size() == 2):
        x, launch = _pack(x, s, arch)
        yield launch
        s, rows_even = None, True
        in_channels = x.shape[1]
    if kh * kw > 1 or w.stride(1) != 1 or in_channels != w.shape[1]:
        w, launch = _pack_weight(w, in_channels)
        yield launch
    if noise is not None and (noise.stride(3) != 1 or noise.stride(2) != out_w):
        noise = noise.contiguous()

    # Transposed with stride 1: the gradient of an ordinary convolution has one class only.
    classes = stride * stride if transposed else 1
    rows, columns = (
        (out_h, out_w)
        if not transposed
        else (
            ceil_div(out_h, stride),
            ceil_div(out_w, stride),
        )
    )
    precision = _precision(x.dtype, arch)
    kind = "pointwise" if kh * kw == 1 else "plain" if s is None else "scaled"
    tile = _tile(rows * columns, out_channels, n * classes, precision, kind, arch)
    depth = max(min(tile.depth, power_of_2(in_channels)), 16)
    pixel_blocks = ceil_div(rows * columns, tile.rows)
    out_blocks = ceil_div(out_channels, tile.columns)
    channels_last = not out.is_contiguous()
    yield Launch(
        scaled_conv2d_kernel,
        (classes * n * pixel_blocks * out_blocks,),
        {
            "x": x,
            "w": w,
            "s": s,
            "d": d,
            "noise": noise,
            "b": b,
            "out": out,
            "images": n,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "height": height,
            "width": width,
            "out_height": out_h,
            "out_width": out_w,
            "x_image": x.stride(0),
            "x_channel": x.stride(1),
            "x_row": x.stride(2),
            "x_column": x.stride(3),
            "w_out": w.stride(0),
            "w_in": w.stride(1),
            # of one tap the stride means nothing, and would hide how far the rest is aligned
            "w_row": w.stride(2) if kh > 1 else 0,
            "w_column": w.stride(3) if kw > 1 else 0,
            "out_pixel": out_channels if channels_last else 1,
            "out_channel": 1 if channels_last else out_h * out_w,
            "noise_image": 0 if noise is None or noise.shape[0] == 1 else noise.stride(0),
            "padding": padding,
            "lift": -padding % stride,
            "pixel_blocks": pixel_blocks,
            "out_blocks": out_blocks,
            "alpha": alpha,
            "gain": gain,
            "clamp": clamp,
            "KH": kh,
            "KW": kw,
            "STRIDE": stride,
            "TRANSPOSED": transposed,
            "POINTWISE": pointwise and rows_even,
            "EVEN": in_channels % depth == 0,
            "EVEN_OUTS": out_channels % tile.columns == 0,
            "ACT": act,
            "CLAMP": clamp >= 0,
            "PRECISION": "tf32" if precision == "tf32" else "ieee",
            "PIXELS": tile.rows,
            "OUTS": tile.columns,
            "INS": depth,
            "INDEX": index_type(x[:1], out[:1]),
        },
        num_warps=tile.warps,
        num_stages=tile.stages,
        registers=registers(arch, tile.warps),
    )


def plan_scaled_conv2d_wgrad(
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
    arch: Architecture,
) -> Iterator[Launch]:
    if out.numel() == 0:
        return
    if x.numel() == 0 or dy.numel() == 0:
        out.zero_()
        return
    small, small_scale, big, big_scale = (x, s, dy, d) if transposed else (dy, d, x, s)
    rows, columns = small.shape[1], big.shape[1]
    if not _is_channels_last(small):
        small, launch = _pack(small, None, arch)
        yield launch
    if not _is_channels_last(big):
        big, launch = _pack(big, None, arch)
        yield launch
    if small.shape[3] > 1 and small.stride(2) != small.shape[3] * small.stride(3):
        small = small.contiguous(memory_format=torch.channels_last)
    n, _, height, width = small.shape
    size = height * width
    taps = kh * kw
    products = taps * n * ceil_div(size, 512)  # as many as it might be split into
    precision = _precision(x.dtype, arch)
    tile = _tile(rows, columns, products, precision, "gradient", arch)
    row_blocks, column_blocks = ceil_div(rows, tile.rows), ceil_div(columns, tile.columns)
    # Enough programs for two rounds. A split is some images or, where these are few, some pieces
    # of them.
    wanted = max(2 * arch.processors // (row_blocks * column_blocks * taps), 1)
    chunks = max(min(ceil_div(wanted, n), ceil_div(size, 8 * tile.depth)), 1)
    chunk = _round_up(ceil_div(size, chunks), tile.depth)
    chunks = ceil_div(size, chunk)
    segments = n * chunks
    per_split = max(ceil_div(segments, wanted), 1)
    splits = max(ceil_div(segments, per_split), 1)
    parts = torch.empty((splits, taps, rows, columns), dtype=torch.float32, device=x.device)
    multiplier, shift, unit = divisor(width)
    yield Launch(
        weight_gradient_kernel,
        (splits * taps * row_blocks * column_blocks,),
        {
            "small": small,
            "big": big,
            "small_scale": small_scale,
            "big_scale": big_scale,
            "out": parts,
            "rows": rows,
            "columns": columns,
            "size": size,
            "width": width,
            "big_height": big.shape[2],
            "big_width": big.shape[3],
            "small_image": small.stride(0),
            "small_pixel": small.stride(3) if width > 1 else small.stride(2),
            "big_image": big.stride(0),
            "big_row": big.stride(2),
            "big_column": big.stride(3),
            "padding": padding,
            "row_blocks": row_blocks,
            "column_blocks": column_blocks,
            "segments": segments,
            "chunks": chunks,
            "chunk": chunk,
            "per_split": per_split,
            "multiplier": multiplier,
            "shift": shift,
            "KH": kh,
            "KW": kw,
            "STRIDE": stride,
            "UNIT_WIDTH": unit,
            "PRECISION": "tf32" if precision == "tf32" else "ieee",
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "PIXELS": tile.depth,
            "INDEX": index_type(small[:1], big[:1]),
        },
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    block = max(1024 // power_of_2(taps), 1)
    yield Launch(
        add_splits_kernel,
        (ceil_div(rows * columns, block),),
        {
            "parts": parts,
            "out": out,
            "splits": splits,
            "elements": rows * columns,
            "TAPS": taps,
            "PADDED_TAPS": power_of_2(taps),
            "BLOCK": block,
        },
    )


scaled_conv2d = primitive(plan_scaled_conv2d)
scaled_conv2d_wgrad = primitive(plan_scaled_conv2d_wgrad)
