"""One image through a pipe."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2gan import cli
from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import open_image, open_image_with_info, save_image
from pix2gan.errors import ConfigError, DataError
from pix2gan.translation import Translator, translate_paths

from .image_trees import tree, write


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "deep.png", "deep.tif"])
def test_a_pipe_has_the_bytes_of_the_file(unet: Translator, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("deep"):
        pixels = np.random.default_rng(0).integers(0, 65536, (9, 10, 3), np.uint16)
        save_image(path, pixels, dpi=(300, 300))
    else:
        write(path)
    report = translate_paths(unet, path, tmp_path / "out", progress=False)
    expected = report.images[0].target.read_bytes()

    both, end = io.BytesIO(), io.BytesIO()
    report = translate_paths(unet, io.BytesIO(path.read_bytes()), both)
    assert (report.done, report.exit_code) == (1, 0)
    translate_paths(unet, path, end)
    assert both.getvalue() == end.getvalue() == expected
    (made,) = (tmp_path / "out").iterdir()
    start = tmp_path / f"start{made.suffix}"
    translate_paths(unet, io.BytesIO(path.read_bytes()), start)
    assert start.read_bytes() == expected


def test_the_format_of_a_stream_can_be_chosen(mirror: Translator, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", 64, 64)
    for format, expected in {"jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF", None: "PNG"}.items():
        out = io.BytesIO()
        translate_paths(mirror, path, out, format=format)
        assert open_image_with_info(io.BytesIO(out.getvalue()))[1].format == expected
    sizes = []
    for quality in (20, 95):
        out = io.BytesIO()
        translate_paths(mirror, path, out, format="jpg", quality=quality)
        sizes.append(len(out.getvalue()))
    assert sizes[0] < 0.5 * sizes[1]


def test_a_bad_image_in_a_stream_writes_nothing(mirror: Translator, tmp_path: Path) -> None:
    out, lines = io.BytesIO(), tmp_path / "report.jsonl"
    report = translate_paths(mirror, io.BytesIO(b"no image"), out, report=lines)
    assert report.exit_code == 1
    assert out.getvalue() == b""
    (line,) = lines.read_text().splitlines()
    assert json.loads(line)["error"] == report.failed[0][1]
    report = translate_paths(mirror, io.BytesIO(b"no image"), tmp_path / "o.png")
    assert report.exit_code == 1
    assert not (tmp_path / "o.png").exists()


def test_a_file_from_a_stream_is_skipped_or_overwritten(mirror: Translator, tmp_path: Path) -> None:
    data, out = write(tmp_path / "a.png").read_bytes(), tmp_path / "new" / "o.png"
    assert translate_paths(mirror, io.BytesIO(data), out).done == 1
    out.write_bytes(b"")
    assert translate_paths(mirror, io.BytesIO(data), out).skipped == 1
    assert out.read_bytes() == b""
    assert translate_paths(mirror, io.BytesIO(data), out, on_exists="overwrite").done == 1
    assert open_image(out).shape == (16, 16, 3)


def test_what_a_stream_cannot_do(mirror: Translator, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    stream = io.BytesIO(path.read_bytes())
    options: list[dict[str, Any]] = [
        {"glob": "*"}, {"shard": "1/2"}, {"dry_run": True}, {"watch": True},
        {"on_exists": "rename"}, {"engine": "ray"},
    ]  # fmt: skip
    for option in options:
        with pytest.raises(ConfigError, match="is for files and folders, not for a stream"):
            translate_paths(mirror, stream, io.BytesIO(), **option)
    with pytest.raises(DataError, match="is no file: name an image"):
        translate_paths(mirror, tmp_path, io.BytesIO())
    with pytest.raises(ConfigError, match="let its name end in"):
        translate_paths(mirror, stream, tmp_path)
    (tmp_path / "link.png").symlink_to(path)
    with pytest.raises(ConfigError, match="is a link that leads elsewhere"):
        translate_paths(mirror, stream, tmp_path / "link.png", on_exists="overwrite")


def test_dashes_are_the_standard_streams(
    unet: Translator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    model = str(save_model(tmp_path / "model", unet.generator, unet.config))
    path = write(tmp_path / "in" / "a.png")
    translate = ["translate", "-", "-m", model, "--device", "cpu", "-o"]

    def pipe(data: bytes, *arguments: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return cli.main([*translate, *arguments])

    assert pipe(path.read_bytes(), str(tmp_path / "out" / "a.png")) == 0
    assert b"1 translated" in capfdbinary.readouterr().out
    expected = (tmp_path / "out" / "a.png").read_bytes()
    assert pipe(path.read_bytes(), "-") == 0
    assert capfdbinary.readouterr() == (expected, b"")
    assert pipe(b"no image", "-") == 1
    shown = capfdbinary.readouterr()
    assert shown.out == b""
    assert b"1 failed" in shown.err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert pipe(path.read_bytes(), "-") == 2
    assert b"would go to the terminal" in capfdbinary.readouterr().err
    assert set(tree(tmp_path / "in")) == {"a.png"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--oops", "a.png", "-m", "m", "-o", "o"], "there is no option --oops"),
        (["a.png", "-m", "m", "-o", "o", "--oops"], "Unknown option: --oops"),
        (["a.png", "-m", "m", "--oops", "-o", "o"], "Unknown option: --oops"),
    ],
)
def test_a_dash_is_no_licence_for_options_that_do_not_exist(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["translate", *arguments]) == 2
    assert complaint in capsys.readouterr().err
