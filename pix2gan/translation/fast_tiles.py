"""Tiled translation in one pass: every norm takes the statistics of a sample of the image.

With them known the network is a stream of rows (`row_streams`) and nothing is kept. A wide image is
cut into strips, each with so much of its surroundings as the network sees: there are no seams, and
what is alive depends on the width of a strip and not on the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pix2gan.freed_memory import FreedMemory
from pix2gan.models.layer_graph import IMAGE, Layer, Statistics, receptive_radius
from pix2gan.translation.exact_tiles import gather_statistics, translate_exactly
from pix2gan.translation.planes import Picture, Rows
from pix2gan.translation.row_streams import stream

# A strip is as wide as so many tiles.
TILES_PER_STRIP = 4
# Rows of the image that layers work on at once: with half of them a tenth is computed twice.
BAND = 128
# The sample: about so many pixels of the image, in windows of this side.
SAMPLE_PIXELS = 2**24
SAMPLE_SIDE = 512


def translate_fast(
    layers: Sequence[Layer], image: Picture, tile: int, multiple: int, device: torch.device
) -> Iterator[tuple[int, int, Tensor]]:
    """Translate an image in strips, normalised by the statistics of a sample of it.

    Args:
        layers: Of a generator in evaluation mode on ``device``.
        image: Height and width are multiples of what the generator takes.
        tile: Memory is taken as by tiles of this side with their surroundings.
        multiple: What the generator takes multiples of.
        device: Where the layers run.

    Yields:
        (top, left, output [1, C, h, w]), strip by strip, each from the top to the bottom.
    """
    seen = sample(image, multiple)
    if seen is image:  # whose statistics are exact, and whose result is at hand when they are known
        made = translate_exactly(layers, image, tile, device)
        for top in range(0, image.height, BAND):
            yield top, 0, made.read(top, min(top + BAND, image.height))
        return
    statistics = gather_statistics(layers, seen, tile, device)
    yield from translate_strips(layers, image, statistics, tile, multiple, device)


def translate_strips(
    layers: Sequence[Layer],
    image: Picture,
    statistics: Statistics,
    tile: int,
    multiple: int,
    device: torch.device,
) -> Iterator[tuple[int, int, Tensor]]:
    """As ``translate_fast``, every norm having the given statistics."""
    strip = math.ceil(TILES_PER_STRIP * tile / multiple) * multiple
    margin = math.ceil(receptive_radius(layers)[IMAGE] / multiple) * multiple
    for left in range(0, image.width, strip):
        right = min(left + strip, image.width)
        start, stop = max(0, left - margin), min(right + margin, image.width)
        freed = FreedMemory()
        made = stream(layers, image.columns(start, stop), statistics, BAND, device)
        for top in range(0, image.height, BAND):
            rows = made.read(top, min(top + BAND, image.height))
            yield top, left, rows[:, :, :, left - start : right - start]
            freed.give_back()


def sample(image: Picture, multiple: int) -> Rows:
    """A smaller image to stand for a large one, which is as it is where it is small.

    It is made of windows, as many rows and columns of them as fit, evenly spread: the outermost lie
    at the borders of the image, so that its borders are borders here and nothing else is. A window
    ends at another one and not at a border of its own. (Windows apart, with borders that the image
    does not have, made statistics that were off by twice as much: docs/translation.md.)
    """
    side = math.ceil(SAMPLE_SIDE / multiple) * multiple
    share = math.sqrt(min(1.0, SAMPLE_PIXELS / (image.height * image.width)))
    height = min(image.height, max(side, int(image.height * share) // side * side))
    width = min(image.width, max(side, SAMPLE_PIXELS // height // side * side))
    if (height, width) == (image.height, image.width):
        return image
    return Mosaic(image, _segments(image.height, height, side), _segments(image.width, width, side))


def _segments(length: int, total: int, side: int) -> list[tuple[int, int]]:
    """[start, stop) of segments of a side, ``total`` together, spread over a length."""
    if total == length:
        return [(0, length)]
    count = total // side
    if count == 1:
        return [((length - side) // 2, (length - side) // 2 + side)]
    starts = [round((length - side) * i / (count - 1)) for i in range(count)]
    return [(start, start + side) for start in starts]


class Mosaic:
    """Some of the rows and some of the columns of an image, side by side."""

    def __init__(
        self, image: Picture, rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]]
    ) -> None:
        self.channels = image.channels
        self.height = sum(stop - start for start, stop in rows)
        self.width = sum(stop - start for start, stop in columns)
        self.rows = rows
        self.columns = [image.columns(start, stop) for start, stop in columns]

    def read(self, first: int, last: int) -> Tensor:
        parts, top = [], 0
        for start, stop in self.rows:
            upper, lower = max(first - top, 0) + start, min(last - top, stop - start) + start
            if upper < lower:
                parts.append(torch.cat([each.read(upper, lower) for each in self.columns], 3))
            top += stop - start
        return torch.cat(parts, 2)
