"""The errors that pix2gan raises on purpose.

Each message is one sentence (or a few short lines) that says what is wrong with which file and what
to do about it, so that the command line can print ``str(error)`` and nothing else.
"""

from __future__ import annotations

import os
from typing import Any


class Pix2ganError(Exception):
    """Whatever a user can put right; the command line prints it without a traceback."""


class BadImageError(Pix2ganError):
    """An image that cannot be used: broken, empty, not an image, or too large to decode safely.

    ``path`` names the image as the user knows it, ``reason`` says what is wrong and what to do.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(f"Cannot use image {self.path}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception pickles its formatted message as the only argument; workers send these home.
        return type(self), (self.path, self.reason)


class ImageTooLargeError(BadImageError):
    """An image whose header says that it has more pixels than may be decoded at once."""


class DataError(Pix2ganError):
    """A data set that does not fit together: no layout recognised, unmatched or broken files."""


class ConfigError(Pix2ganError):
    """An option with a value that makes no sense, or options that contradict each other."""


class CheckpointError(Pix2ganError):
    """A model or training checkpoint that is missing, damaged or of another kind than expected."""


class BackendError(Pix2ganError):
    """A forced backend of ``pix2gan.ops`` that is unavailable or lacks what it was asked for."""
