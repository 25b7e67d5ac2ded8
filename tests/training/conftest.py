"""Tiny pairs and tiny networks: a training of some dozen steps takes about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pix2gan.cli import TRAIN_OPTIONS
from pix2gan.training.config import TrainConfig
from pix2gan.training.method_options import Pix2PixConfig

TINY: dict[str, Any] = {
    "size": 16,
    "generator": "resnet6",
    "num_blocks": 1,
    "width": 4,
    "dropout": True,  # noise from the global generator: resuming must restore it
    "discriminator_width": 4,
    "n_layers": 1,
    "batch": 2,
    "steps": 12,
    "workers": 0,
    "log_every": 4,
    "sample_every": 6,
    "checkpoint_every": 5,
}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pairs A/, B/: a bright square on noise, and the same square in another colour."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for side in "AB":
        (folder / side).mkdir()
    for i in range(7):
        a = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
        b = a[..., ::-1].copy()
        y, x = rng.integers(0, 12, 2)
        a[y : y + 8, x : x + 8] = (250, 40, 40)
        b[y : y + 8, x : x + 8] = (40, 40, 250)
        Image.fromarray(a).save(folder / "A" / f"pair{i}.png")
        Image.fromarray(b).save(folder / "B" / f"pair{i}.png")
    return folder


@pytest.fixture
def tiny(pairs: Path, tmp_path: Path):
    """``tiny(out="run", **options)`` makes the options of a tiny run below ``tmp_path``.

    ``method`` may name one of the package's; else the options are those of pix2pix.
    """

    def make(out: str = "run", **options: Any) -> TrainConfig:
        kind = TRAIN_OPTIONS.get(options.get("method", "pix2pix"), Pix2PixConfig)
        return kind(**{"data": pairs, "out": tmp_path / out, **TINY, **options})

    return make
