"""Averages, metrics.jsonl, TensorBoard, curves, sheets and progress lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pix2gan.training import metrics
from pix2gan.training.curves import draw_curves
from pix2gan.training.metrics import Averages, MetricsLog, read_metrics
from pix2gan.training.progress import TrainingProgress
from pix2gan.training.samples import draw_sheet


def test_averages() -> None:
    averages = Averages()
    averages.add({"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(5.0)})
    averages.add({"a": torch.tensor(2.0)})
    assert averages.peek() == {"a": 1.5, "b": 5.0}
    assert averages.take() == {"a": 1.5, "b": 5.0}
    assert averages.take() == {}


def test_averages_continue_from_their_state() -> None:
    averages, continued = Averages(), Averages()
    averages.add({"a": torch.tensor(1.0)})
    continued.load_state_dict(averages.state_dict(), torch.device("cpu"))
    continued.add({"a": torch.tensor(4.0)})
    assert continued.take() == {"a": 2.5}
    assert averages.take() == {"a": 1.0}


def test_log_drops_what_a_resumed_run_makes_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, pytest.fail)
    for step in (10, 20, 30):
        log.add({"step": step, "l1": 0.5})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 35, "l')  # killed while writing
    log = MetricsLog(tmp_path, 20, pytest.fail)
    log.add({"step": 30, "l1": float("nan")})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 10, "l1": 0.5},
        {"step": 20, "l1": 0.5},
        {"step": 30, "l1": None},
    ]
    assert read_metrics(tmp_path / "metrics.jsonl") == lines
    assert list((tmp_path / "tensorboard").iterdir())


def test_outdated_entries_wait_for_room_to_be_dropped(tmp_path: Path, monkeypatch) -> None:
    said: list[str] = []
    log = MetricsLog(tmp_path, 0, said.append)
    for step in (10, 20):
        log.add({"step": step, "l1": 0.5})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metrics, "atomic_write", full_disk)
        log.go_back(15)
        log.add({"step": 18, "l1": 0.4})
    assert [line.rpartition(" cannot ")[2] for line in said] == [
        "be written (No space left on device)."
    ] * 2
    log.add({"step": 20, "l1": 0.3})
    log.close()
    entries = read_metrics(tmp_path / "metrics.jsonl")
    assert entries == [{"step": 10, "l1": 0.5}, {"step": 20, "l1": 0.3}]


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        b'{"step": 1, "l1": 0.5}',
        b'\xff\xfe\x00{"step": 2}',
        b'{"step": "3", "l1": 1.0}',
        b'{"step": NaN}',
        b'{"step": 4, "l1": "\xff"}',
        b'{"step": 5, "l1": null}',
        b'{"step": 6, "l1"',
    ]
    path.write_bytes(b"\n".join(lines))
    assert read_metrics(path) == [{"step": 1, "l1": 0.5}, {"step": 5, "l1": None}]
    MetricsLog(tmp_path, 4, print).close()
    assert read_metrics(path) == [{"step": 1, "l1": 0.5}]


def test_tensorboard_that_fails_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    said: list[str] = []
    log = MetricsLog(tmp_path, 0, said.append)
    log.add({"step": 1, "l1": 0.5})
    log.add({"step": 2, "l1": 0.5})
    log.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert len(said) == 1
    assert said[0].startswith("TensorBoard is left out")


def test_curves_have_a_panel_for_each_metric() -> None:
    entries = [{"step": s, "epoch": 1, "l1": 1 / s, "d": 0.5, "g": None} for s in range(1, 50)]
    picture = draw_curves(entries)
    assert picture.size == (840, 440)  # l1 and d above, g below
    blue = (31, 98, 168)
    colours = [{c for _, c in picture.crop(box).getcolors(2**16)} for box in panels()]
    assert [blue in found for found in colours] == [True, True, False, False]


def panels() -> list[tuple[int, int, int, int]]:
    return [(x, y, x + 420, y + 220) for y in (0, 220) for x in (0, 420)]


def test_curve_of_one_point_is_a_dot() -> None:
    assert (31, 98, 168) in {c for _, c in draw_curves([{"step": 3, "l1": 1.0}]).getcolors(2**16)}


def test_sheet() -> None:
    grey = torch.full((2, 1, 8, 8), -1.0)
    colour = torch.stack([torch.full((4, 8, 8), v) for v in (0.0, 3.0)])
    sheet = draw_sheet([grey, colour])
    assert sheet.size == (8 + 4 + 8, 8 + 4 + 8)
    assert sheet.getpixel((0, 0)) == (0, 0, 0)
    assert sheet.getpixel((9, 0)) == (255, 255, 255)  # the gutter
    assert sheet.getpixel((12, 0)) == (128, 128, 128)
    assert sheet.getpixel((12, 12)) == (255, 255, 255)  # out of range is clipped


def test_plain_progress_lines() -> None:
    text = io.StringIO()
    progress = TrainingProgress(0, 100, batch=4, console=Console(file=text, width=40))
    with progress:
        progress.advance(1, 1)
        assert text.getvalue() == ""  # only reports make lines
        rate = progress.report(10, 2, {"l1": 0.123456})
    assert rate > 0
    line = text.getvalue()
    assert line.startswith("step 10/100  epoch 2  l1 0.1235  ")
    assert "images/s" in line
    assert line.endswith("left\n")
    assert line.count("\n") == 1  # not wrapped


def test_live_progress_line() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with TrainingProgress(5, 100, batch=4, console=console) as progress:
        progress.report(10, 2, {"l1": 0.5})
        progress.say("a checkpoint [was] written")
    assert "epoch 2" in text.getvalue()
    assert "10/100" in text.getvalue()
    assert "a checkpoint [was] written" in text.getvalue()
