"""Folders: every image once, whatever happens meanwhile."""

from __future__ import annotations

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from pix2gan import cli
from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import open_image, open_image_with_info, save_image, to_rgb
from pix2gan.errors import ConfigError, DataError, Pix2ganError
from pix2gan.file_io import atomic_write
from pix2gan.translation import (
    Translator,
    folder_run,
    translate_folder,
    translate_paths,
)
from pix2gan.translation.sources import images_of_glob

from .conftest import MakeMirror, Mirror
from .image_trees import translate, tree, write

# The whole job


def test_two_hundred_files_three_of_them_broken(unet: Translator, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(200):
        write(source / f"set {i % 7}" / f"photo_{i}.png", 8 + i % 3 * 8, 8 + i % 2, seed=i)
    broken = [source / f"set {i % 7}" / f"photo_{i}.png" for i in (3, 77, 199)]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(broken[1].read_bytes()[:100])
    broken[2].write_text("this is not an image")

    report = translate(unet, source, out)
    assert (report.done, report.skipped, len(report.failed)) == (197, 0, 3)
    assert [path for path, _ in report.failed] == sorted(broken, key=lambda p: p.parent)
    assert all(reason and "\n" not in reason for _, reason in report.failed)
    assert report.exit_code == 1
    assert "197 translated, 3 failed" in str(report)
    assert all(str(path) in str(report) for path in broken)

    written = tree(out)
    expected = {p.relative_to(source).as_posix() for p in source.rglob("*.png")}
    assert set(written) == expected - {p.relative_to(source).as_posix() for p in broken}
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}

    again = translate(unet, source, out)
    assert (again.done, again.skipped, len(again.failed)) == (0, 197, 3)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times
    assert tree(out) == written

    for path in broken:
        write(path)
    last = translate(unet, source, out)
    assert (last.done, last.skipped, last.failed, last.exit_code) == (3, 197, [], 0)


def test_a_second_run_opens_nothing_and_runs_nothing(
    mirror: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert translate(mirror, photos, tmp_path / "out").done == 30

    def fail(*_: Any) -> Any:
        raise AssertionError("should not be needed")

    monkeypatch.setattr(folder_run, "open_image_with_info", fail)
    monkeypatch.setattr(mirror, "run", fail)
    report = translate(mirror, photos, tmp_path / "out")
    assert (report.done, report.skipped) == (0, 30)


def test_outputs_are_what_the_translator_makes_of_each(
    unet: Translator, photos: Path, tmp_path: Path
) -> None:
    translate(unet, photos, tmp_path / "out")
    for path in photos.rglob("*.png"):
        output = open_image(tmp_path / "out" / path.relative_to(photos))
        alone = unet(path, output="numpy")
        assert np.abs(output.astype(int) - alone).max() <= 1
    for path in photos.rglob("*.jpg"):
        output = open_image(tmp_path / "out" / path.relative_to(photos))
        assert output.shape == open_image(path).shape


def test_overwrite_makes_outputs_again(mirror: Translator, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    translate(mirror, photos, out)
    written = tree(out)
    (out / "0.png").write_bytes(b"something else")
    assert translate(mirror, photos, out).done == 0
    assert (out / "0.png").read_bytes() == b"something else"
    assert translate(mirror, photos, out, on_exists="overwrite").done == 30
    assert tree(out) == written


def test_sub_folders_only_if_wanted(mirror: Translator, photos: Path, tmp_path: Path) -> None:
    assert translate(mirror, photos, tmp_path / "flat", recursive=False).done == 10
    assert not (tmp_path / "flat" / "deep").exists()
    with pytest.raises(DataError, match=r"sub-folders were left out"):
        translate(mirror, photos.parent, tmp_path / "none", recursive=False)


# Killed and run again


def test_an_interrupted_run_leaves_whole_files_and_is_finished_to_the_byte(
    unet: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate(unet, photos, tmp_path / "undisturbed")
    expected = tree(tmp_path / "undisturbed")
    run, out = unet.run, tmp_path / "out"
    left = 0

    def interrupted(batch: Any, *options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return run(batch, *options)

    for batches in (2, 1, 3):  # of four; at most nine outputs wait, and are dropped
        left = batches
        with monkeypatch.context() as patched:
            patched.setattr(unet, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                translate(unet, photos, out, jobs=1)
        assert all(expected[name] == data for name, data in tree(out).items())
    assert 0 < len(tree(out)) < len(expected)
    assert translate(unet, photos, out).exit_code == 0
    assert tree(out) == expected


def test_single_outputs_are_made_again_to_the_byte(
    unet: Translator, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    translate(unet, photos, out)
    expected = tree(out)
    chooser = random.Random(3)
    for _ in range(4):
        gone = chooser.sample(sorted(expected), 5)
        for name in gone:
            (out / name).unlink()
        report = translate(unet, photos, out)
        assert (report.done, report.skipped) == (5, 25)
        assert tree(out) == expected


def test_temporary_files_of_others_are_left_alone(mirror: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".a.png.0123abcd.tmp").write_bytes(b"half an output of a killed run")
    (out / ".notes.txt.0123abcd.tmp").write_bytes(b"somebody else's")
    (out / "b.tmp").write_bytes(b"not temporary at all")
    translate(mirror, tmp_path / "in", out)
    assert set(tree(out)) == {"a.png", ".notes.txt.0123abcd.tmp", "b.tmp"}


def test_two_runs_at_once_do_not_disturb_each_other(
    unet: Translator, photos: Path, tmp_path: Path
) -> None:
    translate(unet, photos, tmp_path / "undisturbed")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(translate, unet, photos, tmp_path / "out") for _ in range(2)]
        assert all(run.result().exit_code == 0 for run in runs)
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_run_takes_nothing_from_another_that_writes(mirror: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    with atomic_write(tmp_path / "out" / "a.png") as file:
        file.write(b"another run's")
        assert translate(mirror, tmp_path / "in", tmp_path / "out").done == 1
        assert tree(tmp_path / "out")["a.png"] != b"another run's"
    assert tree(tmp_path / "out") == {"a.png": b"another run's"}


# Folders that cannot be read


@pytest.fixture
def closed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the photos' that nobody may look into, and that holds ten of them."""
    folder, scandir = photos / "deep" / "er", os.scandir

    def guarded(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return folder


@pytest.mark.parametrize("pattern", [None, "**/*", "*eep/**/*"])
def test_a_folder_that_cannot_be_read_is_a_failure(
    mirror: Translator, photos: Path, closed: Path, tmp_path: Path, pattern: str | None
) -> None:
    source = photos if pattern is None else photos / pattern
    out, path = tmp_path / "out", tmp_path / "report.jsonl"
    planned = translate_paths(mirror, source, out, progress=False, dry_run=True)
    report = translate_paths(mirror, source, out, progress=False, report=path)
    assert report.failed == planned.failed == [(closed, "cannot be read (Permission denied)")]
    assert report.exit_code == 1
    assert report.done == len(planned.planned) == (10 if pattern == "*eep/**/*" else 20)
    assert f'"input": "{closed}"' in path.read_text()
    with pytest.raises(DataError, match=r"er cannot be read \(Permission denied\)"):
        translate_paths(mirror, source, out, progress=False, on_error="stop")


@pytest.mark.parametrize("pattern", ["", "*", "**/*.png"])
def test_there_may_be_images_where_nobody_can_look(
    mirror: Translator, closed: Path, tmp_path: Path, pattern: str
) -> None:
    with pytest.raises(DataError, match=r"er cannot be read \(Permission denied\)"):
        translate_paths(mirror, closed / pattern, tmp_path / "out", progress=False)


def test_globs_go_where_their_parts_say(mirror: Translator, photos: Path, tmp_path: Path) -> None:
    def found(pattern: str) -> list[str]:
        images = images_of_glob(photos / pattern, tmp_path / "out")[0].images
        return [image.relative_to(photos).as_posix() for image in images]

    everything = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.*"))
    assert found("**/*") == found("**/*.*") == everything
    assert found("d*/e?/*") == [name for name in everything if name.startswith("deep/er/")]
    (photos / "linked").symlink_to(photos / "deep" / "er")
    (photos / ".hidden").mkdir()
    write(photos / ".hidden" / "x.png")
    (photos / "dangling.png").symlink_to(photos / "nowhere")
    assert len(found("*inked/**/*")) == 10
    assert found(".h*/*") == found(".h*/**/*") == [".hidden/x.png"]
    assert "dangling.png" not in found("*") + found("**/*")
    assert not any(name.startswith(".hidden") for name in found("**/*"))
    with pytest.raises(DataError, match="No image matches"):
        found("0.png/*")


# Names


def test_images_of_one_stem_do_not_collide(mirror: Translator, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i, name in enumerate(["a.jpg", "a.png", "a.bmp", "a.tif", "b.bmp", "c.bmp", "c.bmp.png"]):
        write(source / name, seed=i)
    assert translate(mirror, source, out).done == 7
    assert sorted(tree(out)) == [
        "a.bmp.png", "a.jpg", "a.png", "a.tif.png", "b.png", "c.bmp.png", "c.png",
    ]  # fmt: skip
    for name, output in [("a.bmp", "a.bmp.png"), ("a.tif", "a.tif.png"), ("a.png", "a.png")]:
        assert np.array_equal(open_image(source / name), open_image(out / output))


def test_names_do_not_depend_on_what_a_run_was_asked_for(
    mirror: Translator, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    for i, name in enumerate(["a.bmp", "a.jpg", "a.png", "b.jpg"]):
        write(source / name, seed=i)
    whole = translate(mirror, source, tmp_path / "whole", format="png")
    for pattern in ("*.bmp", "*.png", "*.jpg"):
        translate_paths(
            mirror, f"{source}/{pattern}", tmp_path / "parts", format="png", progress=False
        )
    assert whole.done == 4
    assert sorted(tree(tmp_path / "whole")) == ["a.bmp.png", "a.jpg.png", "a.png", "b.png"]
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_utf_8_survive(
    unet: Translator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"\xff of 1998.png")
    source, out = tmp_path / "in", tmp_path / "out"
    write(source / "a.png").rename(source / name)
    (source / os.fsdecode(b"broken \xff.png")).write_text("broken")
    model = save_model(tmp_path / "model", unet.generator, unet.config)
    lines = tmp_path / "report.jsonl"
    command = ["translate", str(source), "-m", str(model), "-o", str(out), "--report", str(lines)]
    for counts in ("1 translated, 1 failed", "0 translated, 1 skipped"):
        assert cli.main(command) == 1
        shown = capsys.readouterr().out
        assert counts in shown
        assert r"broken \udcff.png: " in shown
        assert len(lines.read_text().splitlines()) == 2
    assert [path.name for path in out.iterdir()] == [name]


def test_long_names_may_be_taken_too(mirror: Translator, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i, name in enumerate(["a.bmp", "a.png", "a.bmp.png", "a.bmp.jpg"]):
        write(source / name, seed=i)
    assert translate(mirror, source, out, format="png").done == 4
    assert sorted(tree(out)) == ["a.bmp-2.png", "a.bmp.jpg.png", "a.bmp.png", "a.png"]


def test_suffix_and_format(mirror: Translator, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("a.png", "b.JPEG", "c.webp", "sub/d.tiff"):
        write(source / name)
    cases = {
        None: ["a_x.png", "b_x.JPEG", "c_x.webp", "sub/d_x.png"],
        "jpg": ["a_x.jpg", "b_x.JPEG", "c_x.jpg", "sub/d_x.jpg"],
        "webp": ["a_x.webp", "b_x.webp", "c_x.webp", "sub/d_x.webp"],
        "tiff": ["a_x.tif", "b_x.tif", "c_x.tif", "sub/d_x.tiff"],
    }
    for format, names in cases.items():
        out = tmp_path / str(format)
        assert translate(mirror, source, out, suffix="_x", format=format).exit_code == 0
        assert sorted(tree(out)) == names
        for name in names:
            with Image.open(out / name) as image:
                suffix = Path(name).suffix.lower()
                assert image.format == {".png": "PNG", ".webp": "WEBP"}.get(
                    suffix, "TIFF" if suffix.startswith(".t") else "JPEG"
                )


def test_quality(mirror: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jpg", 64, 64)
    sizes = []
    for quality in (20, 95):
        translate(mirror, tmp_path / "in", tmp_path / str(quality), quality=quality)
        sizes.append((tmp_path / str(quality) / "a.jpg").stat().st_size)
    assert sizes[0] < 0.5 * sizes[1]


def test_hidden_files_and_files_that_are_no_images_are_left_out(
    mirror: Translator, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    write(source / "a.png")
    write(source / ".hidden" / "b.png")
    write(source / "b.png").rename(source / "._b.png")
    (source / "readme.txt").write_text("hello")
    assert translate(mirror, source, tmp_path / "out").done == 1


# Where outputs go


def test_outputs_inside_the_source_are_not_translated_again(
    mirror: Translator, photos: Path
) -> None:
    out = photos / "deep" / "translated"
    for done in (30, 0):
        report = translate(mirror, photos, out)
        assert report.done == done
    assert len(tree(out)) == 30
    assert len(tree(photos)) == 60
    report = translate_paths(mirror, f"{photos}/**/*.png", photos / "globbed", progress=False)
    assert report.done == 20  # ten originals, ten outputs of the other run
    report = translate_paths(mirror, f"{photos}/**/*.png", photos / "globbed", progress=False)
    assert (report.done, report.skipped) == (0, 20)


def test_inputs_are_never_overwritten(mirror: Translator, photos: Path) -> None:
    before = tree(photos)
    with pytest.raises(ConfigError, match="choose another folder"):
        translate(mirror, photos, photos / "deep" / "..")
    with pytest.raises(ConfigError, match="would overwrite an input"):
        translate_paths(mirror, photos / "0.png", photos, on_exists="overwrite")
    with pytest.raises(ConfigError, match="would overwrite an input"):
        translate_paths(mirror, photos / "0.png", photos / "0.png", on_exists="overwrite")
    with pytest.raises(ConfigError, match="choose another folder"):
        translate_paths(mirror, f"{photos}/*.png", photos, on_exists="overwrite")
    write(photos / "deep" / "deep" / "10.jpg")
    before = tree(photos)
    with pytest.raises(ConfigError, match="would overwrite an input"):
        translate(mirror, photos / "deep", photos, on_exists="overwrite")
    assert tree(photos) == before


def test_outputs_may_go_above_the_inputs(mirror: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in" / "deep" / "a.png")
    assert translate(mirror, tmp_path / "in" / "deep", tmp_path / "in").done == 1
    assert set(tree(tmp_path / "in")) == {"a.png", "deep/a.png"}


def test_links_lead_nothing_out_of_the_output_folder(
    mirror: Translator, photos: Path, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.png").write_bytes(b"precious")
    out.mkdir()
    (out / "deep").symlink_to(elsewhere, target_is_directory=True)
    (out / "0.png").symlink_to(elsewhere / "precious.png")
    report = translate(mirror, photos, out, on_exists="overwrite")
    assert tree(elsewhere) == {"precious.png": b"precious"}
    assert report.done == 9
    assert len(report.failed) == 21
    assert all("link" in reason for _, reason in report.failed)


def test_an_output_folder_that_cannot_be_made(
    mirror: Translator, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ConfigError, match=r"for the outputs cannot be made"):
            translate(mirror, photos, out)
    for source in (photos, f"{photos}/*.png"):
        with pytest.raises(ConfigError, match=r"out\.png is named like an image"):
            translate_paths(mirror, source, tmp_path / "out.png")


# What survives


def test_depth_alpha_profile_and_resolution(mirror: Translator, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (9, 10, 3), np.uint16)
    save_image(source / "deep.png", deep)
    save_image(source / "deep.tif", deep)
    clear = rng.integers(0, 256, (8, 8, 4), np.uint8)
    save_image(source / "clear.png", clear)
    save_image(source / "clear.webp", clear)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write(source / "profile.jpg", icc_profile=profile, dpi=(300, 300))
    assert translate(mirror, source, out).exit_code == 0

    for name in ("deep.png", "deep.tif.png"):
        assert np.array_equal(open_image(out / name), deep)
    assert np.array_equal(open_image(out / "clear.png")[..., 3], clear[..., 3])
    assert open_image(out / "clear.webp").shape == (8, 8, 4)
    _, info = open_image_with_info(out / "profile.jpg")
    assert info.icc_profile == profile
    assert info.dpi == pytest.approx((300, 300))

    translate(mirror, source, tmp_path / "jpegs", format="jpg")
    opaque = open_image(tmp_path / "jpegs" / "clear.png.jpg")
    assert opaque.shape == (8, 8, 3)
    assert open_image(tmp_path / "jpegs" / "deep.png.jpg").dtype == np.uint8
    translate(mirror, source, tmp_path / "tiffs", format="tiff")
    assert np.array_equal(open_image(tmp_path / "tiffs" / "deep.tif"), deep)


def test_profile_and_resolution_survive_in_every_format(mirror: Translator, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rng = np.random.default_rng(0)
    for depth, dtype in {"": np.uint8, "deep ": np.uint16}.items():
        pixels = rng.integers(0, np.iinfo(dtype).max + 1, (9, 10, 3), dtype)
        for end in ("png", "tif") if depth else ("png", "tif", "jpg", "webp"):
            path = source / f"{depth}{end}.{end}"
            save_image(path, pixels, icc_profile=profile, dpi=(300, 150))
    for format in (None, "png", "tiff"):
        report = translate(mirror, source, out / str(format), format=format)
        assert report.done == 6
        for image in report.images:
            original = open_image(image.source)
            made, info = open_image_with_info(image.target)
            assert info.icc_profile == profile
            if ".webp" not in (image.source.suffix, image.target.suffix):  # has no place for it
                assert info.dpi == pytest.approx((300, 150), rel=1e-3)
            assert made.dtype == original.dtype
            if image.target.suffix in (".png", ".tif"):
                assert np.array_equal(made, original)


ORIENTATIONS = [None, *range(1, 9)]


def test_every_orientation_in_four_formats_is_applied_once(
    mirror: Translator, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    # a corner of its own colour each: dark, light, red, blue
    corners = np.array([[[0] * 3, [255] * 3], [[255, 0, 0], [0, 0, 255]]], np.uint8)
    pixels = corners.repeat(16, axis=0).repeat(24, axis=1)
    turned = {
        None: pixels,
        1: pixels,
        2: np.fliplr(pixels),
        3: np.rot90(pixels, 2),
        4: np.flipud(pixels),
        5: np.swapaxes(pixels, 0, 1),
        6: np.rot90(pixels, -1),
        7: np.rot90(np.swapaxes(pixels, 0, 1), 2),
        8: np.rot90(pixels),
    }
    for suffix in ("png", "jpg", "webp", "tif"):
        for orientation in ORIENTATIONS:
            exif = Image.Exif()
            if orientation is not None:
                exif[274] = orientation
            options = {"quality": 95} if suffix in ("jpg", "webp") else {}
            name = source / f"{orientation} {suffix}.{suffix}"
            Image.fromarray(pixels).save(name, exif=exif, **options)
    report = translate(mirror, source, out)
    assert report.done == 4 * len(ORIENTATIONS)
    for image in report.images:
        stem = image.source.stem.split()[0]
        expected = turned[None if stem == "None" else int(stem)]
        made, info = open_image_with_info(image.target)
        assert info.orientation == 1
        assert made.shape == expected.shape
        for row in (4, -5):
            for column in (4, -5):
                difference = made[row, column].astype(int) - expected[row, column]
                assert np.abs(difference).max() < 40, (image.source, row, column)


# Every mode of Pillow that a file can have, and in which format; test_translator has the others.
MODES = {
    "1": "png", "L": "png", "LA": "png", "P": "png", "RGB": "png", "RGBA": "png", "I;16": "png",
    "I": "tif", "F": "tif", "CMYK": "tif", "YCbCr": "jpg", "LAB": "tif", "RGBX": "tif",
    "PA": "tif", "I;16B": "tif",
}  # fmt: skip


def test_every_mode_of_pillow_is_translated(mirror: Translator, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    grey = Image.linear_gradient("L").resize((24, 20))
    colour = Image.merge("RGB", [grey, grey.rotate(180), grey])
    deep = np.asarray(grey).astype(np.uint16) * 257
    for mode, suffix in MODES.items():
        if mode.startswith("I;16"):
            image = Image.fromarray(deep.astype(">u2" if mode.endswith("B") else "<u2"))
        elif mode == "I":
            image = Image.fromarray(deep.astype(np.int32))
        elif mode == "F":
            image = Image.fromarray((deep / 65535).astype(np.float32))
        elif mode == "LAB":
            image = Image.merge("LAB", [grey, grey, grey])
        elif mode == "PA":
            image = colour.convert("P").convert("PA")
        else:
            image = colour.convert(mode)
        image.save(source / f"{mode.replace(';', ' ')}.{suffix}")
    report = translate(mirror, source, tmp_path / "out")
    assert (report.done, report.failed) == (len(MODES), [])
    for image in report.images:
        made, original = open_image(image.target), open_image(image.source)
        assert made.shape[:2] == (20, 24)
        assert made.dtype == (np.uint8 if original.dtype == np.uint8 else np.uint16)
        if original.dtype != np.float32:
            as_rgb = to_rgb(original).astype(int)
            difference = np.abs(to_rgb(made).astype(int) - as_rgb)
            assert np.median(difference) <= (8 if image.source.suffix == ".jpg" else 0)


def test_drawings_become_opaque_photos(make_mirror: MakeMirror, tmp_path: Path) -> None:
    sketch = make_mirror(domain_a="sketch", resize_mode="fit")
    (tmp_path / "in").mkdir()
    save_image(tmp_path / "in" / "a.png", np.zeros((9, 40, 4), np.uint8))
    save_image(tmp_path / "in" / "b.png", np.zeros((70, 50), np.uint8))
    assert translate(sketch, tmp_path / "in", tmp_path / "out").done == 2
    assert open_image(tmp_path / "out" / "a.png").shape == (9, 40, 3)
    assert (open_image(tmp_path / "out" / "a.png") == 255).all()
    assert open_image(tmp_path / "out" / "b.png").shape == (70, 50, 3)


def test_many_channels_go_to_tiff(make_mirror: MakeMirror, tmp_path: Path) -> None:
    many = make_mirror(in_channels=6)
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 10, 6), np.uint8)
    save_image(tmp_path / "in" / "a.tif", pixels)
    assert translate(many, tmp_path / "in", tmp_path / "out").done == 1
    assert np.array_equal(open_image(tmp_path / "out" / "a.tif"), pixels)
    with pytest.raises(ConfigError, match="png cannot hold the 6 channels"):
        translate(many, tmp_path / "in", tmp_path / "out2", format="png")


# Batches and failures


def test_images_of_equal_size_share_batches(mirror: Translator, tmp_path: Path) -> None:
    for i in range(20):
        write(tmp_path / "in" / f"{i}.png", 8 if i % 2 else 16, 8, seed=i)
    translate(mirror, tmp_path / "in", tmp_path / "out", batch_size=4)
    shapes = [tuple(x.shape) for x in mirror.generator.seen]  # type: ignore[union-attr]
    assert sorted(shapes) == sorted(
        [(4, 3, 8, 8)] * 2 + [(2, 3, 8, 8)] + [(4, 3, 16, 8)] * 2 + [(2, 3, 16, 8)]
    )


def test_waiting_images_are_bounded(
    mirror: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_run, "_WAITING_PIXELS", 8 * 8 * 3)
    monkeypatch.setattr(folder_run, "_BATCH_PIXELS", 16 * 8 * 2)
    for i in range(12):
        write(tmp_path / "in" / f"{i}.png", 8 * (1 + i % 4), 8, seed=i)
    report = translate(mirror, tmp_path / "in", tmp_path / "out", batch_size=4)
    assert report.done == 12
    shapes = [tuple(x.shape) for x in mirror.generator.seen]  # type: ignore[union-attr]
    assert max(n * h * w for n, _, h, w in shapes) <= 16 * 8 * 2
    assert len(shapes) > 4


class Picky(Mirror):
    """Fails for a batch that holds a white image."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.amin(dim=(1, 2, 3)) == 1).any()):
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("x"), "there is not enough memory"),
        (RuntimeError("odd\nthings"), "RuntimeError: odd things"),
    ],
)
def test_one_image_does_not_take_its_batch_along(
    make_mirror: MakeMirror, tmp_path: Path, error: Exception, reason: str
) -> None:
    for i in range(7):
        write(tmp_path / "in" / f"{i}.png", seed=i)
    save_image(tmp_path / "in" / "5.png", np.full((16, 16), 255, np.uint8))
    translator = make_mirror(Picky(error))
    report = translate(translator, tmp_path / "in", tmp_path / "out")
    assert report.done == 6
    (failure,) = report.failed
    assert failure[0] == tmp_path / "in" / "5.png"
    assert failure[1].startswith(reason)


def test_batches_shrink_when_memory_is_short(make_mirror: MakeMirror, tmp_path: Path) -> None:
    class Narrow(Mirror):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 1:
                raise torch.OutOfMemoryError
            return super().forward(x)

    for i in range(9):
        write(tmp_path / "in" / f"{i}.png", seed=i)
    report = translate(make_mirror(Narrow()), tmp_path / "in", tmp_path / "out", batch_size=8)
    assert (report.done, report.failed) == (9, [])


def test_a_full_disk_ends_the_run_with_one_sentence(
    mirror: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, written = os.replace, 0

    def full(temporary: Any, target: Any) -> None:
        nonlocal written
        written += 1
        if written > 4:
            raise OSError(28, "No space left on device")
        replace(temporary, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(Pix2ganError, match=r"cannot be written \(No space left on device\)"):
            translate(mirror, photos, tmp_path / "out")
    assert len(tree(tmp_path / "out")) == 4
    assert translate(mirror, photos, tmp_path / "out").done == 26


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_an_output_folder_that_takes_no_files_is_one_sentence(
    mirror: Translator, photos: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"/proc for the outputs cannot be written to \([^)]+\): "
    ):
        translate(mirror, photos, Path("/proc"))
    with pytest.raises(ConfigError, match="/proc for the outputs cannot be written to"):
        translate_paths(mirror, photos / "0.png", "/proc/foo.png")


def test_an_output_that_cannot_be_written_is_one_failure(
    mirror: Translator, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "deep").write_text("a file where a folder should be")
    report = translate(mirror, photos, out)
    assert (report.done, len(report.failed)) == (10, 20)
    assert {reason for _, reason in report.failed if "Error" in reason} == set()


# Files and globs


def test_a_single_file(mirror: Translator, tmp_path: Path) -> None:
    path = write(tmp_path / "a.bmp")
    for out, expected in [("o.png", "o.png"), ("new/o.JPG", "new/o.JPG"), ("dir", "dir/a.png")]:
        report = translate_paths(mirror, path, tmp_path / out, progress=False)
        assert (report.done, report.exit_code) == (1, 0)
        assert open_image(tmp_path / expected).shape == (16, 16, 3)
        assert str(tmp_path / out) in str(report)
    assert translate_paths(mirror, path, tmp_path / "o.png").skipped == 1
    (tmp_path / "b.png").write_text("broken")
    report = translate_paths(mirror, str(tmp_path / "b.png"), tmp_path / "dir")
    assert (report.exit_code, report.failed[0][0]) == (1, tmp_path / "b.png")
    with pytest.raises(ConfigError, match=r"let its name end in \.jpeg, \.jpg"):
        translate_paths(mirror, path, tmp_path / "o.gif")
    with pytest.raises(ConfigError, match=r"let its name end in \.webp"):
        translate_paths(mirror, path, tmp_path / "o.png", format="webp")
    with pytest.raises(ConfigError, match=r"suffix '_photo' is for names that are made"):
        translate_paths(mirror, path, tmp_path / "o.png", suffix="_photo")


def test_empty_names_are_not_the_current_folder(mirror: Translator, photos: Path) -> None:
    for run in (translate_folder, translate_paths):
        with pytest.raises(ConfigError, match="source is empty"):
            run(mirror, "", photos / "out")
        with pytest.raises(ConfigError, match="out is empty"):
            run(mirror, photos, "")


def test_a_single_output_tidies_up_only_after_itself(mirror: Translator, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.png")
    (tmp_path / ".o.png.0123abcd.tmp").write_bytes(b"")
    (tmp_path / ".other.png.0123abcd.tmp").write_bytes(b"")
    translate_paths(mirror, path, tmp_path / "o.png")
    assert {p.name for p in tmp_path.iterdir()} == {"in", "o.png", ".other.png.0123abcd.tmp"}


def test_globs(
    mirror: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    report = translate_paths(mirror, "deep/**/*.png", tmp_path / "a", progress=False)
    assert report.done == len(tree(tmp_path / "a")) == len(list(Path("deep").rglob("*.png")))
    assert "er/21.png" in tree(tmp_path / "a")
    report = translate_paths(mirror, f"{photos}/[12].*", tmp_path / "b", progress=False)
    assert sorted(tree(tmp_path / "b")) == ["1.jpg", "2.webp"]
    assert translate_paths(mirror, "deep", tmp_path / "c", progress=False).done == 20
    write(Path("odd[1].png"))
    assert translate_paths(mirror, "odd[1].png", tmp_path / "d", progress=False).done == 1


def test_nothing_to_translate(mirror: Translator, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for source, complaint in [
        ("in", "There is no image in"),
        ("absent", "There is no file or folder"),
        ("in/*.png", "No image matches"),
    ]:
        with pytest.raises(DataError, match=complaint):
            translate_paths(mirror, tmp_path / source, tmp_path / "out")
    with pytest.raises(DataError, match="There is no folder"):
        translate(mirror, tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"format": "gif"}, "format must be one of png, jpg, jpeg, webp, tiff, npy, not 'gif'"),
        ({"quality": 0}, "quality must be a whole number between 1 and 100, not 0"),
        ({"on_exists": "ask"}, "on_exists must be one of skip, overwrite, rename, not 'ask'"),
        ({"on_error": "ask"}, "on_error must be one of skip, stop, not 'ask'"),
        ({"resize": "crop"}, "resize must be one of none, fit"),
        ({"suffix": "/../x"}, "suffix is part of a file name"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"glob": ""}, "glob is a pattern for paths in the source"),
        ({"glob": "/a/*"}, "glob is a pattern for paths in the source"),
        ({"shard": "0/2"}, "shard must be i/n with i from 1 to n"),
        ({"shard": "3/2"}, "shard must be i/n with i from 1 to n"),
        ({"shard": "half"}, "shard must be i/n with i from 1 to n, as in 2/5, and not 'half'"),
        ({"report": "lost/r.jsonl"}, r"report lost/r.jsonl cannot be written \(No such file"),
        ({"report": "r.png"}, "report cannot be r.png, which is named like an image"),
        ({"report": "r.mp4"}, "report cannot be r.mp4, which is named like an image or a video"),
        ({"quality": "best"}, "quality must be a whole number between 1 and 100, not 'best'"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_unusable_options(
    mirror: Translator, photos: Path, tmp_path: Path, option: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        translate_folder(mirror, photos, tmp_path / "out", **option)
    with pytest.raises(ConfigError, match=complaint):
        translate_paths(mirror, photos / "0.png", tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


# Progress


def test_lines_where_there_is_no_terminal(
    mirror: Translator,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pix2gan.translation.progress.SECONDS_BETWEEN_LINES", 0)
    (photos / "0.png").write_text("broken")
    translate(mirror, photos, tmp_path / "a", progress=None)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 30
    assert lines[-1].startswith("translated 30 of 30 images, 1 failed, ")
    translate(mirror, photos, tmp_path / "b", progress=False)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(
    mirror: Translator,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    translate(mirror, photos, tmp_path / "out", progress=None)
    assert "30/30" in capsys.readouterr().err


def test_the_method_does_the_same(mirror: Translator, photos: Path, tmp_path: Path) -> None:
    assert mirror.translate_folder(photos, tmp_path / "a", progress=False).done == 30
    assert mirror.translate_paths(photos / "0.png", tmp_path / "b").done == 1
