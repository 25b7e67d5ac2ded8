# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"
"""``bias_act`` with its first and second gradient: one elementwise kernel.

Memory-bound: every element is read once and written once, and between the two there is time for
some 20 instructions on an H200 in half precision. A division per element to find its channel would
take them all, so the tensors are looked at as matrices whose rows or columns are the channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pix2gan.ops.backends.triton.elements import (
    activate,
    clip,
    curvature,
    times_slope,
    to_element,
)
from pix2gan.ops.backends.triton.launch import (
    Architecture,
    Launch,
    block_for,
    ceil_div,
    index_type,
    power_of_2,
    primitive,
)


@triton.jit
def bias_act_kernel(
    x,  # the input; for order 1 of a piecewise linear activation the output
    dy,  # orders 1 and 2
    ddx,  # order 2
    b,
    out,  # dense [outer, channels, inner]
    channels,
    columns,  # inner, or channels where these come last
    rows,  # outer * channels, or outer
    column_blocks,
    x_outer,  # strides
    x_channel,
    x_inner,
    dy_outer,
    dy_channel,
    dy_inner,
    ddx_outer,
    ddx_channel,
    ddx_inner,
    alpha,
    gain,
    clamp,
    ORDER: tl.constexpr,
    ACT: tl.constexpr,
    CLAMP: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,  # the columns are the channels
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    block = tl.program_id(0)
    row_block = block // column_blocks
    row = row_block.to(INDEX) * ROWS + tl.arange(0, ROWS)
    column = (block - row_block * column_blocks).to(INDEX) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    outer = row // channels
    channel = row - outer * channels

    into = (outer * x_outer + channel * x_channel)[:, None] + (column * x_inner)[None, :]
    v = tl.load(x + into, mask, other=0).to(tl.float32)
    if ORDER >= 1:
        into = (outer * dy_outer + channel * dy_channel)[:, None] + (column * dy_inner)[None, :]
        g = tl.load(dy + into, mask, other=0).to(tl.float32)
    if ORDER == 2:
        into = (outer * ddx_outer + channel * ddx_channel)[:, None] + (column * ddx_inner)[None, :]
        g *= tl.load(ddx + into, mask, other=0).to(tl.float32)
    if b is not None:
        if CHANNELS_LAST:
            v += tl.load(b + column, column < columns, other=0)[None, :]
        else:
            v += tl.load(b + channel, row < rows, other=0)[:, None]

    if ORDER == 0:
        y = activate(v, alpha, ACT) * gain
        if CLAMP:
            y = clip(y, clamp)
    else:
        if CLAMP:
            clipped = v if FROM_OUTPUT else activate(v, alpha, ACT) * gain
        if ORDER == 1:
            y = times_slope(g * gain, v, alpha, ACT)
        else:
            y = g * curvature(v, alpha, ACT) * gain
        if CLAMP:
            y = tl.where(tl.abs(clipped) >= clamp, 0.0, y)
    to = (row * columns)[:, None] + column[None, :]
    tl.store(out + to, to_element(y, out.dtype.element_ty), mask)


# ---------------------------------------------------------------------------------------- launchers


def _collapse(tensors: list[Tensor], dim: int | None) -> tuple[list[int], list[list[int]]] | None:
    """The tensors, all of one shape, as [outer, channels, inner]: (sizes, strides per tensor), with
    ``dim`` as the channels. None where the strides do not allow it. The order of the axes is that
    of the last tensor's memory, which is dense."""
    last = tensors[-1]
    # axes of size 1 have strides that mean nothing
    axes = sorted(
        (a for a in range(last.dim()) if last.shape[a] != 1), key=lambda a: -last.stride(a)
    )
    groups: list[list[int]] = [[], [], []]  # axes of outer, channels, inner
    for axis in axes:
        if axis == dim:
            groups[1].append(axis)
        else:
            groups[2 if groups[1] else 0].append(axis)
    if not groups[1] and not groups[2]:  # no channels to tell apart: the axes are inner ones
        groups = [[], [], groups[0]]
    strides = [_merge(t, groups) for t in tensors]
    if any(s is None for s in strides):
        return None
    sizes = [1, 1, 1]
    for i, group in enumerate(groups):
        for axis in group:
            sizes[i] *= last.shape[axis]
    return sizes, [s for s in strides if s is not None]


def _merge(t: Tensor, groups: list[list[int]]) -> list[int] | None:
    """The stride of each group of axes, or None where a group is not evenly spaced in memory."""
    strides = []
    for group in groups:
        for axis, following in zip(group, group[1:], strict=False):
            if t.stride(axis) != t.stride(following) * t.shape[following]:
                return None
        strides.append(t.stride(group[-1]) if group else 0)
    return strides


def _plan(
    order: int,
    x: Tensor,
    dy: Tensor | None,
    ddx: Tensor | None,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    from_output: bool,
    out: Tensor,
    arch: Architecture,
) -> Iterator[Launch]:
    if out.numel() == 0:
        return
    inputs = [t for t in (x, dy, ddx) if t is not None]
    channel_axis = None if b is None else dim
    collapsed = _collapse([*inputs, out], channel_axis)
    if collapsed is None:  # a gradient in another layout, say: copied into that of out
        inputs = [_like(t, out) for t in inputs]
        collapsed = _collapse([*inputs, out], channel_axis)
        assert collapsed is not None
    (outer, channels, inner), strides = collapsed
    strides = [*strides[:-1], *[[0, 0, 0]] * (4 - len(strides))]
    x, dy, ddx = (*inputs, *(None,) * (3 - len(inputs)))
    channels_last = inner == 1 and channels > 1
    if channels_last:
        rows, columns = outer, channels
        strides = [[outer_stride, 0, stride] for outer_stride, stride, _ in strides]
        channels = 1
    else:
        rows, columns = outer * channels, inner
    # 4 KiB of each tensor a block: two vectors of 16 bytes a thread, enough loads in flight to
    # cover the memory's latency at the occupancy that the registers allow.
    elements = 1024 if arch.kind == "interpreter" else 4096 // out.element_size()
    block_columns = block_for(columns, elements)
    block_rows = min(max(elements // block_columns, 1), power_of_2(rows))
    column_blocks = ceil_div(columns, block_columns)
    (xs, dys, ddxs) = strides
    yield Launch(
        bias_act_kernel,
        (ceil_div(rows, block_rows) * column_blocks,),
        {
            "x": x,
            "dy": dy,
            "ddx": ddx,
            "b": b,
            "out": out,
            "channels": channels,
            "columns": columns,
            "rows": rows,
            "column_blocks": column_blocks,
            "x_outer": xs[0],
            "x_channel": xs[1],
            "x_inner": xs[2],
            "dy_outer": dys[0],
            "dy_channel": dys[1],
            "dy_inner": dys[2],
            "ddx_outer": ddxs[0],
            "ddx_channel": ddxs[1],
            "ddx_inner": ddxs[2],
            "alpha": alpha,
            "gain": gain,
            "clamp": clamp,
            "ORDER": order,
            "ACT": act,
            "CLAMP": clamp >= 0,
            "FROM_OUTPUT": from_output,
            "CHANNELS_LAST": channels_last,
            "ROWS": block_rows,
            "COLUMNS": block_columns,
            "INDEX": index_type(out, *inputs),
        },
    )


def _like(t: Tensor, out: Tensor) -> Tensor:
    """t in the memory layout of out."""
    return t if t.stride() == out.stride() else torch.empty_like(out, dtype=t.dtype).copy_(t)


def plan_bias_act(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    out: Tensor,
    arch: Architecture,
) -> Iterator[Launch]:
    return _plan(0, x, None, None, b, dim, act, alpha, gain, clamp, False, out, arch)


def plan_bias_act_grad(
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
    arch: Architecture,
) -> Iterator[Launch]:
    if y is not None:
        return _plan(1, y, dy, None, None, dim, act, alpha, gain, clamp, True, out, arch)
    assert x is not None
    return _plan(1, x, dy, None, b, dim, act, alpha, gain, clamp, False, out, arch)


def plan_bias_act_grad2(
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
    arch: Architecture,
) -> Iterator[Launch]:
    return _plan(2, x, dy, ddx, b, dim, act, alpha, gain, clamp, False, out, arch)


bias_act = primitive(plan_bias_act)
bias_act_grad = primitive(plan_bias_act_grad)
bias_act_grad2 = primitive(plan_bias_act_grad2)
