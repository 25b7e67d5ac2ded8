"""The sheet of pictures side by side."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pix2gan.errors import ConfigError
from pix2gan.translation import side_by_side

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_pictures_stand_in_their_cells() -> None:
    red, blue = Image.new("RGB", (64, 64), RED), Image.new("RGB", (30, 15), BLUE)
    sheet = side_by_side([[red, blue], [blue]], cell=40, margin=10)
    assert sheet.mode == "RGB"
    assert sheet.size == (10 + 2 * 50, 10 + 2 * 50)
    assert sheet.getpixel((30, 30)) == RED
    assert sheet.getpixel((80, 30)) == BLUE
    assert sheet.getpixel((80, 15)) == (255, 255, 255)  # 40 x 20, in the middle of its cell
    assert sheet.getpixel((30, 80)) == BLUE
    assert sheet.getpixel((80, 80)) == (255, 255, 255)
    assert sheet.getpixel((5, 5)) == (255, 255, 255)


def test_labels_and_captions_are_written_where_nothing_else_is() -> None:
    pictures = [[Image.new("L", (8, 8), 128), Image.new("L", (8, 8), 128)]] * 2
    plain = side_by_side(pictures, cell=64)
    labelled = side_by_side(pictures, ["sketch", "photo"], ["one", "two — ü"], cell=64)
    assert labelled.height > plain.height
    assert labelled.width == plain.width
    dark = [(np.asarray(sheet.convert("L")) < 100).sum() for sheet in (plain, labelled)]
    assert dark[0] == 0
    assert dark[1] > 50


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    sheet = side_by_side([[clear]], cell=20)
    assert sheet.getpixel((26, 26)) == (255, 255, 255)


def test_what_makes_no_sheet() -> None:
    picture = Image.new("L", (4, 4))
    for rows in ([], [[]]):
        with pytest.raises(ConfigError, match="at least one picture"):
            side_by_side(rows)
    with pytest.raises(ConfigError, match="1 labels for 2 columns"):
        side_by_side([[picture, picture]], ["one"])
    with pytest.raises(ConfigError, match="2 captions for 1 rows"):
        side_by_side([[picture]], captions=["one", "two"])
