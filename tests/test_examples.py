"""The examples run, and stay short."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name: str) -> Callable[..., None]:
    main: Callable[..., None] = runpy.run_path(str(EXAMPLES / name))["main"]
    return main


def test_every_example_is_under_60_lines() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert scripts
    assert [s.name for s in scripts if len(s.read_text().splitlines()) >= 60] == []
    text = (EXAMPLES / "README.md").read_text()
    assert [s.name for s in scripts if s.name not in text] == []


def test_use_the_ops(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("use_the_ops.py")()
    out = capsys.readouterr().out
    assert "the reference backend agrees: True" in out


def test_train_on_your_pairs_then_translate_a_drawing(tmp_path: Path) -> None:
    main_of("train_on_your_pairs.py")([str(tmp_path), "2"])
    with Image.open(tmp_path / "disc.png") as disc:
        assert disc.size == (64, 64)
    Image.new("L", (70, 50), 255).save(tmp_path / "sketch.png")
    names = [str(tmp_path / "sketch.png"), str(tmp_path / "photo.png"), str(tmp_path / "run")]
    main_of("translate_a_drawing.py")(names)
    with Image.open(tmp_path / "photo.png") as photo:
        assert photo.size == (70, 50)


def test_the_drawing_is_a_drawing(tmp_path: Path) -> None:
    draw: Callable[[Path], None] = runpy.run_path(str(EXAMPLES / "translate_a_drawing.py"))[
        "draw_motorbike"
    ]
    draw(tmp_path / "sketch.png")
    with Image.open(tmp_path / "sketch.png") as sketch:
        dark = sum(sketch.convert("L").histogram()[:128])
        assert 0.02 < dark / (sketch.width * sketch.height) < 0.2
