"""What a person sees of a run: a live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class TrainingProgress:
    """Shows epoch, step, losses, images/s and time left on standard error.

    Args:
        step: Steps done already.
        total: Steps in all.
        batch: Images in a step.
        console: Where to write; standard error if not given.
        quiet: Write nothing, for another process does.
    """

    def __init__(
        self,
        step: int,
        total: int,
        batch: int,
        console: Console | None = None,
        quiet: bool = False,
    ) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self.total = total
        self.batch = batch
        self._bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=total, completed=step, epoch=0, text="")
        self._marked = step, time.monotonic()
        self._seconds_per_step: float | None = None

    def say(self, text: str) -> None:
        """Print a line, above the live one if there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int, epoch: int) -> None:
        """``step`` is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, epoch=epoch)

    def report(self, step: int, epoch: int, losses: Mapping[str, float]) -> float:
        """Show ``losses``; returns the images per second since the last report."""
        marked_step, marked_time = self._marked
        self._marked = step, time.monotonic()
        seconds = (self._marked[1] - marked_time) / max(1, step - marked_step)
        smooth = seconds if self._seconds_per_step is None else self._seconds_per_step
        self._seconds_per_step = 0.7 * smooth + 0.3 * seconds
        rate = self.batch / max(seconds, 1e-9)
        left = duration((self.total - step) * self._seconds_per_step)
        values = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        text = f"{values}  {rate:.3g} images/s  {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, epoch=epoch, text=text)
        else:
            self.say(f"step {step}/{self.total}  epoch {epoch}  {text}")
        return rate

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{int(seconds):02d}"
