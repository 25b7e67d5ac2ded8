"""Single photos do not pass for pairs side by side, and pairs do not for photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pix2gan.data.image_io import save_image
from pix2gan.data.paired import check_paired, open_paired
from pix2gan.data.seams import Halves, are_pairs, look_at_halves
from pix2gan.errors import DataError


def scenery(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth noise, which goes on everywhere."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    low, high = smooth.min(), smooth.max()
    return ((smooth - low) / (high - low) * 255).astype(np.uint8)


def halves(image: np.ndarray) -> Halves:
    middle = image.shape[1] // 2
    return look_at_halves(image[:, :middle], image[:, middle:])


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_a_seam_is_seen(scale: float) -> None:
    pairs = np.concatenate([scenery(40, 40, 1), scenery(40, 40, 2)], axis=1)
    photo, paper = scenery(40, 80, 3), np.full((40, 80, 3), 255, np.uint8)
    meetings = [
        halves(image if scale == 1 else (image * scale).astype(np.float32)).meeting
        for image in (pairs, photo, paper)
    ]
    assert meetings == ["seam", "goes on", "plain"]


def test_one_column_wide_halves_are_no_error() -> None:
    assert not halves(scenery(9, 2, 0)).square


def test_where_nothing_shows_two_squares_are_a_pair() -> None:
    assert are_pairs([Halves("plain", True)] * 2 + [Halves("plain", False)])
    assert not are_pairs([Halves("plain", False)] * 2 + [Halves("plain", True)])
    assert are_pairs([Halves("seam", False), *[Halves("plain", False)] * 5])
    assert not are_pairs([Halves("seam", True)] + [Halves("goes on", True)] * 2)


@pytest.mark.parametrize("width", [60, 80])
def test_a_folder_of_photos_is_not_cut_in_half(tmp_path: Path, width: int) -> None:
    """Even of photos twice as wide as high."""
    for number in range(4):
        save_image(tmp_path / f"{number}.png", scenery(40, width, number))
    with pytest.raises(DataError, match=r"look like single photos.*side_by_side"):
        check_paired(tmp_path)
    sure = open_paired(tmp_path, size=16, side_by_side=True)
    assert check_paired(sure).pairs == 4
    assert check_paired(tmp_path, sketch="canny").pairs == 4


def test_pairs_of_any_shape_are_taken(tmp_path: Path) -> None:
    for number in range(4):
        both = [scenery(40, 28, 2 * number), scenery(40, 28, 2 * number + 1)]
        save_image(tmp_path / f"{number}.png", np.concatenate(both, axis=1))
    assert check_paired(tmp_path).pairs == 4


def test_sketch_of_two_folders_is_refused(
    tmp_path: Path, synthesize: Callable[..., list[Path]]
) -> None:
    synthesize(tmp_path, count=2, size=32, layout="folders")
    with pytest.raises(DataError, match=r"holds pairs.*folder of photos, as in .*B"):
        open_paired(tmp_path, size=16, sketch="canny")
    assert len(open_paired(tmp_path / "B", size=16, sketch="canny")) == 2
    for path in (tmp_path / "B").iterdir():
        path.unlink()
    (tmp_path / "B").rmdir()
    assert len(open_paired(tmp_path, size=16, sketch="canny")) == 2  # photos in a folder called A
