"""The demo, with the bundled model: files where they are promised, and motorbikes on them."""

import numpy as np
import pytest
from PIL import Image

from pix2gan.demo import run_demo
from pix2gan.demo.drawings import DRAWINGS, Circle


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    sheet = run_demo(out)
    assert sheet == out / "sheet.png"
    return out


def _file(name: str) -> str:
    return f"{name.replace(' ', '-')}.png"


def test_everything_is_written(demo):
    written = sorted(p.relative_to(demo).as_posix() for p in demo.rglob("*") if p.is_file())
    pairs = [f"{folder}/{_file(n)}" for folder in ("drawings", "photos") for n in DRAWINGS]
    assert written == sorted([*pairs, "sheet.png"])
    with Image.open(demo / "sheet.png") as sheet:
        assert sheet.width > 1000


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_photo_shows_a_motorbike(demo, name):
    """Black tyres between the drawn circles, a white background, and colour or chrome inside."""
    photo = np.asarray(Image.open(demo / "photos" / _file(name)).convert("RGB")).astype(float)
    assert photo.shape == (256, 256, 3)
    grey = photo.mean(axis=2)
    y, x = np.mgrid[:256, :256]
    circles = [stroke for stroke in DRAWINGS[name] if isinstance(stroke, Circle)]
    for tyre in (c for c in circles if c.radius >= 35):
        rim = max(
            (c.radius for c in circles if (c.x, c.y) == (tyre.x, tyre.y) and c is not tyre),
            default=0.0,
        )
        distance = np.hypot(x - tyre.x, y - tyre.y)
        ring = (distance > rim + 1) & (distance < tyre.radius - 1) & (y > tyre.y)
        assert grey[ring].mean() < 110  # on paper this ring is white
    assert grey[:40].mean() > 235
    body = grey[90:160, 60:200]
    assert body.std() > 40
    assert 60 < body.mean() < 200


def test_a_second_demo_replaces_the_first(demo):
    before = (demo / "sheet.png").read_bytes()
    run_demo(demo)
    assert (demo / "sheet.png").read_bytes() == before
