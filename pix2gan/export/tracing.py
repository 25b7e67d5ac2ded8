"""A generator as a graph of standard operators, for batches and images of any size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pix2gan.export.standard_operators import decompositions
from pix2gan.models.generator import Generator
from pix2gan.models.style import StyledGenerator

IMAGE, STYLE, TRANSLATION = "image", "style", "translation"


class Plain(nn.Module):
    """The forward pass alone: what it checks is the business of whoever runs the graph."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> Tensor:
        last = len(self.generator.stage_channels) - 1
        return self.generator.run_stages(image, (last,))[last]


class PlainStyled(nn.Module):
    """The same of a generator with styles, one code for the batch; zeros stand for the fixed style.

    Only a code's direction counts, and zeros have none, so that no code is lost by this.
    """

    fixed: Tensor

    def __init__(self, generator: StyledGenerator) -> None:
        super().__init__()
        self.generator = generator
        with torch.no_grad():
            draws = generator.fixed_draws.to(generator.affine.weight.dtype)
            self.register_buffer("fixed", generator.mapping(draws).mean(0, keepdim=True))

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        generator = self.generator
        given = style.abs().amax(1, keepdim=True) > 0  # [1, 1]
        codes = torch.where(given, generator.mapping(style), self.fixed)
        # A row for each image, made by an addition: a view of one row would be asked for its
        # memory format, which a batch of one answers differently.
        rows = image.new_zeros(image.shape[0], 1)
        parts = generator.affine(codes).split(generator.style_sizes, dim=1)
        styles = [part + rows for part in parts]
        last = len(generator.stage_channels) - 1
        return generator.run_stages(image, (last,), styles)[last]


def trace(generator: Generator) -> ExportedProgram:
    """The graph of a generator, on the CPU and in evaluation mode.

    Its inputs are the image [N, C, H, W] and, of a generator with styles, the style code [1, Z];
    N is any number, H and W are multiples of ``generator.multiple`` from ``minimum_size`` on.
    """
    multiple = generator.multiple
    least = -(-generator.minimum_size // multiple)
    image = torch.zeros(2, generator.in_channels, (least + 1) * multiple, (least + 2) * multiple)
    dims: list[dict[int, Any]] = [
        {
            0: Dim("batch", min=1),
            2: multiple * Dim("h", min=least),
            3: multiple * Dim("w", min=least),
        }
    ]
    inputs: tuple[Tensor, ...] = (image,)
    module: nn.Module = Plain(generator)
    if isinstance(generator, StyledGenerator):
        module = PlainStyled(generator)
        inputs = (image, torch.ones(1, generator.style_channels))
        dims.append({})
    # Or the graph would insist on inner planes of more than one pixel.
    any_size = torch.fx.experimental._config.patch(  # type: ignore[attr-defined]
        backed_size_oblivious=True
    )
    with quiet_exporters(), any_size, torch.no_grad():
        program = torch.export.export(
            module.eval(), inputs, dynamic_shapes=tuple(dims), strict=False
        )
        return program.run_decompositions(decompositions())


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without what PyTorch's exporters say about themselves, as that torchvision is missing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
