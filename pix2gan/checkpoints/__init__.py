"""Models as files: what `config.json` says, how weights are saved and loaded, where names lead.

The names below are imported when first touched, so that listing models does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pix2gan.checkpoints.legacy import load_legacy, save_legacy
    from pix2gan.checkpoints.load import load_model
    from pix2gan.checkpoints.model_config import ModelConfig, Preprocessing
    from pix2gan.checkpoints.native import save_model
    from pix2gan.checkpoints.resolve import list_pretrained, resolve_model

__all__ = [
    "ModelConfig",
    "Preprocessing",
    "list_pretrained",
    "load_legacy",
    "load_model",
    "resolve_model",
    "save_legacy",
    "save_model",
]

_HOME = {
    "ModelConfig": "model_config",
    "Preprocessing": "model_config",
    "list_pretrained": "resolve",
    "load_legacy": "legacy",
    "load_model": "load",
    "resolve_model": "resolve",
    "save_legacy": "legacy",
    "save_model": "native",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
