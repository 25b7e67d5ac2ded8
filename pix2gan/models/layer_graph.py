"""A generator as the list of its layers, for those who run it in another way than `forward` does.

Tiled translation does: it takes a layer after the other over an image that is larger than memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from pix2gan import ops

from .blocks import BlurDown, Border, Geometry, pad

IMAGE = "image"
"""The name of a generator's input."""

Statistics = Mapping[str, ops.InstanceNormStats]
"""Of each layer that normalises, by its name."""

StatisticsOf = Callable[["Layer", Tensor], ops.InstanceNormStats]
"""The statistics by which a layer normalises what it has convolved, [N, C, H, W]."""


class Step(Protocol):
    """What a layer does: something with neighbourhoods, then something with every pixel.

    ``border`` is how the first wants its input padded. ``out_channels`` is None where there are as
    many as came in.
    """

    @property
    def border(self) -> Border: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def out_channels(self) -> int | None: ...
    @property
    def normalises(self) -> bool: ...

    def convolve(self, x: Tensor) -> Tensor: ...

    def finish(
        self, x: Tensor, stats: ops.InstanceNormStats | None, residual: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class Input:
    """The output of an earlier layer, or ``IMAGE``; a skip of a U-Net sees it through a relu."""

    name: str
    relu: bool = False


@dataclass(frozen=True)
class Layer:
    """One step, which sees its inputs, concatenated along the channels.

    Attributes:
        name: What later layers call its output; the last one's is the generator's.
        step: A ``ConvNormAct``, a ``Resampling`` or a ``StyledLayer``.
        inputs: What it sees.
        residual: The output that is added to its own, if any.
    """

    name: str
    step: Step
    inputs: tuple[Input, ...]
    residual: str | None = None

    @property
    def sees(self) -> list[str]:
        """The outputs that it needs."""
        residual = [] if self.residual is None else [self.residual]
        return [each.name for each in self.inputs] + residual


def chain(layers: list[Layer], modules: Mapping[str, nn.Module], start: str) -> str:
    """Appends modules that see each other's output, the first one that of ``start``; returns the
    name of the last."""
    for name, module in modules.items():
        if isinstance(module, BlurDown):
            layers.append(Layer(f"{name}.layer", module.layer, (Input(start),)))
            layers.append(Layer(name, module.shrink, (Input(f"{name}.layer"),)))
        else:
            layers.append(Layer(name, cast(Step, module), (Input(start),)))
        start = name
    return start


def last_uses(layers: Sequence[Layer]) -> list[list[str]]:
    """For each layer the outputs that nobody needs any longer when it is done."""
    left = Counter(name for layer in layers for name in layer.sees)
    finished = []
    for layer in layers:
        left.subtract(layer.sees)
        finished.append([name for name in dict.fromkeys(layer.sees) if left[name] == 0])
    return finished


def run_layers(layers: Sequence[Layer], x: Tensor, statistics: StatisticsOf) -> Tensor:
    """A forward pass, [N, C, H, W], whose norms ask for their statistics ([N, C] or [1, C])."""
    planes = {IMAGE: x}
    for layer, finished in zip(layers, last_uses(layers), strict=True):
        parts = [planes[e.name].relu() if e.relu else planes[e.name] for e in layer.inputs]
        seen = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        del parts
        residual = None if layer.residual is None else planes[layer.residual]
        made = layer.step.convolve(pad(seen, layer.step.border))
        stats = statistics(layer, made) if layer.step.normalises else None
        planes[layer.name] = layer.step.finish(made, stats, residual)
        for name in finished:
            del planes[name]
    return planes[layers[-1].name]


def receptive_radius(layers: Sequence[Layer]) -> dict[str, int]:
    """How far beyond a part of the output that part of each plane reaches that it depends on, norms
    aside: ``IMAGE`` and every layer, in pixels of that plane.

    The part begins and ends at a multiple of what the generator takes.
    """
    reach = dict.fromkeys([IMAGE, *(layer.name for layer in layers)], 0)
    for layer in reversed(layers):
        up, down, beyond = layer.step.geometry
        needed = -(-reach[layer.name] * down // up) + beyond
        for each in layer.inputs:
            reach[each.name] = max(reach[each.name], needed)
        if layer.residual is not None:
            reach[layer.residual] = max(reach[layer.residual], reach[layer.name])
    return reach
