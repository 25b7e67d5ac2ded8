"""What a folder run can be told: which images, what to do with those there, what to report."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pix2gan.checkpoints import save_model
from pix2gan.errors import ConfigError, DataError, Pix2ganError
from pix2gan.folder_lock import only_run_in
from pix2gan.translation import Translator, translate_folder, translate_paths
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.planning import shard_of
from pix2gan.translation.targets import Job

from .conftest import MakeMirror, Mirror
from .image_trees import translate, tree, write

# Which images


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["0.png", "deep/12.png", "deep/er/21.png", "deep/er/[x].png"]),
        ("deep/*.png", ["deep/12.png"]),
        ("deep/**/*.png", ["deep/12.png", "deep/er/21.png", "deep/er/[x].png"]),
        ("**/er/*", ["deep/er/21.png", "deep/er/[x].png"]),
        ("*/er/[0-9]*", ["deep/er/21.png"]),
        ("[[]x].png", ["deep/er/[x].png"]),
        ("?.*", ["0.png"]),
    ],
)
def test_glob(mirror: Translator, tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("0.png", "10.jpg", "deep/12.png", "deep/er/21.png", "deep/er/[x].png"):
        write(tmp_path / "in" / name)
    assert translate(mirror, tmp_path / "in", tmp_path / "out", glob=pattern).exit_code == 0
    assert sorted(tree(tmp_path / "out")) == names


def test_a_glob_that_fits_nothing_or_is_out_of_place(mirror: Translator, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.png")
    with pytest.raises(DataError, match=r"no image in .* that matches '\*\.jpg'"):
        translate(mirror, tmp_path / "in", tmp_path / "out", glob="*.jpg")
    with pytest.raises(ConfigError, match="glob is for folders"):
        translate_paths(mirror, path, tmp_path / "out", glob="*.png")


@pytest.mark.parametrize("option", [{"glob": "*"}, {"shard": "1/2"}, {"engine": "ray"}])
@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_what_is_for_many_images_is_refused_for_one(
    mirror: Translator, tmp_path: Path, name: str, option: dict[str, str]
) -> None:
    path = write(tmp_path / "in" / "a.png").rename(tmp_path / "in" / name)
    for out in ("out", f"out/{name}"):
        with pytest.raises(ConfigError, match=r"is for folders, and .* is none: leave it out"):
            translate_paths(mirror, path, tmp_path / out, **option)
    assert not (tmp_path / "out").exists()


def test_an_output_is_not_named_like_what_it_is_not(mirror: Translator, tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    video = write(tmp_path / "b.png").rename(tmp_path / "b.mp4")
    with pytest.raises(ConfigError, match=r"x\.mp4 is named like a video"):
        translate_paths(mirror, image, tmp_path / "x.mp4")
    with pytest.raises(ConfigError, match=r"x\.gif is named like an image"):
        translate_paths(mirror, video, tmp_path / "x.gif")
    for out in ("x.avi", "x.MPG"):
        for options in ({}, {"dry_run": True}):
            with pytest.raises(ConfigError, match=r"cannot be written: let its name end in \.mp4"):
                translate_paths(mirror, video, tmp_path / out, **options)
    with pytest.raises(ConfigError, match=r"x\.jepg cannot be written: let its name end in"):
        translate_paths(mirror, image, tmp_path / "x.jepg")
    with pytest.raises(ConfigError, match=r"x\.txt cannot be written: let its name end in"):
        translate_paths(mirror, video, tmp_path / "x.txt")
    with pytest.raises(ConfigError, match=r"report cannot be the output .*r\.json"):
        translate_paths(mirror, tmp_path, tmp_path / "r.json", report=f"{tmp_path}/./r.json")
    for out in ("x.mp4", "x.gif"):
        with pytest.raises(ConfigError, match=f"{out[1:]} is named like a"):
            translate(mirror, tmp_path, tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.mp4"]


def test_a_trailing_slash_says_that_it_is_a_folder(mirror: Translator, tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    assert translate_paths(mirror, image, f"{tmp_path}/new.d/").done == 1
    assert (tmp_path / "new.d" / "a.png").exists()
    video = image.rename(tmp_path / "b.mp4")
    planned = translate_paths(mirror, video, f"{tmp_path}/other.d/", dry_run=True).planned
    assert planned == [(video, tmp_path / "other.d" / "b.mp4")]


@pytest.mark.parametrize("option", [{"watch": True}, {"glob": "*"}, {"codec": "h264"}, {}])
@pytest.mark.parametrize("name", ["phtos", "clip.mp4", "a.png"])
def test_a_mistyped_path_is_told_before_its_options(
    mirror: Translator, tmp_path: Path, name: str, option: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=f"There is no file or folder {tmp_path / name}"):
        translate_paths(mirror, tmp_path / name, tmp_path / "out", **option)


def test_a_video_is_no_stream(mirror: Translator, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"A stream takes one image, and b\.mp4 is a video"):
        translate_paths(mirror, "b.mp4", io.BytesIO())


# Shards


@pytest.mark.parametrize("batch_size", [1, 3])
def test_shards_write_what_one_run_would_have_written(
    unet: Translator, photos: Path, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pix2gan.translation.folder_options._BATCHES_PER_CHUNK", 2)
    (photos / "deep" / "12.png").write_text("broken")
    whole = translate(unet, photos, tmp_path / "whole", batch_size=batch_size)
    parts = [
        translate(unet, photos, tmp_path / "parts", batch_size=batch_size, shard=f"{i}/4")
        for i in (3, 1, 4, 2)
    ]
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    assert sum(part.done for part in parts) == whole.done == 29
    assert [part.exit_code for part in parts].count(1) == 1
    assert all(part.skipped == 0 for part in parts)


def test_every_job_is_in_one_shard() -> None:
    jobs = [Job(Path(f"in/{i}"), Path(f"out/{i}")) for i in range(1003)]
    for n in (1, 2, 7, 16, 500):
        parts = [shard_of(jobs, 64, i, n) for i in range(1, n + 1)]
        names = [int(job.source.name) for part in parts for job in part]
        assert sorted(names) == list(range(1003))


def test_a_shard_without_images(mirror: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png")
    report = translate(mirror, tmp_path / "in", tmp_path / "out", shard="2/2")
    assert (report.images, report.exit_code) == ([], 0)


# What is there already


def test_rename_writes_beside_what_is_there(mirror: Translator, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i, name in enumerate(["a.png", "a-2.png", "deep/b.jpg"]):
        write(source / name, seed=i)
    first = translate(mirror, source, out, on_exists="rename")
    assert first.done == 3
    written = tree(out)
    assert sorted(written) == ["a-2.png", "a.png", "deep/b.jpg"]
    (out / "a-2.png").unlink()
    for number in (2, 3):
        report = translate(mirror, source, out, on_exists="rename")
        assert (report.done, report.skipped) == (3, 0)
        # a-2.png is the name of another image's output
        assert (out / f"a-{number + 1}.png").read_bytes() == written["a.png"]
        assert (out / "deep" / f"b-{number}.jpg").read_bytes() == written["deep/b.jpg"]
    assert sorted(tree(out)) == [
        "a-2-2.png", "a-2.png", "a-3.png", "a-4.png", "a.png",
        "deep/b-2.jpg", "deep/b-3.jpg", "deep/b.jpg",
    ]  # fmt: skip
    assert [i.target.name for i in report.images] == ["a-2-2.png", "a-4.png", "b-3.jpg"]


def test_rename_of_a_single_output(mirror: Translator, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    for expected in ("o.png", "o-2.png", "o-3.png"):
        report = translate_paths(mirror, path, tmp_path / "o.png", on_exists="rename")
        assert [image.target.name for image in report.images] == [expected]
        assert (tmp_path / expected).exists()


def test_an_interrupted_run_that_renames_goes_on_under_its_names(
    unet: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    options: dict[str, Any] = {"on_exists": "rename", "batch_size": 1, "jobs": 1}
    for _ in range(2):
        translate(unet, photos, undisturbed, **options)
    assert len(tree(undisturbed)) == 60
    translate(unet, photos, out, batch_size=1)
    run, left = unet.run, 0

    def interrupted(batch: Any, *options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return run(batch, *options)

    for batches in (0, 9, 7):  # at most three outputs wait, and are dropped
        left = batches
        with monkeypatch.context() as patched:
            patched.setattr(unet, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                translate(unet, photos, out, **options)
        assert any(name.startswith(".pix2gan-names-") for name in tree(out))
    report = translate(unet, photos, out, **options)
    assert report.done + report.skipped == 30
    assert 0 < report.skipped < 30
    assert tree(out) == tree(undisturbed)


def test_another_job_does_not_go_on_under_the_names_of_an_interrupted_one(
    unet: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate(unet, photos, tmp_path / "out", on_exists="rename", on_error="stop")
    (photos / "0.png").write_text("broken")
    report = translate(unet, photos, tmp_path / "out", on_exists="rename", on_error="stop")
    assert report.left > 0
    other = translate(unet, photos, tmp_path / "out", on_exists="rename", quality=50)
    assert (other.done, other.skipped, len(other.failed)) == (29, 0, 1)


def test_a_run_that_renames_has_the_folder_to_itself(
    mirror: Translator, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with only_run_in(out, shared=True):
        with pytest.raises(ConfigError, match="Another run writes to"):
            translate(mirror, photos, out, on_exists="rename")
        assert translate(mirror, photos, out).done == 30
    with only_run_in(out):  # as one that renames does
        with pytest.raises(ConfigError, match="Another run writes to"):
            translate(mirror, photos, out)
        assert translate_paths(mirror, photos / "0.png", out / "named.png").done == 1


def test_two_runs_that_rename_do_not_choose_the_same_names(
    mirror: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run = mirror.run
    refused = []

    def meanwhile(batch: Any, *options: Any) -> Any:
        if not refused:
            for shard in (None, "1/2"):
                with pytest.raises(ConfigError, match="Another run writes to") as error:
                    translate(mirror, photos, out, on_exists="rename", shard=shard)
            refused.append(error)
        return run(batch, *options)

    monkeypatch.setattr(mirror, "run", meanwhile)
    assert translate(mirror, photos, out, on_exists="rename").done == 30
    assert refused


def test_parts_of_a_run_that_renames_work_side_by_side(
    mirror: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run, others = tmp_path / "out", mirror.run, []

    def meanwhile(batch: Any, *options: Any) -> Any:
        if not others:
            others.append(None)
            others.append(translate(mirror, photos, out, on_exists="rename", shard="2/2"))
        return run(batch, *options)

    translate(mirror, photos, out)
    monkeypatch.setattr(mirror, "run", meanwhile)
    first = translate(mirror, photos, out, on_exists="rename", shard="1/2")
    assert first.done + others[1].done == 30
    assert len(tree(out)) == 60


@pytest.mark.parametrize("journal", ["", "[]", "{}", '{"kind": 3, "names": []}', '"x"'])
def test_a_damaged_list_of_names_is_no_list(
    mirror: Translator, tmp_path: Path, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pix2gan.translation.renaming import NameJournal

    write(tmp_path / "in" / "a.png")
    monkeypatch.setattr(NameJournal, "remove", lambda self: None)
    translate(mirror, tmp_path / "in", tmp_path / "out", on_exists="rename")
    (path,) = (tmp_path / "out").glob(".pix2gan-names-*")
    assert "a.png" in path.read_text()
    path.write_text(journal)
    translate(mirror, tmp_path / "in", tmp_path / "out", on_exists="rename")
    assert (tmp_path / "out" / "a-2.png").exists()


# After an image that failed


def test_stop_ends_the_run_and_keeps_what_is_done(
    unet: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = unet.run, []

    def counted(batch: Any, *options: Any) -> Any:
        made.append(run(batch, *options))
        return made[-1]

    monkeypatch.setattr(unet, "run", counted)
    (photos / "deep" / "12.png").write_text("broken")
    (photos / "deep" / "er" / "21.png").write_text("broken, too")
    out = tmp_path / "out"
    report = translate(unet, photos, out, on_error="stop", batch_size=1, report=tmp_path / "r")
    assert [path.name for path, _ in report.failed] == ["12.png"]
    assert report.exit_code == 1
    assert report.left > 0
    assert report.done + report.left == 29
    assert len(tree(out)) == report.done == len(made)
    assert f"1 failed, {report.left} left" in str(report)
    statuses = [json.loads(line)["status"] for line in (tmp_path / "r").read_text().splitlines()]
    assert statuses.count("left") == report.left
    (photos / "deep" / "12.png").unlink()
    report = translate(unet, photos, out, on_error="stop", batch_size=1)
    assert [path.name for path, _ in report.failed] == ["21.png"]


def test_stop_tells_of_all_images_that_failed_together(
    make_mirror: MakeMirror, tmp_path: Path
) -> None:
    class Dark(Mirror):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    for name in "abcdef":
        write(tmp_path / "in" / f"{name}.png", 8, 8)
    report = translate(
        make_mirror(Dark()), tmp_path / "in", tmp_path / "out", on_error="stop", batch_size=3
    )
    assert len(report.failed) in (3, 6)  # with two cores both batches are with the network
    assert report.left == 6 - len(report.failed)


def test_stop_where_the_output_cannot_be_written(
    mirror: Translator, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").write_text("a file where a folder should be")
    report = translate(mirror, photos, tmp_path / "out", on_error="stop")
    assert report.failed
    assert len(tree(tmp_path / "out")) - 1 == report.done
    assert report.done + report.left + len(report.failed) == 30


# Only looking


@pytest.mark.parametrize("on_exists", ["skip", "overwrite", "rename"])
def test_a_dry_run_foretells_the_run_and_writes_nothing(
    mirror: Translator, photos: Path, tmp_path: Path, on_exists: str
) -> None:
    out = tmp_path / "out"
    (photos / "0.png").rename(photos / "0.bmp.png")
    write(photos / "0.bmp")
    nothing = translate(mirror, photos, out, dry_run=True, on_exists=on_exists)
    assert len(nothing.planned) == 31
    assert not out.exists()
    translate(mirror, photos, out, glob="*.png")
    before = tree(out)
    foretold = translate(mirror, photos, out, dry_run=True, on_exists=on_exists, jobs=1)
    assert tree(out) == before
    assert foretold.done == 0
    assert (len(foretold.planned), foretold.skipped) == (
        (21, 10) if on_exists == "skip" else (31, 0)
    )
    assert f"{len(foretold.planned)} to translate" in str(foretold)
    assert f"  {photos / '1.jpg'} -> {out / '1.jpg'}" in str(foretold)
    report = translate(mirror, photos, out, on_exists=on_exists)
    done = [(i.source, i.target) for i in report.images if i.status == "translated"]
    assert done == foretold.planned


def test_a_dry_run_of_what_is_done(mirror: Translator, photos: Path, tmp_path: Path) -> None:
    translate(mirror, photos, tmp_path / "out")
    report = translate(mirror, photos, tmp_path / "out", dry_run=True)
    assert str(report) == f"0 to translate, 30 skipped (already there): {tmp_path / 'out'}"


# Reports


def test_the_report_has_a_line_for_every_image(
    unet: Translator, photos: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "out", tmp_path / "report.jsonl"
    (photos / "deep" / "12.png").write_text("broken")
    report = translate(unet, photos, out, report=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 30
    assert [line["input"] for line in lines] == [str(image.source) for image in report.images]
    for line in lines:
        assert (line["status"] == "translated") == Path(line["output"]).exists()
        assert (line["status"] == "failed") == bool(line["error"])
        assert line["model"] == "unet128"
        assert line["weights"] == f"sha256:{unet.weights_hash()}"
    (failed,) = (line for line in lines if line["error"])
    assert failed["input"] == str(photos / "deep" / "12.png")
    assert (Path(failed["input"]), failed["error"]) == report.failed[0]

    first = path.read_bytes()
    translate(unet, photos, out, report=path)
    statuses = {json.loads(line)["status"] for line in path.read_text().splitlines()}
    assert statuses == {"skipped", "failed"}
    translate(unet, photos, out, report=path, on_exists="overwrite")
    assert path.read_bytes() == first


OTHERS = [
    b"PK\3\4",
    b"-----BEGIN PRIVATE KEY-----",
    b"{}",
    b'{"input": "a", "output": "b"}\n',
    b"x",
]


@pytest.mark.parametrize("content", OTHERS)
def test_a_report_replaces_reports_alone(
    mirror: Translator, photos: Path, tmp_path: Path, content: bytes
) -> None:
    other = tmp_path / "other"
    other.write_bytes(content)
    with pytest.raises(ConfigError, match=r"something else at .*other, which would be lost"):
        translate(mirror, photos, tmp_path / "out", report=other)
    assert other.read_bytes() == content
    assert not (tmp_path / "out").exists()
    other.write_bytes(b"")
    for _ in range(2):
        translate(mirror, photos, tmp_path / "out", report=other)
    assert len(other.read_text().splitlines()) == 30


def test_a_run_that_ends_early_reports_too(
    mirror: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, out = os.replace, tmp_path / "out"

    def full(temporary: Any, target: Any) -> None:
        if str(target).endswith("25.jpg"):
            raise OSError(28, "No space left on device")
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", full)
    path = tmp_path / "report.jsonl"
    with pytest.raises(Pix2ganError, match="No space left"):
        translate(mirror, photos, out, report=path, batch_size=1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 30
    done = {line["output"] for line in lines if line["status"] == "translated"}
    assert done == {str(out / name) for name in tree(out)}
    assert {line["status"] for line in lines} == {"translated", "left"}


def test_the_hash_is_that_of_the_weights(
    unet: Translator, make_mirror: MakeMirror, tmp_path: Path
) -> None:
    saved = save_model(tmp_path / "model", unet.generator, unet.config)
    loaded = Translator.from_pretrained(saved, device="cpu")
    assert loaded.weights_hash() == unet.weights_hash()
    assert len(unet.weights_hash()) == 64
    state = {name: value.clone() for name, value in loaded.generator.state_dict().items()}
    first = next(iter(state))
    state[first][0] += 1
    loaded.generator.load_state_dict(state)
    assert loaded.weights_hash() != unet.weights_hash()
    assert make_mirror().weights_hash() == make_mirror().weights_hash()


def test_python_spells_its_options_once() -> None:
    import dataclasses
    import inspect

    parameters = inspect.signature(translate_folder).parameters
    options = {option.name: option.default for option in dataclasses.fields(FolderOptions)}
    assert {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind == parameter.KEYWORD_ONLY
    } == options
