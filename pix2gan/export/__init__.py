"""Trained generators as files for other runtimes: ONNX, `torch.export`, AOTInductor.

The names below are imported when first touched, so that the command line can ask for them before
it knows whether torch will be needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pix2gan.export.model import Exported, export_model

__all__ = ["Exported", "export_model"]

_HOME = {"Exported": "model", "export_model": "model"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
