"""A generator as a stream of rows, where every norm's statistics are known.

The last layer's rows are read from the top to the bottom. A layer makes a band of rows when it is
asked for them, of rows for which it asks the layers before it, and forgets what nobody will ask for
again. So every row of every plane is computed once, but for a few at the ends of bands, and what is
alive of a plane are about as many rows as a pixel of the output sees of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from pix2gan import ops
from pix2gan.models.layer_graph import IMAGE, Layer, Statistics, Step
from pix2gan.translation.exact_tiles import convolve_band
from pix2gan.translation.planes import Rows, Stacked


def stream(
    layers: Sequence[Layer], image: Rows, statistics: Statistics, band: int, device: torch.device
) -> Rows:
    """A generator's output for an image, to be read once, from the top to the bottom.

    Args:
        layers: Of a generator in evaluation mode on ``device``.
        image: Height and width are multiples of what the generator takes.
        statistics: Of every layer that normalises.
        band: Layers make the rows below so many rows of the image at once.
        device: Where the layers run.
    """
    planes: dict[str, _Streamed] = {}

    def rows(name: str) -> Rows:
        return image if name == IMAGE else _Reader(planes[name])

    for layer in layers:
        planes[layer.name] = _Streamed(
            layer.step,
            Stacked([(rows(each.name), each.relu) for each in layer.inputs], device),
            None if layer.residual is None else rows(layer.residual),
            statistics[layer.name] if layer.step.normalises else None,
            band / image.height,
        )
    return _Reader(planes[layers[-1].name])


class _Streamed:
    """A layer's output: made when it is read, kept until all of its readers are past it."""

    def __init__(
        self,
        step: Step,
        inputs: Stacked,
        residual: Rows | None,
        statistics: ops.InstanceNormStats | None,
        share: float,
    ) -> None:
        self.step, self.inputs, self.residual, self.statistics = step, inputs, residual, statistics
        up, down, _ = step.geometry
        self.channels = step.out_channels or inputs.channels
        self.height, self.width = inputs.height * up // down, inputs.width * up // down
        self.band = max(1, round(share * self.height))
        # How far each reader is; with the readers themselves a cycle would keep the rows alive.
        self.readers: list[int] = []
        self.kept: deque[tuple[int, Tensor]] = deque()  # bands, each with its first row
        self.made = 0

    def rows(self, first: int, last: int) -> Tensor:
        while self.made < last:
            self._make()
        lowest = min(self.readers)
        while self.kept and self.kept[0][0] + self.kept[0][1].shape[2] <= lowest:
            self.kept.popleft()
        parts = [
            x[:, :, max(first - top, 0) : last - top]
            for top, x in self.kept
            if top < last and top + x.shape[2] > first
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _make(self) -> None:
        first, last = self.made, min(self.made + self.band, self.height)
        x = convolve_band(self.step, self.inputs, first, last)
        added = self.residual
        residual = None if added is None else added.read(first, last).to(self.inputs.device)
        self.kept.append((first, self.step.finish(x, self.statistics, residual)))
        self.made = last


class _Reader:
    """One of those who read a layer's output, downwards: it never goes back."""

    def __init__(self, plane: _Streamed) -> None:
        self.plane, self.number = plane, len(plane.readers)
        self.channels, self.height, self.width = plane.channels, plane.height, plane.width
        plane.readers.append(0)

    def read(self, first: int, last: int) -> Tensor:
        assert first >= self.plane.readers[self.number]
        self.plane.readers[self.number] = first
        return self.plane.rows(first, last)
