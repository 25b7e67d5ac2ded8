"""A DataLoader whose batches depend on the sampler's position and on nothing global."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pix2gan.data.sampler import ResumableSampler


class ResumableLoader(DataLoader[Any]):
    """Endless batches from the sampler's position on; each batch handed out advances it.

    So ``loader.sampler_state()`` between two steps of training is the state to resume from,
    whatever the workers have prepared ahead.
    """

    batch_sampler: ResumableSampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            self.batch_sampler.advance(self.batch_sampler.batch)
            yield batch

    def sampler_state(self) -> dict[str, Any]:
        """State of the sampler, as ``ResumableSampler.load_state_dict`` takes it."""
        return self.batch_sampler.state_dict()


def make_loader(
    dataset: Dataset[Any], sampler: ResumableSampler, workers: int = 0, pin_memory: bool = False
) -> ResumableLoader:
    """Load batches in ``workers`` processes, or in this one with 0; the batches are the same.

    ``sampler.position`` moves as batches are handed out: call neither ``sampler.advance`` nor
    count elsewhere. To resume, ``sampler.load_state_dict`` before iterating.

    Args:
        dataset: Takes ``(epoch, index)`` keys and makes every random choice from them.
        sampler: Where to start and in which order.
        workers: Number of processes; they stay alive as long as the iterator.
        pin_memory: Whether batches are put in page-locked memory, for copies to a GPU.
    """
    return ResumableLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        # Starting an iterator draws a number; it must not come from the process's global stream.
        generator=torch.Generator().manual_seed(sampler.seed % 2**63),
    )


def _start_worker(worker: int) -> None:
    """One thread a worker: the parallelism is in their number."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
