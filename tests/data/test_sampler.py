"""The stream of samples is complete, shuffled and resumable anywhere."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2gan.data.sampler import ResumableSampler, permutation, random_stream
from pix2gan.errors import ConfigError


def take(sampler: ResumableSampler, batches: int) -> list[list[tuple[int, int]]]:
    return list(islice(sampler, batches))


@given(length=st.integers(1, 40), batch=st.integers(1, 17), seed=st.integers(-(2**70), 2**70))
def test_every_sample_is_seen_once_an_epoch(length: int, batch: int, seed: int) -> None:
    sampler = ResumableSampler(length, batch, seed)
    batches = take(sampler, -(-3 * length // batch))
    assert all(len(keys) == batch for keys in batches)
    stream = [key for keys in batches for key in keys][: 3 * length]
    for epoch in range(3):
        part = stream[epoch * length : (epoch + 1) * length]
        assert {key[0] for key in part} == {epoch}
        assert sorted(key[1] for key in part) == list(range(length))


@given(
    length=st.integers(1, 30),
    batch=st.integers(1, 9),
    consumed=st.integers(0, 40),
    other_batch=st.integers(1, 9),
)
def test_resuming_continues_the_same_stream(
    length: int, batch: int, consumed: int, other_batch: int
) -> None:
    first = ResumableSampler(length, batch, seed=5)
    stream = [key for keys in take(first, 80) for key in keys]
    second = ResumableSampler(length, other_batch, seed=5, position=consumed * batch)
    rest = [key for keys in take(second, 4) for key in keys]
    assert rest == stream[consumed * batch : consumed * batch + len(rest)]


def test_iterating_does_not_move_the_position() -> None:
    sampler = ResumableSampler(7, 3, seed=1, position=5)
    assert take(sampler, 4) == take(sampler, 4)
    assert sampler.position == 5


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(permutation(20, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_nothing_global_matters() -> None:
    np.random.seed(1)
    first = take(ResumableSampler(50, 8, seed=2), 20)
    np.random.seed(2)
    assert take(ResumableSampler(50, 8, seed=2), 20) == first


def test_streams_of_numbers_are_independent() -> None:
    numbers = [
        random_stream(seed, epoch, index).integers(2**60)
        for seed in (-1, 0, 1)
        for epoch in range(3)
        for index in range(3)
    ]
    assert len(set(numbers)) == len(numbers)
    assert random_stream(3, 1).integers(2**60) == random_stream(3, 1).integers(2**60)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        ResumableSampler(0, 3)
    with pytest.raises(ConfigError, match="batch"):
        ResumableSampler(3, 0)
