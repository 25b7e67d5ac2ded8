"""The bundled drawings: real pictures, the same every time, at any size."""

import numpy as np
import pytest

from pix2gan.demo.drawings import DRAWINGS, Circle, Curve, render_drawing


def test_there_are_enough():
    assert len(DRAWINGS) >= 4


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_lines_on_white(name):
    picture = render_drawing(name)
    assert picture.mode == "L"
    assert picture.size == (256, 256)
    ink = np.asarray(picture) < 128
    assert 0.02 < ink.mean() < 0.2
    rows, columns = np.nonzero(ink)
    assert np.ptp(columns) > 180
    assert np.ptp(rows) > 80
    assert not ink[:, [0, -1]].any()
    assert not ink[[0, -1]].any()


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_has_two_wheels_on_the_ground(name):
    circles = [stroke for stroke in DRAWINGS[name] if isinstance(stroke, Circle)]
    big = [circle for circle in circles if circle.radius >= 30]
    tyres = {round(c.x): c for c in sorted(big, key=lambda c: c.radius)}
    assert len(tyres) == 2
    ground = [circle.y + circle.radius for circle in tyres.values()]
    assert abs(ground[0] - ground[1]) < 6
    assert all(isinstance(stroke, (Circle, Curve)) for stroke in DRAWINGS[name])


def test_rendering_repeats_and_scales():
    first = np.asarray(render_drawing("classic"))
    np.testing.assert_array_equal(first, np.asarray(render_drawing("classic")))
    large = render_drawing("classic", size=512, tremble=0)
    small = render_drawing("classic", size=128, tremble=0)
    shrunk = np.asarray(large.resize((128, 128)), dtype=float)
    assert np.abs(shrunk - np.asarray(small, dtype=float)).mean() < 6
