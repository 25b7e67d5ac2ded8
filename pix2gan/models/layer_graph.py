"""A generator as the list of its layers, for those who run it in another way than `forward` does.

Tiled translation does: it takes a layer after the other over an image that is larger than memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

IMAGE = "image"
"""The name of a generator's input."""


@dataclass(frozen=True)
class Input:
    """The output of an earlier layer, or ``IMAGE``; a skip of a U-Net sees it through a relu."""

    name: str
    relu: bool = False


@dataclass(frozen=True)
class Layer:
    """One step: the module sees its inputs, concatenated along the channels.

    Attributes:
        name: What later layers call its output; the last one's is the generator's.
        module: A ``ConvNormAct``, a ``BlurDown`` or a ``HalfImage``.
        inputs: What it sees.
        residual: The output that is added to its own, if any.
    """

    name: str
    module: nn.Module
    inputs: tuple[Input, ...]
    residual: str | None = None


def chain(layers: list[Layer], modules: dict[str, nn.Module], start: str) -> str:
    """Appends modules that see each other's output, the first one that of ``start``; returns the
    name of the last."""
    for name, module in modules.items():
        layers.append(Layer(name, module, (Input(start),)))
        start = name
    return start
