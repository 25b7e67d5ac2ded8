"""Memory: freed, it goes back to the system; running out of it is told in one sentence that says
which options need less."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


class FreedMemory:
    """Gives back to the system what the C library keeps although it is free.

    glibc before 2.38 seldom reuses aligned blocks (its bug 14581), and torch aligns all of them:
    the process of a U-Net grew by 4 MB a step, without end. Elsewhere this does nothing.
    """

    SLACK = 256 * 2**20

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._most = 0

    def give_back(self) -> None:
        """Call it between steps: it acts when the process has grown by ``SLACK`` bytes."""
        if self._trim is not None and _resident() > self._most:
            self._trim(0)
            self._most = _resident() + self.SLACK


def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
