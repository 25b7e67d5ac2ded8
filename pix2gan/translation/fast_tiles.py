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

from pix2gan import ops
from pix2gan.models.layer_graph import IMAGE, Layer, receptive_radius, run_layers
from pix2gan.translation.planes import Picture
from pix2gan.translation.row_streams import Statistics, stream

# A strip is as wide as so many tiles, which makes it about as large as a tile with surroundings.
TILES_PER_STRIP = 8
# Rows of the image that layers work on at once: with half of them a tenth is computed twice.
BAND = 128
# A sample of an image: this many windows of this side, as far as there are so many. A quarter of
# the side all around serves the middle as surroundings and is not counted itself.
SAMPLE_WINDOWS = 8
SAMPLE_SIDE = 1024


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
    windows = sample(image, multiple).to(device)
    margin = windows.shape[2] // 4 if len(windows) > 1 else 0
    statistics = gather_statistics(layers, windows, margin)
    del windows
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
        made = stream(layers, image.columns(start, stop), statistics, BAND, device)
        for top in range(0, image.height, BAND):
            rows = made.read(top, min(top + BAND, image.height))
            yield top, left, rows[:, :, :, left - start : right - start]


def gather_statistics(layers: Sequence[Layer], windows: Tensor, margin: int = 0) -> Statistics:
    """The statistics of every norm over a sample [K, C, H, W] of an image, taken together.

    ``margin`` pixels at the borders of the windows are not counted.
    """
    found: dict[str, ops.InstanceNormStats] = {}

    def merged(layer: Layer, x: Tensor) -> ops.InstanceNormStats:
        cut = margin * x.shape[2] // windows.shape[2]
        if cut:
            x = x[:, :, cut:-cut, cut:-cut]
        each = ops.instance_norm_stats(x)
        parts = (
            ops.InstanceNormStats(each.count, mean[None], m2[None])
            for mean, m2 in zip(each.mean, each.m2, strict=True)
        )
        found[layer.name] = ops.merge_instance_norm_stats(parts)
        return found[layer.name]

    run_layers(layers, windows, merged)
    return found


def sample(image: Picture, multiple: int) -> Tensor:
    """Windows [K, C, h, w] of an image, evenly spread over it."""
    side = math.ceil(SAMPLE_SIDE / multiple) * multiple
    h, w = min(side, image.height), min(side, image.width)
    across = min(
        max(1, round(math.sqrt(SAMPLE_WINDOWS * image.width / image.height))), image.width // w
    )
    down = min(max(1, SAMPLE_WINDOWS // across), image.height // h)
    return torch.cat(
        [
            image.columns(left, left + w).read(top, top + h)
            for top in _spread(image.height - h, down)
            for left in _spread(image.width - w, across)
        ]
    )


def _spread(room: int, count: int) -> list[int]:
    """Where ``count`` windows begin, the margins half as wide as the gaps between them."""
    return [round(room * (2 * i + 1) / (2 * count)) for i in range(count)]
