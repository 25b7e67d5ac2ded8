"""Telling pairs side by side in one image from single photos.

Cut in half, any photo would pass for a pair, and a generator would learn nonsense from it. Two
images that were put side by side meet in a seam: the step from the last column of the one to the
first of the other is unlike the steps around it. Through the middle of a photo the picture goes
on. Where both images are plain at that edge, nothing can be seen there, and the proportions
decide: two squares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from pix2gan.data.pixels import Array

Meeting: TypeAlias = Literal["seam", "goes on", "plain"]

_NEAR = 6  # columns on each side whose steps are compared with the seam's
_PLAIN = 1.5  # levels of 8 bits: below this a step is noise
_TIMES = 3.0  # a seam's step is this many times as large as those around it


@dataclass(frozen=True)
class Halves:
    """What one image cut in half looks like."""

    meeting: Meeting
    square: bool
    """Whether each half is about as wide as it is high."""


def look_at_halves(left: Array, right: Array) -> Halves:
    """Judge the two halves of an image.

    Args:
        left: ``[H, W, C]`` uint8, or float32 in [0, 1].
        right: The same shape.
    """
    height, width = left.shape[:2]
    square = abs(width - height) <= max(1, 0.02 * height)
    levels = 255.0 if left.dtype.kind == "f" else 1.0
    band = np.concatenate([left[:, -_NEAR - 1 :], right[:, : _NEAR + 1]], axis=1)
    steps = np.abs(np.diff(band.astype(np.float32) * levels, axis=1)).mean(axis=(0, 2))
    middle = min(_NEAR + 1, width) - 1
    step, around = float(steps[middle]), np.delete(steps, middle)
    usual = float(np.median(around)) if around.size else 0.0
    if max(step, usual) < _PLAIN:
        return Halves("plain", square)
    return Halves("seam" if step > _TIMES * usual + _PLAIN else "goes on", square)


def are_pairs(images: Sequence[Halves]) -> bool:
    """Whether images of one data set are pairs side by side rather than single photos."""
    counts = Counter(image.meeting for image in images)
    if counts["seam"] or counts["goes on"]:
        return counts["seam"] >= counts["goes on"]
    return 2 * sum(image.square for image in images) > len(images)
