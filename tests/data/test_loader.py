"""Batches depend on the position alone: not on workers, global seeds or interruptions."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pix2gan.data.loader import make_loader
from pix2gan.data.paired import PairedDataset, open_paired
from pix2gan.data.sampler import ResumableSampler


@pytest.fixture
def dataset(tmp_path: Path, synthesize: Callable[..., list[Path]]) -> PairedDataset:
    synthesize(tmp_path, count=5, size=40, layout="photos")
    return open_paired(tmp_path, size=32, sketch="mixed", in_channels=1)


def batches(
    dataset: PairedDataset, count: int, workers: int = 0, position: int = 0
) -> list[dict[str, Any]]:
    loader = make_loader(dataset, ResumableSampler(5, 2, seed=3, position=position), workers)
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


def assert_same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one["name"] == other["name"]
        assert torch.equal(one["A"], other["A"])
        assert torch.equal(one["B"], other["B"])


def test_batches_have_the_shapes_of_networks(dataset: PairedDataset) -> None:
    (batch,) = batches(dataset, 1)
    assert batch["A"].shape == (2, 1, 32, 32)
    assert batch["B"].shape == (2, 3, 32, 32)
    assert len(batch["name"]) == 2


def test_workers_change_nothing(dataset: PairedDataset) -> None:
    expected = batches(dataset, 6)
    for workers in (1, 2):
        random.seed(workers)
        np.random.seed(workers)
        torch.manual_seed(workers)
        assert_same(batches(dataset, 6, workers), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_goes_on_where_training_was(dataset: PairedDataset, workers: int) -> None:
    expected = batches(dataset, 7)
    assert_same(batches(dataset, 4, workers, position=6), expected[3:])


def test_the_global_random_state_is_left_alone(dataset: PairedDataset) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    batches(dataset, 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
