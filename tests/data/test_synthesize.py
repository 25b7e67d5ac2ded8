"""The script that draws small data sets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pix2gan.data.image_io import open_image
from pix2gan.data.paired import check_paired
from pix2gan.data.unpaired import open_unpaired

ROOT = Path(__file__).parents[2]


def test_same_arguments_same_files(tmp_path: Path, synthesize: Callable[..., list[Path]]) -> None:
    first = synthesize(tmp_path / "a", count=2, size=24, seed=4)
    second = synthesize(tmp_path / "b", count=2, size=24, seed=4)
    other = synthesize(tmp_path / "c", count=2, size=24, seed=5)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert not np.array_equal(open_image(first[0]), open_image(other[0]))
    assert not np.array_equal(open_image(first[0]), open_image(first[1]))


def test_unknown_layouts_are_refused(tmp_path: Path, synthesize: Callable[..., list[Path]]) -> None:
    with pytest.raises(ValueError, match="side-by-side"):
        synthesize(tmp_path, layout="heap")


def test_it_runs_as_a_script(tmp_path: Path) -> None:
    command = [sys.executable, "datasets/synthesize.py", str(tmp_path / "toys"), "--count", "3"]
    result = subprocess.run(
        [*command, "--size", "16", "--layout", "folders"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout == f"Wrote 6 files to {tmp_path / 'toys'}\n"
    assert check_paired(tmp_path / "toys").pairs == 3


def test_unpaired_layout_shows_no_vehicle_twice(
    tmp_path: Path, synthesize: Callable[..., list[Path]]
) -> None:
    synthesize(tmp_path, count=3, size=32, layout="unpaired")
    dataset = open_unpaired(tmp_path, size=32)
    assert (len(dataset.images_a), len(dataset.images_b)) == (3, 3)
    synthesize(tmp_path / "pairs", count=3, size=32, layout="folders")
    photos = {file.read_bytes() for file in (tmp_path / "pairs" / "B").iterdir()}
    assert not photos & {file.read_bytes() for file in (tmp_path / "B").iterdir()}
