# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc, no-any-return"
"""``upfirdn2d``: each input is read from memory once, each output written once.

y[o] = sum over k of f[k] up(x)[o down + k - pad], up(x)[i up] = x[i] and 0 between, on each axis.

``upfirdn2d_kernel`` is compiled for the factors and the number of taps. A thread computes a patch
of outputs, GROUP_Y x GROUP_X of them, whose first output lies where the pattern of taps and zeros
starts anew. So which tap meets which sample is known when the kernel is compiled: no zero is
multiplied, nothing is decided at run time but the borders. The rows of the patch's support are
loaded once, in vectors, and filtered along x in registers; each filtered row is then added to all
rows of outputs that it contributes to. Neighbouring patches load the rows and columns they share
from the caches.

``upfirdn2d_general_kernel`` takes any factors, taps and strides, one output a lane.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from pix2gan.ops.backends.triton.elements import divisor, quick_divide, to_element, within
from pix2gan.ops.backends.triton.launch import (
    Architecture,
    Launch,
    block_for,
    ceil_div,
    index_type,
    inlined,
    power_of_2,
    primitive,
)

# ------------------------------------------------------------------- loading and storing, in groups


@inlined
def _split(v, SIZE: tl.constexpr):
    """[cells, SIZE] as SIZE tensors [cells]."""
    cells: tl.constexpr = v.shape[0]
    if SIZE == 1:
        parts = (tl.reshape(v, [cells]),)
    elif SIZE == 2:
        a, b = tl.split(v)
        parts = (a, b)
    else:
        even, odd = tl.split(tl.reshape(v, [cells, 2, 2]))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        parts = (a, b, c, d)
    return parts


@inlined
def _join(p):
    """1, 2, 4 or 8 tensors [cells] as one [cells, count]; the inverse of ``_split``."""
    cells: tl.constexpr = p[0].shape[0]
    if len(p) == 1:
        v = tl.reshape(p[0], [cells, 1])
    elif len(p) == 2:
        v = tl.join(p[0], p[1])
    elif len(p) == 4:
        v = tl.join(tl.join(p[0], p[2]), tl.join(p[1], p[3]))
    else:
        even = tl.join(tl.join(p[0], p[4]), tl.join(p[2], p[6]))
        odd = tl.join(tl.join(p[1], p[5]), tl.join(p[3], p[7]))
        v = tl.join(even, odd)
    return tl.reshape(v, [cells, len(p)])


@inlined
def _load_row(
    row,  # pointers to the first column of the patch's support: [cells, 1], or [cells, channels]
    column,  # [cells, 1]: that column
    inside,  # [cells, 1]: the row is one of the image
    width,
    stride,  # between columns
    channel_inside,  # [1, channels]
    FIRST: tl.constexpr,  # groups of LOAD columns, counted from ``column``
    COUNT: tl.constexpr,
    LOAD: tl.constexpr,  # rows are multiples of it, in length and in where they start
    CHANNELS_LAST: tl.constexpr,
):
    """COUNT * LOAD columns of a row for each cell, as so many float32 tensors."""
    samples = ()
    if CHANNELS_LAST:
        for t in tl.static_range(FIRST * LOAD, (FIRST + COUNT) * LOAD):
            mask = inside & within(column + t, width) & channel_inside
            samples = samples + (tl.load(row + t * stride, mask, other=0).to(tl.float32),)
    else:
        k = tl.arange(0, LOAD)[None, :]
        for m in tl.static_range(FIRST, FIRST + COUNT):
            mask = inside & within(column + m * LOAD, width)
            # from the row's pointers on, what is added is known to the compiler
            v = tl.load(row + (m * LOAD + k), mask, other=0)
            samples = samples + _split(v.to(tl.float32), LOAD)
    return samples


@inlined
def _filter_row(
    totals,
    samples,
    taps,
    TAP: tl.constexpr,  # the first of the row's taps
    TAPS: tl.constexpr,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    PAD: tl.constexpr,
    FIRST: tl.constexpr,  # the column of the first sample
):
    """totals plus the outputs along x that the samples give."""
    outputs = ()
    for j in tl.static_range(len(totals)):
        total = totals[j]
        for k in tl.static_range(TAPS):
            if (j * DOWN + k - PAD) % UP == 0:
                total += samples[(j * DOWN + k - PAD) // UP - FIRST] * taps[TAP + k]
        outputs = outputs + (total,)
    return outputs


@inlined
def _zeros(like, COUNT: tl.constexpr):
    zero = tl.full(like.shape, 0, tl.float32)
    zeros = ()
    for _ in tl.static_range(COUNT):
        zeros = zeros + (zero,)
    return zeros


@inlined
def _add_row(
    totals,  # GROUP_Y * GROUP_X
    samples,
    taps_x,  # of a 2-D filter all taps
    taps_y,
    ROW: tl.constexpr,
    GROUP_X: tl.constexpr,
    GROUP_Y: tl.constexpr,
    SEPARABLE: tl.constexpr,
    TAPS_X: tl.constexpr,
    TAPS_Y: tl.constexpr,
    UP_X: tl.constexpr,
    UP_Y: tl.constexpr,
    DOWN_X: tl.constexpr,
    DOWN_Y: tl.constexpr,
    PAD_X: tl.constexpr,
    PAD_Y: tl.constexpr,
    FIRST: tl.constexpr,
):
    """totals with what one row of samples contributes to them."""
    if SEPARABLE:
        row = _filter_row(
            _zeros(samples[0], GROUP_X), samples, taps_x, 0, TAPS_X, UP_X, DOWN_X, PAD_X, FIRST
        )
    updated = ()
    for o in tl.static_range(GROUP_Y):
        # the tap through which output row o reads this row
        if ROW * UP_Y + PAD_Y - o * DOWN_Y >= 0 and ROW * UP_Y + PAD_Y - o * DOWN_Y < TAPS_Y:
            if SEPARABLE:
                tap = taps_y[ROW * UP_Y + PAD_Y - o * DOWN_Y]
                for j in tl.static_range(GROUP_X):
                    updated = updated + (totals[o * GROUP_X + j] + row[j] * tap,)
            else:
                updated = updated + _filter_row(
                    totals[o * GROUP_X : (o + 1) * GROUP_X],
                    samples,
                    taps_x,
                    (ROW * UP_Y + PAD_Y - o * DOWN_Y) * TAPS_X,
                    TAPS_X,
                    UP_X,
                    DOWN_X,
                    PAD_X,
                    FIRST,
                )
        else:
            updated = updated + totals[o * GROUP_X : (o + 1) * GROUP_X]
    return updated


@inlined
def _load_taps(f, COUNT: tl.constexpr, FLIP: tl.constexpr, factor):
    taps = ()
    for k in tl.static_range(COUNT):
        taps = taps + (tl.load(f + (COUNT - 1 - k if FLIP else k)) * factor,)
    return taps


@triton.jit
def upfirdn2d_kernel(
    x,
    f,
    out,
    height,
    width,
    out_height,
    out_width,
    channels,
    patches,  # of all planes, a plane being an (image, channel), in channels-last an image
    plane_patches,
    row_patches,
    plane_multiplier,  # divisions by plane_patches, row_patches, channels
    plane_shift,
    row_multiplier,
    row_shift,
    channels_multiplier,
    channels_shift,
    x_image,  # strides
    x_channel,
    x_row,
    x_column,
    channel_blocks,
    origin_x,  # the first column of the first patch's support is -origin_x
    origin_y,
    gain,
    SEPARABLE: tl.constexpr,
    FLIP: tl.constexpr,
    TAPS_X: tl.constexpr,
    TAPS_Y: tl.constexpr,
    UP_X: tl.constexpr,
    UP_Y: tl.constexpr,
    DOWN_X: tl.constexpr,
    DOWN_Y: tl.constexpr,
    PAD_X: tl.constexpr,  # the padding that is left of it behind origin_x * UP_X
    PAD_Y: tl.constexpr,
    GROUP_X: tl.constexpr,  # outputs of a patch
    GROUP_Y: tl.constexpr,
    FIRST_X: tl.constexpr,  # the patch's support, counted from GROUP_X * DOWN_X // UP_X * patch
    COUNT_X: tl.constexpr,  # both in groups of LOAD
    FIRST_Y: tl.constexpr,
    COUNT_Y: tl.constexpr,
    LOAD: tl.constexpr,
    EXACT_OUT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_PATCH: tl.constexpr,  # in a plane
    ONE_COLUMN: tl.constexpr,  # of patches
    ONE_CHANNEL: tl.constexpr,
    CELLS: tl.constexpr,  # patches of a block
    CHANNELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    block = tl.program_id(0)
    channel = tl.arange(0, CHANNELS)[None, :]
    if CHANNELS_LAST:
        channel += block % channel_blocks * CHANNELS
        block = block // channel_blocks
    channel_inside = channel < channels
    cell = block * CELLS + tl.arange(0, CELLS)[:, None]
    inside = cell < patches
    plane = quick_divide(cell, plane_multiplier, plane_shift, ONE_PATCH)
    cell -= plane * plane_patches
    patch_y = quick_divide(cell, row_multiplier, row_shift, ONE_COLUMN)
    patch_x = cell - patch_y * row_patches
    if CHANNELS_LAST:
        image = plane.to(INDEX) * x_image
    else:
        n = quick_divide(plane, channels_multiplier, channels_shift, ONE_CHANNEL)
        image = n.to(INDEX) * x_image + (plane - n * channels).to(INDEX) * x_channel

    if SEPARABLE:
        taps_x = _load_taps(f, TAPS_X, FLIP, 1.0)
        taps_y = _load_taps(f, TAPS_Y, FLIP, gain)
    else:
        taps_x = _load_taps(f, TAPS_X * TAPS_Y, FLIP, gain)
        taps_y = taps_x

    column = patch_x * (GROUP_X * DOWN_X // UP_X) - origin_x
    first_row = patch_y * (GROUP_Y * DOWN_Y // UP_Y) - origin_y
    for r in tl.static_range(FIRST_Y, FIRST_Y + COUNT_Y):
        y = first_row + r
        offset = image + y.to(INDEX) * x_row
        if CHANNELS_LAST:
            offset += column.to(INDEX) * x_column
            row = x + (offset + channel * x_channel)
        else:
            row = x + tl.multiple_of(offset + column, [LOAD, 1])
        samples = _load_row(
            row,
            column,
            inside & within(y, height),
            width,
            x_column,
            channel_inside,
            FIRST_X,
            COUNT_X,
            LOAD,
            CHANNELS_LAST,
        )
        if r == FIRST_Y:
            totals = _zeros(samples[0], GROUP_X * GROUP_Y)
        totals = _add_row(
            totals,
            samples,
            taps_x,
            taps_y,
            r,
            GROUP_X,
            GROUP_Y,
            SEPARABLE,
            TAPS_X,
            TAPS_Y,
            UP_X,
            UP_Y,
            DOWN_X,
            DOWN_Y,
            PAD_X,
            PAD_Y,
            FIRST_X * LOAD,
        )

    for o in tl.static_range(GROUP_Y):
        y = patch_y * GROUP_Y + o
        inside_row = inside & (y < out_height)
        if CHANNELS_LAST:
            for j in tl.static_range(GROUP_X):
                at = patch_x * GROUP_X + j
                pixel = (plane.to(INDEX) * out_height + y) * out_width + at
                mask = inside_row & (at < out_width) & channel_inside
                value = to_element(totals[o * GROUP_X + j], out.dtype.element_ty)
                tl.store(out + (pixel * channels + channel), value, mask)
        else:
            at = patch_x * GROUP_X
            pixel = (plane.to(INDEX) * out_height + y) * out_width + at
            value = _join(totals[o * GROUP_X : (o + 1) * GROUP_X])
            k = tl.arange(0, GROUP_X)[None, :]
            if EXACT_OUT:
                pixel = tl.multiple_of(pixel, [GROUP_X, 1])
            else:
                at += k
            value = to_element(value, out.dtype.element_ty)
            tl.store(out + (pixel + k), value, inside_row & (at < out_width))


@triton.jit
def upfirdn2d_general_kernel(
    x,
    f,
    out,
    elements,
    channels,
    height,
    width,
    out_height,
    out_width,
    x_image,  # strides
    x_channel,
    x_row,
    x_column,
    taps_x,
    taps_y,
    up_x,
    up_y,
    down_x,
    down_y,
    pad_x,
    pad_y,
    lift_x,  # lift * up >= pad: keeps divisions away from negative numbers
    lift_y,
    gain,
    SEPARABLE: tl.constexpr,
    FLIP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = i < elements
    rest = i
    if CHANNELS_LAST:
        c = rest % channels
        rest = rest // channels
    ox = rest % out_width
    rest = rest // out_width
    oy = rest % out_height
    rest = rest // out_height
    if not CHANNELS_LAST:
        c = rest % channels
        rest = rest // channels
    image = rest * x_image + c * x_channel

    # The first sample at or behind the position of tap 0, and the tap that meets it.
    position_x = ox * down_x - pad_x + lift_x * up_x
    position_y = oy * down_y - pad_y + lift_y * up_y
    sample_x = (position_x + up_x - 1) // up_x
    sample_y = (position_y + up_y - 1) // up_y
    tap_x = sample_x * up_x - position_x
    tap_y = sample_y * up_y - position_y
    sample_x -= lift_x
    sample_y -= lift_y

    total = tl.zeros([BLOCK], tl.float32)
    for m in range(0, (taps_y + up_y - 1) // up_y):
        ky = tap_y + m * up_y
        y = sample_y + m
        row_inside = inside & (ky < taps_y) & (y >= 0) & (y < height)
        if FLIP:
            ky = taps_y - 1 - ky
        row = tl.zeros([BLOCK], tl.float32)
        for n in range(0, (taps_x + up_x - 1) // up_x):
            kx = tap_x + n * up_x
            at = sample_x + n
            mask = row_inside & (kx < taps_x) & (at >= 0) & (at < width)
            if FLIP:
                kx = taps_x - 1 - kx
            tap = tl.load(f + (kx if SEPARABLE else ky * taps_x + kx), mask, other=0)
            into = image + y * x_row + at * x_column
            row += tl.load(x + into, mask, other=0).to(tl.float32) * tap
        if SEPARABLE:
            row *= tl.load(f + ky, row_inside, other=0)
        total += row
    tl.store(out + i, to_element(total * gain, out.dtype.element_ty), inside)


# ----------------------------------------------------------------------------------------- launcher

FACTORS = (1, 2, 4)
# Beyond these the unrolled code grows long and its taps fill the registers.
LARGEST_SEPARABLE, LARGEST_2D = 16, 25


def plan_upfirdn2d(
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
    arch: Architecture,
) -> Iterator[Launch]:
    if out.numel() == 0:
        return
    channels_last = not out.is_contiguous()
    taps_x, taps_y = f.shape[-1], f.shape[0]
    dense = x.shape[1 if channels_last else 3] == 1 or x.stride(1 if channels_last else 3) == 1
    small = max(f.shape) <= LARGEST_SEPARABLE if f.dim() == 1 else f.numel() <= LARGEST_2D
    common = {
        "x": x,
        "f": f,
        "out": out,
        "height": x.shape[2],
        "width": x.shape[3],
        "out_height": out.shape[2],
        "out_width": out.shape[3],
        "channels": x.shape[1],
        "x_image": x.stride(0),
        "x_channel": x.stride(1),
        "x_row": x.stride(2),
        "x_column": x.stride(3),
        "gain": gain,
        "SEPARABLE": f.dim() == 1,
        "FLIP": not flip,  # the sums below correlate
        "CHANNELS_LAST": channels_last,
        "INDEX": index_type(x, out),
    }
    # Channels-last loads every pixel of a patch's support on its own.
    wide = channels_last and max(f.shape) > 8 and max(downx, downy) > 1
    if dense and small and not wide and {upx, upy, downx, downy} <= set(FACTORS):
        factors = (upx, upy, downx, downy)
        launch = _plan_unrolled(x, out, (taps_x, taps_y), factors, (padx0, pady0), common, arch)
        if launch.arguments["patches"] < 2**31 - 2048:  # what a lane's number may be
            yield launch
            return
    block = 256
    yield Launch(
        upfirdn2d_general_kernel,
        (ceil_div(out.numel(), block),),
        {
            **common,
            "elements": out.numel(),
            "taps_x": taps_x,
            "taps_y": taps_y,
            "up_x": upx,
            "up_y": upy,
            "down_x": downx,
            "down_y": downy,
            "pad_x": padx0,
            "pad_y": pady0,
            "lift_x": ceil_div(max(padx0, 0), upx),
            "lift_y": ceil_div(max(pady0, 0), upy),
            "BLOCK": block,
        },
    )


def _support(
    group: int, load: int, up: int, down: int, taps: int, pad: int
) -> tuple[int, int, int, int]:
    """(origin, pad, first, count) of one axis: the support of a patch is ``count`` groups of
    ``load`` samples from group ``first`` on, its origin in samples a multiple of ``load``."""
    origin = pad // (up * load) * load
    pad -= origin * up
    first = -(pad // up) // load  # -(pad // up): the first sample at or behind tap 0 of output 0
    last = ((group - 1) * down + taps - 1 - pad) // up // load
    return origin, pad, first, max(last - first + 1, 1)


def _plan_unrolled(
    x: Tensor,
    out: Tensor,
    taps: tuple[int, int],
    factors: tuple[int, int, int, int],
    pads: tuple[int, int],
    common: dict[str, object],
    arch: Architecture,
) -> Launch:
    upx, upy, downx, downy = factors
    channels_last = bool(common["CHANNELS_LAST"])
    n, c, out_height, out_width = out.shape
    # Columns of a patch: what a thread stores at once, 8 or 16 bytes.
    group_x = 8 if upx > downx and not channels_last and x.element_size() == 2 else 4
    # Rows of a patch: the more, the fewer rows of its support are loaded twice, and the more
    # registers. In channels-last a thread holds the patches of several channels. Beyond some
    # hundred multiplications the compiler takes many seconds.
    group_y = 4 if channels_last or downy > upy else 8

    def multiplications() -> int:
        tx, ty = ceil_div(taps[0], upx), ceil_div(taps[1], upy)
        if not common["SEPARABLE"]:
            return group_x * group_y * tx * ty
        rows = _support(group_y, 1, upy, downy, taps[1], pads[1])[3]
        return group_x * (rows * tx + group_y * ty)

    while group_y > upy and multiplications() > 800:
        group_y //= 2
    if arch.kind == "interpreter":  # where every operation costs the same, a tenth of a millisecond
        group_y = max(2, upy)
    # Columns that are loaded at once: as many as every row's length and start are multiples of.
    load = 1 if channels_last else min(4, group_x * downx // upx)
    while any(size % load for size in (x.shape[3], *x.stride()[:3])):
        load //= 2
    origin_x, pad_x, first_x, count_x = _support(group_x, load, upx, downx, taps[0], pads[0])
    origin_y, pad_y, first_y, count_y = _support(group_y, 1, upy, downy, taps[1], pads[1])

    # 128 threads. NCHW: a patch each. Channels-last: four channels of a patch each, 8 bytes of
    # half precision; two where the support takes the registers, as that of a long filter does, and
    # that of a 2-D one which leaves samples out.
    many = max(taps) > 8 or (not common["SEPARABLE"] and max(downx, downy) > 1)
    lanes = (256 if many else 512) if channels_last else 128
    if arch.kind == "interpreter":
        lanes = 1024 if channels_last else 256
    channels = block_for(c, min(64, lanes // 2), 4) if channels_last else 1
    # Patches are numbered through all planes, so that only the last block has idle lanes, whatever
    # the size of the image.
    row_patches = ceil_div(out_width, group_x)
    plane_patches = row_patches * ceil_div(out_height, group_y)
    patches = plane_patches * (n if channels_last else n * c)
    cells = min(lanes // channels, power_of_2(patches))
    channel_blocks = ceil_div(c, channels) if channels_last else 1
    plane_multiplier, plane_shift, one_patch = divisor(plane_patches)
    row_multiplier, row_shift, one_column = divisor(row_patches)
    channels_multiplier, channels_shift, one_channel = divisor(c)
    return Launch(
        upfirdn2d_kernel,
        (ceil_div(patches, cells) * channel_blocks,),
        {
            **common,
            "patches": patches,
            "plane_patches": plane_patches,
            "row_patches": row_patches,
            "plane_multiplier": plane_multiplier,
            "plane_shift": plane_shift,
            "row_multiplier": row_multiplier,
            "row_shift": row_shift,
            "channels_multiplier": channels_multiplier,
            "channels_shift": channels_shift,
            "channel_blocks": channel_blocks,
            "origin_x": origin_x,
            "origin_y": origin_y,
            "TAPS_X": taps[0],
            "TAPS_Y": taps[1],
            "UP_X": upx,
            "UP_Y": upy,
            "DOWN_X": downx,
            "DOWN_Y": downy,
            "PAD_X": pad_x,
            "PAD_Y": pad_y,
            "GROUP_X": group_x,
            "GROUP_Y": group_y,
            "FIRST_X": first_x,
            "COUNT_X": count_x,
            "FIRST_Y": first_y,
            "COUNT_Y": count_y,
            "LOAD": load,
            "EXACT_OUT": out_width % group_x == 0,
            "ONE_PATCH": one_patch,
            "ONE_COLUMN": one_column,
            "ONE_CHANNEL": one_channel,
            "CELLS": cells,
            "CHANNELS": channels,
        },
    )


upfirdn2d = primitive(plan_upfirdn2d)
