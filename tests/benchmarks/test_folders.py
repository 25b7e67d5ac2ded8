"""The benchmark of folders, at the smallest size that it takes."""

from __future__ import annotations

from pathlib import Path

from benchmarks import folders
from benchmarks.rows import merge_rows
from pix2gan.checkpoints import ModelConfig
from pix2gan.models import create_generator
from pix2gan.translation import Translator


def test_a_row_compares_files_with_the_network(tmp_path: Path) -> None:
    generator = create_generator("unet128", width=2, num_downs=3)
    config = ModelConfig(architecture=dict(generator.config))
    translator = Translator(generator, config, device="cpu")
    row = folders.run_folder(translator, "tiny", tmp_path, images=6, rounds=2, batch_size=4)
    assert row["name"] == "tiny 6 JPEGs 256x256 batch 4"
    assert row["repeats"] == 2
    assert row["file_ms"] > 0
    assert row["ratio"] > 0
    assert merge_rows(tmp_path / "rows.json", [row])
