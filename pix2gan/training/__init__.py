"""Training of translators: ``train(Pix2PixConfig(data=..., out=...))`` and other methods'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pix2gan.training.config import TrainConfig
from pix2gan.training.method_options import (
    CUTConfig,
    CycleGANConfig,
    FastCUTConfig,
    Pix2PixConfig,
)

if TYPE_CHECKING:
    from pix2gan.training.trainer import Trainer, train

__all__ = [
    "CUTConfig",
    "CycleGANConfig",
    "FastCUTConfig",
    "Pix2PixConfig",
    "TrainConfig",
    "Trainer",
    "train",
]


def __getattr__(name: str) -> Any:
    # torch is loaded when training starts, not when the command line reads the options.
    if name in ("Trainer", "train"):
        from pix2gan.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
