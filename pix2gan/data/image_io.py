"""Reading and writing images: one safe way in, one atomic way out.

``open_image`` returns what the file holds, upright and in full depth, or raises one
``BadImageError`` that names the file. Arrays are ``[H, W, C]`` with C >= 1, of dtype uint8, uint16
(0 to 65535) or float32; colours are RGB, an even channel count of 2 or 4 ends in alpha.

Pillow decodes 8-bit files. It would reduce 16-bit colour PNG, JPEG 2000 and PNM to 8 bits without
a word, and knows few TIFFs beyond 8 bits, so imagecodecs, NumPy and tifffile decode those.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pix2gan.errors import BadImageError, ConfigError, DataError
from pix2gan.file_io import atomic_write

if TYPE_CHECKING:
    from PIL import Image

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
ImageSource: TypeAlias = "str | os.PathLike[str] | IO[bytes]"

MAX_PIXELS = 2**28
"""Images with more pixels than this are refused before they are decoded: 16,384 x 16,384."""

IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .tif .tiff .bmp .dib .gif .apng "
    ".pbm .pgm .ppm .pnm .jp2 .j2k .jpx .avif".split()
)
"""Suffixes (lower case) under which ``list_images`` looks for images."""


@dataclass(frozen=True)
class ImageInfo:
    """What a file says about its image, for whoever writes a translated copy of it."""

    format: str
    """"PNG", "JPEG", "TIFF" and so on."""
    mode: str
    """Pillow's name for the pixels in the file ("RGB", "P", "CMYK", "I;16"), or "N-channel"."""
    width: int
    height: int
    """Size in pixels as displayed, that is after the EXIF orientation."""
    bit_depth: int
    """Bits a channel in the file: 1 to 64."""
    icc_profile: bytes | None
    """Colour profile that fits the opened pixels; None for absent or converted (CMYK) ones."""
    dpi: tuple[float, float] | None
    orientation: int
    """EXIF orientation 1 to 8 in the file; ``open_image`` has applied it already."""


# -- reading ---------------------------------------------------------------------------------------


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode an image upright and in full depth.

    Args:
        source: A path, or a binary file (read from its current position to its end).
        max_pixels: Refuse larger images, judged by the header before anything is decoded.

    Returns:
        ``[H, W, C]`` uint8, uint16 or float32; C is 1 (grey), 2 (grey, alpha), 3 (RGB),
        4 (RGB, alpha) or whatever a many-channel TIFF holds. Palettes are resolved; CMYK, YCbCr and
        LAB become RGB; of animations and multi-page files the first image is taken.

    Raises:
        BadImageError: For whatever is wrong with the file.
    """
    return open_image_with_info(source, max_pixels=max_pixels)[0]


def open_image_with_info(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS
) -> tuple[Array, ImageInfo]:
    """As ``open_image``, and what the file says about its image besides."""
    with _reading(source) as (file, name):
        reader = _open_reader(file, name)
        reader.check_size(max_pixels)
        pixels, info = reader.decode(), reader.info()
        return _turn_upright(pixels, 1 if reader.turns_itself else info.orientation), info


def read_image_info(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """As ``open_image_with_info`` without decoding pixels; the pixels may still prove broken."""
    with _reading(source) as (file, name):
        reader = _open_reader(file, name)
        reader.check_size(max_pixels)
        return reader.info()


@contextmanager
def _reading(source: ImageSource) -> Iterator[tuple[IO[bytes], str]]:
    """Open the source, and turn whatever goes wrong meanwhile into a BadImageError."""
    name = _name_of(source)
    try:
        with _quiet, _open_source(source, name) as file:
            yield file, name
    except BadImageError:
        raise
    except MemoryError as error:
        raise BadImageError(name, "it does not fit into memory; shrink it first.") from error
    except Exception as error:  # decoders raise nearly every class there is
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(
            name,
            f"it is damaged or incomplete ({detail[:120]}); restore it, export it again or remove it.",
        ) from error


def _name_of(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>"


def _open_source(source: ImageSource, name: str) -> IO[bytes]:
    if not isinstance(source, (str, os.PathLike)):
        return io.BytesIO(source.read())
    try:
        kind = os.stat(source).st_mode
        if stat.S_ISDIR(kind):
            raise BadImageError(name, "it is a folder; name a file in it.")
        if not stat.S_ISREG(kind):  # a pipe or a device might never end
            raise BadImageError(name, "it is not a regular file; copy its content to a file first.")
        return open(source, "rb")
    except FileNotFoundError:
        raise BadImageError(name, "there is no such file; check the path.") from None
    except OSError as error:
        reason = f"it cannot be opened ({error.strerror}); check its permissions and the disk."
        raise BadImageError(name, reason) from error


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
)

# The plugins' classes are called directly: Image.open would apply its own, process-wide size limit
# (a warning, then an error), and would offer the file to every format, some of which run programs.
_PILLOW = {
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
    "JPEG2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
}


def _open_reader(file: IO[bytes], name: str) -> _PillowReader | _TiffReader:
    head = file.read(64)
    if not head:
        raise BadImageError(name, "the file is empty; restore it or remove it.")
    for magic, format in _MAGIC:
        if magic.match(head):
            file.seek(0)
            return (_TiffReader if format == "TIFF" else _PillowReader)(file, name, format)
    raise BadImageError(
        name, f"it is not an image in a known format; use one of {', '.join(_PILLOW)}."
    )


class _PillowReader:
    """A file that Pillow can open; pixels deeper than 8 bits are decoded by others."""

    turns_itself = False

    def __init__(self, file: IO[bytes], name: str, format: str) -> None:
        self.file, self.name, self.format = file, name, format
        self.image = _open_with_pillow(file, name, format)
        self.width, self.height = self.image.size
        self.depth = self._find_depth()

    def check_size(self, max_pixels: int) -> None:
        _check_size(self.name, self.width, self.height, max_pixels)

    def decode(self) -> Array:
        if self.depth > 8 and self.format in {"PNG", "JPEG2000"}:
            import imagecodecs

            data = self._whole_file()
            decode = imagecodecs.png_decode if self.format == "PNG" else imagecodecs.jpeg2k_decode
            pixels: Array = np.asarray(decode(data))
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            if pixels.dtype == np.uint16 and self.depth < 16:  # JPEG 2000 of 9 to 15 bits
                pixels = _rescale(pixels, 2**self.depth - 1)
            return _normalise_dtype(pixels)
        if self.depth > 8 and self.format == "PPM":
            return _decode_deep_pnm(self._whole_file())
        return pil_to_array(self.image)

    def info(self) -> ImageInfo:
        if self.format == "PNG" and "exif" not in self.image.info:
            # Without this Pillow decodes the whole image in search of a chunk behind the pixels.
            self.image.info["exif"] = _find_png_chunk(self.file, b"eXIf")
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
            return 16 if _parse_pnm_header(head)[3] > 255 else 8
        if self.format == "JPEG2000":
            start = head.find(b"\xff\x4f\xff\x51")  # the SIZ segment; Ssiz of the first channel
            return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 8
        return 1 if self.image.mode == "1" else 8


class _TiffReader:
    """A TIFF: Pillow for the usual 8-bit kinds, tifffile for deep, float and many-channel ones."""

    def __init__(self, file: IO[bytes], name: str, format: str) -> None:
        import tifffile

        logging.getLogger("tifffile").addHandler(logging.NullHandler())  # nothing on stderr
        self.file, self.name, self.format = file, name, format
        self.page: Any = tifffile.TiffFile(file).pages.first
        self.width, self.height = int(self.page.imagewidth), int(self.page.imagelength)
        bits = self.page.bitspersample
        self.depth = int(max(bits)) if isinstance(bits, tuple) else int(bits)
        self.image = None
        if self._is_for_pillow():
            file.seek(0)
            self.image = _open_with_pillow(file, name, "TIFF")
        self.turns_itself = self.image is not None

    def _is_for_pillow(self) -> bool:
        samples, extra = int(self.page.samplesperpixel), tuple(self.page.extrasamples)
        alpha = len(extra) == 1 and int(extra[0]) in {1, 2}
        usual = not extra or (alpha and samples in {2, 4})
        is_integer = self.page.dtype is None or self.page.dtype.kind in "ub"
        return self.depth <= 8 and is_integer and usual

    def check_size(self, max_pixels: int) -> None:
        _check_size(self.name, self.width, self.height, max_pixels)
        samples = int(self.page.samplesperpixel)
        if self.width * self.height * samples > 4 * max_pixels:
            raise BadImageError(
                self.name,
                f"it has {samples} channels of {self.width} x {self.height} pixels, more than 4 "
                f"times the {max_pixels} allowed; shrink it, or raise max_pixels.",
            )

    def decode(self) -> Array:
        if self.image is not None:
            return pil_to_array(self.image)
        pixels: Array = np.asarray(self.page.asarray(maxworkers=1))
        axes = self.page.axes
        if axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        elif axes == "YX":
            pixels = pixels[..., np.newaxis]
        elif axes != "YXS":
            raise BadImageError(self.name, f"it is a volume (axes {axes}); save single planes.")
        if int(self.page.photometric) == 0 and pixels.dtype.kind == "u":  # white is zero
            pixels = np.iinfo(pixels.dtype).max - pixels
        if pixels.dtype == np.uint16 and self.depth < 16:
            pixels = _rescale(pixels, 2**self.depth - 1)
        return _normalise_dtype(pixels)

    def info(self) -> ImageInfo:
        if self.image is not None:
            return _describe(self.image, "TIFF", self.width, self.height, self.depth)
        tags = self.page.tags
        orientation = _valid_orientation(tags.valueof(274))
        width, height = self.width, self.height
        if orientation >= 5:
            width, height = height, width
        samples = int(self.page.samplesperpixel)
        mode = {1: "F" if self.page.dtype.kind == "f" else "I;16", 3: "RGB", 4: "RGBA"}.get(
            samples, "N-channel"
        )
        profile = tags.valueof(34675)
        return ImageInfo(
            format="TIFF",
            mode=mode,
            width=width,
            height=height,
            bit_depth=self.depth,
            icc_profile=_fitting_profile(bytes(profile) if profile else None),
            dpi=_tiff_dpi(tags),
            orientation=orientation,
        )


def _open_with_pillow(file: IO[bytes], name: str, format: str) -> Image.Image:
    module, class_name = _PILLOW[format]
    try:
        plugin = getattr(importlib.import_module(f"PIL.{module}"), class_name)
    except ImportError as error:
        reason = f"this Pillow cannot read {format}; install a newer one or convert the image."
        raise BadImageError(name, reason) from error
    image: Image.Image = plugin(file, name)
    return image


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImageError(name, "its header says that it has no pixels; restore or remove it.")
    if width * height > max_pixels:
        raise BadImageError(
            name,
            f"its header says {width} x {height} pixels, more than the {max_pixels} allowed; "
            "shrink it, or raise max_pixels if you trust it.",
        )


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
        icc_profile=_fitting_profile(image.info.get("icc_profile")),
        dpi=_valid_dpi(image.info.get("dpi")),
        orientation=orientation,
    )


def _read_orientation(image: Image.Image) -> int:
    try:
        return _valid_orientation(image.getexif().get(274))
    except Exception:  # damaged EXIF is no reason to refuse sound pixels
        return 1


def _valid_orientation(value: object) -> int:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return 1
    return number if 1 <= number <= 8 else 1


def _valid_dpi(value: object) -> tuple[float, float] | None:
    try:
        x, y = (float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def _tiff_dpi(tags: Any) -> tuple[float, float] | None:
    per_inch = {2: 1.0, 3: 2.54}.get(_as_int(tags.valueof(296), 2))
    try:
        (x, x_parts), (y, y_parts) = tags.valueof(282), tags.valueof(283)
        return _valid_dpi((x / x_parts * per_inch, y / y_parts * per_inch)) if per_inch else None
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _as_int(value: object, default: int) -> int:
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return default


def _fitting_profile(profile: object) -> bytes | None:
    """The profile, if it speaks of grey or RGB; one of CMYK or LAB no longer fits the pixels."""
    if isinstance(profile, bytes) and len(profile) > 128 and profile[16:20] in {b"RGB ", b"GRAY"}:
        return profile
    return None


def _turn_upright(pixels: Array, orientation: int) -> Array:
    """Apply an EXIF orientation (1 to 8) to ``[H, W, C]``."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


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
        image = _lab_to_rgb(image)
    elif mode not in {"L", "LA", "RGB", "RGBA", "F"} and not mode.startswith("I"):
        image = image.convert("RGB")  # CMYK, YCbCr, HSV, RGBX
    pixels: Array = np.array(image)
    return _normalise_dtype(pixels.reshape(*pixels.shape[:2], -1))


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only in-place transforms return None
    return converted


def _normalise_dtype(pixels: Array) -> Array:
    """uint8, uint16 and float32 as they are; 32-bit integers as uint16 where their values fit."""
    dtype = pixels.dtype
    if dtype.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return pixels.astype(np.uint8 if dtype.itemsize == 1 else np.uint16, copy=False)
    if dtype.kind in "iu" and pixels.size and 0 <= pixels.min() and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    if dtype.kind in "iuf":
        return pixels.astype(np.float32, copy=False)
    raise ValueError(f"pixels of type {dtype} are not supported")


def _rescale(pixels: Array, maximum: int) -> Array:
    """uint16 pixels of fewer than 16 bits, spread over 0 to 65535."""
    wide = pixels.astype(np.uint32) * 65535
    return np.minimum((wide + maximum // 2) // maximum, 65535).astype(np.uint16)


_PNM_FIELD = re.compile(rb"(?:\s|#[^\n]*\n)+(\d{1,10})")


def _parse_pnm_header(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, offset of the pixels and largest value of a P2, P3, P5 or P6 file."""
    values, position = [], 2
    for _ in range(3):
        field = _PNM_FIELD.match(data, position)
        if field is None:
            raise ValueError("the PNM header is incomplete")
        values.append(int(field.group(1)))
        position = field.end()
    return values[0], values[1], position + 1, values[2]


def _decode_deep_pnm(data: bytes) -> Array:
    """PNM (netpbm) with values of up to 65535; Pillow reduces colour ones to 8 bits."""
    width, height, offset, maximum = _parse_pnm_header(data)
    channels = 3 if data[1:2] in b"36" else 1
    count = width * height * channels
    if maximum > 65535:
        raise ValueError(f"the largest value is {maximum}, PNM ends at 65535")
    if data[1:2] in b"56":
        pixels: Array = np.frombuffer(data, ">u2", count, offset)
    else:
        text = re.sub(rb"#[^\n]*", b"", data[offset:]).split(None, count)[:count]
        pixels = np.array(text, dtype=np.int64)
        if pixels.size < count or pixels.max(initial=0) > maximum:
            raise ValueError("pixels are missing or too large")
    pixels = pixels.astype(np.uint16).reshape(height, width, channels)
    return _rescale(pixels, maximum) if maximum < 65535 else pixels


def _find_png_chunk(file: IO[bytes], wanted: bytes) -> bytes:
    """Content of the first chunk of that type, or nothing; where ``file`` stands is kept."""
    start = file.tell()
    try:
        file.seek(8)
        for _ in range(100_000):
            head = file.read(8)
            if len(head) < 8:
                break
            length, kind = struct.unpack(">I4s", head)
            if kind == wanted and length < 2**24:
                return file.read(length)
            file.seek(length + 4, os.SEEK_CUR)
        return b""
    finally:
        file.seek(start)


class _QuietDecoders:
    """While any thread decodes, decoders' Python warnings are off: a broken file is an error, the
    rest is noise. ``warnings.catch_warnings`` alone is not safe with overlapping threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                module = r"PIL\.|tifffile|imagecodecs|pix2gan\.data\.image_io"
                warnings.filterwarnings("ignore", module=module)

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._filters is not None:
                self._filters.__exit__(None, None, None)


_quiet = _QuietDecoders()


# -- converting ------------------------------------------------------------------------------------


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
        return (values - smallest) / np.float32(largest - smallest)
    scale = 1 if largest <= 2 else 255 if largest <= 255 else 65535
    return np.clip(values / np.float32(scale), 0, 1)


def to_rgb(image: Array, background: int = 255) -> Array:
    """``[H, W, 3]`` of the same dtype: grey is repeated, alpha composited over ``background``.

    Args:
        image: ``[H, W, C]`` or ``[H, W]``, C from 1 to 4.
        background: Grey level 0 to 255 (for uint16 and float images the same shade).
    """
    image = _with_channels(image)
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
    image = _with_channels(image)
    if image.shape[2] == 2:
        image = _composite(image, background)
    if image.shape[2] == 1:
        return image
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = to_rgb(image, background).astype(np.float32) @ weights
    return _like(grey, image.dtype)[..., np.newaxis]


def to_channels(image: Array, channels: int, background: int = 255) -> Array:
    """``[H, W, channels]`` of the same dtype, as a person would expect of 1, 2, 3 or 4 channels.

    Raises:
        DataError: If there is no obvious way, for example from 3 channels to 7.
    """
    image = _with_channels(image)
    present = image.shape[2]
    if present == channels:
        return image
    if present > 4 or channels not in {1, 2, 3, 4}:
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


def _with_channels(image: Array) -> Array:
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
    return np.rint(values).astype(dtype) if dtype.kind == "u" else values.astype(dtype)


# -- writing ---------------------------------------------------------------------------------------

_WRITERS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}


def save_image(
    path: str | os.PathLike[str],
    image: Array,
    *,
    quality: int = 95,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write an image so that ``path`` is never half-written.

    Args:
        path: Its suffix chooses the format: .png, .jpg, .jpeg, .webp, .tif, .tiff or .bmp.
        image: ``[H, W, C]`` or ``[H, W]``: uint8; uint16 for PNG and TIFF; float32 for TIFF.
        quality: 1 to 100, for JPEG and WebP.
        icc_profile: Embedded where the format can and the profile fits the channels.
        dpi: Resolution, embedded where the format can.

    Raises:
        ConfigError: If the format cannot hold such an image; nothing is silently reduced.
        OSError: If the disk or the folder does not permit it.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise ConfigError(
            f"Cannot write {os.fspath(path)}: choose a name that ends in {', '.join(_WRITERS)}."
        )
    data = encode_image(image, _WRITERS[suffix], quality=quality, icc_profile=icc_profile, dpi=dpi)
    with atomic_write(path) as file:
        file.write(data)


def encode_image(
    image: Array,
    format: str,
    *,
    quality: int = 95,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """The bytes of an image file; ``format`` is "PNG", "JPEG", "WEBP", "TIFF" or "BMP"."""
    image = _with_channels(image)
    channels = image.shape[2]
    icc_profile = _profile_for(icc_profile, channels)
    if format == "TIFF" and (image.dtype != np.uint8 or channels > 4):
        return _encode_tiff(image, icc_profile, dpi)
    if format == "PNG" and image.dtype == np.uint16 and channels in {1, 2, 3, 4}:
        return _encode_deep_png(image, icc_profile, dpi)
    holds = {"PNG": 4, "TIFF": 4, "WEBP": 4, "JPEG": 3, "BMP": 4}.get(format, 0)
    if image.dtype != np.uint8 or channels > holds or (format == "JPEG" and channels == 2):
        raise ConfigError(
            f"{format} cannot hold {channels} channels of {image.dtype}; "
            "choose PNG (up to 16 bits, alpha) or TIFF (anything), or convert the image first."
        )
    from PIL import Image

    if channels == 2 and format == "BMP":
        image = to_channels(image, 4)
    pil = Image.fromarray(np.ascontiguousarray(image[..., 0] if channels == 1 else image))
    options: dict[str, Any] = {}
    if icc_profile and format != "BMP":
        options["icc_profile"] = icc_profile
    if dpi and format != "WEBP":
        options["dpi"] = dpi
    if format == "JPEG":
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    if format == "WEBP":
        options |= {"quality": quality}
    if format == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
    buffer = io.BytesIO()
    pil.save(buffer, format, **options)
    return buffer.getvalue()


def _profile_for(profile: bytes | None, channels: int) -> bytes | None:
    space = b"GRAY" if channels <= 2 else b"RGB "
    return profile if profile and channels <= 4 and profile[16:20] == space else None


def _encode_tiff(image: Array, icc_profile: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    import tifffile

    channels = image.shape[2]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        image[..., 0] if channels == 1 else image,
        photometric="rgb" if channels in {3, 4} else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in {2, 4} else None,
        compression="zlib",
        iccprofile=icc_profile,
        resolution=dpi,
        resolutionunit="INCH" if dpi else None,
        metadata=None,
    )
    return buffer.getvalue()


def _encode_deep_png(
    image: Array, icc_profile: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    """16-bit PNG of any channel count; profile and resolution are put behind the header."""
    import imagecodecs

    image = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
    data = bytes(imagecodecs.png_encode(image))
    extra = b""
    if icc_profile:
        extra += _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        per_metre = [round(value / 0.0254) for value in dpi]
        extra += _png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    end_of_header = 8 + 25  # signature, IHDR
    return data[:end_of_header] + extra + data[end_of_header:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


# -- finding ---------------------------------------------------------------------------------------


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """Image files (by suffix) in ``folder`` in natural order: ``2.png`` before ``10.png``.

    Hidden files and folders are left out; linked folders are followed, each once.

    Raises:
        DataError: If there is no such folder.
    """
    if not os.path.isdir(folder):
        raise DataError(f"There is no folder {os.fspath(folder)}; check the path.")
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        found += [Path(parent, name) for name in files if _is_image_name(name)]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that compares runs of digits as numbers and ignores case."""
    parts = re.split(r"([0-9]+)", text)  # text and digits take turns, so like meets like
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], text
