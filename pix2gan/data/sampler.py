"""An endless, shuffled stream of samples that can be resumed at any position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from torch.utils.data import Sampler

from pix2gan.errors import ConfigError

Order: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

MIXED_SHARDS = 2
"""So many shards are read at the same time."""

SampleKey = tuple[int, int]
"""(epoch, index): what a dataset needs to make a sample, random choices included."""


class ResumableSampler(Sampler[list[SampleKey]]):
    """Batch sampler without end: batches of ``(epoch, index)``, always full.

    The stream is the concatenation of one permutation per epoch, each depending on nothing but
    (seed, epoch). Every sample is seen exactly once an epoch; a batch may straddle two epochs.
    Samples that lie in shards come shard after shard, see ``shuffle``.

    Iterating starts at ``position``, the number of samples consumed before, and does not move it: a
    loader's workers draw batches ahead of the training that they feed, which alone knows how many
    it has consumed.

    Batches begin ``stride`` samples after one another; where several processes share the stream,
    each starts at a position of its own and leaves the others' samples out.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int = 0,
        position: int = 0,
        stride: int | None = None,
        shard_sizes: tuple[int, ...] = (),
    ) -> None:
        if length < 1:
            raise ConfigError("There is nothing to sample from: the data set is empty.")
        if batch < 1:
            raise ConfigError(f"The batch size must be at least 1, not {batch}.")
        self.length, self.batch, self.seed, self.position = length, batch, seed, position
        self.stride = batch if stride is None else stride
        self.shard_sizes = shard_sizes
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        position = self.position
        while True:
            yield [self.key_at(position + i) for i in range(self.batch)]
            position += self.stride

    def key_at(self, position: int) -> SampleKey:
        """The sample at that place of the stream."""
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            self._order = permutation(self.length, self.seed, epoch, self.shard_sizes)
            self._epoch = epoch
        return epoch, int(self._order[place])


def permutation(length: int, seed: int, epoch: int, shard_sizes: tuple[int, ...] = ()) -> Order:
    """The order of an epoch, ``[length]``: depends on its arguments and nothing else."""
    return shuffle(random_stream(seed, epoch), length, shard_sizes)


def shuffle(rng: np.random.Generator, length: int, shard_sizes: tuple[int, ...]) -> Order:
    """A random order of ``length`` samples; of those in shards one that visits each shard once.

    Shards come in a random order, and the samples of ``MIXED_SHARDS`` of them at a time are mixed:
    whoever reads in this order needs no more than these at hand.

    Args:
        rng: Decides the order.
        length: Number of samples.
        shard_sizes: How many lie in each shard, one after the other; empty if there are none.
    """
    if not shard_sizes:
        return rng.permutation(length)
    starts = np.concatenate([[0], np.cumsum(shard_sizes)])
    if starts[-1] != length:
        raise ValueError(f"shards hold {starts[-1]} samples in all, and there are {length}")
    shards = rng.permutation(len(shard_sizes))
    parts = []
    for first in range(0, len(shards), MIXED_SHARDS):
        mixed = [np.arange(starts[s], starts[s + 1]) for s in shards[first : first + MIXED_SHARDS]]
        parts.append(rng.permutation(np.concatenate(mixed)))
    return np.concatenate(parts).astype(np.int64)


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """An independent generator for each (seed, key...); negative seeds are seeds of their own."""
    return np.random.default_rng([seed % 2**64, *key])
