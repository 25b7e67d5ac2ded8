"""What reads which image file, and what the file says about its image.

Pillow decodes 8-bit files, and libjpeg alone, which is faster, the usual JPEGs. Pillow would reduce
16-bit colour PNG, JPEG 2000 and PNM to 8 bits without a word, so imagecodecs and NumPy decode
those; tifffile decodes TIFF, NumPy ``.npy``.
Readers raise whatever their library does; ``image_io`` makes one ``BadImageError`` of it.
"""

from __future__ import annotations

import importlib
import re
from typing import IO, TYPE_CHECKING

import numpy as np

from pix2gan.data.image_info import (
    ImageInfo,
    check_size,
    fitting_profile,
    valid_dpi,
    valid_orientation,
)
from pix2gan.data.npy_reader import NpyReader
from pix2gan.data.pixels import Array, normalise_dtype, pil_to_array, spread_to_16_bits
from pix2gan.data.png_pnm import decode_deep_pnm, find_png_chunk, parse_pnm_header
from pix2gan.data.tiff_reader import TiffReader
from pix2gan.errors import BadImageError

if TYPE_CHECKING:
    from PIL import Image


_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"P[1-6]\s"), "PPM"),
    (re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"), "JPEG2000"),
    (re.compile(rb"....ftyp(avif|avis|mif1|msf1)", re.DOTALL), "AVIF"),
    (re.compile(rb"\x93NUMPY"), "NPY"),
)

# The plugins' classes are called directly: Image.open would apply its own, process-wide size limit
# (a warning, then an error), and would offer the file to every format, some of which run programs.
_PILLOW = {
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
    "JPEG2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
}


def open_reader(file: IO[bytes], name: str) -> _PillowReader | TiffReader | NpyReader:
    """The reader for what the file begins with; its name does not matter."""
    head = file.read(64)
    if not head:
        raise BadImageError(name, "the file is empty; restore it or remove it.")
    for magic, format in _MAGIC:
        if magic.match(head):
            file.seek(0)
            if format == "NPY":
                return NpyReader(file, name)
            return (TiffReader if format == "TIFF" else _PillowReader)(file, name, format)
    known = ", ".join(format for _, format in _MAGIC)
    raise BadImageError(name, f"it is not an image in a known format; use one of {known}.")


_JPEG_END = b"\xff\xd9"


class _PillowReader:
    """A file that Pillow can open; pixels deeper than 8 bits, and those of the usual JPEGs, are
    decoded by others."""

    def __init__(self, file: IO[bytes], name: str, format: str) -> None:
        self.file, self.name, self.format = file, name, format
        self.image = open_with_pillow(file, name, format)
        self.width, self.height = self.image.size
        self.depth = self._find_depth()

    def check_size(self, max_pixels: int) -> None:
        check_size(self.name, self.width, self.height, max_pixels)

    def decode(self) -> Array:
        if self.depth > 8 and self.format in {"PNG", "JPEG2000"}:
            import imagecodecs

            data = self._whole_file()
            decode = imagecodecs.png_decode if self.format == "PNG" else imagecodecs.jpeg2k_decode
            pixels: Array = np.asarray(decode(data))
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            if pixels.dtype == np.uint16 and self.depth < 16:  # JPEG 2000 of 9 to 15 bits
                pixels = spread_to_16_bits(pixels, 2**self.depth - 1)
            return normalise_dtype(pixels)
        if self.depth > 8 and self.format == "PPM":
            return decode_deep_pnm(self._whole_file())
        if self.format == "JPEG" and self.image.mode in {"L", "RGB"}:
            data = self._whole_file()
            # Pillow finds out that the end is missing; libjpeg would make it grey.
            if data.endswith(_JPEG_END):
                return _decode_jpeg(data, self.height, self.width, self.image.mode)
        return pil_to_array(self.image)

    def info(self) -> ImageInfo:
        if self.format == "PNG" and "exif" not in self.image.info:
            # Without this Pillow decodes the whole image in search of a chunk behind the pixels.
            self.image.info["exif"] = find_png_chunk(self.file, b"eXIf")
        return _describe(self.image, self.format, self.width, self.height, self.depth)

    def _whole_file(self) -> bytes:
        self.file.seek(0)
        return self.file.read()

    def _find_depth(self) -> int:
        """Bits a channel, from the few header bytes that Pillow does not pass on."""
        position = self.file.tell()
        self.file.seek(0)
        head = self.file.read(2**16)
        self.file.seek(position)  # Pillow goes on where it stopped
        if self.format == "PNG":
            return head[24]
        if self.format == "PPM" and head[1:2] not in b"14":
            return 16 if parse_pnm_header(head)[3] > 255 else 8
        if self.format == "JPEG2000":
            start = head.find(b"\xff\x4f\xff\x51")  # the SIZ segment; Ssiz of the first channel
            return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 8
        return 1 if self.image.mode == "1" else 8


def _decode_jpeg(data: bytes, height: int, width: int, mode: str) -> Array:
    """What Pillow would decode, without its copies."""
    import imagecodecs

    pixels = np.empty((height, width, 3) if mode == "RGB" else (height, width), np.uint8)
    imagecodecs.jpeg8_decode(data, out=pixels)
    return pixels.reshape(height, width, -1)


def open_with_pillow(file: IO[bytes], name: str, format: str) -> Image.Image:
    module, class_name = _PILLOW[format]
    try:
        plugin = getattr(importlib.import_module(f"PIL.{module}"), class_name)
    except ImportError as error:
        reason = f"this Pillow cannot read {format}; install a newer one or convert the image."
        raise BadImageError(name, reason) from error
    image: Image.Image = plugin(file, name)
    return image


def _describe(image: Image.Image, format: str, width: int, height: int, depth: int) -> ImageInfo:
    orientation = _read_orientation(image)
    if orientation >= 5:
        width, height = height, width
    return ImageInfo(
        format=format,
        mode=image.mode,
        width=width,
        height=height,
        bit_depth=depth,
        icc_profile=fitting_profile(image.info.get("icc_profile")),
        dpi=valid_dpi(image.info.get("dpi")),
        orientation=orientation,
    )


def _read_orientation(image: Image.Image) -> int:
    try:
        return valid_orientation(image.getexif().get(274))
    except Exception:  # damaged EXIF is no reason to refuse sound pixels
        return 1
