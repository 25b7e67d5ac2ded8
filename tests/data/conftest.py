"""Small data sets to read, and files of every kind to open."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, features

SCRIPT = Path(__file__).parents[2] / "datasets" / "synthesize.py"


@pytest.fixture(scope="session")
def synthesize() -> Callable[..., list[Path]]:
    """``datasets/synthesize.py``, which is a script and no part of the package."""
    spec = importlib.util.spec_from_file_location("synthesize_datasets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.synthesize


def noise(height: int, width: int, channels: int, dtype: Any = np.uint8) -> np.ndarray:
    """Random pixels, the same each time."""
    rng = np.random.default_rng([height, width, channels])
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    """The bytes that tifffile writes."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def corpus() -> dict[str, bytes]:
    """One small sound file of every kind that is read, by name."""
    rgb = Image.fromarray(noise(13, 17, 3))
    rgba, grey = Image.fromarray(noise(13, 17, 4)), Image.fromarray(noise(13, 17, 1)[..., 0])
    exif = Image.Exif()
    exif[274] = 6
    files = {
        "rgb.png": encode(rgb, "PNG", exif=exif, dpi=(72, 72)),
        "rgba.png": encode(rgba, "PNG"),
        "grey.png": encode(grey, "PNG"),
        "palette.png": encode(rgb.quantize(16), "PNG", transparency=3),
        "bilevel.png": encode(grey.convert("1"), "PNG"),
        "deep.png": bytes(imagecodecs.png_encode(noise(13, 17, 3, np.uint16))),
        "deep_grey.png": bytes(imagecodecs.png_encode(noise(13, 17, 1, np.uint16)[..., 0])),
        "deep_grey_alpha.png": bytes(imagecodecs.png_encode(noise(13, 17, 2, np.uint16))),
        "rgb.jpg": encode(rgb, "JPEG", exif=exif),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": encode(rgb, "WEBP", exif=exif),
        "lossless.webp": encode(rgba, "WEBP", lossless=True),
        "rgb.tif": encode(rgb, "TIFF", compression="tiff_lzw"),
        "cmyk.tif": encode(rgb.convert("CMYK"), "TIFF"),
        "jpeg.tif": encode(rgb, "TIFF", compression="jpeg"),
        "deep.tif": tiff(noise(13, 17, 3, np.uint16), photometric="rgb", compression="zlib"),
        "float.tif": tiff(noise(13, 17, 1)[..., 0].astype(np.float32) / 255),
        "many.tif": tiff(noise(13, 17, 6), photometric="minisblack", planarconfig="contig"),
        "rgb.gif": encode(rgb, "GIF"),
        "rgb.bmp": encode(rgb, "BMP"),
        "rgb.ppm": encode(rgb, "PPM"),
        "deep.ppm": b"P6\n# deep\n17 13\n65535\n" + noise(13, 17, 3, ">u2").tobytes(),
        "text.pgm": b"P2 3 2 9\n0 1 2 3 4 9\n",
        "rgb.jp2": encode(rgb, "JPEG2000"),
        "deep.jp2": bytes(imagecodecs.jpeg2k_encode(noise(33, 37, 3, np.uint16), level=0)),
    }
    if features.check("avif"):
        files["rgb.avif"] = encode(rgb, "AVIF")
    return files


@pytest.fixture(scope="session")
def sound_files() -> dict[str, bytes]:
    """See ``corpus``."""
    return corpus()
