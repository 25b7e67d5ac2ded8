"""Training checkpoints: the complete state of a run in one file that is whole or not there."""

from __future__ import annotations

import pickle
import random
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pix2gan.errors import CheckpointError
from pix2gan.file_io import atomic_write, is_temporary

_NAME = re.compile(r"step_(\d+)\.pt")


class CheckpointFolder:
    """``RUN/checkpoints``: files ``step_000123.pt``, of which the newest ``keep`` are kept."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.keep = keep

    def files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        if not self.path.is_dir():
            return []
        found = [(int(m[1]), p) for p in self.path.iterdir() if (m := _NAME.fullmatch(p.name))]
        return [path for _, path in sorted(found)]

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write ``state``; only then remove the checkpoints that are not to be kept.

        Raises:
            OSError: If it cannot be written, for instance on a full disk; older ones stay.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"step_{step:06d}.pt"
        with atomic_write(path) as file:
            _save(state, file)
        for old in self.files()[: -self.keep]:
            old.unlink()
        return path

    def load_newest(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest readable state, on the CPU; None if there is no checkpoint at all.

        A damaged file is reported through ``say``, set aside as ``*.damaged``, and the one before
        it is taken.

        Raises:
            CheckpointError: If there are checkpoints but none can be read.
        """
        files = self.files()
        for path in reversed(files):
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                say(f"{error} Falling back to the checkpoint before it.")
                # Out of the way, or it would count as the newest when old ones are removed.
                path.replace(path.with_name(path.name + ".damaged"))
        if files:
            raise CheckpointError(
                f"No checkpoint in {self.path} can be read; start again with another --out."
            )
        return None

    def remove_temporary_files(self) -> None:
        """Delete what a killed ``save`` left behind."""
        if self.path.is_dir():
            for path in self.path.iterdir():
                if is_temporary(path):
                    with suppress(OSError):
                        path.unlink()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint on the CPU, without running any code it may contain.

    Raises:
        CheckpointError: If the file is missing, damaged or no training checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"The checkpoint {path} is damaged.")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read.") from error
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path} is not a training checkpoint.")
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator, in types that ``weights_only`` loading admits."""
    numpy: Any = np.random.get_state()
    kind, keys, position, has_gauss, gauss = numpy
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of :func:`random_state`."""
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _save(state: dict[str, Any], file: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # torch's zip writer hides what the file said (no space left) behind its own message.
        cause = error.__cause__ or error.__context__
        raise (cause if isinstance(cause, OSError) else OSError(str(error))) from error
