"""A watched folder: what comes is translated once, when it is complete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pix2gan import cli
from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import open_image
from pix2gan.errors import ConfigError, DataError
from pix2gan.translation import FolderReport, Translator, translate_folder, translate_paths
from pix2gan.translation import watch as watching
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.targets import plan_jobs
from pix2gan.translation.watch import watch_folder

from .image_trees import translate, tree, write


def watch(
    translator: Translator,
    source: Path,
    out: Path,
    *between: Callable[[], Any],
    **options: Any,
) -> FolderReport:
    """Look, do the first of `between`, look, do the second, ..., and press Ctrl-C."""
    steps = iter(between)

    def wait() -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    settings = FolderOptions(**{"watch": True, "progress": False, **options})
    settings.check(translator)
    return watch_folder(translator, source, out, settings, wait=wait)


def nothing() -> None:
    pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_what_is_there_and_what_comes(mirror: Translator, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(source / "a.png")

    def expect(*names: str) -> None:
        assert sorted(tree(out)) == sorted(names)

    def second() -> None:
        expect()  # a.png was seen once
        write(source / "deep" / "b.jpg")
        (source / "notes.txt").write_text("no image")

    def third() -> None:
        expect("a.png")

    def fourth() -> None:
        expect("a.png", "deep/b.jpg")

    report = watch(mirror, source, out, second, third, fourth, nothing)
    assert (report.done, report.exit_code) == (2, 0)
    assert len(mirror.generator.seen) == 2  # type: ignore[union-attr,arg-type]


def test_a_folder_that_is_closed_for_a_while(
    mirror: Translator,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, scandir, closed = tmp_path / "out", os.scandir, [source / "upload"]

    def guarded(path: Any) -> Any:
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    write(source / "a.png")
    write(source / "upload" / "b.png")

    def opened() -> None:
        assert sorted(tree(out)) == ["a.png"]
        closed.clear()

    report = watch(mirror, source, out, nothing, opened, nothing, nothing, progress=True)
    assert (report.done, report.failed) == (2, [])
    assert capsys.readouterr().err.count("upload: cannot be read (Permission denied)") == 1
    closed.append(source / "upload")
    assert watch(mirror, source, out, nothing, nothing).exit_code == 1


def test_an_image_that_grows_is_left_until_it_is_whole(
    mirror: Translator, source: Path, tmp_path: Path
) -> None:
    whole = write(tmp_path / "a.png", 40, 40).read_bytes()
    path, out = source / "a.png", tmp_path / "out"

    def grow(size: int) -> Callable[[], None]:
        def step() -> None:
            assert not tree(out)
            path.write_bytes(whole[:size])

        return step

    steps = [grow(size) for size in range(100, len(whole) + 400, 400)]
    report = watch(mirror, source, out, *steps, nothing, nothing)
    assert (report.done, report.failed) == (1, [])
    assert np.array_equal(open_image(out / "a.png"), open_image(path))


def test_a_file_of_the_same_size_that_changes_is_not_complete(
    mirror: Translator, source: Path, tmp_path: Path
) -> None:
    path = write(source / "a.png")

    def touch(seconds: int) -> Callable[[], None]:
        def step() -> None:
            assert not tree(tmp_path / "out")
            os.utime(path, (seconds, seconds))

        return step

    report = watch(mirror, source, tmp_path / "out", touch(10), touch(20), touch(30))
    assert report.images == []
    assert watch(mirror, source, tmp_path / "out", nothing, nothing).done == 1


def test_a_writer_that_pauses_is_only_a_failure_until_it_goes_on(
    mirror: Translator, source: Path, tmp_path: Path
) -> None:
    whole = write(tmp_path / "a.png", 40, 40).read_bytes()
    (source / "a.png").write_bytes(whole[:500])
    lines = tmp_path / "report.jsonl"
    statuses = []

    def look() -> None:
        statuses[:] = [json.loads(line)["status"] for line in lines.read_text().splitlines()]

    def go_on() -> None:
        look()
        assert statuses == ["failed"]
        (source / "a.png").write_bytes(whole)

    report = watch(
        mirror, source, tmp_path / "out", nothing, nothing, go_on, nothing, look, report=lines
    )
    assert (report.done, report.failed) == (1, [])
    assert statuses == ["failed", "translated"]  # each tried once
    broken = watch(mirror, source, tmp_path / "other", nothing, nothing)
    assert broken.exit_code == 0


def test_an_image_that_changes_while_it_is_read_is_left(
    mirror: Translator, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pix2gan.translation import folder_run

    path = write(source / "a.png")
    real, changes = folder_run.open_image_with_info, 0

    def changing(name: Path) -> Any:
        nonlocal changes
        result = real(name)
        changes += 1
        if changes == 1:
            write(path, 24, 24)
        return result

    monkeypatch.setattr(folder_run, "open_image_with_info", changing)
    out = tmp_path / "out"
    found: list[dict[str, bytes]] = []
    look = lambda: found.append(tree(out))  # noqa: E731
    report = watch(mirror, source, out, look, look, look, look)
    assert report.done == 1
    assert [len(files) for files in found] == [0, 0, 0, 1]
    assert open_image(out / "a.png").shape == (24, 24, 3)


def test_a_watch_goes_on_where_another_was_killed(
    unet: Translator, photos: Path, tmp_path: Path
) -> None:
    one_by_one = translate(unet, photos, tmp_path / "whole", batch_size=1)
    assert one_by_one.done == 30
    out = tmp_path / "out"
    moved = sorted(photos.rglob("*.*"))[::2]
    contents = {path: path.read_bytes() for path in moved}
    for path in moved:
        path.unlink()

    def bring() -> None:
        for path, data in contents.items():
            path.write_bytes(data)

    run, left = unet.run, 9

    def interrupted(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return run(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(unet, "run", interrupted)
        first = watch(unet, photos, out, nothing, nothing, jobs=1)
    assert 0 < first.done == len(tree(out)) <= 9  # what waited to be written is dropped
    report = watch(unet, photos, out, bring, nothing, nothing, nothing)
    assert (report.done, report.skipped) == (30 - first.done, first.done)
    assert tree(out) == tree(tmp_path / "whole")


def test_existing_outputs(mirror: Translator, source: Path, tmp_path: Path) -> None:
    path, out = write(source / "a.png"), tmp_path / "out"
    translate(mirror, source, out)

    def change() -> None:
        write(path, 24, 24)

    report = watch(mirror, source, out, nothing, change, nothing, nothing)
    assert report.skipped == 1
    assert open_image(out / "a.png").shape == (16, 16, 3)
    report = watch(mirror, source, out, nothing, nothing, on_exists="overwrite")
    assert report.done == 1
    assert open_image(out / "a.png").shape == (24, 24, 3)


def test_names_do_not_depend_on_what_comes_later(
    mirror: Translator, source: Path, tmp_path: Path
) -> None:
    names = ["a.bmp", "a.png", "a.bmp.png", "a.jpg", "a.tif", "a.PNG", "a.jpe", "a.jfif"]
    picture = write(tmp_path / "a.bmp").read_bytes()
    steps = [lambda name=name: (source / name).write_bytes(picture) for name in names]
    out = tmp_path / "out"
    assert watch(mirror, source, out, *steps, nothing, nothing).done == len(names)
    assert sorted(tree(out)) == [
        "a.PNG", "a.bmp.png", "a.bmp.png.png", "a.jfif.jpg", "a.jpe.jpg", "a.jpg", "a.png",
        "a.tif.png",
    ]  # fmt: skip
    again = watch(mirror, source, out, nothing, nothing)
    assert again.skipped == len(names)


@pytest.mark.parametrize("format", [None, "png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("suffix", ["", "_x"])
def test_no_two_names_of_a_watch_are_alike(tmp_path: Path, format: str | None, suffix: str) -> None:
    ends = [".png", ".PNG", ".jpg", ".bmp", ".tif", ".webp", ".jpe"]
    names = [f"a{end}" for end in ends] + [f"a{x}{y}" for x in ends for y in ends]
    names += [f"a{x}{y}{z}" for x in ends for y in ends for z in ends]
    paths = [tmp_path / name for name in names]
    plan = plan_jobs(
        paths, tmp_path, tmp_path / "out",
        suffix=suffix, format=format, only_tiff=False, by_own_name=True,
    )  # fmt: skip
    targets = [job.target for job in plan.jobs]
    assert len(set(targets)) == len(targets)


def test_stop_and_errors(mirror: Translator, source: Path, tmp_path: Path) -> None:
    (source / "a.png").write_text("broken")
    never = [nothing] * 5
    report = watch(mirror, source, tmp_path / "out", *never, on_error="stop")
    assert report.exit_code == 1
    with pytest.raises(DataError, match="There is no folder"):
        watch(mirror, tmp_path / "absent", tmp_path / "out2")
    assert not (tmp_path / "out2").exists()
    with pytest.raises(ConfigError, match="where the inputs are"):
        watch(mirror, source, source)
    options = [{"shard": "1/2"}, {"dry_run": True}, {"on_exists": "rename"}, {"engine": "ray"}]
    for option in options:
        with pytest.raises(ConfigError, match="watch goes on with what it finds"):
            watch(mirror, source, tmp_path / "out", **option)
    with pytest.raises(ConfigError, match="watch is for folders"):
        translate_paths(mirror, source / "a.png", tmp_path / "out", watch=True)


def test_the_command_ends_by_ctrl_c_with_the_exit_code_of_a_run(
    unet: Translator,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = str(save_model(tmp_path / "model", unet.generator, unet.config))
    out = tmp_path / "out"
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            write(source / "a.png")
            (source / "b.png").write_text("broken")
        if looks == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    command = ["translate", str(source), "-m", model, "-o", str(out), "--watch", "--device", "cpu"]
    assert cli.main(command) == 1
    shown = capsys.readouterr()
    assert "1 translated, 1 failed" in shown.out
    assert f"translated {source / 'a.png'} -> {out / 'a.png'}" in shown.err
    assert f"failed {source / 'b.png'}: " in shown.err
    (source / "b.png").unlink()
    looks = 1
    assert cli.main(command) == 0


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_a_real_process_and_a_real_signal(unet: Translator, source: Path, tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model", unet.generator, unet.config))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pix2gan", "translate", str(source), "-m", model]
    process = subprocess.Popen(
        [*command, "-o", str(out), "--watch"], stdout=subprocess.PIPE, text=True
    )
    try:
        for name in ("a.png", "b.png"):
            write(source / name)
            while not (out / name).exists():
                assert process.poll() is None
                threading.Event().wait(0.05)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0
    assert "2 translated" in shown


def test_python_takes_the_option(
    mirror: Translator, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source / "a.png")
    looks = iter([None, None])

    def sleep(_: float) -> None:
        if next(looks, 0) == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    report = translate_folder(mirror, source, tmp_path / "out", watch=True, progress=False)
    assert report.done == 1
