"""Benchmark rows: what they say, how files of them merge."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import rows
from benchmarks.rows import device_name, format_rows, make_row, merge_rows, read_rows, results_path
from pix2gan.ops.timing import Timing

FAST = Timing(ms=1.23456, ms_low=1.0, ms_high=2.0, repeats=7)
SLOW = Timing(ms=2.46912, ms_low=2.0, ms_high=3.0, repeats=7)


def row(name: str = "resnet9", dtype: str = "float32", **columns: Any) -> dict[str, Any]:
    return make_row("generators", name, dtype, "cpu", shape=(1, 3, 8, 8), timing=FAST, **columns)


def test_a_row_says_everything():
    found = row(opponent=SLOW, opponent_name="torch.nn", backend="cpu")
    assert found["ms"] == 1.235  # four significant digits
    assert found["ratio"] == 2.0
    assert found["shape"] == [1, 3, 8, 8]
    assert found["backend"] == "cpu"
    assert found["device"] == device_name("cpu")
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert {"pix2gan", "python", "command", "date", "repeats", "ms_low", "ms_high"} <= set(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_row_without_an_opponent_has_no_ratio():
    assert "ratio" not in row()
    with pytest.raises(ValueError, match="opponent_name"):
        row(opponent=SLOW)


def test_dtypes_are_named_alike():
    assert row(dtype=torch.bfloat16)["dtype"] == row(dtype="bfloat16")["dtype"] == "bfloat16"  # type: ignore[arg-type]


def test_columns_with_a_meaning_cannot_be_replaced():
    with pytest.raises(ValueError, match="threads"):
        row(threads=99)


def test_the_command_shows_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/x.py", "--out", "/secret/place/r.json", "a/b"])
    command = row()["command"]
    assert command.startswith("python ")
    assert command.endswith(" --out r.json a/b")
    assert "secret" not in command


def test_merging_replaces_the_same_key_and_keeps_the_rest(tmp_path: Path):
    path = tmp_path / "new" / "cpu.json"
    merge_rows(path, [row("b"), row("a"), row("a", dtype="bfloat16")])
    written = merge_rows(path, [row("a", backend="cpu"), row("c")])
    assert read_rows(path) == written
    assert [(r["name"], r["dtype"]) for r in written] == [
        ("a", "bfloat16"),
        ("a", "float32"),
        ("b", "float32"),
        ("c", "float32"),
    ]
    assert [r.get("backend") for r in written] == [None, "cpu", None, None]


def test_every_part_of_the_key_tells_rows_apart(tmp_path: Path):
    path = tmp_path / "cpu.json"
    first = row()
    others = [first | {column: "another"} for column in rows.KEY]
    assert len(merge_rows(path, [first, *others])) == 5


def test_merging_the_same_rows_twice_changes_no_byte(tmp_path: Path):
    path = tmp_path / "cpu.json"
    some = [row("b"), row("a")]
    merge_rows(path, some)
    before = path.read_bytes()
    merge_rows(path, reversed(some))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["{}", '[{"name": "a"}]', "[1]", "no json"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str):
    path = tmp_path / "cpu.json"
    path.write_text(content)
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is a ValueError too
        merge_rows(path, [row()])
    assert path.read_text() == content


def test_a_row_without_its_key_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="dtype"):
        merge_rows(tmp_path / "cpu.json", [{"benchmark": "x", "name": "y", "device": "z"}])
    assert not (tmp_path / "cpu.json").exists()


def test_results_lie_in_a_file_named_after_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows, "device_name", lambda device: "AMD EPYC 9654, 2 cores")
    assert results_path("cpu") == rows.RESULTS / "amd-epyc-9654-2-cores.json"


def test_the_table_shows_rows_with_and_without_opponents():
    lines = format_rows([row(opponent=SLOW, opponent_name="torch.nn"), row("alone")]).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| resnet9 | float32 | 1x3x8x8 | 1.235 (1 to 2) | torch.nn | 2.469 (2 to 3) | 2.00 |"
        in lines
    )
