"""A DataLoader whose batches depend on the sampler's position and on nothing global."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pix2gan.data.sampler import ResumableSampler


def make_loader(
    dataset: Dataset[Any], sampler: ResumableSampler, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Any]:
    """Load batches in ``workers`` processes, or in this one with 0; the batches are the same.

    They go on from ``sampler.position`` without end. To resume, give a sampler that starts at the
    number of samples consumed.

    Args:
        dataset: Takes ``(epoch, index)`` keys and makes every random choice from them.
        sampler: Where to start and in which order.
        workers: Number of processes; they stay alive as long as the iterator.
        pin_memory: Whether batches are put in page-locked memory, for copies to a GPU.
    """
    return DataLoader(
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
