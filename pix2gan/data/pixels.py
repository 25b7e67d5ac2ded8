"""Pixels from any image mode, and conversions that do what a person would expect.

Arrays are ``[H, W, C]`` of dtype uint8, uint16 (0 to 65535) or float32; colours are RGB, and 2 or 4
channels end in alpha.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

from pix2gan.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def to_uint8(image: Array) -> Array:
    """Pixels as uint8: uint16 divided by 257 and rounded, floats as ``to_float`` reads them."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.rint(to_float(image) * 255).astype(np.uint8)


def to_float(image: Array) -> Array:
    """Pixels as float32 in [0, 1].

    Float images carry no range: values of up to 2 are taken as [0, 1], else of up to 255 as
    8-bit, of up to 65535 as 16-bit, and anything beyond is stretched from minimum to maximum. What
    lies outside is clipped, what is not finite becomes 0.
    """
    if image.dtype == np.uint8:
        return np.multiply(image, np.float32(1 / 255), dtype=np.float32)
    if image.dtype == np.uint16:
        return np.multiply(image, np.float32(1 / 65535), dtype=np.float32)
    values = np.where(np.isfinite(image), image, 0).astype(np.float32)
    largest = float(values.max(initial=0))
    if largest > 65535:
        smallest = float(values.min())
        spread = max(largest - smallest, 1.0)
        return ((values.astype(np.float64) - smallest) / spread).astype(np.float32)
    scale = 1 if largest <= 2 else 255 if largest <= 255 else 65535
    return np.clip(values / np.float32(scale), 0, 1)


def to_rgb(image: Array, background: int = 255) -> Array:
    """``[H, W, 3]`` of the same dtype: grey is repeated, alpha composited over ``background``.

    Args:
        image: ``[H, W, C]`` or ``[H, W]``, C from 1 to 4.
        background: Grey level 0 to 255 (for uint16 and float images the same shade).
    """
    image = with_channels(image)
    channels = image.shape[2]
    if channels > 4:
        raise DataError(f"An image of {channels} channels has no RGB form; choose 1 to 4 channels.")
    if channels in {2, 4}:
        image = _composite(image, background)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return image


def to_grey(image: Array, background: int = 255) -> Array:
    """``[H, W, 1]`` of the same dtype: luminance (ITU-R BT.601) of the composited colours."""
    image = with_channels(image)
    if image.shape[2] == 2:
        image = _composite(image, background)
    if image.shape[2] == 1 or not image.size:
        return image[..., :1]
    colours = to_rgb(image, background).astype(np.float32, copy=False)
    # A product of matrices would wake the threads of NumPy's BLAS.
    grey = cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_RGB2GRAY)
    return _like(grey, image.dtype)[..., np.newaxis]


def to_channels(image: Array, channels: int, background: int = 255) -> Array:
    """``[H, W, channels]`` of the same dtype, as a person would expect of 1, 2, 3 or 4 channels.

    Raises:
        DataError: If there is no obvious way, for example from 3 channels to 7.
    """
    image = with_channels(image)
    present = image.shape[2]
    if present == channels:
        return image
    if not is_converted(present, channels):
        raise DataError(
            f"The image has {present} channels where {channels} are expected; "
            "use images with that many channels."
        )
    if channels in {1, 3}:
        return to_grey(image, background) if channels == 1 else to_rgb(image, background)
    opaque = np.full((*image.shape[:2], 1), _white(image.dtype), image.dtype)
    alpha = image[..., -1:] if present in {2, 4} else opaque
    colours = image[..., :-1] if present in {2, 4} else image
    colours = to_grey(colours) if channels == 2 else to_rgb(colours)
    return np.concatenate([colours, alpha], axis=2)


def is_converted(present: int, channels: int) -> bool:
    """Whether ``to_channels`` can: as many stay, and 1 to 4 become one another."""
    return present == channels or (1 <= present <= 4 and 1 <= channels <= 4)


def with_channels(image: Array) -> Array:
    return image[..., np.newaxis] if image.ndim == 2 else image


def _white(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


def _composite(image: Array, background: int) -> Array:
    """Colours of ``[H, W, 2 or 4]`` over a grey of ``background`` / 255."""
    white = _white(image.dtype)
    alpha = image[..., -1:].astype(np.float32) / np.float32(white)
    shade = np.float32(background / 255 * white)
    return _like(shade + (image[..., :-1].astype(np.float32) - shade) * alpha, image.dtype)


def _like(values: Array, dtype: np.dtype[Any]) -> Array:
    return np.rint(values).astype(dtype) if dtype.kind == "u" else values.astype(dtype, copy=False)


def pil_to_array(image: Image.Image) -> Array:
    """Pixels of a PIL image of any mode as ``[H, W, C]``, its EXIF orientation not applied."""
    mode = image.mode
    has_key = "transparency" in image.info
    if mode in {"P", "PA"}:
        palette_alpha = image.palette is not None and image.palette.mode.endswith("A")
        image = image.convert("RGBA" if has_key or palette_alpha or mode == "PA" else "RGB")
    elif mode in {"1", "L", "RGB"} and has_key:
        image = image.convert("RGBA" if mode == "RGB" else "LA")
    elif mode in {"La", "RGBa"}:
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode == "LAB":
        return lab_to_rgb(np.array(image))
    elif mode not in {"L", "LA", "RGB", "RGBA", "F"} and not mode.startswith("I"):
        image = image.convert("RGB")  # CMYK, YCbCr, HSV, RGBX
    pixels: Array = np.array(image)
    return normalise_dtype(pixels.reshape(*pixels.shape[:2], -1))


def lab_to_rgb(pixels: Array) -> Array:
    """sRGB from CIELAB, uint8 ``[H, W, 3]`` in which a and b are signed bytes, as in TIFF."""
    from PIL import Image, ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    lab = Image.frombytes("LAB", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    return np.array(ImageCms.applyTransform(lab, transform))


def normalise_dtype(pixels: Array) -> Array:
    """uint8, uint16 and float32 as they are; 32-bit integers as uint16 where their values fit."""
    dtype = pixels.dtype
    if dtype.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return pixels.astype(np.uint8 if dtype.itemsize == 1 else np.uint16, copy=False)
    if dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    if dtype.kind in "iuf":
        return pixels.astype(np.float32, copy=False)
    raise ValueError(f"pixels of type {dtype} are not supported")


def spread_to_16_bits(pixels: Array, maximum: int) -> Array:
    """uint16 pixels of fewer than 16 bits, spread over 0 to 65535."""
    wide = pixels.astype(np.uint32) * 65535
    return np.minimum((wide + maximum // 2) // maximum, 65535).astype(np.uint16)


def turn_upright(pixels: Array, orientation: int) -> Array:
    """Apply an EXIF orientation (1 to 8) to ``[H, W, C]``."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
