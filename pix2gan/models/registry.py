"""The networks by name: one frozen record each, imported when it is built."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pix2gan.errors import ConfigError

if TYPE_CHECKING:
    from .discriminators import Discriminator
    from .generator import Generator

NO_PRESETS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Architecture:
    """Where the class of a network lives, and what its name stands for."""

    module: str
    class_name: str
    presets: Mapping[str, Any] = field(default_factory=lambda: NO_PRESETS)

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module, __package__), self.class_name)


GENERATORS: Mapping[str, Architecture] = {
    "modulated_resnet": Architecture(".modulated", "ModulatedResNet"),
    "modulated_unet": Architecture(".modulated", "ModulatedUNet"),
    "pix2pixhd": Architecture(".resnet", "ResNet", {"num_downs": 4, "norm_bias": True}),
    "pix2pixhd_enhancer": Architecture(".pix2pixhd", "Pix2PixHD"),
    "resnet6": Architecture(".resnet", "ResNet", {"num_blocks": 6}),
    "resnet9": Architecture(".resnet", "ResNet", {"num_blocks": 9}),
    "unet128": Architecture(".unet", "UNet", {"num_downs": 7}),
    "unet256": Architecture(".unet", "UNet", {"num_downs": 8}),
    "unet512": Architecture(".unet", "UNet", {"num_downs": 9}),
}

DISCRIMINATORS: Mapping[str, Architecture] = {
    "patch": Architecture(".discriminators", "PatchDiscriminator"),
    "pixel": Architecture(".discriminators", "PixelDiscriminator"),
}


def create_generator(
    name: str, *, in_channels: int = 3, out_channels: int = 3, **options: Any
) -> Generator:
    """Build a generator: ``[N, in_channels, H, W]`` -> ``[N, out_channels, H, W]`` in [-1, 1].

    ``options`` are those of the class (``model_options(name)`` lists them with their defaults);
    ``create_generator(**generator.config)`` builds the same architecture again. Weights are drawn
    from torch's global generator. Unknown names and options raise ``ConfigError``.
    """
    options = {"in_channels": in_channels, "out_channels": out_channels, **options}
    return _create(GENERATORS, "generator", name, options)


def create_discriminator(name: str, *, in_channels: int, **options: Any) -> Discriminator:
    """Build a discriminator: ``[N, in_channels, H, W]`` -> a map of logits ``[N, 1, h, w]``.

    A conditional discriminator sees input and output together, so ``in_channels`` is the sum of
    both. Unknown names and options raise ``ConfigError``.
    """
    return _create(DISCRIMINATORS, "discriminator", name, {"in_channels": in_channels, **options})


def list_models(pattern: str = "*") -> list[str]:
    """The names of the generators that match a shell pattern, as in ``list_models("*unet*")``."""
    return sorted(name for name in GENERATORS if fnmatchcase(name, pattern))


def list_discriminators(pattern: str = "*") -> list[str]:
    """The names of the discriminators that match a shell pattern."""
    return sorted(name for name in DISCRIMINATORS if fnmatchcase(name, pattern))


def model_options(name: str) -> dict[str, Any]:
    """The options that the network called ``name`` takes and their defaults.

    ``inspect.Parameter.empty`` stands where there is none (a discriminator's ``in_channels``).
    """
    return _options(_find({**GENERATORS, **DISCRIMINATORS}, "network", name))


def _create(
    architectures: Mapping[str, Architecture], kind: str, name: str, options: dict[str, Any]
) -> Any:
    architecture = _find(architectures, kind, name)
    known = _options(architecture)
    for option in options:
        if option not in known:
            raise ConfigError(
                f"{name} has no option {option!r}{did_you_mean(option, known)}; "
                f"its options are {', '.join(known)}."
            )
    return architecture.load()(name=name, **{**architecture.presets, **options})


def _find(architectures: Mapping[str, Architecture], kind: str, name: str) -> Architecture:
    if name not in architectures:
        raise ConfigError(
            f"There is no {kind} called {name!r}{did_you_mean(name, architectures)}; "
            f"choose one of {', '.join(architectures)}."
        )
    return architectures[name]


def _options(architecture: Architecture) -> dict[str, Any]:
    parameters = inspect.signature(architecture.load()).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "name"}
    return {**defaults, **architecture.presets}


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` where something known is spelled alike, else nothing."""
    close = difflib.get_close_matches(str(given), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
