# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc, no-any-return"
"""``instance_norm_act`` with its gradient, and ``instance_norm_stats``.

    y = pad(residual + act(weight * xhat + bias)),   xhat = (x - mean) * rstd

Where there are enough planes to fill the GPU, or they are small, one kernel does it all: a program
takes one plane (channels-last: one block of channels of an image), reads it for the statistics and
once more, from registers or the caches, to write. Otherwise ("split") a first kernel takes
statistics of at most CHUNKS pieces of each plane, and every program of the second one merges them,
always in the same order: results do not differ from run to run.

Statistics are running means and sums of squared deviations in every lane (Welford, 1962) of what is
left of x behind an estimate of its mean, merged over lanes and chunks as Chan, Golub and LeVeque
(1979) do, so that a mean that is large beside the deviation costs no digits.

Padding is fused into the store. Channels-last goes through the padded pixels and looks up where
each one comes from. In NCHW a padded row starts at any address: its interior is stored from the
vectors that were loaded, the border is filled in from x behind it. The adjoint, in the gradient,
adds to each pixel all the padded positions that it was copied to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pix2gan.ops.backends.triton.elements import (
    activate,
    divisor,
    padding_source,
    quick_divide,
    times_slope,
    to_element,
    total,
)
from pix2gan.ops.backends.triton.launch import (
    Architecture,
    Launch,
    block_for,
    ceil_div,
    index_type,
    inlined,
    planes_grid,
    power_of_2,
    primitive,
)

# --------------------------------------------------------------------------------------- statistics


@inlined
def _merge(count, mean, m2, size, AXIS: tl.constexpr):
    """(mean, m2) of parts along AXIS, of which ``count`` (broadcastable, float) tells the sizes and
    ``size`` (float) their sum."""
    grand = total(mean * count, AXIS) / size
    deviation = mean - tl.expand_dims(grand, AXIS)
    # ``grand`` is rounded: what it lacks is the mean of the deviations.
    rest = total(deviation * count, AXIS) / size
    m2 = total(m2 + deviation * deviation * count, AXIS) - rest * rest * size
    return grand + rest, tl.maximum(m2, 0.0, tl.PropagateNan.ALL)


@inlined
def _chunk_statistics(
    x,
    offset,  # [planes, 1] or [1, channels]
    stride,  # between pixels
    inside,  # like offset
    begin,
    end,
    AXIS: tl.constexpr,  # of the pixels
    PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """(mean - shift, shift, m2) of the pixels [begin, end) of planes or channels."""
    lane = tl.arange(0, PIXELS)
    at = tl.expand_dims(begin + lane, 1 - AXIS)
    mask = inside & (at < end)
    v = tl.load(x + (offset + at.to(INDEX) * stride), mask, other=0).to(tl.float32)
    # Running means of numbers around 100 would be rounded in the fifth digit behind the point. The
    # mean of the first block, whatever that is worth, takes this out.
    shift = total(v, AXIS) / tl.minimum(end - begin, PIXELS)
    origin = tl.expand_dims(shift, AXIS)
    mean = tl.zeros_like(v)
    m2 = mean
    seen = 0.0
    for first in range(begin, end, PIXELS):
        at = tl.expand_dims(first + lane, 1 - AXIS)
        mask = inside & (at < end)
        v = tl.load(x + (offset + at.to(INDEX) * stride), mask, other=0).to(tl.float32) - origin
        seen += 1.0
        delta = tl.where(mask, v - mean, 0.0)
        mean += delta * (1.0 / seen)
        m2 += delta * (v - mean)
    # what each lane has seen; the last round need not have reached all
    rounds = (end - begin - lane + (PIXELS - 1)) // PIXELS
    count = tl.expand_dims(rounds.to(tl.float32), 1 - AXIS)
    mean, m2 = _merge(count, mean, m2, (end - begin) * 1.0, AXIS)
    return mean, shift, m2


@inlined
def _load_first(x, offset, inside):
    """The first pixel of planes or channels, from which the means of their chunks are counted. If
    the means themselves were rounded to float32, m2 of a mean far from zero would suffer."""
    return tl.load(x + offset, inside, other=0).to(tl.float32)


@inlined
def _load_chunks(
    first,  # of ``_load_first``
    mean_in,
    m2_in,
    series,
    count,
    inside,
    chunks,
    chunk,
    size,
    CHUNKS: tl.constexpr,
):
    """(mean, m2) merged from chunks; ``series`` [channels or planes] says where, ``count`` is the
    number of all series."""
    k = tl.arange(0, CHUNKS)
    mask = (k < chunks)[:, None] & inside[None, :]
    at = k[:, None] * count + series[None, :]
    mean = tl.load(mean_in + at, mask, other=0)
    m2 = tl.load(m2_in + at, mask, other=0)
    length = tl.maximum(tl.minimum(size - k * chunk, chunk), 0).to(tl.float32)
    mean, m2 = _merge(length[:, None], mean, m2, size * 1.0, 0)
    return mean + first, m2


@inlined
def _sum_chunks(first_in, second_in, series, count, inside, chunks, CHUNKS: tl.constexpr):
    k = tl.arange(0, CHUNKS)
    mask = (k < chunks)[:, None] & inside[None, :]
    at = k[:, None] * count + series[None, :]
    first = tl.sum(tl.load(first_in + at, mask, other=0), 0)
    second = tl.sum(tl.load(second_in + at, mask, other=0), 0)
    return first, second


@inlined
def _planes(planes, channels, image_stride, channel_stride, PLANES: tl.constexpr, INDEX):
    """(indices [PLANES], which of them exist, images, channels, offsets) of a program's planes."""
    plane = (tl.program_id(1) + tl.program_id(2) * 32768) * PLANES + tl.arange(0, PLANES)
    n = plane // channels
    c = plane - n * channels
    offset = n.to(INDEX) * image_stride + c.to(INDEX) * channel_stride
    return plane, plane < planes, n, c, offset


@triton.jit
def planes_stats_kernel(
    x,
    mean_out,  # [chunks, planes]
    m2_out,
    planes,
    channels,
    size,
    chunk,
    x_image,
    x_channel,
    CHUNKED: tl.constexpr,  # the means are counted from the first pixel
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    plane, inside, _n, _c, offset = _planes(planes, channels, x_image, x_channel, PLANES, INDEX)
    begin = tl.program_id(0) * chunk
    end = tl.minimum(begin + chunk, size)
    mean, shift, m2 = _chunk_statistics(
        x, offset[:, None], 1, inside[:, None], begin, end, 1, PIXELS, INDEX
    )
    if CHUNKED:
        shift -= _load_first(x, offset, inside)
    to = tl.program_id(0) * planes + plane
    tl.store(mean_out + to, mean + shift, inside)
    tl.store(m2_out + to, m2, inside)


@triton.jit
def pixels_stats_kernel(
    x,
    mean_out,  # [chunks, images, channels]
    m2_out,
    images,
    channels,
    size,
    chunk,
    x_image,
    x_pixel,
    channel_blocks,
    CHUNKED: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    n = tl.program_id(1) + tl.program_id(2) * 32768
    part = tl.program_id(0) // channel_blocks
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < tl.where(n < images, channels, 0)
    begin = part * chunk
    end = tl.minimum(begin + chunk, size)
    offset = n.to(INDEX) * x_image + c
    mean, shift, m2 = _chunk_statistics(
        x, offset[None, :], x_pixel, inside[None, :], begin, end, 0, PIXELS, INDEX
    )
    if CHUNKED:
        shift -= _load_first(x, offset, inside)
    to = (part * images + n) * channels + c
    tl.store(mean_out + to, mean + shift, inside)
    tl.store(m2_out + to, m2, inside)


@triton.jit
def merge_stats_kernel(
    x,
    mean_in,
    m2_in,
    mean_out,
    m2_out,
    count,
    channels,
    x_image,
    x_channel,
    chunks,
    chunk,
    size,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    series = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = series < count
    n = series // channels
    c = series - n * channels
    first = _load_first(x, n.to(INDEX) * x_image + c.to(INDEX) * x_channel, inside)
    mean, m2 = _load_chunks(
        first, mean_in, m2_in, series, count, inside, chunks, chunk, size, CHUNKS
    )
    tl.store(mean_out + series, mean, inside)
    tl.store(m2_out + series, m2, inside)


# ------------------------------------------------------------------------------------------ forward


@inlined
def _affine(weight, bias, n, c, weight_image, bias_image, inside):
    """(weight, bias) of series; 1 and 0 where there are none."""
    if weight is None:
        w = inside.to(tl.float32)
    else:
        w = tl.load(weight + (n * weight_image + c), inside, other=0)
    if bias is None:
        b = tl.zeros_like(w)
    else:
        b = tl.load(bias + (n * bias_image + c), inside, other=0)
    return w, b


@triton.jit
def normalize_planes_kernel(
    x,
    weight,
    bias,
    residual,
    mean_in,  # by SOURCE: unused; chunks' means; [N, C] given
    scale_in,  # unused; chunks' m2; rstd given
    out,
    mean_out,
    rstd_out,
    planes,
    channels,
    size,
    height,
    width,
    x_image,
    x_channel,
    residual_image,
    residual_channel,
    weight_image,
    bias_image,
    chunks,
    chunk,
    part,  # pixels of a program
    border_part,  # pixels of the border of a program
    multiplier,  # division by width
    shift,
    alpha,
    eps,
    SOURCE: tl.constexpr,
    CHUNKS: tl.constexpr,
    ACT: tl.constexpr,
    PAD: tl.constexpr,
    MODE: tl.constexpr,
    UNIT_WIDTH: tl.constexpr,
    SINGLE: tl.constexpr,  # a plane is one block, and stays in registers
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
    BORDER: tl.constexpr,
    INDEX: tl.constexpr,
):
    plane, inside, n, c, offset = _planes(planes, channels, x_image, x_channel, PLANES, INDEX)
    if SOURCE == "chunks":
        origin = _load_first(x, offset, inside)
    x += offset[:, None]
    lane = tl.arange(0, PIXELS)
    if SINGLE:
        v = tl.load(x + lane[None, :], inside[:, None] & (lane < size)[None, :], other=0)
        v = v.to(tl.float32)
    if SOURCE == "own":
        if SINGLE:
            count = (lane < size).to(tl.float32)[None, :]
            mean, m2 = _merge(count, v, tl.zeros_like(v), size * 1.0, 1)
        else:
            mean, block_mean, m2 = _chunk_statistics(
                x, 0, 1, inside[:, None], 0, size, 1, PIXELS, INDEX
            )
            mean += block_mean
        rstd = tl.rsqrt(m2 / size + eps)
    elif SOURCE == "chunks":
        mean, m2 = _load_chunks(
            origin, mean_in, scale_in, plane, planes, inside, chunks, chunk, size, CHUNKS
        )
        rstd = tl.rsqrt(m2 / size + eps)
    else:
        mean = tl.load(mean_in + plane, inside, other=0)
        rstd = tl.load(scale_in + plane, inside, other=0)
    if tl.program_id(0) == 0:
        tl.store(mean_out + plane, mean, inside)
        tl.store(rstd_out + plane, rstd, inside)

    w, b = _affine(weight, bias, n, c, weight_image, bias_image, inside)
    mean, scale, b = mean[:, None], (w * rstd)[:, None], b[:, None]
    if residual is not None:
        into = n.to(INDEX) * residual_image + c.to(INDEX) * residual_channel
        residual += into[:, None]
    wide = width + 2 * PAD
    out += (plane.to(INDEX) * (wide * (height + 2 * PAD)))[:, None]

    begin = tl.program_id(0) * part
    end = tl.minimum(begin + part, size)
    for first in range(begin, end, PIXELS):
        at = first + lane
        mask = inside[:, None] & (at < end)[None, :]
        if not SINGLE:
            v = tl.load(x + at[None, :], mask, other=0).to(tl.float32)
        y = activate((v - mean) * scale + b, alpha, ACT)
        if residual is not None:
            y += tl.load(residual + at[None, :], mask, other=0).to(tl.float32)
        if PAD > 0:
            row = quick_divide(at, multiplier, shift, UNIT_WIDTH)
            at += row * (2 * PAD) + (PAD * wide + PAD)
        tl.store(out + at[None, :], to_element(y, out.dtype.element_ty), mask)

    if PAD > 0:
        begin = tl.program_id(0) * border_part
        end = tl.minimum(begin + border_part, 2 * PAD * (wide + height))
        for first in range(begin, end, BORDER):
            k = first + tl.arange(0, BORDER)
            mask = inside[:, None] & (k < end)[None, :]
            # the rows above and below, then what is left and right of the image
            above = k < 2 * PAD * wide
            row = k // wide
            side = tl.maximum(k - 2 * PAD * wide, 0)
            side_row = side // (2 * PAD)
            side_column = side - side_row * (2 * PAD)
            oy = tl.where(above, tl.where(row < PAD, row, row + height), side_row + PAD)
            ox = tl.where(side_column < PAD, side_column, side_column + width)
            ox = tl.where(above, k - row * wide, ox)
            if MODE == "zeros":
                y = tl.zeros([PLANES, BORDER], tl.float32)
            else:
                sy = padding_source(oy - PAD, height, MODE)
                sx = padding_source(ox - PAD, width, MODE)
                at = (sy * width + sx)[None, :]
                u = tl.load(x + at, mask, other=0).to(tl.float32)
                y = activate((u - mean) * scale + b, alpha, ACT)
                if residual is not None:
                    y += tl.load(residual + at, mask, other=0).to(tl.float32)
            to = (oy * wide + ox)[None, :]
            tl.store(out + to, to_element(y, out.dtype.element_ty), mask)


@triton.jit
def normalize_pixels_kernel(
    x,
    weight,
    bias,
    residual,
    mean_in,
    scale_in,
    out,
    mean_out,
    rstd_out,
    images,
    channels,
    size,
    height,
    width,
    x_image,
    x_pixel,
    residual_image,
    residual_pixel,
    weight_image,
    bias_image,
    channel_blocks,
    chunks,
    chunk,
    part,  # padded pixels of a program
    multiplier,  # division by the padded width
    shift,
    alpha,
    eps,
    SOURCE: tl.constexpr,
    CHUNKS: tl.constexpr,
    ACT: tl.constexpr,
    PAD: tl.constexpr,
    MODE: tl.constexpr,
    UNIT_WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    n = tl.program_id(1) + tl.program_id(2) * 32768
    index = tl.program_id(0) // channel_blocks
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < tl.where(n < images, channels, 0)
    if SOURCE == "chunks":
        origin = _load_first(x, n.to(INDEX) * x_image + c, inside)
    x += (n.to(INDEX) * x_image + c)[None, :]
    series = n * channels + c
    if SOURCE == "own":
        mean, block_mean, m2 = _chunk_statistics(
            x, 0, x_pixel, inside[None, :], 0, size, 0, PIXELS, INDEX
        )
        mean += block_mean
        rstd = tl.rsqrt(m2 / size + eps)
    elif SOURCE == "chunks":
        mean, m2 = _load_chunks(
            origin,
            mean_in,
            scale_in,
            series,
            images * channels,
            inside,
            chunks,
            chunk,
            size,
            CHUNKS,
        )
        rstd = tl.rsqrt(m2 / size + eps)
    else:
        mean = tl.load(mean_in + series, inside, other=0)
        rstd = tl.load(scale_in + series, inside, other=0)
    if index == 0:
        tl.store(mean_out + series, mean, inside)
        tl.store(rstd_out + series, rstd, inside)

    w, b = _affine(weight, bias, n, c, weight_image, bias_image, inside)
    mean, scale, b = mean[None, :], (w * rstd)[None, :], b[None, :]
    if residual is not None:
        residual += (n.to(INDEX) * residual_image + c)[None, :]
    wide = width + 2 * PAD
    padded = wide * (height + 2 * PAD)
    out += (n.to(INDEX) * padded * channels + c)[None, :]
    begin = index * part
    end = tl.minimum(begin + part, padded)
    for first in range(begin, end, PIXELS):
        o = first + tl.arange(0, PIXELS)
        at = o
        mask = inside[None, :] & (o < end)[:, None]
        read = mask
        if PAD > 0:
            oy = quick_divide(o, multiplier, shift, UNIT_WIDTH)
            ox = o - oy * wide
            sy = padding_source(oy - PAD, height, MODE)
            sx = padding_source(ox - PAD, width, MODE)
            at = sy * width + sx
            if MODE == "zeros":
                image = (sy >= 0) & (sy < height) & (sx >= 0) & (sx < width)
                read = mask & image[:, None]
        v = tl.load(x + (at.to(INDEX) * x_pixel)[:, None], read, other=0).to(tl.float32)
        y = activate((v - mean) * scale + b, alpha, ACT)
        if residual is not None:
            into = (at.to(INDEX) * residual_pixel)[:, None]
            y += tl.load(residual + into, read, other=0).to(tl.float32)
        if PAD > 0 and MODE == "zeros":
            y = tl.where(read, y, 0.0)
        to = (o.to(INDEX) * channels)[:, None]
        tl.store(out + to, to_element(y, out.dtype.element_ty), mask)


# ----------------------------------------------------------------------------------------- backward


@inlined
def _gather_row(dy, row, column, stride, width, mask, PAD: tl.constexpr, MODE: tl.constexpr):
    """What the padded columns that a pixel was copied to hold, in one padded row; ``row`` and
    ``column`` broadcast to mask's shape."""
    g = tl.load(dy + (row + (column + PAD) * stride), mask, other=0).to(tl.float32)
    if MODE == "reflect":
        left = mask & (column >= 1) & (column <= PAD)
        g += tl.load(dy + (row + (PAD - column) * stride), left, other=0).to(tl.float32)
        right = mask & (column >= width - 1 - PAD) & (column <= width - 2)
        mirrored = 2 * (width - 1) - column + PAD
        g += tl.load(dy + (row + mirrored * stride), right, other=0).to(tl.float32)
    elif MODE == "replicate":
        for k in range(0, PAD):
            left = mask & (column == 0)
            g += tl.load(dy + (row + (column + k) * stride), left, other=0).to(tl.float32)
            right = mask & (column == width - 1)
            beyond = column + (PAD + 1 + k)
            g += tl.load(dy + (row + beyond * stride), right, other=0).to(tl.float32)
    return g


@inlined
def _gather(
    dy, y, x, stride, height, width, mask, edge, INDEX, PAD: tl.constexpr, MODE: tl.constexpr
):
    """The adjoint of padding: what the padded positions that pixel (y, x) was copied to hold.
    ``edge``: whether the rows may be among the first or last PAD + 1."""
    wide = (width + 2 * PAD) * stride
    row = (y + PAD).to(INDEX) * wide
    g = _gather_row(dy, row, x, stride, width, mask, PAD, MODE)
    if MODE != "zeros":  # noqa: SIM102 - one of the two is known at compile time
        if edge:
            if MODE == "reflect":
                above = mask & (y >= 1) & (y <= PAD)
                row = (PAD - y).to(INDEX) * wide
                g += _gather_row(dy, row, x, stride, width, above, PAD, MODE)
                below = mask & (y >= height - 1 - PAD) & (y <= height - 2)
                row = (2 * (height - 1) + PAD - y).to(INDEX) * wide
                g += _gather_row(dy, row, x, stride, width, below, PAD, MODE)
            else:
                for k in range(0, PAD):
                    above = mask & (y == 0)
                    row = (y + k).to(INDEX) * wide
                    g += _gather_row(dy, row, x, stride, width, above, PAD, MODE)
                    below = mask & (y == height - 1)
                    row = (y + (PAD + 1 + k)).to(INDEX) * wide
                    g += _gather_row(dy, row, x, stride, width, below, PAD, MODE)
    return g


@inlined
def _gradient(
    dy,
    x,
    at,  # pixels, along AXIS
    dy_stride,
    x_stride,
    mask,
    edge,
    mean,
    rstd,
    w,
    b,
    height,
    width,
    multiplier,
    shift,
    alpha,
    AXIS: tl.constexpr,
    ACT: tl.constexpr,
    PAD: tl.constexpr,
    MODE: tl.constexpr,
    UNIT_WIDTH: tl.constexpr,
    INDEX: tl.constexpr,
):
    """(gradient before the activation, xhat), both 0 outside the mask."""
    across = tl.expand_dims(at, 1 - AXIS).to(INDEX)
    v = tl.load(x + across * x_stride, mask, other=0).to(tl.float32)
    xhat = tl.where(mask, (v - mean) * rstd, 0.0)
    if PAD == 0:
        g = tl.load(dy + across * dy_stride, mask, other=0).to(tl.float32)
    else:
        row = quick_divide(at, multiplier, shift, UNIT_WIDTH)
        column = at - row * width
        row = tl.expand_dims(row, 1 - AXIS)
        column = tl.expand_dims(column, 1 - AXIS)
        g = _gather(dy, row, column, dy_stride, height, width, mask, edge, INDEX, PAD, MODE)
    return times_slope(g, xhat * w + b, alpha, ACT), xhat


@inlined
def _near_edge(first, last, height, width, PAD: tl.constexpr):
    """Whether pixels from first to last touch the first or last PAD + 1 rows."""
    return (first < (PAD + 1) * width) | (last >= (height - 1 - PAD) * width)


@triton.jit
def planes_gradient_kernel(
    dy,
    x,
    weight,
    bias,
    mean_in,
    rstd_in,
    dweight_in,  # SOURCE "chunks"
    dbias_in,
    dx,
    dweight_out,
    dbias_out,
    planes,
    channels,
    size,
    height,
    width,
    x_image,
    x_channel,
    dy_image,
    dy_channel,
    weight_image,
    bias_image,
    chunks,
    part,  # pixels of a program
    multiplier,
    shift,
    alpha,
    SOURCE: tl.constexpr,  # where the sums come from: "own", "chunks", or "none": give them only
    CHUNKS: tl.constexpr,
    FROZEN: tl.constexpr,
    ACT: tl.constexpr,
    PAD: tl.constexpr,
    MODE: tl.constexpr,
    UNIT_WIDTH: tl.constexpr,
    SINGLE: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    plane, inside, n, c, offset = _planes(planes, channels, x_image, x_channel, PLANES, INDEX)
    x += offset[:, None]
    dy += (n.to(INDEX) * dy_image + c.to(INDEX) * dy_channel)[:, None]
    mean = tl.load(mean_in + plane, inside, other=0)[:, None]
    rstd = tl.load(rstd_in + plane, inside, other=0)[:, None]
    w, b = _affine(weight, bias, n, c, weight_image, bias_image, inside)
    w, b = w[:, None], b[:, None]
    lane = tl.arange(0, PIXELS)
    begin = tl.program_id(0) * part
    end = tl.minimum(begin + part, size)

    if SINGLE:
        mask = inside[:, None] & (lane < size)[None, :]
        g, xhat = _gradient(
            dy, x, lane, 1, 1, mask, True, mean, rstd, w, b, height, width,
            multiplier, shift, alpha, 1, ACT, PAD, MODE, UNIT_WIDTH, INDEX,
        )  # fmt: skip
        dbias, dweight = tl.sum(g, 1), tl.sum(g * xhat, 1)
    elif SOURCE != "chunks":
        into_bias = tl.zeros([PLANES, PIXELS], tl.float32)
        into_weight = tl.zeros([PLANES, PIXELS], tl.float32)
        for first in range(begin, end, PIXELS):
            at = first + lane
            mask = inside[:, None] & (at < end)[None, :]
            edge = _near_edge(first, first + PIXELS, height, width, PAD)
            g, xhat = _gradient(
                dy, x, at, 1, 1, mask, edge, mean, rstd, w, b, height, width,
                multiplier, shift, alpha, 1, ACT, PAD, MODE, UNIT_WIDTH, INDEX,
            )  # fmt: skip
            into_bias += g
            into_weight += g * xhat
        dbias, dweight = tl.sum(into_bias, 1), tl.sum(into_weight, 1)
    else:
        dweight, dbias = _sum_chunks(dweight_in, dbias_in, plane, planes, inside, chunks, CHUNKS)

    if SOURCE == "none":
        to = tl.program_id(0) * planes + plane
        tl.store(dweight_out + to, dweight, inside)
        tl.store(dbias_out + to, dbias, inside)
    else:
        if tl.program_id(0) == 0:
            tl.store(dweight_out + plane, dweight, inside)
            tl.store(dbias_out + plane, dbias, inside)
        along, constant = (dweight / size)[:, None], (dbias / size)[:, None]
        scale = w * rstd
        dx += (plane.to(INDEX) * size)[:, None]
        for first in range(begin, end, PIXELS):
            at = first + lane
            mask = inside[:, None] & (at < end)[None, :]
            if not SINGLE:
                edge = _near_edge(first, first + PIXELS, height, width, PAD)
                g, xhat = _gradient(
                    dy, x, at, 1, 1, mask, edge, mean, rstd, w, b, height, width,
                    multiplier, shift, alpha, 1, ACT, PAD, MODE, UNIT_WIDTH, INDEX,
                )  # fmt: skip
            if not FROZEN:
                g = g - constant - xhat * along
            tl.store(dx + at[None, :], to_element(g * scale, dx.dtype.element_ty), mask)


@triton.jit
def pixels_gradient_kernel(
    dy,
    x,
    weight,
    bias,
    mean_in,
    rstd_in,
    dweight_in,
    dbias_in,
    dx,
    dweight_out,
    dbias_out,
    images,
    channels,
    size,
    height,
    width,
    x_image,
    x_pixel,
    dy_image,
    dy_pixel,
    weight_image,
    bias_image,
    channel_blocks,
    chunks,
    part,
    multiplier,
    shift,
    alpha,
    SOURCE: tl.constexpr,
    CHUNKS: tl.constexpr,
    FROZEN: tl.constexpr,
    ACT: tl.constexpr,
    PAD: tl.constexpr,
    MODE: tl.constexpr,
    UNIT_WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    n = tl.program_id(1) + tl.program_id(2) * 32768
    index = tl.program_id(0) // channel_blocks
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < tl.where(n < images, channels, 0)
    series = n * channels + c
    x += (n.to(INDEX) * x_image + c)[None, :]
    dy += (n.to(INDEX) * dy_image + c)[None, :]
    mean = tl.load(mean_in + series, inside, other=0)[None, :]
    rstd = tl.load(rstd_in + series, inside, other=0)[None, :]
    w, b = _affine(weight, bias, n, c, weight_image, bias_image, inside)
    w, b = w[None, :], b[None, :]
    lane = tl.arange(0, PIXELS)
    begin = index * part
    end = tl.minimum(begin + part, size)

    if SOURCE == "chunks":
        dweight, dbias = _sum_chunks(
            dweight_in, dbias_in, series, images * channels, inside, chunks, CHUNKS
        )
    else:
        into_bias = tl.zeros([PIXELS, CHANNELS], tl.float32)
        into_weight = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for first in range(begin, end, PIXELS):
            at = first + lane
            mask = inside[None, :] & (at < end)[:, None]
            edge = _near_edge(first, first + PIXELS, height, width, PAD)
            g, xhat = _gradient(
                dy, x, at, dy_pixel, x_pixel, mask, edge, mean, rstd, w, b, height, width,
                multiplier, shift, alpha, 0, ACT, PAD, MODE, UNIT_WIDTH, INDEX,
            )  # fmt: skip
            into_bias += g
            into_weight += g * xhat
        dbias, dweight = tl.sum(into_bias, 0), tl.sum(into_weight, 0)

    if SOURCE == "none":
        to = index * images * channels + series
        tl.store(dweight_out + to, dweight, inside)
        tl.store(dbias_out + to, dbias, inside)
    else:
        if index == 0:
            tl.store(dweight_out + series, dweight, inside)
            tl.store(dbias_out + series, dbias, inside)
        along, constant = (dweight / size)[None, :], (dbias / size)[None, :]
        scale = w * rstd
        dx += (n.to(INDEX) * size * channels + c)[None, :]
        for first in range(begin, end, PIXELS):
            at = first + lane
            mask = inside[None, :] & (at < end)[:, None]
            edge = _near_edge(first, first + PIXELS, height, width, PAD)
            g, xhat = _gradient(
                dy, x, at, dy_pixel, x_pixel, mask, edge, mean, rstd, w, b, height, width,
                multiplier, shift, alpha, 0, ACT, PAD, MODE, UNIT_WIDTH, INDEX,
            )  # fmt: skip
            if not FROZEN:
                g = g - constant - xhat * along
            to = (at.to(INDEX) * channels)[:, None]
            tl.store(dx + to, to_element(g * scale, dx.dtype.element_ty), mask)


# ---------------------------------------------------------------------------------------- launchers

CHUNKS = 16  # pieces of a plane at most; so many partial results every program can merge


@dataclass(frozen=True)
class _Blocks:
    """Sizes in elements, by what the registers of 256 threads hold."""

    single: int  # the largest plane that is one block
    looped: int  # the block in which larger ones are gone through
    per_thread: int  # of a block


FORWARD = _Blocks(8192, 4096, 16)
GRADIENT = _Blocks(4096, 2048, 16)  # two values an element: x's and the gradient's
# Up to nine reads an element; only blocks with rows near the edge do the six for the rows.
PADDED_GRADIENT = _Blocks(1024, 1024, 8)
# Replication masks each of its reads on its own; where threads are 64 a warp (AMD's CDNA) each mask
# of an element takes two scalar registers.
REPLICATED_GRADIENT = _Blocks(512, 512, 4)


@dataclass(frozen=True)
class _Layout:
    """How the planes of a tensor are divided among programs."""

    channels_last: bool
    others: int  # planes, or channels, of a block
    blocks: int  # of channels, in channels-last
    series: int  # blocks of planes, or images: the grid's second axis
    pixels: int  # of a block
    warps: int
    chunks: int  # of a plane, 1: not split
    chunk: int  # pixels

    @property
    def single(self) -> bool:
        return not self.channels_last and self.chunks == 1 and self.chunk <= self.pixels


def _layout(x: Tensor, channels_last: bool, blocks: _Blocks, arch: Architecture) -> _Layout:
    n, c, height, width = x.shape
    size = height * width
    elements = blocks.looped
    if arch.kind == "interpreter":
        # Planes of some hundred pixels shall take several steps and be split; small ones, one.
        blocks, elements = _Blocks(512, 256, 16), 512 if channels_last else 2048
    enough = 2 * arch.processors  # programs
    if channels_last:
        # Rows of 128 bytes, where there are so many channels, are whole cache lines.
        others = block_for(c, 128 // x.element_size())
        elements = min(elements, 128 * blocks.per_thread)
        pixels = max(min(elements // others, power_of_2(size)), 1)
        channel_blocks, series = ceil_div(c, others), n
    else:
        pixels = power_of_2(size) if size <= blocks.single else blocks.looped
        fill = min(elements // pixels, n * c // enough)
        others = 1 << fill.bit_length() - 1 if fill > 0 else 1
        channel_blocks, series = 1, ceil_div(n * c, others)
    warps = max(min(power_of_2(others * pixels // (32 * blocks.per_thread)), 8), 1)
    chunks = 1
    if size > 4 * pixels and (
        arch.kind == "interpreter" or channel_blocks * series < arch.processors
    ):
        wanted = ceil_div(enough, channel_blocks * series)
        chunks = max(min(wanted, CHUNKS, ceil_div(size, 2 * pixels)), 1)
    chunk = ceil_div(ceil_div(size, chunks), pixels) * pixels if chunks > 1 else size
    chunks = ceil_div(size, chunk)
    return _Layout(channels_last, others, channel_blocks, series, pixels, warps, chunks, chunk)


def _part(layout: _Layout, size: int, arch: Architecture) -> int:
    """Pixels of a program of the second kernel of a split: several blocks, so that merging the
    chunks counts little, unless that leaves too few programs."""
    blocks = ceil_div(size, layout.pixels) * layout.blocks * layout.series
    most = max(blocks // (4 * arch.processors), 1)
    return min(8 if layout.channels_last else 2, most) * layout.pixels


def _dense(t: Tensor, channels_last: bool) -> Tensor:
    """t, or a copy of it, with evenly spaced pixels: of stride 1, in channels-last of any stride,
    the channels' being 1."""
    rows_even = t.shape[2] == 1 or t.shape[3] == 1 or t.stride(2) == t.shape[3] * t.stride(3)
    inner = 1 if channels_last else 3
    if not channels_last and t.shape[3] == 1:
        inner = 2
    if rows_even and (t.shape[inner] == 1 or t.stride(inner) == 1):
        return t
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    return t.contiguous(memory_format=wanted)


def _strides(t: Tensor | None, name: str, channels_last: bool) -> dict[str, int]:
    if t is None:
        image = other = 0
    elif channels_last:
        image, other = t.stride(0), t.stride(3 if t.shape[3] > 1 else 2)
    else:
        image, other = t.stride(0), t.stride(1)
    return {f"{name}_image": image, f"{name}_{'pixel' if channels_last else 'channel'}": other}


def _affine_arguments(weight: Tensor | None, bias: Tensor | None) -> dict[str, Any]:
    return {
        "weight": weight,
        "bias": bias,
        **{
            f"{name}_image": 0 if p is None or p.dim() == 1 else p.stride(0)
            for name, p in (("weight", weight), ("bias", bias))
        },
    }


def _series(layout: _Layout, x: Tensor) -> dict[str, Any]:
    """The arguments by which kernels find their planes or channels."""
    n, c = x.shape[:2]
    common = {"channels": c, "size": x.shape[2] * x.shape[3], "PIXELS": layout.pixels}
    if layout.channels_last:
        blocks = {"channel_blocks": layout.blocks, "CHANNELS": layout.others}
        return {**common, **blocks, "images": n}
    return {**common, "planes": n * c, "PLANES": layout.others}


def _grid(layout: _Layout, parts: int) -> tuple[int, int, int]:
    return planes_grid(parts * layout.blocks, layout.series)


def _stats_launch(x: Tensor, layout: _Layout, mean: Tensor, m2: Tensor) -> Launch:
    kernel = pixels_stats_kernel if layout.channels_last else planes_stats_kernel
    return Launch(
        kernel,
        _grid(layout, layout.chunks),
        {
            "x": x,
            "mean_out": mean,
            "m2_out": m2,
            "chunk": layout.chunk,
            "CHUNKED": layout.chunks > 1,
            "INDEX": index_type(x),
            **_series(layout, x),
            **_strides(x, "x", layout.channels_last),
        },
        num_warps=layout.warps,
    )


def plan_instance_norm_stats(
    x: Tensor, mean: Tensor, m2: Tensor, arch: Architecture
) -> Iterator[Launch]:
    if mean.numel() == 0:
        return
    channels_last = x.stride(1) == 1 and not x.is_contiguous()
    x = _dense(x, channels_last)
    layout = _layout(x, channels_last, FORWARD, arch)
    if layout.chunks == 1:
        yield _stats_launch(x, layout, mean, m2)
        return
    means, m2s = (mean.new_empty((layout.chunks, *mean.shape)) for _ in range(2))
    yield _stats_launch(x, layout, means, m2s)
    block = 128
    yield Launch(
        merge_stats_kernel,
        (ceil_div(mean.numel(), block),),
        {
            "x": x,
            "mean_in": means,
            "m2_in": m2s,
            "mean_out": mean,
            "m2_out": m2,
            "count": mean.numel(),
            "channels": x.shape[1],
            "x_image": x.stride(0),
            "x_channel": x.stride(1),
            "chunks": layout.chunks,
            "chunk": layout.chunk,
            "size": x.shape[2] * x.shape[3],
            "CHUNKS": CHUNKS,
            "BLOCK": block,
            "INDEX": index_type(x),
        },
    )


def plan_instance_norm_act(
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
    arch: Architecture,
) -> Iterator[Launch]:
    if out.numel() == 0:
        return
    height, width = x.shape[2:]
    channels_last = not out.is_contiguous()
    x = _dense(x, channels_last)
    residual = None if residual is None else _dense(residual, channels_last)
    layout = _layout(x, channels_last, FORWARD, arch)
    source, mean_in, scale_in = "given", mean, rstd
    if mean is None and layout.chunks == 1:
        source = "own"
    elif mean is None:
        source = "chunks"
        mean_in, scale_in = (mean_out.new_empty((layout.chunks, *mean_out.shape)) for _ in range(2))
        yield _stats_launch(x, layout, mean_in, scale_in)
    # What the programs of a plane, or of a block of channels, divide among them.
    size = out.shape[2] * out.shape[3] if channels_last else height * width
    part = size if source == "own" or layout.single else _part(layout, size, arch)
    parts = ceil_div(size, part)
    multiplier, shift, unit = divisor(out.shape[3] if channels_last else width)
    arguments = {
        "x": x,
        "residual": residual,
        "mean_in": mean_in,
        "scale_in": scale_in,
        "out": out,
        "mean_out": mean_out,
        "rstd_out": rstd_out,
        "height": height,
        "width": width,
        "chunks": layout.chunks,
        "chunk": layout.chunk,
        "part": part,
        "multiplier": multiplier,
        "shift": shift,
        "alpha": alpha,
        "eps": eps,
        "SOURCE": source,
        "CHUNKS": CHUNKS,
        "ACT": act,
        "PAD": pad,
        "MODE": pad_mode if pad else "zeros",
        "UNIT_WIDTH": unit,
        "INDEX": index_type(x, residual, out),
        **_affine_arguments(weight, bias),
        **_series(layout, x),
        **_strides(x, "x", channels_last),
        **_strides(residual, "residual", channels_last),
    }
    if not channels_last:
        border = 2 * pad * (out.shape[3] + height)
        block = min(power_of_2(border), 512)
        arguments["border_part"] = ceil_div(ceil_div(border, parts), block) * block
        arguments["BORDER"] = block
        arguments["SINGLE"] = layout.single
    kernel = normalize_pixels_kernel if channels_last else normalize_planes_kernel
    yield Launch(kernel, _grid(layout, parts), arguments, num_warps=layout.warps)


def plan_instance_norm_act_grad(
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
    arch: Architecture,
) -> Iterator[Launch]:
    if dx.numel() == 0:
        return
    height, width = x.shape[2:]
    size = height * width
    channels_last = not dx.is_contiguous()
    x, dy = _dense(x, channels_last), _dense(dy, channels_last)
    blocks = PADDED_GRADIENT if pad else GRADIENT
    if pad and channels_last and x.dtype == torch.float32 and arch.at_least(100):
        blocks = _Blocks(1024, 1024, 4)  # 8 elements a thread put a few bytes on the stack
    if pad and pad_mode == "replicate" and arch.warp == 64:
        blocks = REPLICATED_GRADIENT
    layout = _layout(x, channels_last, blocks, arch)
    multiplier, shift, unit = divisor(width)
    arguments = {
        "dy": dy,
        "x": x,
        "mean_in": mean,
        "rstd_in": rstd,
        "dx": dx,
        "height": height,
        "width": width,
        "chunks": layout.chunks,
        "multiplier": multiplier,
        "shift": shift,
        "alpha": alpha,
        "CHUNKS": CHUNKS,
        "FROZEN": frozen,
        "ACT": act,
        "PAD": pad,
        "MODE": pad_mode if pad else "zeros",
        "UNIT_WIDTH": unit,
        "INDEX": index_type(x, dy, dx),
        **_affine_arguments(weight, bias),
        **_series(layout, x),
        **_strides(x, "x", channels_last),
        **_strides(dy, "dy", channels_last),
    }
    if not channels_last:
        arguments["SINGLE"] = layout.single
    kernel = pixels_gradient_kernel if channels_last else planes_gradient_kernel

    def launch(source: str, part: int, sums: list[Tensor | None], outs: list[Tensor]) -> Launch:
        own = {
            "SOURCE": source,
            "part": part,
            "dweight_in": sums[0],
            "dbias_in": sums[1],
            "dweight_out": outs[0],
            "dbias_out": outs[1],
        }
        grid = _grid(layout, ceil_div(size, part))
        return Launch(kernel, grid, {**arguments, **own}, num_warps=layout.warps)

    if layout.chunks == 1:
        yield launch("own", size, [None, None], [dweight, dbias])
        return
    sums = [dweight.new_empty((layout.chunks, *dweight.shape)) for _ in range(2)]
    yield launch("none", layout.chunk, [None, None], sums)
    yield launch("chunks", _part(layout, size, arch), [*sums], [dweight, dbias])


instance_norm_stats = primitive(plan_instance_norm_stats)
instance_norm_act = primitive(plan_instance_norm_act)
instance_norm_act_grad = primitive(plan_instance_norm_act_grad)
