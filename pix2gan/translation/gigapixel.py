"""Images with more pixels than are decoded at once: read, translated and written in parts.

libvips reads any part of a tiled TIFF, and unpacks other files to disk first. The output goes to a
scratch file as it is made, and from there, streaming, into the file that is asked for. So memory
depends on the size of a tile, and not on that of the image; the output's name appears when the
output is whole.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from torch import Tensor

from pix2gan.data.image_io import ImageInfo, read_image_info
from pix2gan.errors import BadImageError
from pix2gan.file_io import atomic_write
from pix2gan.translation.memory import is_out_of_memory
from pix2gan.translation.outputs import depth_of, without_alpha
from pix2gan.translation.processing import Array, FloatArray, Processing
from pix2gan.translation.signing import Signer
from pix2gan.translation.targets import FORMATS
from pix2gan.translation.tiling import AUTO_TILE, Tiling, can_tile, in_smaller_tiles

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator

_ANY_SIZE = 2**62
# The largest width and height that a format has.
_LONGEST = {"jpg": 65500, "webp": 16383}
_DTYPES = {"uchar": "uint8", "ushort": "uint16", "float": "float32", "double": "float32"}
_STRIP_BYTES = 2**20  # of a scratch file
# Colours that vips turns into RGB; in all other spaces the bands are what they are.
_FOREIGN_COLOURS = {"cmyk", "lab", "labq", "labs", "lch", "cmc", "xyz", "yxy", "hsv"}


def translate_gigapixel(
    translator: Translator,
    source: Path,
    target: Path,
    *,
    tiling: Tiling,
    resize: str | None = None,
    seed: int | None = None,
    quality: int = 95,
    xmp: bytes | None = None,
    signer: Signer | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Translate an image file of any size into another.

    Args:
        translator: What to translate with.
        source: The image.
        target: The output: TIFF (tiled, with its smaller versions), PNG, JPEG or WebP by its name.
        tiling: "auto" is a tile of `AUTO_TILE`; where memory does not suffice, a smaller one.
        resize: Only "none" makes sense, see `Translator.__call__`.
        seed: The style.
        quality: Of JPEG and WebP.
        xmp: What the output says about itself.
        signer: What signs it.
        progress: Told how much of the output has been made, from 0 to 1.

    Raises:
        BadImageError: If the image cannot be used, or not in this way.
        OSError: If the disk is full.
    """
    name = os.fspath(source)
    resize = resize or translator.processing.resize_mode
    _check(translator, source, target, tiling, resize)
    info = read_image_info(source, max_pixels=_ANY_SIZE)
    image = _LargeImage(source, translator.processing)
    _check_size(translator, image, target, tiling)
    side = tiling.tile if isinstance(tiling.tile, int) else AUTO_TILE
    dtype = "float32" if translator.processing.output_range is not None else image.dtype
    dtype = depth_of(target.suffix.lower(), dtype)
    with _PixelFile(image.pixel_height, image.pixel_width) as pixels:
        total = image.height * image.width

        def run(side: int) -> bool:
            done = 0

            def write(top: int, left: int, part: FloatArray) -> None:
                nonlocal done
                made = image.finish(top, left, part, dtype)
                pixels.write(made.top, made.left, _for_target(made.pixels, target))
                done += part[0].size
                if progress is not None:
                    progress(done / total)

            translator.run_in_parts(image, write, side, tiling.statistics, seed)
            return True

        if in_smaller_tiles(run, side, translator.device) is None:
            raise BadImageError(
                name,
                f"there is not enough memory on {translator.device} to translate it even in tiles; "
                "free memory or choose another device",
            )
        _save(pixels, target, quality, _kept(info, translator.processing, xmp), signer)


def _check(translator: Translator, source: Path, target: Path, tiling: Tiling, resize: str) -> None:
    """BadImageError for what needs the whole image at once."""
    name = os.fspath(source)
    if _find_vips() is None:
        raise BadImageError(
            name,
            "it has too many pixels to be decoded at once: shrink it, or "
            "pip install 'pix2gan[gigapixel]' to have it translated in parts",
        )
    if resize != "none":
        raise BadImageError(
            name,
            f"the model would see it shrunk to {translator.processing.size} pixels, and it has too "
            'many to be shrunk here: shrink it, or use resize="none" for its own resolution',
        )
    if translator.keeps_dropout:
        raise BadImageError(
            name,
            "it has too many pixels to be translated at once, and a network whose dropout goes on "
            "cannot be tiled: shrink it, or say dropout=False (--no-dropout)",
        )
    if tiling.tile is None or not can_tile(translator.generator):
        raise BadImageError(
            name, "it has too many pixels to be translated at once: shrink it, or let it be tiled"
        )
    known = [s for key in ("png", "jpg", "webp", "tiff") for s in FORMATS[key]]
    if target.suffix.lower() not in known:
        raise BadImageError(
            name,
            f"it has too many pixels to be written as {target.suffix}: choose png, jpg or tiff",
        )


def _check_size(translator: Translator, image: _LargeImage, target: Path, tiling: Tiling) -> None:
    """BadImageError if the format or the disk is too small."""
    for key, longest in _LONGEST.items():
        if target.suffix.lower() in FORMATS[key] and max(image.height, image.width) > longest:
            raise BadImageError(
                image.name,
                f"{key} holds {longest} pixels in a row at most, and this image is "
                f"{image.pixel_width} x {image.pixel_height}: choose png or tiff",
            )
    if tiling.statistics == "exact":
        needed = translator.scratch_per_pixel() * image.height * image.width
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed > free:
            raise BadImageError(
                image.name,
                f"exact statistics need about {needed / 1e9:.0f} GB of {tempfile.gettempdir()}, "
                f"where {free / 1e9:.0f} GB are free: free some, set TMPDIR to another disk, or "
                'use tile_statistics="fast", which needs none',
            )


# ------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class _Made:
    """A part of the output [h, w, C], and where in the image it lies."""

    top: int
    left: int
    pixels: Array


class _LargeImage:
    """A file as the network's input, [1, C, H, W] with its margins, read in parts.

    ``top``, ``left``, ``height`` and ``width`` count with the margins; ``pixel_height`` and
    ``pixel_width`` are the image's own.
    """

    def __init__(self, path: Path, processing: Processing) -> None:
        self.name, self.processing = os.fspath(path), processing
        self.channels = processing.channels
        self.image = _opened(path)
        self.pixel_height, self.pixel_width = self.image.height, self.image.width
        self.dtype = _DTYPES[self.image.format]
        size = (self.pixel_height, self.pixel_width)
        _, (self.height, self.width) = processing.sizes(size, "none")
        self.origin = ((self.height - size[0]) // 2, (self.width - size[1]) // 2)
        # The row and the column of the image that is seen in each of the canvas. White paper
        # surrounds drawings; where that is, any will do.
        mode = "edge" if processing.sketch else "reflect"
        self.seen = [
            np.pad(np.arange(length), (before, canvas - length - before), mode=mode)  # type: ignore[call-overload]
            for length, before, canvas in zip(
                size, self.origin, (self.height, self.width), strict=True
            )
        ]

    def read(self, first: int, last: int) -> Tensor:
        return self.part(first, last, 0, self.width)

    def columns(self, left: int, right: int) -> _Columns:
        return _Columns(self, left, right)

    def part(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        rows, columns = self.seen[0][top:bottom], self.seen[1][left:right]
        y, x = int(rows.min()), int(columns.min())
        values = self._values(y, int(rows.max()) + 1, x, int(columns.max()) + 1)[0]
        values = values.take(rows - y, 1).take(columns - x, 2)
        if self.processing.sketch:
            for axis, first, last in ((0, top, bottom), (1, left, right)):
                places = np.arange(first, last) - self.origin[axis]
                length = (self.pixel_height, self.pixel_width)[axis]
                outside = (places < 0) | (places >= length)
                values[(slice(None),) * (axis + 1) + (outside,)] = self.processing.high
        return torch.from_numpy(np.ascontiguousarray(values))[None]

    def finish(self, top: int, left: int, part: FloatArray, dtype: str) -> _Made:
        """The pixels of a part of the network's output, without margins."""
        top, left = top - self.origin[0], left - self.origin[1]
        bottom = min(top + part.shape[1], self.pixel_height)
        right = min(left + part.shape[2], self.pixel_width)
        y, x = max(top, 0), max(left, 0)
        part = part[:, y - top : bottom - top, x - left : right - left]
        alpha = self._values(y, bottom, x, right)[1] if self.image.bands in (2, 4) else None
        return _Made(y, x, self.processing.finish_part(part, alpha, self.name, dtype))

    def _values(
        self, top: int, bottom: int, left: int, right: int
    ) -> tuple[FloatArray, Array | None]:
        """A part of the image itself, float32 [C, h, w] in the model's range, and its alpha."""
        try:
            pixels: Array = self.image.crop(left, top, right - left, bottom - top).numpy()
        except _vips().Error as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise _damaged(self.name, error) from error
        return self.processing.prepare_part(pixels, self.name)


class _Columns:
    """Some of the columns of a large image."""

    def __init__(self, image: _LargeImage, left: int, right: int) -> None:
        self.image, self.left, self.right = image, left, right
        self.channels, self.height, self.width = image.channels, image.height, right - left

    def read(self, first: int, last: int) -> Tensor:
        return self.image.part(first, last, self.left, self.right)


def _opened(path: Path) -> Any:
    """A `pyvips.Image`, upright, in grey or RGB if its colours were others."""
    vips, name = _vips(), os.fspath(path)
    try:
        image = vips.Image.new_from_file(name, access="random", fail_on="truncated").autorot()
        if image.interpretation in _FOREIGN_COLOURS:
            image = image.colourspace("srgb")
    except vips.Error as error:
        raise _damaged(name, error) from error
    if image.format not in _DTYPES:
        raise BadImageError(
            name, f"its values are of the type {image.format}: save it with 16 bits"
        )
    return image.cast("float") if image.format == "double" else image


def _damaged(name: str, error: Exception) -> BadImageError:
    detail = " ".join(str(error).split())[:120]
    return BadImageError(
        name, f"it is damaged or incomplete ({detail}); restore, re-export or remove it."
    )


# ------------------------------------------------------------------------------------------ writing


class _PixelFile:
    """The pixels of an image [height, width, C], in a scratch file without a name.

    It is an uncompressed TIFF, since libvips reads that by strips. A file of bare pixels it would
    map into memory, and the whole of it would count as this process's.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.channels, self.dtype, self.start = 0, "", 0
        self.file = tempfile.TemporaryFile(prefix="pix2gan-")  # noqa: SIM115

    def __enter__(self) -> _PixelFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, top: int, left: int, part: Array) -> None:
        # part: [h, w, C], of one C and dtype always
        if not self.channels:
            self._begin(part.shape[2], part.dtype.name)
        pixel = self.channels * part.itemsize
        for number, row in enumerate(np.ascontiguousarray(part)):
            self.file.seek(self.start + ((top + number) * self.width + left) * pixel)
            self.file.write(row.tobytes())

    def _begin(self, channels: int, dtype: str) -> None:
        self.channels, self.dtype = channels, dtype
        row = self.width * channels * np.dtype(dtype).itemsize
        named = tifffile.FileHandle(self.file, name="scratch")  # or it would look for the name
        with tifffile.TiffWriter(named, bigtiff=True) as header:
            place = header.write(
                shape=(self.height, self.width, channels),
                dtype=dtype,
                photometric="rgb" if channels in (3, 4) else "minisblack",
                planarconfig="contig",
                extrasamples=["unassalpha"] if channels in (2, 4) else None,
                rowsperstrip=max(1, _STRIP_BYTES // row),
                metadata=None,
                returnoffset=True,
            )
        assert place is not None
        self.start = place[0]

    def image(self) -> Any:
        """A `pyvips.Image` that reads them, once and downwards, while this is open."""
        self.file.flush()
        vips = _vips()
        source = vips.Source.new_from_descriptor(self.file.fileno())
        spaces = ("grey16", "rgb16") if self.dtype == "uint16" else ("b-w", "srgb")
        return vips.Image.tiffload_source(source, access="sequential").copy(
            interpretation="multiband" if self.channels > 4 else spaces[self.channels > 2]
        )


def _for_target(pixels: Array, target: Path) -> Array:
    return without_alpha(pixels) if target.suffix.lower() in FORMATS["jpg"] else pixels


def _kept(info: ImageInfo, processing: Processing, xmp: bytes | None) -> dict[str, Any]:
    """What the output has of the original's metadata, and its own."""
    return {
        "icc-profile-data": None if processing.sketch else info.icc_profile,
        "xmp-data": xmp,
        "dpi": info.dpi,
    }


def _save(
    pixels: _PixelFile,
    target: Path,
    quality: int,
    kept: dict[str, Any],
    signer: Signer | None,
) -> None:
    vips = _vips()
    image = pixels.image()
    if kept["dpi"] is not None:
        x, y = kept["dpi"]
        image = image.copy(xres=x / 25.4, yres=y / 25.4)  # pixels a millimetre
    profile = kept["icc-profile-data"]
    if profile is not None and (profile[16:20] == b"GRAY") != (pixels.channels <= 2):
        kept = kept | {"icc-profile-data": None}
    image = image.copy()
    for name in ("icc-profile-data", "xmp-data"):
        if kept[name] is not None:
            image.set_type(vips.GValue.blob_type, name, kept[name])
    suffix = target.suffix.lower()
    try:
        with atomic_write(target, "wb+") as file:
            if signer is None:
                _encode(image, pixels, file, suffix, quality)
            else:
                with tempfile.TemporaryFile(dir=target.parent) as unsigned:
                    _encode(image, pixels, unsigned, suffix, quality)
                    unsigned.seek(0)
                    signer.sign_file(unsigned, file, target)
    except vips.Error as error:
        if shutil.disk_usage(target.parent).free < 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(target)) from error
        detail = " ".join(str(error).split())[:200]
        raise OSError(errno.EIO, f"libvips: {detail}", os.fspath(target)) from error


def _encode(image: Any, pixels: _PixelFile, file: IO[bytes], suffix: str, quality: int) -> None:
    to = _vips().Target.new_to_descriptor(file.fileno())
    if suffix in FORMATS["tiff"]:
        raw = pixels.height * pixels.width * pixels.channels * np.dtype(pixels.dtype).itemsize
        image.tiffsave_target(
            to,
            tile=True,
            tile_width=256,
            tile_height=256,
            pyramid=True,
            bigtiff=raw > 2**30,
            compression="deflate",
            predictor="float" if pixels.dtype == "float32" else "horizontal",
            resunit="inch",
        )
    elif suffix in FORMATS["png"]:
        image.pngsave_target(to)
    elif suffix in FORMATS["webp"]:
        image.webpsave_target(to, Q=quality)
    else:
        mode = "off" if quality >= 90 else "on"
        image.jpegsave_target(to, Q=quality, subsample_mode=mode)


# --------------------------------------------------------------------------------------------- vips


def _find_vips() -> Any | None:
    """`pyvips`, or None where it or its library is missing."""
    try:
        import pyvips
    except (ImportError, OSError):
        return None
    pyvips.cache_set_max(0)  # of operations on parts, none of which comes again
    return pyvips


def _vips() -> Any:
    vips = _find_vips()
    assert vips is not None
    return vips
