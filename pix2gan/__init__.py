"""pix2gan turns images of one kind into images of another.

    import pix2gan
    translator = pix2gan.Translator.from_pretrained("sketch2motorbike")
    photo = translator("sketch.png")

The names below are imported when they are first touched: ``import pix2gan`` itself loads neither
torch nor anything else of weight.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from pix2gan import data, models, ops, training, translation
    from pix2gan.errors import (
        BackendError,
        BadImageError,
        CheckpointError,
        ConfigError,
        DataError,
        Pix2ganError,
    )
    from pix2gan.export import export_model
    from pix2gan.models import create_discriminator, create_generator, list_models
    from pix2gan.training import train
    from pix2gan.training.method_options import (
        CUTConfig,
        CycleGANConfig,
        FastCUTConfig,
        Pix2PixConfig,
    )
    from pix2gan.translation import Translator

__all__ = [
    "Translator",
    "Pix2PixConfig",
    "CycleGANConfig",
    "CUTConfig",
    "FastCUTConfig",
    "train",
    "create_generator",
    "create_discriminator",
    "list_models",
    "data",
    "models",
    "ops",
    "training",
    "translation",
    "export_model",
    "Pix2ganError",
    "BackendError",
    "BadImageError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "__version__",
]

# Public name -> the module that defines it.
_HOME = {
    "Translator": "pix2gan.translation",
    "Pix2PixConfig": "pix2gan.training.method_options",
    "CycleGANConfig": "pix2gan.training.method_options",
    "CUTConfig": "pix2gan.training.method_options",
    "FastCUTConfig": "pix2gan.training.method_options",
    "train": "pix2gan.training",
    "create_generator": "pix2gan.models",
    "create_discriminator": "pix2gan.models",
    "list_models": "pix2gan.models",
    "export_model": "pix2gan.export",
    "Pix2ganError": "pix2gan.errors",
    "BackendError": "pix2gan.errors",
    "BadImageError": "pix2gan.errors",
    "CheckpointError": "pix2gan.errors",
    "ConfigError": "pix2gan.errors",
    "DataError": "pix2gan.errors",
}
_SUBMODULES = frozenset({"data", "models", "ops", "training", "translation"})


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value  # the next look-up finds it without coming here
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
