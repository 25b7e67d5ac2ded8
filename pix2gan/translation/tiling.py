"""Whether an image is translated in tiles, and how.

What makes a seam is that instance norm looks at the whole image: a tile that is normalised by its
own statistics has other colours than its neighbour. Here every tile is normalised by the statistics
of the whole image, exactly (`exact_tiles`) or by those of a sample of it (`fast_tiles`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from pix2gan.errors import ConfigError
from pix2gan.models.generator import Generator
from pix2gan.translation.memory import Made, attempt, available_memory, bytes_per_pixel

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
        statistics: "exact" or "fast".
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
            if keeps_dropout(generator):
                raise ConfigError(
                    "A network whose dropout goes on cannot be tiled: leave tile out, or say "
                    "dropout=False (--no-dropout)"
                )
            config = getattr(generator, "config", {})
            what = f"generator {config['name']}" if "name" in config else "model"
            raise ConfigError(f"The {what} cannot be tiled: leave tile out")

    def side_for(
        self, generator: nn.Module, height: int, width: int, device: torch.device
    ) -> int | None:
        """The side of the tiles for an image, or None if it goes through the network at once."""
        if self.tile is None or not can_tile(generator):
            return None
        if isinstance(self.tile, int):
            return self.tile if height * width > self.tile**2 else None
        known = cast(Generator, generator)
        needed = bytes_per_pixel(known.layer_graph(), known.in_channels) * height * width
        return AUTO_TILE if needed * _WORKING_SHARE > available_memory(device) else None


def in_smaller_tiles(run: Callable[[int], Made], tile: int, device: torch.device) -> Made | None:
    """``run(tile)``, with a half of the side as often as memory does not suffice; None if it does
    not for tiles of SMALLEST_TILE."""
    while tile >= SMALLEST_TILE:
        made = attempt(partial(run, tile), device)
        if made is not None:
            return made
        tile //= 2
    return None


def keeps_dropout(generator: nn.Module) -> bool:
    """Whether dropout goes on out of training."""
    return any(getattr(m, "lasting_dropout", None) is not None for m in generator.modules())


def can_tile(generator: nn.Module) -> bool:
    """Whether a generator tells its layers, and these are all that it does."""
    if not isinstance(generator, Generator) or keeps_dropout(generator):
        return False
    try:
        generator.layer_graph()
    except NotImplementedError:
        return False
    return True
