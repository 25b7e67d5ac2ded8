"""Reading, writing and finding images: one safe way in, one atomic way out.

``open_image`` returns what the file holds, upright and in full depth, or raises one
``BadImageError`` that names the file. Arrays are ``[H, W, C]`` with C >= 1, of dtype uint8, uint16
(0 to 65535) or float32; colours are RGB, an even channel count of 2 or 4 ends in alpha.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

from pix2gan.data.image_encoding import encode_image
from pix2gan.data.image_info import ImageInfo
from pix2gan.data.image_readers import open_reader
from pix2gan.data.pixels import (
    Array,
    pil_to_array,
    to_channels,
    to_float,
    to_grey,
    to_rgb,
    to_uint8,
    turn_upright,
)
from pix2gan.errors import BadImageError, ConfigError, DataError
from pix2gan.file_io import atomic_write

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Array",
    "ImageInfo",
    "ImageSource",
    "encode_image",
    "format_of",
    "is_image_name",
    "list_images",
    "natural_key",
    "open_image",
    "open_image_with_info",
    "pil_to_array",
    "read_image_info",
    "save_image",
    "to_channels",
    "to_float",
    "to_grey",
    "to_rgb",
    "to_uint8",
]

ImageSource: TypeAlias = "str | os.PathLike[str] | IO[bytes]"

MAX_PIXELS = 2**28
"""Images with more pixels than this are refused before they are decoded: 16,384 x 16,384."""

# Files of up to so many bytes are read at once: each of a reader's many steps in a file lets go of
# the interpreter's lock, which a busy thread next to it does not give back soon.
_READ_AT_ONCE = 2**22

_SUFFIXES_BY_FORMAT = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
    "NPY": (".npy",),
}

IMAGE_SUFFIXES = frozenset(suffix for group in _SUFFIXES_BY_FORMAT.values() for suffix in group)
"""Suffixes (lower case) under which ``list_images`` looks for images."""

_IMAGE_ENDINGS = tuple(IMAGE_SUFFIXES)  # `endswith` takes a tuple, and is faster than a Path


# -- reading ---------------------------------------------------------------------------------------


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode an image upright and in full depth.

    Args:
        source: A path, or a binary file (read from its current position to its end).
        max_pixels: Refuse larger images, judged by the header before anything is decoded.

    Returns:
        ``[H, W, C]`` uint8, uint16 or float32; C is 1 (grey), 2 (grey, alpha), 3 (RGB),
        4 (RGB, alpha) or whatever a many-channel TIFF or ``.npy`` holds. Palettes are resolved;
        CMYK, YCbCr and LAB become RGB; of animations and multi-page files the first image is taken.

    Raises:
        BadImageError: For whatever is wrong with the file.
    """
    return open_image_with_info(source, max_pixels=max_pixels)[0]


def open_image_with_info(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS
) -> tuple[Array, ImageInfo]:
    """As ``open_image``, and what the file says about its image besides."""
    with _reading(source, at_once=True) as (file, name):
        reader = open_reader(file, name)
        reader.check_size(max_pixels)
        pixels, info = reader.decode(), reader.info()
        return turn_upright(pixels, info.orientation), info


def read_image_info(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """As ``open_image_with_info`` without decoding pixels; the pixels may still prove broken."""
    with _reading(source, at_once=False) as (file, name):
        reader = open_reader(file, name)
        reader.check_size(max_pixels)
        return reader.info()


@contextmanager
def _reading(source: ImageSource, *, at_once: bool) -> Iterator[tuple[IO[bytes], str]]:
    """Open the source, and turn whatever goes wrong meanwhile into a BadImageError."""
    name = _name_of(source)
    try:
        with _quiet, _open_source(source, name, at_once) as file:
            yield file, name
    except BadImageError:
        raise
    except MemoryError as error:
        raise BadImageError(name, "it does not fit into memory; shrink it first.") from error
    except Exception as error:  # decoders raise nearly every class there is
        # Of a KeyError or the like the text means nothing to people.
        telling = isinstance(error, (OSError, ValueError, SyntaxError, EOFError, RuntimeError))
        detail = f" ({' '.join(str(error).split())[:120]})" if telling and str(error) else ""
        reason = f"it is damaged or incomplete{detail}; restore, re-export or remove it."
        raise BadImageError(name, reason) from error


def _name_of(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>"


def _open_source(source: ImageSource, name: str, at_once: bool) -> IO[bytes]:
    if not isinstance(source, (str, os.PathLike)):
        return io.BytesIO(source.read())
    try:
        status = Path(source).stat()
        kind = status.st_mode
        if stat.S_ISDIR(kind):
            raise BadImageError(name, "it is a folder; name a file in it.")
        if not stat.S_ISREG(kind):  # a pipe or a device might never end
            raise BadImageError(name, "it is not a regular file; copy its content to a file first.")
        if at_once and status.st_size <= _READ_AT_ONCE:
            return io.BytesIO(Path(source).read_bytes())
        return Path(source).open("rb")
    except FileNotFoundError:
        raise BadImageError(name, "there is no such file; check the path.") from None
    except OSError as error:
        reason = f"it cannot be opened ({error.strerror}); check its permissions and the disk."
        raise BadImageError(name, reason) from error


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


# -- writing ---------------------------------------------------------------------------------------

_WRITERS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".npy": "NPY",
}


def save_image(
    path: str | os.PathLike[str],
    image: Array,
    *,
    quality: int = 95,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    xmp: bytes | None = None,
) -> None:
    """Write an image so that ``path`` is never half-written.

    Args:
        path: Its suffix chooses the format: .png, .jpg, .jpeg, .webp, .tif, .tiff, .bmp or
            .npy.
        image: ``[H, W, C]`` or ``[H, W]``: uint8; uint16 for PNG, TIFF and .npy; float32 for TIFF
            and .npy.
        quality: 1 to 100, for JPEG and WebP.
        icc_profile: Embedded where the format can and the profile fits the channels.
        dpi: Resolution, embedded where the format can.
        xmp: An XMP packet, embedded where the format can (not in BMP).

    Raises:
        ConfigError: If the format cannot hold such an image; nothing is silently reduced.
        OSError: If the disk or the folder does not permit it.
    """
    data = encode_image(
        image, format_of(path), quality=quality, icc_profile=icc_profile, dpi=dpi, xmp=xmp
    )
    with atomic_write(path) as file:
        file.write(data)


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that ``save_image`` chooses by the name: "PNG", "JPEG" and so on."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise ConfigError(
            f"Cannot write {os.fspath(path)}: choose a name that ends in {', '.join(_WRITERS)}."
        )
    return _WRITERS[suffix]


# -- finding ---------------------------------------------------------------------------------------


def list_images(
    folder: str | os.PathLike[str],
    recursive: bool = True,
    closed: Callable[[OSError], None] | None = None,
) -> list[Path]:
    """Image files (by suffix) in ``folder`` in natural order: ``2.png`` before ``10.png``.

    Hidden files and folders are left out. Linked folders are followed, each once, but for those
    that lead back to where the link lies: the folder's surroundings are not in it.

    Args:
        folder: Where to look.
        recursive: In its sub-folders, too.
        closed: Told of each folder that cannot be read, which is an error otherwise.

    Raises:
        DataError: If there is no such folder, or one of them cannot be read.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # it has gone meanwhile
        if closed is None:
            raise unreadable(error.filename, error.strerror or str(error)) from None
        closed(error)

    if not Path(folder).is_dir():
        raise DataError(f"There is no folder {os.fspath(folder)}; check the path.")
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        try:
            status = Path(parent).stat()
        except FileNotFoundError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(
            name
            for name in folders
            if recursive and not name.startswith(".") and not _leads_back(Path(parent, name))
        )
        found += [Path(parent, name) for name in files if is_image_name(name)]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def unreadable(folder: str | os.PathLike[str], reason: str) -> DataError:
    """The error for a folder that cannot be looked into."""
    return DataError(
        f"The folder {os.fspath(folder)} cannot be read ({reason}): get access to it, or move it "
        "away"
    )


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that the link lies in, however deep."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image that ``list_images`` finds: not hidden, by suffix."""
    return not name.startswith(".") and name.lower().endswith(_IMAGE_ENDINGS)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that compares runs of digits as numbers and ignores case."""
    parts = re.split(r"([0-9]+)", text)  # text and digits take turns, so like meets like
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], text
