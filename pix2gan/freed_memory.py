"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path


class FreedMemory:
    """Gives back to the system what the C library keeps although it is free.

    glibc before 2.38 seldom reuses aligned blocks (its bug 14581), and torch aligns all of them:
    the process of a U-Net grew by 4 MB a step, without end. Elsewhere this does nothing.

    Args:
        settling: For so many steps after it has acted, what the process takes again counts as in
            use, and not as growth: to free that would cost more time than it saves memory.
    """

    SLACK = 256 * 2**20

    def __init__(self, settling: int = 0) -> None:
        self._trim = _malloc_trim()
        self._settling = settling
        self._steps = 0
        self._most = 0

    def give_back(self) -> None:
        """Call it between steps: it acts when the process has grown by ``SLACK`` bytes."""
        if self._trim is None:
            return
        resident = _resident()
        if self._steps > 0:
            self._steps -= 1
            self._most = max(self._most, resident + self.SLACK)
        elif resident > self._most:
            self._trim(0)
            self._most = _resident() + self.SLACK
            self._steps = self._settling


def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
