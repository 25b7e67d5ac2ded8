"""TIFF: grey, colour, palette, CMYK or many channels, 1 to 64 bits, integers or floats.

tifffile decodes all but the rarest, exactly and without a word on stderr; chroma-subsampled
YCbCr outside JPEG and the JPEG of TIFF 6.0 are left to Pillow.
"""

from __future__ import annotations

import logging
from typing import IO, Any

import numpy as np

from pix2gan.data.image_info import (
    ImageInfo,
    check_size,
    fitting_profile,
    valid_dpi,
    valid_orientation,
)
from pix2gan.data.pixels import Array, lab_to_rgb, normalise_dtype, pil_to_array, spread_to_16_bits
from pix2gan.errors import BadImageError

# Values of the tag PhotometricInterpretation.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR, _CIELAB = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
)
_MODES = {_RGB: "RGB", _PALETTE: "P", _CMYK: "CMYK", _YCBCR: "YCbCr", _CIELAB: "LAB"}
_OLD_JPEG, _JPEG = 6, 7
_ASSOCIATED_ALPHA = 1


class TiffReader:
    """The first page of a TIFF file."""

    def __init__(self, file: IO[bytes], name: str, format: str = "TIFF") -> None:
        import tifffile

        logging.getLogger("tifffile").addHandler(logging.NullHandler())  # nothing on stderr
        self.file, self.name = file, name
        self.page: Any = tifffile.TiffFile(file).pages.first
        self.width, self.height = int(self.page.imagewidth), int(self.page.imagelength)
        self.samples = int(self.page.samplesperpixel)
        self.photometric = int(self.page.photometric)
        bits: Any = self.page.bitspersample
        self.depth = int(max(bits)) if isinstance(bits, tuple) else int(bits)

    def check_size(self, max_pixels: int) -> None:
        """Refuse what is too large, or is larger than its file can possibly hold."""
        check_size(self.name, self.width, self.height, max_pixels)
        if self.width * self.height * self.samples > 4 * max_pixels:
            raise BadImageError(
                self.name,
                f"it has {self.samples} channels of {self.width} x {self.height} pixels, more than "
                f"4 times the {max_pixels} allowed; shrink it, or raise max_pixels.",
            )
        # tifffile would fill what is missing with zeros.
        offsets, counts = self.page.dataoffsets, self.page.databytecounts
        if not len(offsets) == len(counts) == np.prod(self.page.chunked):
            raise ValueError("strips or tiles are missing")
        size = self.file.seek(0, 2)
        parts = zip(offsets, counts, strict=True)
        if any(offset + count > size or not count for offset, count in parts):
            raise ValueError("the file ends before its pixels do")
        least = self.width * self.height * self.samples * self.depth // 8
        if int(self.page.compression) == 1 and sum(counts) < least:
            raise ValueError("there are fewer pixels than the header says")

    def decode(self) -> Array:
        """Pixels ``[H, W, C]`` as they lie in the file."""
        compression = int(self.page.compression)
        subsampled = self.photometric == _YCBCR and compression != _JPEG
        if subsampled or compression == _OLD_JPEG:
            return self._decode_with_pillow()
        if self.page.dtype is None:
            raise BadImageError(self.name, "its kind of pixels is not supported; convert it first.")
        pixels: Array = np.asarray(self.page.asarray(maxworkers=1))
        axes = self.page.axes
        if axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        elif axes == "YX":
            pixels = pixels[..., np.newaxis]
        elif axes != "YXS":
            raise BadImageError(self.name, f"it is a volume (axes {axes}); save single planes.")
        return self._interpret(pixels)

    def _interpret(self, pixels: Array) -> Array:
        """Grey, RGB or many channels with 0 as black, from what the samples stand for."""
        if self.photometric == _PALETTE:
            table = np.asarray(self.page.colormap).T  # [entries, 3] uint16
            return (table >> 8 if table.max() > 255 else table).astype(np.uint8)[pixels[..., 0]]
        pixels = _spread(pixels, self.depth)
        if self.photometric == _WHITE_IS_ZERO and pixels.dtype.kind == "u":
            pixels = np.iinfo(pixels.dtype).max - pixels
        elif self.photometric == _CMYK and self.samples >= 4 and pixels.dtype.kind == "u":
            pixels = _cmyk_to_rgb(pixels)
        elif self.photometric == _CIELAB and self.samples == 3 and pixels.dtype == np.uint8:
            pixels = lab_to_rgb(pixels)
        elif self.photometric not in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _MASK, _YCBCR}:
            raise BadImageError(
                self.name,
                f"its colour model (photometric {self.photometric}) is not supported; "
                "convert it to RGB first.",
            )
        return self._settle_alpha(normalise_dtype(pixels))

    def _settle_alpha(self, pixels: Array) -> Array:
        """Colours not multiplied by alpha; a fourth channel of RGB that is no alpha goes."""
        extra = [int(kind) for kind in self.page.extrasamples]
        if self.photometric == _RGB and pixels.shape[2] == 4 and extra == [0]:
            return pixels[..., :3]
        if extra == [_ASSOCIATED_ALPHA] and pixels.shape[2] in {2, 4} and pixels.dtype.kind == "u":
            alpha = np.maximum(pixels[..., -1:], 1).astype(np.float64)
            white = np.iinfo(pixels.dtype).max
            colours = np.minimum(np.rint(pixels[..., :-1] * (white / alpha)), white)
            return np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], axis=2)
        return pixels

    def _decode_with_pillow(self) -> Array:
        from PIL import TiffImagePlugin

        self.file.seek(0)
        image = TiffImagePlugin.TiffImageFile(self.file, self.name)
        image.getexif().pop(274, None)  # Pillow would turn it upright, and so would the caller
        image.tag_v2.pop(274, None)
        return pil_to_array(image)

    def info(self) -> ImageInfo:
        """What the tags say."""
        tags = self.page.tags
        orientation = valid_orientation(tags.valueof(274))
        width, height = self.width, self.height
        if orientation >= 5:
            width, height = height, width
        profile = tags.valueof(34675)
        return ImageInfo(
            format="TIFF",
            mode=self._mode(),
            width=width,
            height=height,
            bit_depth=self.depth,
            icc_profile=fitting_profile(bytes(profile) if profile else None),
            dpi=_read_dpi(tags),
            orientation=orientation,
        )

    def _mode(self) -> str:
        if self.photometric in _MODES:
            alpha = self.photometric == _RGB and self.samples == 4
            return "RGBA" if alpha else _MODES[self.photometric]
        if self.samples > 1:
            return "LA" if self.samples == 2 else "N-channel"
        if self.page.dtype is not None and self.page.dtype.kind == "f":
            return "F"
        return "1" if self.depth == 1 else "L" if self.depth <= 8 else "I;16"


def _spread(pixels: Array, depth: int) -> Array:
    """Samples of fewer bits than their type has, spread over the whole range of the type."""
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint8 and depth < 8:
        return (pixels.astype(np.uint16) * 255 // (2**depth - 1)).astype(np.uint8)
    if pixels.dtype == np.uint16 and depth < 16:
        return spread_to_16_bits(pixels, 2**depth - 1)
    return pixels


def _cmyk_to_rgb(pixels: Array) -> Array:
    """Each ink takes its share of the light, as Pillow has it; any alpha behind K is dropped."""
    white = np.float64(np.iinfo(pixels.dtype).max)
    light = 1 - pixels[..., :4] / white
    return np.rint(light[..., :3] * light[..., 3:] * white).astype(pixels.dtype)


def _read_dpi(tags: Any) -> tuple[float, float] | None:
    per_inch = {2: 1.0, 3: 2.54}.get(_as_int(tags.valueof(296), 2))
    try:
        (x, x_parts), (y, y_parts) = tags.valueof(282), tags.valueof(283)
        return valid_dpi((x / x_parts * per_inch, y / y_parts * per_inch)) if per_inch else None
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _as_int(value: object, default: int) -> int:
    try:
        return int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return default
