"""Applying a trained generator: to one image, a list, a folder.

The names below are imported when first touched: the command line asks for some of them before it
knows whether torch will be needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pix2gan.data.sheet import side_by_side
    from pix2gan.translation.folder import translate_folder, translate_paths
    from pix2gan.translation.folder_report import FolderReport
    from pix2gan.translation.translator import Translator
    from pix2gan.translation.video import translate_video

__all__ = [
    "FolderReport",
    "Translator",
    "side_by_side",
    "translate_folder",
    "translate_paths",
    "translate_video",
]

_HOME = {
    "FolderReport": "pix2gan.translation.folder_report",
    "Translator": "pix2gan.translation.translator",
    "side_by_side": "pix2gan.data.sheet",
    "translate_folder": "pix2gan.translation.folder",
    "translate_paths": "pix2gan.translation.folder",
    "translate_video": "pix2gan.translation.video",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
