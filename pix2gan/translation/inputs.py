"""Whatever a caller may hand to a translator, as an array and a name for it."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pix2gan.data.image_io import open_image, pil_to_array, to_float
from pix2gan.data.value_range import ValueRange
from pix2gan.errors import BadImageError
from pix2gan.translation.processing import Array

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | Array | Tensor"


def read_image(image: ImageLike, name: str, values: ValueRange | None = None) -> tuple[Array, str]:
    """The pixels of `image`, upright, and what to call it in errors.

    Args:
        image: A path; a PIL image of any mode; an array [H, W] or [H, W, C]; a tensor [H, W] or
            [C, H, W], floating point in [0, 1] or uint8.
        name: What to call it if it has no name of its own: its number, put behind "image".
        values: What is black and white in the model's inputs, where that is not the whole range.

    Returns:
        [H, W] or [H, W, C] in the dtype of the original; names of files are their paths.

    Raises:
        BadImageError: If it cannot be read.
        TypeError: If it is none of these.
    """
    if isinstance(image, (str, os.PathLike)):
        return as_unit_range(open_image(image), values), os.fspath(image)
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "") or name)
        try:
            return as_unit_range(pil_to_array(_upright(image)), values), name
        except Exception as error:  # a file that Pillow opened lazily may break only now
            reason = f"it cannot be decoded ({error}); open it again from a sound file"
            raise BadImageError(name, reason) from error
    if isinstance(image, Tensor):
        return _tensor_to_array(image, name), name
    if isinstance(image, np.ndarray):
        return image, name
    raise TypeError(
        f"image {name} is a {type(image).__name__}; give a path, a PIL image, an array, a tensor "
        "or a list of them"
    )


def as_unit_range(pixels: Array, values: ValueRange | None) -> Array:
    """Integers as they are; floats from a file, which carries no range, in [0, 1].

    Where the model knows the range (``values``) it is left to ``Processing``.
    """
    return to_float(pixels) if pixels.dtype == np.float32 and values is None else pixels


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF is no reason to refuse sound pixels
        return image


def _tensor_to_array(tensor: Tensor, name: str) -> Array:
    tensor = tensor.detach().cpu()
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() != 3:
        raise BadImageError(
            name, f"expected a tensor [C, H, W] or [H, W], got shape {list(tensor.shape)}"
        )
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    array: Array = tensor.permute(1, 2, 0).numpy()
    return array
