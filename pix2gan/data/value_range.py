"""Which values of an image are black and white, for data whose files do not say.

Integers use their whole type unless told otherwise: 0 to 255, 0 to 65535. A 12-bit camera writes 0
to 4095 into 16 bits, a depth map metres into floats: there a range says what is black and white,
in training and, through the model's config, in every translation.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from pix2gan.data.pixels import Array, to_float
from pix2gan.errors import BadImageError, ConfigError

ValueRange: TypeAlias = tuple[float, float]
"""(black, white); black is the smaller."""


def parse_range(text: str | None, option: str) -> ValueRange | None:
    """``"0,4095"`` as (0.0, 4095.0), and None as None.

    Raises:
        ConfigError: If it is no pair of finite, rising numbers.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f'{option} takes two rising numbers as in "0,4095", got {text!r}.')
    return low, high


def to_sample(image: Array, values: ValueRange | None, name: str) -> Array:
    """An image as training takes it: uint8 as it is, all else as float32 in [0, 1].

    Args:
        image: ``[H, W, C]`` uint8, uint16 or float32.
        values: What black and white are; what lies outside is clipped. None is the whole range of
            an integer type, and [0, 1] for floats.
        name: The image's name, for errors.

    Raises:
        BadImageError: If a value is not finite, or floats without a range lie outside of [0, 1].
    """
    if image.dtype.kind == "f":
        low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 1.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadImageError(name, "it holds values that are not finite; fill or remove them.")
        # Somebody's resampling may overshoot a little.
        if values is None and not (low >= -0.01 and high <= 1.01):
            reason = (
                f"its values lie in {low:g} to {high:g}, and floats are expected in 0 to 1; say "
                "which values are black and white with input_range or output_range."
            )
            raise BadImageError(name, reason)
    if values is not None:
        return scale_range(image, values)
    if image.dtype == np.uint8:
        return image
    return np.clip(image, 0, 1) if image.dtype.kind == "f" else to_float(image)


def scale_range(image: Array, values: ValueRange) -> Array:
    """``image`` as float32 in [0, 1], where ``values`` become 0 and 1; what lies outside is
    clipped."""
    low, high = values
    scaled = (image.astype(np.float64) - low) / (high - low)
    return np.clip(scaled, 0, 1).astype(np.float32)


def restore_range(image: Array, values: ValueRange) -> Array:
    """The inverse of ``scale_range``: float32 in [0, 1] as float32 from black to white."""
    low, high = values
    return (image.astype(np.float64) * (high - low) + low).astype(np.float32)
