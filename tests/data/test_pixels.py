"""Conversions do what a person would expect, exactly where that is possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pix2gan.data.image_io import to_channels, to_float, to_grey, to_rgb, to_uint8
from pix2gan.errors import DataError

WHITE = {np.uint8: 255, np.uint16: 65535, np.float32: 1.0}


def test_8_bit_survives_float_and_16_bit_exactly() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(to_uint8(to_float(levels)), levels)
    assert np.array_equal(to_uint8(levels.astype(np.uint16) * 257), levels)
    assert to_float(levels).dtype == np.float32
    assert to_float(levels).max() == 1.0


def test_16_bit_is_rounded_to_the_nearest_8_bit_level() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert np.array_equal(to_uint8(levels), np.rint(levels / 257).astype(np.uint8))
    assert float(to_float(levels).max()) == 1.0


@pytest.mark.parametrize(("top", "expected"), [(1.0, 1.0), (1.5, 1.0), (255, 1.0), (65535, 1.0)])
def test_the_range_of_floats_is_guessed(top: float, expected: float) -> None:
    values = np.array([[[0.0], [top / 2], [top]]], np.float32)
    result = to_float(values).ravel()
    assert result[0] == 0
    assert result[2] == expected
    assert result[1] == pytest.approx(min(0.5 if top != 1.5 else 0.75, 1), abs=1e-6)


def test_floats_out_of_any_range_are_stretched_and_not_finite_ones_are_black() -> None:
    values = np.array([[[-1e6], [1e6], [0], [np.nan], [np.inf]]], np.float32)
    assert to_float(values).ravel().tolist() == [0, 1, 0.5, 0.5, 0.5]
    assert np.isfinite(to_float(np.full((2, 2, 1), np.nan, np.float32))).all()


@given(arrays.arrays(np.float32, (2, 3, 1), elements=st.floats(width=32, allow_nan=True)))
def test_any_float_image_becomes_a_picture(values: np.ndarray) -> None:
    result = to_float(values)
    assert result.dtype == np.float32
    assert ((result >= 0) & (result <= 1)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_is_composited_over_white(dtype: Any) -> None:
    white = WHITE[dtype]
    image = np.array([[[0, 0, 0, 0], [0, 0, 0, white], [white / 5, 0, 0, white]]], dtype)
    result = to_rgb(image)
    assert result.dtype == dtype
    expected = [[white] * 3, [0] * 3, [white / 5, 0, 0]]
    assert np.allclose(result[0], expected, atol=white * 1e-6)
    black = to_rgb(image, background=0)
    assert black[0, 0].tolist() == [0, 0, 0]
    half = to_rgb(np.array([[[0, 0, 0, white / 2]]], dtype))
    assert float(half[0, 0, 0]) / white == pytest.approx(0.5, abs=0.005)


def test_grey_is_repeated_and_luminance_weighted() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(to_rgb(grey), np.stack([grey] * 3, axis=2))
    assert to_grey(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)).ravel().tolist() \
        == [76, 150, 29]  # fmt: skip
    assert np.array_equal(to_grey(to_rgb(grey))[..., 0], grey)
    for channels in (1, 2, 3, 4):
        assert to_grey(np.zeros((0, 5, channels), np.uint8)).shape == (0, 5, 1)


@pytest.mark.parametrize("present", [1, 2, 3, 4])
@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_to_channels_knows_every_usual_pair(present: int, wanted: int) -> None:
    image = np.full((3, 2, present), 90, np.uint8)
    if present in {2, 4}:
        image[..., -1] = 255
    result = to_channels(image, wanted)
    assert result.shape == (3, 2, wanted)
    colours = result[..., :-1] if wanted in {2, 4} else result
    assert (colours == 90).all()
    if wanted in {2, 4}:
        assert (result[..., -1] == 255).all()


def test_to_channels_refuses_to_guess() -> None:
    many = np.zeros((2, 2, 7), np.uint8)
    assert to_channels(many, 7) is many
    for wanted in (1, 3, 5):
        with pytest.raises(DataError, match="7 channels"):
            to_channels(many, wanted)
    with pytest.raises(DataError, match="7 are expected"):
        to_channels(np.zeros((2, 2, 3), np.uint8), 7)
    with pytest.raises(DataError, match="7 channels"):
        to_rgb(many)
