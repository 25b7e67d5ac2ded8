"""The benchmark of unpaired runs reads a run as it was trained, and writes its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import unpaired
from pix2gan.data.image_io import save_image
from pix2gan.errors import ConfigError
from pix2gan.training import CycleGANConfig, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpaired")
    rng = np.random.default_rng(0)
    for letter, count in (("A", 9), ("B", 12)):
        for i in range(count):
            pixels = rng.integers(0, 200 if letter == "A" else 255, (40, 40, 3), dtype=np.uint8)
            (folder / "data" / letter).mkdir(parents=True, exist_ok=True)
            save_image(folder / "data" / letter / f"{i}.png", pixels)
    options = {"size": 32, "generator": "resnet6", "num_blocks": 1, "width": 4, "steps": 2}
    options |= {"discriminator_width": 4, "n_layers": 1, "workers": 0, "holdout": 0.4}
    return train(CycleGANConfig(folder / "data", out=folder / "run", **options))


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_run_is_scored_on_what_it_held_back(
    run: Path, direction: str, tmp_path: Path, monkeypatch
) -> None:
    words = ["unpaired", str(run), "--model", f"model_{direction}", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    unpaired.main()
    result = json.loads((tmp_path / f"unpaired-run-model_{direction}.json").read_text())
    held_back = json.loads((run / "split.json").read_text())["held_out"]
    inputs = [name for name in held_back if name.startswith(direction[0])]
    assert result["direction"] == direction
    assert result["swd"]["inputs"]["images"] == len(inputs)
    assert result["swd"]["inputs"]["to"] == {"AtoB": 12, "BtoA": 9}[direction]
    assert result["size"] == 32


def test_a_run_without_hold_out_is_refused(run: Path, tmp_path: Path, monkeypatch) -> None:
    other = tmp_path / "run"
    other.mkdir()
    text = (run / "config.yaml").read_text().replace("holdout: 0.4", "holdout: 0.0")
    (other / "config.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["unpaired", str(other)])
    with pytest.raises(ConfigError, match="--holdout"):
        unpaired.main()
