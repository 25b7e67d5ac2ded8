"""What a run records: averages between two entries, ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pix2gan.file_io import atomic_write


class Averages:
    """Means of scalars over steps, summed on their device: the device is not waited for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def peek(self) -> dict[str, float]:
        """The means since the last :meth:`take`."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()  # one transfer for all
        return {name: s / self._counts[name] for name, s in zip(self._sums, sums, strict=True)}

    def take(self) -> dict[str, float]:
        """The means since the last call, and start anew."""
        means = self.peek()
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        sums = {name: value.cpu() for name, value in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``metrics.jsonl``; a line that is cut off or damaged is left out."""
    entries = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and _is_entry(entry):
                    entries.append(entry)
    return entries


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """A whole step, and numbers (or null) for the rest."""
    return type(entry.get("step")) is int and all(
        value is None or type(value) in (int, float) for value in entry.values()
    )


class MetricsLog:
    """Appends entries to ``RUN/metrics.jsonl`` and ``RUN/tensorboard``.

    Entries after ``step`` are removed first: a resumed run makes them again. TensorBoard that
    cannot be used is reported once through ``say`` and left out; it never stops the training.

    Raises:
        OSError: If ``RUN/metrics.jsonl`` cannot be written; what fails later is only reported.
    """

    def __init__(self, run: Path, step: int, say: Callable[[str], None]) -> None:
        self.path = run / "metrics.jsonl"
        self._say = say
        self._folder = run / "tensorboard"
        self._drop_after(step)
        self._open_tensorboard(step)

    def go_back(self, step: int) -> None:
        """Continue after ``step``, which lies before some of the entries."""
        self.close()
        try:
            self._drop_after(step)
        except OSError as error:
            self._tell(error)
        self._open_tensorboard(step)

    def _drop_after(self, step: int) -> None:
        self._outdated_after: int | None = step  # until it is done
        kept = [entry for entry in read_metrics(self.path) if entry["step"] <= step]
        with atomic_write(self.path, "w") as file:
            file.writelines(_line(entry) for entry in kept)
        self._outdated_after = None

    def add(self, entry: Mapping[str, Any]) -> None:
        """Record ``entry``, which has a ``step``; a full disk costs the entry, not the run."""
        try:
            if self._outdated_after is not None:
                self._drop_after(self._outdated_after)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
        except OSError as error:
            self._tell(error)
        if self._writer is not None:
            self._tensorboard(lambda: self._add_scalars(entry))

    def close(self) -> None:
        if self._writer is not None:
            self._tensorboard(self._writer.close)

    def _tell(self, error: OSError) -> None:
        self._say(f"{self.path} cannot be written ({error.strerror or error}).")

    def _open_tensorboard(self, step: int) -> None:
        self._writer: Any = None
        self._tensorboard(lambda: self._open_writer(self._folder, step + 1 if step else None))

    def _add_scalars(self, entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if name != "step":
                self._writer.add_scalar(name, value, entry["step"])
        self._writer.flush()

    def _open_writer(self, folder: Path, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def _tensorboard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # any failure of a logger is only worth a line
            self._writer = None
            self._say(f"TensorBoard is left out ({type(error).__name__}: {error}).")


def _line(entry: Mapping[str, Any]) -> str:
    # JSON has no NaN: null keeps the line readable for every parser.
    clean = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in entry.items()
    }
    return json.dumps(clean) + "\n"
