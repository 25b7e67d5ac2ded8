"""What two runs of training are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pix2gan.training.checkpointing import CheckpointFolder, load_checkpoint
from pix2gan.training.metrics import read_metrics


def final_state(run: Path) -> dict[str, Any]:
    """The last checkpoint without what may differ between two equal runs."""
    state = load_checkpoint(CheckpointFolder(run / "checkpoints", keep=2).files()[-1])
    return {k: v for k, v in state.items() if k not in ("seconds", "config")}


def curve(run: Path) -> list[dict[str, float]]:
    """The entries of the metrics without what may differ between two equal runs."""
    timings = ("seconds", "images_per_second")
    entries = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in entry.items() if k not in timings} for entry in entries]


def assert_same(ours: Any, theirs: Any, where: str = "state") -> None:
    """Equal to the last bit, in values, types and memory layout."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, other, f"{where}[{i}]")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert ours.stride() == theirs.stride(), where
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where
