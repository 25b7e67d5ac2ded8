"""Depth is never lost on the way into training, and the range of values is said, not guessed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2gan.data.image_io import open_image, read_image_info, save_image
from pix2gan.data.paired import check_paired, open_paired
from pix2gan.data.transforms import Fit, fit_image
from pix2gan.data.unpaired import check_unpaired, open_unpaired
from pix2gan.data.value_range import parse_range, restore_range, scale_range, to_sample
from pix2gan.errors import BadImageError, ConfigError, DataError


def write_pairs(folder: Path, images: dict[str, np.ndarray[Any, Any]]) -> Path:
    for side in "AB":
        (folder / side).mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        save_image(folder / name, image)
    return folder


def ramp(dtype: Any, channels: int, top: float) -> np.ndarray[Any, Any]:
    """16 x 16 values from 0 to ``top``, finer than 8 bits."""
    values = np.linspace(0, top, 256 * channels).reshape(16, 16, channels)
    return values.astype(dtype)


@pytest.mark.parametrize(
    ("suffix", "image", "values", "top"),
    [
        (".png", ramp(np.uint16, 3, 65535), None, 65535),
        (".tif", ramp(np.uint16, 1, 65535), None, 65535),
        (".npy", ramp(np.uint16, 5, 65535), None, 65535),
        (".tif", ramp(np.float32, 7, 1), None, 1),
        (".npy", ramp(np.float32, 1, 1), None, 1),
        (".png", ramp(np.uint16, 1, 4095), (0.0, 4095.0), 4095),
        (".npy", ramp(np.float32, 2, 80), (0.0, 80.0), 80),
    ],
)
def test_depth_survives(
    tmp_path: Path, suffix: str, image: np.ndarray[Any, Any], values: Any, top: float
) -> None:
    channels = image.shape[2]
    data = write_pairs(
        tmp_path, {f"A/1{suffix}": image, "B/1.png": np.zeros((16, 16, 3), np.uint8)}
    )
    options: dict[str, Any] = {"size": 16, "augment": False, "in_channels": channels}
    paired = open_paired(data, input_range=values, **options)
    assert check_paired(paired).pairs == 1
    unpaired = open_unpaired(data, input_range=values, **options)
    assert check_unpaired(unpaired).images_a == 1
    expected = image.astype(np.float64).transpose(2, 0, 1) / top * 2 - 1
    for item in (paired[0], unpaired[0]):
        assert item["A"].numpy() == pytest.approx(expected, abs=3e-7)
    back = open_paired(data, output_range=values, direction="BtoA", size=16, augment=False,
                       out_channels=channels)[0]  # fmt: skip
    assert back["B"].numpy() == pytest.approx(expected, abs=3e-7)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("fit", ["pad", "resize", "crop", "scale-width", "none"])
def test_deep_images_go_through_every_fit_and_the_augmentation(
    tmp_path: Path, channels: int, fit: Fit
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 65536, (40, 50, channels), dtype=np.uint16)
    data = write_pairs(tmp_path, {"A/1.tif": image, "B/1.tif": image})
    dataset = open_paired(
        data, size=32, fit=fit, in_channels=channels, out_channels=channels, augment="flip,crop"
    )
    for epoch in range(3):
        item = dataset[epoch, 0]
        assert item["A"].shape == (channels, 32, 32)
        assert item["A"].abs().max() <= 1
        assert np.array_equal(item["A"], item["B"])
        levels = np.unique(((item["A"].numpy() + 1) * 127.5).round(4) % 1)
        assert len(levels) > 50  # not 8 bits


def test_wide_values_in_floats_are_refused_until_a_range_is_given(tmp_path: Path) -> None:
    black = np.zeros((16, 16, 3), np.uint8)
    data = write_pairs(tmp_path, {"A/1.npy": ramp(np.float32, 1, 80), "B/1.png": black})
    with pytest.raises(DataError, match=r"1\.npy: its values lie in 0 to 80.*input_range"):
        check_paired(data)
    bad = ramp(np.float32, 1, 1)
    bad[3, 3] = np.nan
    write_pairs(tmp_path, {"A/1.npy": bad})
    with pytest.raises(DataError, match="not finite"):
        check_paired(data)


def test_ranges_are_parsed_and_inverted() -> None:
    assert parse_range("0,4095", "--input-range") == (0, 4095)
    assert parse_range(" -1 , 1.5e2", "--input-range") == (-1, 150)
    assert parse_range(None, "--input-range") is None
    for text in ("", "1", "1,0", "0,0", "0,nan", "0,inf", "0,1,2", "a,b"):
        with pytest.raises(ConfigError, match="--input-range takes two rising numbers"):
            parse_range(text, "--input-range")
    values = np.array([[[-5.0], [0.25], [99.0]]], np.float32)
    scaled = scale_range(values, (-1, 4))
    assert scaled.ravel() == pytest.approx([0, 0.25, 1])
    assert restore_range(scaled, (-1, 4)).ravel() == pytest.approx([-1, 0.25, 4])


def test_8_bits_stay_8_bits() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert to_sample(image, None, "x") is image
    assert to_sample(image, (0, 47), "x").dtype == np.float32
    assert fit_image(image, 4, "none") is not None


# -- .npy ------------------------------------------------------------------------------------------


def npy(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["?", "u1", ">u2", "<i4", "<f2", ">f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 9)])
def test_arrays_are_read_as_they_are(
    tmp_path: Path, dtype: str, order: Any, shape: tuple[int, ...]
) -> None:
    array = np.asarray(np.arange(np.prod(shape)).reshape(shape) % 2, dtype=dtype, order=order)
    (tmp_path / "x.npy").write_bytes(npy(array))
    pixels, info = open_image(tmp_path / "x.npy"), read_image_info(tmp_path / "x.npy")
    assert pixels.shape == (5, 7, shape[2] if len(shape) == 3 else 1)
    assert (info.width, info.height, info.format) == (7, 5, "NPY")
    whole = 255 if dtype == "?" else 1
    assert np.array_equal(pixels.reshape(shape), array.astype(np.float64) * whole)
    save_image(tmp_path / "y.npy", pixels)
    assert np.array_equal(open_image(tmp_path / "y.npy"), pixels)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (npy(np.array([[{}]], object), allow_pickle=True), "not numbers"),
        (npy(np.zeros((4, 4), complex)), "not numbers"),
        (npy(np.zeros(9, np.uint8)), r"its shape is \[9\]"),
        (npy(np.zeros((3, 20, 80), np.uint8)), "move the channels last"),
        (npy(np.zeros((0, 4), np.uint8)), "no pixels"),
        (npy(np.zeros((4, 4, 0), np.uint8)), "no channels"),
        (npy(np.zeros((9, 9), np.float32))[:-5], "damaged"),
        (npy(np.zeros((9, 9), np.float32))[:20], "damaged"),
        (npy(np.zeros((2, 2)))[:8] + b"\x76\0{'descr': '<f8', 'shape': (99999, 99999), "
         b"'fortran_order': False}" + b" " * 60, "pixels, more than"),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(tmp_path: Path, data: bytes, complaint: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(BadImageError, match=complaint):
        open_image(tmp_path / "x.npy")
