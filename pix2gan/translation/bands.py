"""Layers of a generator over an image that is larger than memory: a band of rows at a time.

A *plane* is what a layer makes of the image, [1, C, H, W], kept in memory or, where it is large, in
a scratch file. A layer's output for some rows needs few more rows of its input; what lies outside
of the image is made as the layer itself would. So every plane is computed once, and only the rows
at the borders of a band are read twice.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2gan import ops
from pix2gan.data.image_io import Array
from pix2gan.models.blocks import (
    BlurDown,
    BlurUpConv2d,
    Border,
    ConvNormAct,
    DeferredBiasConvTranspose2d,
    HalfImage,
    NearestUpConv2d,
)

IN_MEMORY = 64 * 2**20  # bytes of a plane that is not worth a file


class Rows(Protocol):
    """Whatever gives rows of an image [1, C, H, W]."""

    channels: int
    height: int
    width: int

    def read(self, first: int, last: int) -> Tensor:
        """[1, C, last - first, W], channels-last."""


class Plane:
    """An image that is written and read by rows; large ones lie in a scratch file, which has no
    name and is gone when nobody reads it any longer."""

    def __init__(self, channels: int, height: int, width: int, dtype: torch.dtype) -> None:
        self.channels, self.height, self.width, self.dtype = channels, height, width, dtype
        self._row = channels * width * dtype.itemsize
        self._memory: Tensor | None = None
        self._file = None
        if self._row * height <= IN_MEMORY:
            self._memory = torch.empty(height, width, channels, dtype=dtype)
        else:
            self._file = tempfile.TemporaryFile(prefix="pix2gan-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)

    def write(self, first: int, x: Tensor) -> None:
        # x: [1, C, rows, W]
        rows = x[0].permute(1, 2, 0).to("cpu", self.dtype).contiguous()
        if self._memory is not None:
            self._memory[first : first + len(rows)] = rows
            return
        assert self._file is not None
        array: Array = rows.view(torch.uint8).numpy()
        data = memoryview(array.reshape(-1))  # type: ignore[arg-type]
        offset = first * self._row
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            offset, data = offset + written, data[written:]

    def read(self, first: int, last: int) -> Tensor:
        if self._memory is not None:
            rows = self._memory[first:last]
        else:
            assert self._file is not None
            data = bytearray((last - first) * self._row)
            view, offset = memoryview(data), first * self._row
            while view:
                count = os.preadv(self._file.fileno(), [view], offset)
                if count == 0:
                    raise EOFError("rows are read that were never written")
                offset, view = offset + count, view[count:]
            rows = torch.frombuffer(data, dtype=self.dtype)
            rows = rows.view(last - first, self.width, self.channels)
        return rows.permute(2, 0, 1)[None]


class Image:
    """A tensor [1, C, H, W] as rows."""

    def __init__(self, x: Tensor) -> None:
        _, self.channels, self.height, self.width = x.shape
        self.x = x

    def read(self, first: int, last: int) -> Tensor:
        return self.x[:, :, first:last]


class Normalised:
    """A plane of convolutions as its norm and activation show it, by statistics that are known."""

    def __init__(self, plane: Rows, layer: ConvNormAct, stats: ops.InstanceNormStats) -> None:
        self.channels, self.height, self.width = plane.channels, plane.height, plane.width
        self.plane, self.layer, self.stats = plane, layer, stats

    def read(self, first: int, last: int) -> Tensor:
        return self.layer.normalise(self.plane.read(first, last), self.stats)


class Stacked:
    """Images beside each other along the channels, each as it is or through a relu."""

    def __init__(self, parts: Sequence[tuple[Rows, bool]]) -> None:
        self.parts = parts
        self.channels = sum(part.channels for part, _ in parts)
        self.height, self.width = parts[0][0].height, parts[0][0].width

    def read(self, first: int, last: int) -> Tensor:
        rows = [
            part.read(first, last).relu() if relu else part.read(first, last)
            for part, relu in self.parts
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


# ------------------------------------------------------------------------------------------- layers


def output_size(module: nn.Module, rows: Rows) -> tuple[int, int, int]:
    """Channels, height and width of what a convolution (or an average) makes of an image."""
    if isinstance(module, HalfImage):
        return rows.channels, rows.height // 2, rows.width // 2
    channels = int(module.out_channels)  # type: ignore[arg-type]
    if isinstance(module, (DeferredBiasConvTranspose2d, NearestUpConv2d, BlurUpConv2d)):
        return channels, 2 * rows.height, 2 * rows.width
    assert isinstance(module, nn.Conv2d)
    stride = module.stride[0]
    return channels, rows.height // stride, rows.width // stride


def convolve_band(module: nn.Module, rows: Rows, first: int, last: int) -> Tensor:
    """Rows [first, last) of what a convolution makes of an image, its bias left out.

    ``first`` and ``last`` are even, or the end of the plane, where the module doubles.
    """
    if isinstance(module, HalfImage):
        return _half(rows, first, last)
    if isinstance(module, NearestUpConv2d):
        return _nearest_up(module, rows, first, last)
    if isinstance(module, BlurUpConv2d):
        return _blur_up(module, rows, first, last)
    if isinstance(module, DeferredBiasConvTranspose2d):
        return _transposed(module, rows, first, last)
    assert isinstance(module, nn.Conv2d)
    border: Border = module.border  # type: ignore[assignment]
    stride, kernel = module.stride[0], module.kernel_size[0]
    margin = border.width or int(module.padding[0])
    start, stop = first * stride - margin, (last - 1) * stride - margin + kernel
    if border.width:
        x = _bordered(rows, start, stop, border)
        return F.conv2d(x, module.weight, stride=stride)
    x = _with_zeros(rows, start, stop)
    return F.conv2d(x, module.weight, stride=stride, padding=(0, margin))


def blur_band(module: BlurDown, rows: Rows, first: int, last: int) -> Tensor:
    """Rows [first, last) of the antialiased half of an image."""
    x = _bordered(rows, 2 * first - 1, 2 * last, Border(1, "reflect"))
    return ops.upfirdn2d(x, module.filter.float(), down=2)


def _nearest_up(module: NearestUpConv2d, rows: Rows, first: int, last: int) -> Tensor:
    start, stop = first // 2 - 1, last // 2 + 1
    if module.border.width:
        return module(_bordered(rows, start, stop, module.border))
    x = F.interpolate(_within(rows, start, stop), scale_factor=2.0, mode="nearest")
    top, bottom = max(0, start) * 2, min(rows.height, stop) * 2
    x = _cut_or_zero(x, top, bottom, first - 1, last + 1)
    return F.conv2d(x, module.weight, padding=(0, 1))


def _blur_up(module: BlurUpConv2d, rows: Rows, first: int, last: int) -> Tensor:
    # the filter replicates borders, the convolution behind it sees zeros
    start, stop = max(first // 2 - 1, 0), min(last // 2 + 1, rows.height)
    x = _bordered(rows, start - 1, stop + 1, module.border)
    x = ops.upfirdn2d(x, module.filter.float(), up=2, padding=[0, -1, 0, -1], gain=4)
    x = _cut_or_zero(x, 2 * start, 2 * stop, first - 1, last + 1)
    return F.conv2d(x, module.weight, padding=(0, 1))


def _transposed(module: DeferredBiasConvTranspose2d, rows: Rows, first: int, last: int) -> Tensor:
    # input row i reaches output rows 2 i + t - padding, t < kernel
    kernel, padding = module.kernel_size[0], int(module.padding[0])
    start = max(0, -((kernel - 1 - padding - first) // 2))
    stop = min(rows.height, (last - 1 + padding) // 2 + 1)
    x = F.conv_transpose2d(
        rows.read(start, stop),
        module.weight,
        stride=2,
        padding=(0, padding),
        output_padding=(0, module.output_padding[1]),
    )
    top = 2 * start - padding
    return x[:, :, first - top : last - top]


def _half(rows: Rows, first: int, last: int) -> Tensor:
    start, stop = 2 * first - 1, 2 * last
    x = _with_zeros(rows, start, stop)
    inside = torch.ones(1, 1, rows.height, 1).expand(1, 1, rows.height, rows.width)
    counted = _with_zeros(Image(inside), start, stop)
    sums = F.avg_pool2d(x, 3, 2, padding=(0, 1))
    return sums / F.avg_pool2d(counted.to(x), 3, 2, padding=(0, 1))


# --------------------------------------------------------------------------------------------- rows


def _within(rows: Rows, start: int, stop: int) -> Tensor:
    return rows.read(max(0, start), min(rows.height, stop))


def _with_zeros(rows: Rows, start: int, stop: int) -> Tensor:
    """Rows [start, stop), zeros where there are none."""
    x = _within(rows, start, stop)
    above, below = max(0, -start), max(0, stop - rows.height)
    return F.pad(x, (0, 0, above, below)) if above or below else x


def _cut_or_zero(x: Tensor, top: int, bottom: int, start: int, stop: int) -> Tensor:
    """Of an image whose rows ``x`` = [top, bottom) are all that there are around [start, stop)."""
    x = x[:, :, max(start - top, 0) : stop - top]
    above, below = max(0, top - start), max(0, stop - bottom)
    return F.pad(x, (0, 0, above, below)) if above or below else x


def _bordered(rows: Rows, start: int, stop: int, border: Border) -> Tensor:
    """Rows [start, stop) with ``border.width`` columns on both sides; what lies outside of the
    image is a reflection or a repetition of it."""
    width, height = border.width, rows.height
    indices = [_source_row(i, height, border.mode) for i in range(start, stop)]
    low, high = min(indices), max(indices) + 1
    x = rows.read(low, high)
    if start < 0 or stop > height:
        x = x.index_select(2, torch.tensor([i - low for i in indices], device=x.device))
    return F.pad(x, (width, width, 0, 0), mode=border.mode)


def _source_row(i: int, height: int, mode: str) -> int:
    if mode == "replicate":
        return min(max(i, 0), height - 1)
    return -i if i < 0 else 2 * (height - 1) - i if i >= height else i
