"""What a dry run finds is so, and it leaves nothing behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pix2gan.errors import ConfigError, DataError
from pix2gan.training import train
from pix2gan.training.checkpointing import CheckpointFolder
from pix2gan.training.dry_run import dry_run
from pix2gan.training.methods import list_methods
from pix2gan.training.trainer import Trainer


@pytest.mark.parametrize("method", list_methods())
def test_a_dry_run_writes_nothing(tiny, pairs: Path, method: str) -> None:
    config = tiny(method=method, workers=1)
    before = sorted(path.name for path in pairs.rglob("*"))
    estimate = dry_run(config)
    assert not config.out.exists()
    assert sorted(path.name for path in pairs.rglob("*")) == before
    networks = Trainer(config).method.networks
    assert estimate.parameters == {
        name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()
    }
    assert (estimate.steps, estimate.images_per_step) == (12, 2)
    assert 0 < estimate.seconds_per_step < 30
    assert "Nothing was written." in str(estimate)


def test_the_checkpoint_is_as_large_as_estimated(tiny) -> None:
    options = {"width": 32, "steps": 1}
    estimate = dry_run(tiny(**options))
    path = CheckpointFolder(train(tiny(**options)) / "checkpoints", 2).files()[-1]
    assert path.stat().st_size == pytest.approx(estimate.checkpoint_bytes, rel=0.1)
    assert estimate.memory_bytes is None or estimate.memory_bytes > estimate.checkpoint_bytes


def test_a_dry_run_refuses_what_training_would(tiny) -> None:
    with pytest.raises(DataError, match="nowhere"):
        dry_run(tiny(data="nowhere"))
    with pytest.raises(ConfigError, match="--size 18"):
        dry_run(tiny(size=18))
    train(tiny(steps=1))
    with pytest.raises(ConfigError, match="is not empty"):
        dry_run(tiny(steps=1))
    dry_run(dataclasses.replace(tiny(steps=1), resume=True))
