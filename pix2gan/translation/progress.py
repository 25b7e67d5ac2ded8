"""How far a folder is: a bar on a terminal, now and then a line elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 10.0


class FolderProgress:
    """Counts images on stderr; a context manager.

    Args:
        total: How many images there are.
        show: None shows a bar on a terminal and lines elsewhere, False nothing at all.
    """

    def __init__(self, total: int, show: bool | None = None) -> None:
        self.total = total
        self.finished = 0
        self.failed = 0
        self.skipped = 0
        self._silent = show is False
        self._bar: Progress | None = None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> FolderProgress:
        self._started = self._last_line = time.monotonic()
        if not self._silent and sys.stderr.isatty():
            self._bar = _make_bar()
            self._task = self._bar.add_task("Translating", total=self.total, failed="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int = 1, *, failed: bool = False, skipped: bool = False) -> None:
        """Count `images` as finished in one way or another."""
        self.finished += images
        self.failed += images if failed else 0
        self.skipped += images if skipped else 0
        if self._bar is not None:
            failures = f"{self.failed} failed" if self.failed else ""
            self._bar.update(self._task, completed=self.finished, failed=failures)
        elif self._line_is_due():
            sys.stderr.write(self._line() + "\n")
            sys.stderr.flush()

    def within(self, share: float) -> None:
        """Tell how much is done of an image that takes long by itself, from 0 to 1."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.finished + share)
        elif self._line_is_due():
            number = f"image {self.finished + 1} of {self.total}"
            sys.stderr.write(f"translated {share:.0%} of {number}\n")
            sys.stderr.flush()

    def _line_is_due(self) -> bool:
        now = time.monotonic()
        if self._silent or now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        rate = (self.finished - self.skipped) / max(seconds, 1e-9)
        left = (self.total - self.finished) / rate if rate else 0.0
        failures = f", {self.failed} failed" if self.failed else ""
        return (
            f"translated {self.finished} of {self.total} images{failures}, {rate:.2f} images/s, "
            f"{left:.0f} s left"
        )


def _make_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
        console=Console(stderr=True),
    )
