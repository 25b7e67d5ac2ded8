"""Tiled translation that is the untiled one: one layer after the other over the whole image.

A layer goes over its plane in bands of rows. A norm needs the statistics of all bands, so what its
convolution made of them is kept meanwhile (`planes`). A band needs a few rows more of its input
than lie under it; where it ends at the image's border it sees the border as the layer itself does,
and what it makes of its other two ends, which are no borders, is cut off. So every plane is
computed once but for a few rows a band: one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pix2gan import ops
from pix2gan.freed_memory import FreedMemory
from pix2gan.models.blocks import pad
from pix2gan.models.layer_graph import IMAGE, Layer, Statistics, Step, last_uses
from pix2gan.translation.planes import Normalised, Plane, Rows, Stacked

# What a band reads and makes has about as many bytes for each pixel of a tile.
BYTES_PER_PIXEL = 128
SMALLEST_BAND = 16  # rows


def translate_exactly(
    layers: Sequence[Layer],
    image: Rows,
    tile: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Rows:
    """A generator's output for a whole image, to be read by rows.

    Args:
        layers: Of a generator in evaluation mode on ``device``.
        image: Height and width are multiples of what the generator takes.
        tile: Bands take about as much memory as tile x tile pixels of an image in the network.
        device: Where the layers run; planes are kept in memory or in a scratch file.
        dtype: Of the planes that are kept.
    """
    return _run(layers, image, tile, device, dtype)[0]


def gather_statistics(
    layers: Sequence[Layer], image: Rows, tile: int, device: torch.device
) -> Statistics:
    """The statistics of every norm over a whole image; arguments as of ``translate_exactly``."""
    return _run(layers, image, tile, device, torch.float32)[1]


def _run(
    layers: Sequence[Layer], image: Rows, tile: int, device: torch.device, dtype: torch.dtype
) -> tuple[Rows, Statistics]:
    planes: dict[str, Rows] = {IMAGE: image}
    statistics: dict[str, ops.InstanceNormStats] = {}
    for layer, finished in zip(layers, last_uses(layers), strict=True):
        rows = Stacked([(planes[each.name], each.relu) for each in layer.inputs], device)
        residual = None if layer.residual is None else planes[layer.residual]
        bands = _Bands(layer.step, rows, tile, dtype)
        planes[layer.name] = bands.finished(residual)
        if bands.statistics is not None:
            statistics[layer.name] = bands.statistics
        for name in finished:
            del planes[name]
        del rows, residual, bands
    return planes[layers[-1].name], statistics


class _Bands:
    """One layer over all bands of an image."""

    def __init__(self, step: Step, rows: Stacked, tile: int, dtype: torch.dtype) -> None:
        self.step, self.rows, self.dtype = step, rows, dtype
        self.statistics: ops.InstanceNormStats | None = None
        up, down, _ = step.geometry
        self.channels = step.out_channels or rows.channels
        self.height, self.width = rows.height * up // down, rows.width * up // down
        read = rows.channels * rows.width * down / up  # numbers for each row that is made
        budget = tile * tile * BYTES_PER_PIXEL / torch.float32.itemsize
        self.band = max(SMALLEST_BAND, int(budget / (read + self.channels * self.width)))

    def finished(self, residual: Rows | None) -> Rows:
        """The layer's output."""
        if not self.step.normalises:

            def made(first: int, last: int) -> Tensor:
                x = self._convolved(first, last)
                return self.step.finish(x, None, self._added(residual, first, last))

            return self._plane(made)
        convolved, stats = self._convolved_with_statistics()
        self.statistics = stats
        if residual is None:
            return Normalised(convolved, self.step, stats)

        def normalised(first: int, last: int) -> Tensor:
            x = convolved.read(first, last).to(self.rows.device)
            return self.step.finish(x, stats, self._added(residual, first, last))

        return self._plane(normalised)

    def _convolved_with_statistics(self) -> tuple[Plane, ops.InstanceNormStats]:
        parts: list[ops.InstanceNormStats] = []

        def convolved(first: int, last: int) -> Tensor:
            x = self._convolved(first, last)
            part = ops.instance_norm_stats(x)  # merged in double: there may be thousands
            parts.append(part._replace(mean=part.mean.double(), m2=part.m2.double()))
            return x

        plane = self._plane(convolved)
        return plane, ops.merge_instance_norm_stats(parts)

    def _convolved(self, first: int, last: int) -> Tensor:
        return convolve_band(self.step, self.rows, first, last)

    def _added(self, residual: Rows | None, first: int, last: int) -> Tensor | None:
        return None if residual is None else residual.read(first, last).to(self.rows.device)

    def _plane(self, make: Callable[[int, int], Tensor]) -> Plane:
        """A plane of the rows that ``make(first, last)`` computes."""
        plane = Plane(self.channels, self.height, self.width, self.dtype)
        freed = FreedMemory()
        for first in range(0, self.height, self.band):
            plane.write(first, make(first, min(first + self.band, self.height)))
            freed.give_back()
        return plane


def convolve_band(step: Step, rows: Rows, first: int, last: int) -> Tensor:
    """Rows [first, last) of what ``step.convolve`` makes of an image."""
    up, down, reach = step.geometry
    start = max(0, (first * down // up - reach) // down * down)
    stop = min(rows.height, -(-(-(-last * down // up) + reach) // down) * down)
    x = step.convolve(pad(rows.read(start, stop), step.border))
    top = start * up // down
    return x[:, :, first - top : last - top]
