"""Running out of memory is told in one sentence that says which options need less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pix2gan.errors import Pix2ganError

# What torch says in a plain RuntimeError when the CPU, or a library on the GPU, has no more, or
# when a size is beyond all memory.
_SAYINGS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "alloc_failed",
    "calculation overflowed",
    "multiplication overflow",
)


@contextmanager
def memory_told() -> Iterator[None]:
    """Running out of memory within becomes a Pix2ganError; also a decorator."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise Pix2ganError(
            "The memory does not suffice for this training: choose a smaller --batch, --width or "
            "--size."
        ) from error


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is one of the many ways in which memory ends."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(saying in text for saying in _SAYINGS)
