"""Tiled translation in one pass: every norm takes the statistics of a sample of the image.

Every tile goes through the whole network at once, with so much of its surroundings as the network
sees: nothing is kept, and there are no seams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pix2gan import ops
from pix2gan.models.layer_graph import IMAGE, Layer, receptive_radius, run_layers

Statistics = Mapping[str, ops.InstanceNormStats]  # by the name of the layer

# A sample of an image: this many windows of this side, as far as there are so many. A quarter of
# the side all around serves the middle as surroundings and is not counted itself.
SAMPLE_WINDOWS = 8
SAMPLE_SIDE = 1024


def translate_fast(
    layers: Sequence[Layer],
    read: Callable[[int, int, int, int], Tensor],
    height: int,
    width: int,
    tile: int,
    multiple: int,
) -> Iterator[tuple[int, int, Tensor]]:
    """Translate an image tile by tile, normalised by the statistics of a sample of it.

    Args:
        layers: Of a generator in evaluation mode, on the device where it is to run.
        read: ``read(top, bottom, left, right)`` gives that part of the image, [1, C, h, w], on the
            generator's device.
        height, width: Of the image, multiples of what the generator takes.
        tile: Side of the tiles, rounded up to such a multiple; what surrounds them comes on top.
        multiple: What the generator takes multiples of.

    Yields:
        (top, left, output [1, C, h, w]), row by row.
    """
    windows = sample(read, height, width, multiple)
    margin = windows.shape[2] // 4 if len(windows) > 1 else 0
    statistics = gather_statistics(layers, windows, margin)
    del windows
    tile = max(1, math.ceil(tile / multiple)) * multiple
    margin = math.ceil(receptive_radius(layers)[IMAGE] / multiple) * multiple
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            upper, start = max(0, top - margin), max(0, left - margin)
            x = read(upper, min(bottom + margin, height), start, min(right + margin, width))
            y = translate_tile(layers, x, statistics)
            yield top, left, y[:, :, top - upper : bottom - upper, left - start : right - start]


def translate_tile(layers: Sequence[Layer], x: Tensor, statistics: Statistics) -> Tensor:
    """A generator's output for [N, C, H, W], every norm having the given statistics."""
    return run_layers(layers, x, lambda layer, _: statistics[layer.name])


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


def sample(
    read: Callable[[int, int, int, int], Tensor], height: int, width: int, multiple: int
) -> Tensor:
    """Windows [K, C, h, w] of an image, evenly spread over it."""
    side = math.ceil(SAMPLE_SIDE / multiple) * multiple
    h, w = min(side, height), min(side, width)
    across = min(max(1, round(math.sqrt(SAMPLE_WINDOWS * width / height))), width // w)
    down = min(max(1, SAMPLE_WINDOWS // across), height // h)
    return torch.cat(
        [
            read(top, top + h, left, left + w)
            for top in _spread(height - h, down)
            for left in _spread(width - w, across)
        ]
    )


def _spread(room: int, count: int) -> list[int]:
    """Where ``count`` windows begin, the margins half as wide as the gaps between them."""
    return [round(room * (2 * i + 1) / (2 * count)) for i in range(count)]
