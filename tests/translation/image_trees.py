"""Folders of images to translate, and what is in them afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pix2gan.data.image_io import save_image
from pix2gan.translation import FolderReport, Translator, translate_folder


def write(path: Path, height: int = 16, width: int = 16, seed: int = 0, **kwargs: Any) -> Path:
    """An image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, height, width))
    save_image(path, rng.integers(0, 256, (height, width, 3), np.uint8), **kwargs)
    return path


def tree(path: Path) -> dict[str, bytes]:
    """Everything below `path`, hidden files included."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def translate(translator: Translator, source: Path, out: Path, **options: Any) -> FolderReport:
    return translate_folder(translator, source, out, **{"progress": False, **options})
