"""The data of a run: what is trained on, what is shown, and the loader that can be resumed."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import Dataset

from pix2gan.data.loader import make_loader
from pix2gan.data.one_ahead import OneAhead
from pix2gan.data.opening_options import Direction
from pix2gan.data.paired import check_paired, open_paired
from pix2gan.data.sampler import ResumableSampler
from pix2gan.data.unpaired import check_unpaired, open_unpaired
from pix2gan.data.value_range import parse_range
from pix2gan.errors import DataError, Pix2ganError
from pix2gan.training.config import TrainConfig
from pix2gan.training.distributed import World
from pix2gan.training.method_options import PairedConfig, UnpairedConfig


class Items(Protocol):
    """A data set whose items depend on nothing but (seed, epoch, index)."""

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]: ...


_Items = TypeVar("_Items", bound=Items)


@dataclass(frozen=True)
class TrainingData:
    """What a method trains on and what is shown of it."""

    train: Items
    """Augmented, shuffled by the sampler."""
    show: Items
    """The same kind of items without augmentation: the held-out ones if there are any."""
    held_out: tuple[str, ...] = ()
    """Names of the items that are not trained on."""
    summary: str = ""
    """What the data were taken for, in a line: a layout that was guessed wrong shows here."""

    def fingerprint(self) -> str:
        """Changes when the training items or the augmentation's file change, not when the folder is
        moved."""
        augmentation = getattr(getattr(self.train, "augmenter", None), "text", "")
        parts = [*self.train.names, *([augmentation] if augmentation else [])]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def open_paired_data(config: PairedConfig) -> TrainingData:
    """Check and open pairs as ``config`` describes them.

    Raises:
        DataError: If there are none, or files are broken or unmatched; it lists them.
    """
    open_items = partial(
        open_paired,
        config.data,
        direction=config.direction,
        sketch=config.sketch,
        only_plain_background=config.plain_background,
        side_by_side=config.side_by_side,
    )
    return _open_data(config, open_items, check_paired)


def open_unpaired_data(config: UnpairedConfig, direction: Direction = "AtoB") -> TrainingData:
    """Check and open two heaps of images as ``config`` describes them.

    Raises:
        DataError: If a heap is missing or empty, or files are broken; it lists them.
    """
    open_items = partial(
        open_unpaired, config.data, config.data_b, direction=direction, pairing=config.pairing
    )
    return _open_data(config, open_items, check_unpaired)


def _open_data(
    config: TrainConfig, open_items: Callable[..., _Items], check: Callable[[_Items], object]
) -> TrainingData:
    """What is trained on and what is looked at, opened with the options that all methods take."""
    opened = partial(
        open_items,
        size=config.size,
        seed=config.seed,
        fit=config.fit,
        holdout=config.holdout,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        input_range=parse_range(config.input_range, "--input-range"),
        output_range=parse_range(config.output_range, "--output-range"),
    )
    train = opened(split="train", augment=config.augment)
    summary = str(check(train))
    if config.holdout > 0:
        held_out = opened(split="test", augment=False)
        check(held_out)
        return TrainingData(train, held_out, tuple(held_out.names), summary)
    return TrainingData(train, opened(split="train", augment=False), summary=summary)


def load_batches(
    data: TrainingData, config: TrainConfig, device: torch.device, step: int, world: World
) -> Generator[dict[str, Any], None, None]:
    """The batches that follow step ``step``, without end: the same whoever asks when.

    A step takes ``accumulate`` batches of each process; together they are the samples that one
    process alone would take with a batch as large.

    Raises:
        DataError: If an item cannot be loaded any more.
    """
    together = world.size * config.batch
    sampler = ResumableSampler(
        len(data.train),
        config.batch,
        config.seed,
        position=step * config.accumulate * together + world.rank * config.batch,
        stride=together,
        shard_sizes=getattr(data.train, "shard_sizes", ()),
    )
    loader = make_loader(
        _Guarded(data.train), sampler, config.workers, pin_memory=device.type == "cuda"
    )
    ahead = None
    try:
        with _signals_held_back():  # what workers and threads inherit
            batches: Iterator[dict[str, Any]] = iter(loader)
            batch = next(batches)
            if config.workers and device.type != "cuda":  # there pinning is a thread's work already
                # To receive a batch from a process takes a millisecond, to free it another one.
                batches = ahead = OneAhead(map(_own, batches))
        while True:
            if _ERROR in batch:
                raise DataError(batch[_ERROR][0])
            yield batch
            batch = next(batches)
    finally:
        if ahead is not None:
            ahead.stop()
        # A traceback would keep the workers alive, deaf to the signal that Python ends them with.
        if config.workers and loader._iterator is not None:
            loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


def _own(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch out of the memory that is shared with a worker, into this process's own."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


_ERROR = "error"


class _Guarded(Dataset[Any]):
    """Hands errors over as batches: raised in a worker they would arrive as a traceback."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        try:
            return [self.items[key] for key in keys]
        except Pix2ganError as error:
            return [{_ERROR: str(error)}]


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C or SIGTERM: the trainer stops them itself.

    Both are often sent to a whole process group; workers that die first would break a step.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
