"""Draw small data sets: toy vehicles on white paper, with label maps that match them exactly.

    python datasets/synthesize.py OUT --layout side-by-side --count 20 --size 64

Nothing is downloaded and nothing resembles anyone's picture, so tests may write as much of it as
they like. The same arguments write the same files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pix2gan.data.image_io import save_image

LAYOUTS = ("side-by-side", "folders", "train-folders", "photos", "unpaired")

# Label colours, RGB: what a part is, in the label map.
BACKGROUND, BODY, WHEEL, WINDOW = (0, 0, 255), (255, 0, 0), (0, 160, 0), (255, 220, 0)

Image = np.ndarray[Any, np.dtype[np.uint8]]


def draw_pair(size: int, rng: np.random.Generator) -> tuple[Image, Image]:
    """A toy vehicle as a photo with light, shadow and grain, and its label map.

    Args:
        size: Side of the square images in pixels, 16 or more.
        rng: Decides shape, colours and place.

    Returns:
        Photo on white and label map, uint8 RGB ``[size, size, 3]`` each.
    """
    labels = np.full((size, size, 3), BACKGROUND, np.uint8)
    photo = np.full((size, size, 3), 255, np.uint8)
    width, height = rng.uniform(0.45, 0.7) * size, rng.uniform(0.18, 0.3) * size
    left, top = (size - width) / 2 + rng.uniform(-0.05, 0.05) * size, 0.5 * size - height / 2
    colour = rng.integers(20, 200, 3)
    cabin_left = left + rng.uniform(0.15, 0.4) * width
    cabin = np.array(
        [
            [cabin_left, top],
            [cabin_left + 0.12 * width, top - 0.7 * height],
            [cabin_left + 0.4 * width, top - 0.7 * height],
            [cabin_left + 0.5 * width, top],
        ]
    )
    window = cabin.mean(axis=0) + (cabin - cabin.mean(axis=0)) * 0.65
    body = np.array(
        [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
    )
    for shape, label, shade in (
        (body, BODY, colour),
        (cabin, BODY, colour * 0.85),
        (window, WINDOW, np.array([200, 225, 240])),
    ):
        _fill(labels, shape, label)
        _fill(photo, shape, tuple(float(value) for value in shade))
    radius = round(rng.uniform(0.5, 0.75) * height)
    for share in (0.2, 0.8):
        centre = (round(left + share * width), round(top + height))
        cv2.circle(labels, centre, radius, WHEEL, -1)
        cv2.circle(photo, centre, radius, (35, 35, 40), -1)
        cv2.circle(photo, centre, max(1, radius // 2), (150, 150, 155), -1)
    return _light(photo, labels, rng), labels


def _fill(image: Image, shape: np.ndarray[Any, Any], colour: tuple[float, ...]) -> None:
    cv2.fillPoly(image, [np.rint(shape).astype(np.int32)], colour)


def _light(photo: Image, labels: Image, rng: np.random.Generator) -> Image:
    """Shade the object from top to bottom and add grain; paper stays white."""
    size = photo.shape[0]
    fall = np.linspace(1.15, 0.75, size)[:, None, None]
    lit = photo * fall + rng.normal(0, 4, photo.shape)
    paper = (labels == BACKGROUND).all(axis=2, keepdims=True)
    return np.where(paper, 255, np.clip(np.rint(lit), 0, 255)).astype(np.uint8)


def synthesize(
    folder: str | Path,
    count: int = 8,
    size: int = 64,
    layout: str = "side-by-side",
    seed: int = 0,
    suffix: str = ".png",
) -> list[Path]:
    """Write ``count`` pairs (A: label map, B: photo) or photos, and return the files.

    Args:
        folder: Where to; made if it is missing.
        count: Number of pairs or photos.
        size: Side of each image in pixels.
        layout: "side-by-side" (A|B in one file), "folders" (``A/``, ``B/``), "train-folders"
            (``trainA/``, ``trainB/``), "photos" (B alone, wider than high, to be sketched) or
            "unpaired" (``A/`` and ``B/`` of different vehicles, ``count`` of each).
        seed: Other numbers give other vehicles.
        suffix: Format of the files.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    folder, files = Path(folder), []
    for number in range(count):
        photo, labels = draw_pair(size, np.random.default_rng([seed, number]))
        name = f"{number + 1}{suffix}"
        if layout == "side-by-side":
            written = {folder / name: np.concatenate([labels, photo], axis=1)}
        elif layout == "unpaired":
            other, _ = draw_pair(size, np.random.default_rng([seed, number, 1]))
            written = {folder / "A" / name: labels, folder / "B" / f"other{name}": other}
        elif layout == "photos":
            written = {folder / name: photo[size // 8 : -(size // 8)]}
        else:
            first, second = ("A", "B") if layout == "folders" else ("trainA", "trainB")
            written = {folder / first / name: labels, folder / second / name: photo}
        for path, image in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, image)
            files.append(path)
    return files


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description="Draw a small data set of toy vehicles.")
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0])
    parser.add_argument("--count", type=int, default=20, help="pairs (or photos) to write")
    parser.add_argument("--size", type=int, default=64, help="side of each image in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = synthesize(options.folder, options.count, options.size, options.layout, options.seed)
    print(f"Wrote {len(files)} files to {options.folder}")


if __name__ == "__main__":
    main()
