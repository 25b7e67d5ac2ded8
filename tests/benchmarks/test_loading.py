"""The benchmark of loading, at the smallest size that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import loading
from benchmarks.rows import merge_rows


def test_a_row_says_what_the_loader_delivers_and_what_a_step_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "IMAGES", 4)
    loading.write_images(tmp_path / "data")
    row = loading.run_method("pix2pix", tmp_path, workers=0, width=2, seconds=0.0, steps=3)
    assert row["name"] == "pix2pix unet256 width 2 256x256 batch 1, 0 workers"
    assert row["repeats"] >= 5
    assert row["opponent_repeats"] == 3
    assert 0 < row["wait_ms"] <= row["wait_ms_high"]
    assert 0 < row["images_per_second"] < 2e5
    assert merge_rows(tmp_path / "rows.json", [row])
