"""Training of translators: ``train(TrainConfig(data=..., out=...))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pix2gan.training.config import TrainConfig

if TYPE_CHECKING:
    from pix2gan.training.trainer import Trainer, train

__all__ = ["TrainConfig", "Trainer", "train"]


def __getattr__(name: str) -> Any:
    # torch is loaded when training starts, not when the command line reads the options.
    if name in ("Trainer", "train"):
        from pix2gan.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
