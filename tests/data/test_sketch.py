"""Sketches: lines where the photo has edges, paper elsewhere, varied by the generator alone."""

import cv2
import numpy as np
import pytest

from pix2gan.data.sketch import SKETCH_METHODS, draw_sketch
from pix2gan.errors import ConfigError

DRAWN = ("canny", "xdog", "strokes")


def disc(size: int = 128) -> np.ndarray:
    """A dark disc on white: its only edge is a circle of radius size / 4 around the middle."""
    photo = np.full((size, size, 3), 255, np.uint8)
    cv2.circle(photo, (size // 2, size // 2), size // 4, (40, 60, 120), -1, cv2.LINE_AA)
    return photo


def distance_to_circle(size: int = 128) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.abs(np.hypot(x - size // 2, y - size // 2) - size / 4)


@pytest.mark.parametrize("method", DRAWN)
def test_lines_lie_on_the_edges(method):
    sketch = draw_sketch(disc(), method)
    assert sketch.shape == (128, 128)
    assert sketch.dtype == np.uint8
    ink = sketch < 128
    assert ink.any()
    assert distance_to_circle()[ink].max() < 5
    # All around the circle, not in a part of it.
    y, x = np.nonzero(ink)
    sectors = ((np.arctan2(y - 64, x - 64) + np.pi) / (2 * np.pi) * 16).astype(int) % 16
    assert len(set(sectors)) == 16


@pytest.mark.parametrize("method", SKETCH_METHODS)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_photo_gives_blank_paper(method, level):
    flat = np.full((64, 48, 3), level, np.uint8)
    for seed in range(4):
        assert draw_sketch(flat, method, np.random.default_rng(seed)).min() == 255


@pytest.mark.parametrize("method", SKETCH_METHODS)
def test_the_generator_decides_everything(method):
    def draw(seed: int) -> np.ndarray:
        return draw_sketch(disc(), method, np.random.default_rng(seed))

    np.testing.assert_array_equal(draw(3), draw(3))
    assert len({draw(seed).tobytes() for seed in range(6)}) > 1
    np.testing.assert_array_equal(draw_sketch(disc(), method), draw_sketch(disc(), method))


def test_mixed_draws_in_every_way():
    photo, ways = disc(), set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        mixed = draw_sketch(photo, "mixed", rng)
        for method in DRAWN:
            again = np.random.default_rng(seed)
            again.choice(["canny", "xdog", "strokes"])
            if np.array_equal(mixed, draw_sketch(photo, method, again)):
                ways.add(method)
    assert ways == set(DRAWN)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (33, 7, 1), (20, 20), (90, 31, 4)])
@pytest.mark.parametrize("method", SKETCH_METHODS)
def test_any_shape(method, shape):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, shape, dtype=np.uint8)
    assert draw_sketch(photo, method, rng).shape == shape[:2]


def test_the_photo_is_not_written_to():
    photo = disc()
    photo.flags.writeable = False
    for method in SKETCH_METHODS:
        draw_sketch(photo, method, np.random.default_rng(0))
    np.testing.assert_array_equal(photo, disc())


def test_unknown_method():
    with pytest.raises(ConfigError, match=r"pencil.*canny, xdog, strokes, mixed"):
        draw_sketch(disc(), "pencil")
