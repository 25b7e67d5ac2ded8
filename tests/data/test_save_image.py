"""What is written reads back, whole and with its metadata, or is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pix2gan.data.image_io import (
    encode_image,
    open_image,
    open_image_with_info,
    read_image_info,
    save_image,
)
from pix2gan.errors import ConfigError


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def noise(height: int, width: int, channels: int, dtype: Any = np.uint8) -> np.ndarray:
    rng = np.random.default_rng([height, width, channels])
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def srgb() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_round_trip(tmp_path: Path, dtype: Any, channels: int, suffix: str) -> None:
    pixels = noise(7, 5, channels, dtype)
    save_image(tmp_path / f"a{suffix}", pixels)
    result, info = open_image_with_info(tmp_path / f"a{suffix}")
    assert result.dtype == dtype
    assert np.array_equal(result, pixels)
    assert info.bit_depth == np.dtype(dtype).itemsize * 8


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_float_and_many_channels_go_into_tiff(tmp_path: Path, channels: int) -> None:
    pixels = noise(7, 5, channels).astype(np.float32) / 255
    save_image(tmp_path / "a.tiff", pixels)
    assert np.array_equal(open_image(tmp_path / "a.tiff"), pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp", ".bmp"])
def test_other_formats_keep_the_picture(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    save_image(tmp_path / f"a{suffix}", pixels)
    result = open_image(tmp_path / f"a{suffix}").astype(int)
    assert np.abs(result - pixels).max() <= 4
    assert names_in(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("quality", [1, 60, 89, 90, 100])
@pytest.mark.parametrize("dpi", [None, (72.0, 300.4)])
def test_jpegs_are_what_pillow_writes(quality: int, dpi: tuple[float, float] | None) -> None:
    pixels = noise(33, 50, 3)[:, ::-1]
    buffer = io.BytesIO()
    options = {"dpi": dpi} if dpi else {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, **options
    )
    assert encode_image(pixels, "JPEG", quality=quality, dpi=dpi) == buffer.getvalue()
    assert encode_image(pixels, "JPEG", dpi=(1e5, 1e5)) == encode_image(pixels, "JPEG")


def test_height_and_width_alone_are_grey(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", noise(7, 5, 1)[..., 0])
    assert np.array_equal(open_image(tmp_path / "a.png"), noise(7, 5, 1))


def test_quality_matters() -> None:
    pixels = noise(32, 32, 3)
    for format in ("JPEG", "WEBP"):
        assert len(encode_image(pixels, format, quality=20)) < len(encode_image(pixels, format))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_profile_and_resolution_are_kept(tmp_path: Path, dtype: Any, suffix: str) -> None:
    if suffix == ".jpg" and dtype == np.uint16:
        pytest.skip("JPEG has 8 bits")
    path = tmp_path / f"a{suffix}"
    profile = srgb()  # once: it holds the time at which it was made
    save_image(path, noise(7, 5, 3, dtype), icc_profile=profile, dpi=(300, 150))
    info = read_image_info(path)
    assert info.icc_profile == profile
    assert info.dpi == pytest.approx((300, 150), rel=1e-3)
    if dtype == np.uint8:  # a second opinion
        with Image.open(path) as image:
            assert image.info["icc_profile"] == profile


def test_a_profile_of_other_channels_is_left_out(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", noise(7, 5, 1), icc_profile=srgb())
    assert read_image_info(tmp_path / "a.png").icc_profile is None


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("a.jpg", (4, 4, 3), np.uint16),
        ("a.jpg", (4, 4, 4), np.uint8),
        ("a.webp", (4, 4, 3), np.uint16),
        ("a.png", (4, 4, 3), np.float32),
        ("a.png", (4, 4, 7), np.uint8),
        ("a.xyz", (4, 4, 3), np.uint8),
        ("a", (4, 4, 3), np.uint8),
    ],
)
def test_nothing_is_silently_reduced(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: Any
) -> None:
    with pytest.raises(ConfigError, match="choose"):
        save_image(tmp_path / name, np.zeros(shape, dtype))
    assert names_in(tmp_path) == []


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", noise(4, 4, 3))
    with pytest.raises(ConfigError):
        save_image(tmp_path / "a.png", np.zeros((4, 4, 9), np.uint8))
    assert np.array_equal(open_image(tmp_path / "a.png"), noise(4, 4, 3))
