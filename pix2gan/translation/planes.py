"""Images that are larger than memory, read by rows.

A *plane* is what a layer makes of an image, [1, C, H, W], kept in memory or, where it is large, in
a scratch file.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pix2gan import ops
from pix2gan.data.image_io import Array
from pix2gan.models.layer_graph import Step

IN_MEMORY = 64 * 2**20  # bytes of a plane that is not worth a file


class Rows(Protocol):
    """Whatever gives rows of an image [1, C, H, W]."""

    @property
    def channels(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...

    def read(self, first: int, last: int) -> Tensor:
        """[1, C, last - first, W], channels-last."""


class Picture(Rows, Protocol):
    """Rows of which a part of the columns can be read alone."""

    def columns(self, left: int, right: int) -> Rows:
        """The image [1, C, H, right - left]."""


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
        array: Array = rows.reshape(-1).view(torch.uint8).numpy()
        data = memoryview(array)  # type: ignore[arg-type]
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

    def columns(self, left: int, right: int) -> Image:
        return Image(self.x[:, :, :, left:right])


class Normalised:
    """A plane of convolutions as its norm and activation show it, by statistics that are known."""

    def __init__(self, plane: Rows, step: Step, stats: ops.InstanceNormStats) -> None:
        self.channels, self.height, self.width = plane.channels, plane.height, plane.width
        self.plane, self.step, self.stats = plane, step, stats

    def read(self, first: int, last: int) -> Tensor:
        return self.step.finish(self.plane.read(first, last).to(self.stats.mean.device), self.stats)


class Stacked:
    """Images beside each other along the channels, each as it is or through a relu."""

    def __init__(self, parts: Sequence[tuple[Rows, bool]], device: torch.device) -> None:
        self.parts, self.device = parts, device
        self.channels = sum(part.channels for part, _ in parts)
        self.height, self.width = parts[0][0].height, parts[0][0].width

    def read(self, first: int, last: int) -> Tensor:
        """As ``Rows.read``, on the device."""
        rows = [
            part.read(first, last).to(self.device).relu()
            if relu
            else part.read(first, last).to(self.device)
            for part, relu in self.parts
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)
