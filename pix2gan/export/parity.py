"""Whether an exported file makes the images that the original makes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pix2gan.checkpoints.exported import ExportedGenerator
from pix2gan.errors import CheckpointError
from pix2gan.models.generator import Generator

LARGEST, MEAN = 2e-4, 2e-5
"""How far values in [-1, 1] may be apart, anywhere and on average: a fortieth of a grey level, and
a tenth of that. The largest differences of all generators and options are around 3e-5."""

FEW, SLACK = 16, 10
"""With fewer pixels than FEW in the network's smallest planes, SLACK times as much: a norm over
pixels that are equal but for rounding magnifies that 300 times. Up to 2.3e-4 has been seen."""

_USUAL_SIDE = 64


@dataclass(frozen=True)
class Parity:
    """The shapes [N, C, H, W] that were compared, and the largest difference at any pixel."""

    shapes: list[tuple[int, ...]]
    difference: float


def check_parity(generator: Generator, exported: ExportedGenerator) -> Parity:
    """Compare two generators, in float32, on noise of eight shapes.

    Raises:
        CheckpointError: If they differ by more than is said above; says where.
    """
    shapes = _shapes(generator)
    noise = torch.Generator().manual_seed(0)
    largest = 0.0
    for number, shape in enumerate(shapes):
        x = torch.rand(shape, generator=noise) * 2 - 1
        codes: tuple[Tensor, ...] = ()
        # Every other time the styles are chosen, another one for each image.
        if generator.style_channels and number % 2:
            codes = (torch.randn(shape[0], generator.style_channels, generator=noise),)
        with torch.inference_mode():
            apart = (generator(x, *codes) - exported(x, *codes)).abs()
        difference = float(apart.max())
        pixels = (shape[2] // generator.multiple) * (shape[3] // generator.multiple)
        slack = SLACK if pixels < FEW else 1
        # Written so that what is not a number fails.
        if not (difference <= slack * LARGEST and float(apart.mean()) <= slack * MEAN):
            raise CheckpointError(
                f"The exported {generator.config['name']} does not translate as the original does: "
                f"at {list(shape)} values in [-1, 1] are {difference:.2g} apart; nothing was "
                "written"
            )
        largest = max(largest, difference)
    return Parity(shapes, largest)


def _shapes(generator: Generator) -> list[tuple[int, ...]]:
    """The smallest that the architecture takes, and usual ones, square and not."""
    unit = generator.multiple
    least = -(-generator.minimum_size // unit)
    usual = max(least, -(-_USUAL_SIDE // unit))
    return [
        (images, generator.in_channels, rows * unit, columns * unit)
        for images, rows, columns in (
            (1, least, least),
            (2, least, least + 1),
            (1, least + 1, least),
            (3, usual, usual),
            (1, usual + 2, usual),
            (2, usual, usual + 3),
            (1, usual + 2, usual + 1),
            (1, usual + 1, usual + 1),
        )
    ]
