"""Generators on images that are larger than memory, without seams.

What makes a seam is that instance norm looks at the whole image: a tile that is normalised by its
own statistics has other colours than its neighbour. Here every tile is normalised by the statistics
of the whole image,

- *exact*: one layer after the other over the whole image, in bands of rows (`bands`). A norm needs
  what its convolution made of all bands, which is kept meanwhile, in a scratch file where it is
  large. That is one forward pass, and the result is the untiled one.
- *fast*: by the statistics of a sample of the image. Then every tile goes through the whole network
  at once, with so much of its surroundings as the network sees: nothing is kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from pix2gan import ops
from pix2gan.errors import ConfigError
from pix2gan.models.blocks import (
    BlurDown,
    BlurUpConv2d,
    Border,
    ConvNormAct,
    DeferredBiasConvTranspose2d,
    HalfImage,
    NearestUpConv2d,
    pad,
)
from pix2gan.models.generator import Generator
from pix2gan.models.layer_graph import IMAGE, Layer
from pix2gan.translation.bands import (
    Normalised,
    Plane,
    Rows,
    Stacked,
    blur_band,
    convolve_band,
    output_size,
)

Statistics = Mapping[str, ops.InstanceNormStats]  # by the name of the layer

# A sample of an image: this many windows of this side, as far as there are so many. A quarter of
# the side all around serves the middle as surroundings and is not counted itself.
SAMPLE_WINDOWS = 8
SAMPLE_SIDE = 1024


TILE_STATISTICS = ("exact", "fast")
AUTO_TILE = 768
SMALLEST_TILE = 64
# What the convolutions take besides the planes that are alive, and what is left to others.
_WORKING_SHARE = 1.5


@dataclass(frozen=True)
class Tiling:
    """Whether and how images are translated in tiles.

    Attributes:
        tile: "auto" tiles what does not fit into memory; a side in pixels tiles what has more than
            its square; None never tiles.
        statistics: "exact" or "fast", see `pix2gan.translation.tiling`.
    """

    tile: int | str | None = "auto"
    statistics: str = "exact"

    def check(self, generator: nn.Module) -> None:
        """ConfigError if a value makes no sense, or asks for tiles of a generator without."""
        if self.statistics not in TILE_STATISTICS:
            raise ConfigError(
                f"tile_statistics must be one of {', '.join(TILE_STATISTICS)}, not "
                f"{self.statistics!r}"
            )
        if self.tile is None or self.tile == "auto":
            return
        if isinstance(self.tile, bool) or not isinstance(self.tile, int):
            raise ConfigError(f'tile must be "auto", a side in pixels or None, not {self.tile!r}')
        if self.tile < SMALLEST_TILE:
            raise ConfigError(f"tile must be at least {SMALLEST_TILE} pixels, not {self.tile}")
        if not can_tile(generator):
            name = getattr(generator, "config", {}).get("name", type(generator).__name__)
            raise ConfigError(f"The generator {name} cannot be tiled: leave tile out")

    def side_for(
        self, generator: nn.Module, height: int, width: int, device: torch.device
    ) -> int | None:
        """The side of the tiles for an image, or None if it goes through the network at once."""
        if self.tile is None or not can_tile(generator):
            return None
        if isinstance(self.tile, int):
            return self.tile if height * width > self.tile**2 else None
        needed = bytes_per_pixel(generator) * height * width * _WORKING_SHARE
        return AUTO_TILE if needed > available_memory(device) else None


def can_tile(generator: nn.Module) -> bool:
    """Whether a generator tells its layers."""
    if not isinstance(generator, Generator):
        return False
    try:
        generator.layer_graph()
    except NotImplementedError:
        return False
    return True


def bytes_per_pixel(generator: nn.Module) -> float:
    """What a float32 forward pass keeps at the same time, for each pixel of the image."""
    layers = cast(Generator, generator).layer_graph()
    scale: dict[str, float] = {IMAGE: 1.0}
    channels = {IMAGE: cast(Generator, generator).in_channels}
    users = Counter(name for layer in layers for name in _seen_by(layer))
    alive, most = {IMAGE: 4.0 * channels[IMAGE]}, 0.0
    for layer in layers:
        seen = layer.inputs[0].name
        factor, out = _shape_of(layer.module, channels[seen])
        scale[layer.name], channels[layer.name] = scale[seen] * factor, out
        alive[layer.name] = 4.0 * out * scale[layer.name]
        # beside what is kept: the input with its border, or the bare convolution
        working = max(alive[layer.name], sum(alive[each.name] for each in layer.inputs))
        most = max(most, sum(alive.values()) + working)
        for name in _seen_by(layer):
            users[name] -= 1
            if users[name] == 0:
                del alive[name]
    return most


def _shape_of(module: nn.Module, channels: int) -> tuple[float, int]:
    """By what a layer multiplies the number of pixels, and its output's channels."""
    if isinstance(module, HalfImage):
        return 0.25, channels
    conv = module.layer.conv if isinstance(module, BlurDown) else cast(ConvNormAct, module).conv
    if isinstance(conv, (NearestUpConv2d, BlurUpConv2d, DeferredBiasConvTranspose2d)):
        return 4.0, conv.out_channels
    halves = isinstance(module, BlurDown) or conv.stride[0] == 2
    return 0.25 if halves else 1.0, conv.out_channels


def available_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_number("/proc/meminfo", "MemAvailable:", 1024)]
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        free.append(max(limit - used, 0))
    known = [value for value in free if value is not None]
    return min(known) if known else 4 * 2**30


def _number(file: str, key: str = "", unit: int = 1) -> int | None:
    """The number behind a key of a system's file, or None where there is none."""
    try:
        words = Path(file).read_text().split()
        return int(words[words.index(key) + 1 if key else 0]) * unit
    except (OSError, ValueError):
        return None


# -------------------------------------------------------------------------------------------- exact


def translate_exactly(
    generator: Generator,
    image: Rows,
    tile: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Rows:
    """The generator's output for a whole image, to be read by rows.

    Args:
        generator: In evaluation mode.
        image: Height and width are multiples of what the generator takes.
        tile: Bands have about tile x tile pixels.
        device: Where the layers run; planes are kept in memory or in a scratch file.
        dtype: Of the planes that are kept.
    """
    planes: dict[str, Rows] = {IMAGE: image}
    layers = generator.layer_graph()
    users = Counter(name for layer in layers for name in _seen_by(layer))
    for layer in layers:
        rows = Stacked([(planes[each.name], each.relu) for each in layer.inputs])
        residual = None if layer.residual is None else planes[layer.residual]
        work = _BandWork(tile, device, dtype)
        planes[layer.name] = work.run(layer.module, rows, residual)
        for name in _seen_by(layer):
            users[name] -= 1
            if users[name] == 0:
                del planes[name]
    return planes[layers[-1].name]


def _seen_by(layer: Layer) -> list[str]:
    residual = [] if layer.residual is None else [layer.residual]
    return [each.name for each in layer.inputs] + residual


class _BandWork:
    """One layer over all bands of an image."""

    def __init__(self, tile: int, device: torch.device, dtype: torch.dtype) -> None:
        self.tile, self.device, self.dtype = tile, device, dtype

    def run(self, module: nn.Module, rows: Rows, residual: Rows | None) -> Rows:
        moved = _OnDevice(rows, self.device)
        if isinstance(module, HalfImage):
            return self._fill(
                output_size(module, rows), lambda a, b: convolve_band(module, moved, a, b)
            )
        if isinstance(module, BlurDown):
            whole = _OnDevice(self._convolved(module.layer, moved, None), self.device)
            size = whole.channels, whole.height // 2, whole.width // 2
            return self._fill(size, lambda a, b: blur_band(module, whole, a, b))
        return self._convolved(cast(ConvNormAct, module), moved, residual)

    def _convolved(self, layer: ConvNormAct, rows: Rows, residual: Rows | None) -> Rows:
        """A convolution and what follows it."""
        size = output_size(layer.conv, rows)
        added = None if residual is None else _OnDevice(residual, self.device)
        if not layer.normalises:

            def activated(first: int, last: int) -> Tensor:
                x = convolve_band(layer.conv, rows, first, last)
                return layer.activate(x, None if added is None else added.read(first, last))

            return self._fill(size, activated)
        parts: list[ops.InstanceNormStats] = []

        def convolved(first: int, last: int) -> Tensor:
            x = convolve_band(layer.conv, rows, first, last)
            part = ops.instance_norm_stats(x)  # merged in double: there may be thousands
            parts.append(part._replace(mean=part.mean.double(), m2=part.m2.double()))
            return x

        plane = self._fill(size, convolved)
        stats = ops.merge_instance_norm_stats(parts)
        stats = stats._replace(mean=stats.mean.float(), m2=stats.m2.float())
        if added is None:
            return Normalised(plane, layer, stats)
        moved = _OnDevice(plane, self.device)
        return self._fill(
            size,
            lambda a, b: layer.normalise(moved.read(a, b), stats, residual=added.read(a, b)),
        )

    def _fill(self, size: tuple[int, int, int], make: Callable[[int, int], Tensor]) -> Plane:
        """A plane of the rows that ``make(first, last)`` computes."""
        channels, height, width = size
        plane = Plane(channels, height, width, self.dtype)
        step = max(8, self.tile * self.tile // width // 2 * 2)
        for first in range(0, height, step):
            plane.write(first, make(first, min(first + step, height)))
        return plane


class _OnDevice:
    """Rows, moved to where the layers run."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self.rows, self.device = rows, device
        self.channels, self.height, self.width = rows.channels, rows.height, rows.width

    def read(self, first: int, last: int) -> Tensor:
        return self.rows.read(first, last).to(self.device)


# --------------------------------------------------------------------------------------------- fast


def gather_statistics(generator: Generator, windows: Tensor, margin: int = 0) -> Statistics:
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

    _run(generator, windows, merged)
    return found


def translate_tile(generator: Generator, x: Tensor, statistics: Statistics) -> Tensor:
    """The generator's output for [N, C, H, W], every norm having the given statistics."""
    return _run(generator, x, lambda layer, _: statistics[layer.name])


def translate_fast(
    generator: Generator,
    read: Callable[[int, int, int, int], Tensor],
    height: int,
    width: int,
    tile: int,
) -> Iterator[tuple[int, int, Tensor]]:
    """Translate an image tile by tile, normalised by the statistics of a sample of it.

    Args:
        generator: In evaluation mode, on the device where it is to run.
        read: ``read(top, bottom, left, right)`` gives that part of the image, [1, C, h, w], on the
            generator's device.
        height, width: Of the image, multiples of what the generator takes.
        tile: Side of the tiles, rounded up to such a multiple; what surrounds them comes on top.

    Yields:
        (top, left, output [1, C, h, w]), row by row.
    """
    windows = sample(read, height, width, generator.multiple)
    margin = windows.shape[2] // 4 if len(windows) > 1 else 0
    statistics = gather_statistics(generator, windows, margin)
    del windows
    multiple = generator.multiple
    tile = max(1, math.ceil(tile / multiple)) * multiple
    margin = math.ceil(receptive_radius(generator) / multiple) * multiple
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            upper, start = max(0, top - margin), max(0, left - margin)
            x = read(upper, min(bottom + margin, height), start, min(right + margin, width))
            y = translate_tile(generator, x, statistics)
            yield top, left, y[:, :, top - upper : bottom - upper, left - start : right - start]


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


def receptive_radius(generator: Generator) -> int:
    """How far from a pixel of the output the input can lie that it depends on, norms aside."""
    layers = generator.layer_graph()
    reach: Counter[str] = Counter({layers[-1].name: 0})
    for layer in reversed(layers):
        out = reach[layer.name]
        for each in layer.inputs:
            reach[each.name] = max(reach[each.name], _reach(layer.module, out))
        if layer.residual is not None:
            reach[layer.residual] = max(reach[layer.residual], out)
    return reach[IMAGE]


def _reach(module: nn.Module, out: int) -> int:
    if isinstance(module, HalfImage):
        return 2 * out + 2
    if isinstance(module, BlurDown):
        return 2 * out + 3
    assert isinstance(module, ConvNormAct)
    conv = module.conv
    if isinstance(conv, (NearestUpConv2d, BlurUpConv2d)):
        return (out + 2) // 2 + 1  # a pair of pixels has its centre between the two
    kernel, padding = int(conv.kernel_size[0]), int(conv.padding[0])
    if isinstance(conv, DeferredBiasConvTranspose2d):
        return (out + kernel - padding) // 2
    if conv.stride[0] == 2:
        return 2 * out + kernel - 1 - padding
    return out + kernel // 2


def _run(
    generator: Generator, x: Tensor, statistics: Callable[[Layer, Tensor], ops.InstanceNormStats]
) -> Tensor:
    """A forward pass whose norms ask for their statistics."""
    planes = {IMAGE: x}
    layers = generator.layer_graph()
    users = Counter(name for layer in layers for name in _seen_by(layer))
    for layer in layers:
        parts = [planes[e.name].relu() if e.relu else planes[e.name] for e in layer.inputs]
        seen = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        residual = None if layer.residual is None else planes[layer.residual]
        planes[layer.name] = _whole(layer, seen, residual, statistics)
        for name in _seen_by(layer):
            users[name] -= 1
            if users[name] == 0:
                del planes[name]
    return planes[layers[-1].name]


def _whole(
    layer: Layer,
    x: Tensor,
    residual: Tensor | None,
    statistics: Callable[[Layer, Tensor], ops.InstanceNormStats],
) -> Tensor:
    module = layer.module
    if isinstance(module, HalfImage):
        return cast(Tensor, module(x))
    blur = isinstance(module, BlurDown)
    inner = cast(ConvNormAct, module.layer if blur else module)
    border = Border(1, "reflect") if blur else Border(0, "reflect")
    x = inner.conv(pad(x, inner.border))
    if inner.normalises:
        stats = statistics(layer, x)
        shape = (x.shape[0], x.shape[1])
        stats = stats._replace(mean=stats.mean.expand(shape), m2=stats.m2.expand(shape))
        x = inner.normalise(x, stats, border, residual)
    else:
        x = pad(inner.activate(x, residual), border)
    if blur:
        x = ops.upfirdn2d(x, cast(Tensor, module.filter).float(), down=2)
    return x
