"""Videos: every frame in its place and time, the sound as it was."""

from __future__ import annotations

import numpy as np
import pytest

from pix2gan.errors import ConfigError, DataError
from pix2gan.translation import translate_video
from pix2gan.translation.video import _Writer

from .clips import HEIGHT, TIMES, WIDTH, picture, write_clip

av = pytest.importorskip("av", reason="the extra [video] is not installed")


def frames(path):
    with av.open(str(path)) as video:
        return [(float(f.time), f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]


def sound(path):
    with av.open(str(path)) as video:
        return [bytes(p) for p in video.demux(audio=0) if p.dts is not None]


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov", "out.webm"])
def test_frames_times_and_sound(mirror, tmp_path, name):
    """The mirror returns what it sees, so the frames are those of the clip."""
    clip = write_clip(tmp_path / ("clip.webm" if name.endswith("webm") else "clip.mp4"))
    assert translate_video(mirror, clip, tmp_path / name, batch_size=3) == len(TIMES)
    found = frames(tmp_path / name)
    # Matroska has no times below 0, where AAC begins: it moves sound and frames alike.
    began = found[0][0]
    assert [round(1000 * (time - began)) for time, _ in found] == TIMES
    assert began < (0.03 if name.endswith("mkv") else 0.001)
    for number, (_, pixels) in enumerate(found):
        assert np.abs(pixels.astype(int) - picture(number)).mean() < 4
    assert sound(tmp_path / name) == sound(clip)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "h264"), ("mp4", "hevc"), ("mp4", "av1"), ("webm", "vp9")]
)
def test_equal_runs_have_equal_frames(unet, tmp_path, suffix, codec):
    clip = write_clip(tmp_path / f"clip.{suffix}")
    for name in ("a", "b"):
        translate_video(unet, clip, tmp_path / f"{name}.{suffix}", codec=codec)
    first, second = (frames(tmp_path / f"{name}.{suffix}") for name in ("a", "b"))
    assert len(first) == len(TIMES)
    for (time, pixels), (other_time, other) in zip(first, second, strict=True):
        assert time == other_time
        assert np.array_equal(pixels, other)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("codec", "settings"),
    [
        ("h264", [b" mbtree=0 ", b" threads=4 ", b" lookahead_threads=1 "]),
        ("hevc", [b" no-cutree ", b" no-sao ", b" frame-threads=1 ", b" numa-pools=none "]),
    ],
)
def test_bytes_depend_on_nothing_but_the_frames(
    mirror, clip, tmp_path, codec, settings, monkeypatch
):
    write = _Writer.write  # x264 starts no four threads for a few lines
    larger = lambda self, pixels, *when: write(self, pixels.repeat(4, 0).repeat(4, 1), *when)  # noqa: E731
    monkeypatch.setattr(_Writer, "write", larger)
    translate_video(mirror, clip, tmp_path / "out.mkv", codec=codec)
    written = (tmp_path / "out.mkv").read_bytes()  # where both encoders say how they were set
    assert all(setting in written for setting in settings)


def test_an_encoder_that_takes_no_such_frames(mirror, tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4")
    write = _Writer.write
    cut = lambda self, pixels, *when: write(self, pixels[:51, :77], *when)  # noqa: E731
    monkeypatch.setattr(_Writer, "write", cut)
    with pytest.raises(ConfigError, match="encoder of av1 does not take frames of 77 x 51 pixels"):
        translate_video(mirror, clip, tmp_path / "out.mp4", codec="av1")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9"])
def test_encoders_are_quiet(mirror, clip, tmp_path, codec, capfd):
    translate_video(mirror, clip, tmp_path / "out.mkv", codec=codec)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("on_exists", ["skip", "overwrite"])
def test_a_video_is_not_its_own_output(mirror, clip, tmp_path, on_exists):
    for out in (clip, tmp_path):
        with pytest.raises(ConfigError, match="would overwrite the input"):
            mirror.translate_paths(clip, out, on_exists=on_exists)


def test_a_turned_video_comes_out_upright(mirror, clip, tmp_path):
    data = bytearray(clip.read_bytes())
    place = data.index(b"tkhd") + 44  # the matrix of the first track, which is the video
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30]
    data[place : place + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in turned)
    clip.write_bytes(data)
    translate_video(mirror, clip, tmp_path / "out.mp4")
    _, pixels = frames(tmp_path / "out.mp4")[0]
    assert pixels.shape == (WIDTH, HEIGHT, 3)
    white = pixels.min(2) > 230  # clockwise by a quarter: to the upper right
    assert white[4 : WIDTH // 2 - 4, HEIGHT // 2 + 4 :].all()
    assert not white[WIDTH // 2 + 4 :].any()


def test_odd_sizes_and_no_sound(make_mirror, tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", sound=False)
    write = _Writer.write
    cut = lambda self, pixels, *when: write(self, pixels[:51, :77], *when)  # noqa: E731
    monkeypatch.setattr(_Writer, "write", cut)
    translate_video(make_mirror(), clip, tmp_path / "out.mp4")
    found = frames(tmp_path / "out.mp4")
    assert len(found) == len(TIMES)
    assert found[0][1].shape == (51, 77, 3)
    assert np.abs(found[3][1].astype(int) - picture(3)[:51, :77]).mean() < 4


def test_the_container_says_what_made_it(mirror, clip, tmp_path):
    translate_video(mirror, clip, tmp_path / "a.mp4")
    translate_video(mirror, clip, tmp_path / "b.mp4", provenance=False)
    with av.open(str(tmp_path / "a.mp4")) as said, av.open(str(tmp_path / "b.mp4")) as silent:
        assert "trainedAlgorithmicMedia" in said.metadata["comment"]
        assert "comment" not in silent.metadata


def test_quality_makes_files_smaller(mirror, clip, tmp_path):
    sizes = []
    for quality in (95, 10):
        translate_video(mirror, clip, tmp_path / "out.mp4", quality=quality)
        sizes.append((tmp_path / "out.mp4").stat().st_size)
    assert sizes[1] < sizes[0]


def test_broken_videos_leave_nothing(mirror, clip, tmp_path):
    out = tmp_path / "out" / "clip.mp4"
    out.parent.mkdir()
    data = clip.read_bytes()
    for damaged in (b"", b"no video", data[: len(data) // 2]):
        clip.write_bytes(damaged)
        with pytest.raises(DataError, match=r"clip\.mp4"):
            translate_video(mirror, clip, out)
        assert list(out.parent.iterdir()) == []
    with pytest.raises(DataError, match="There is no file"):
        translate_video(mirror, tmp_path / "absent.mp4", out)


def test_stopped_midway_the_old_output_stays(mirror, clip, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Writer, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        translate_video(mirror, clip, out)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "out.mp4"}


def test_from_the_shell_it_is_a_file_like_others(mirror, clip, tmp_path):
    report = mirror.translate_paths(clip, tmp_path / "out", progress=False)
    assert report.done == 1
    assert len(frames(tmp_path / "out" / "clip.mp4")) == len(TIMES)
    assert mirror.translate_paths(clip, tmp_path / "out", progress=False).skipped == 1
    clip.write_bytes(b"broken")
    report = mirror.translate_paths(clip, tmp_path / "other.mkv", progress=False)
    assert report.exit_code == 1
    assert f"  {clip}: cannot be translated, it is damaged or no video" in str(report)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("out.gif", {}, "cannot be written"),
        ("out.mp4", {"codec": "mpeg1"}, "codec must be one of h264, hevc, vp9, av1"),
        ("out.webm", {"codec": "h264"}, "WebM cannot hold h264"),
        ("out.webm", {}, r"WebM cannot hold the sound of .*clip\.mp4, which is aac"),
        ("out.mp4", {"quality": 0}, "quality must be between 1 and 100"),
        ("clip.mp4", {}, "would overwrite the input"),
    ],
)
def test_what_makes_no_sense_is_refused(mirror, clip, tmp_path, name, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        translate_video(mirror, clip, tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
