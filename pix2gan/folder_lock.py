"""Locks on folders, so that two runs never disturb each other there.

A lock ends with the process that holds it, however it ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # file descriptors of this process's locks
_PATIENCE = 60.0  # seconds to wait for a run that has the folder for itself


@contextmanager
def only_run_in(folder: Path) -> Iterator[bool | None]:
    """Whether no other run is in ``folder`` now; while this one is, others are not alone.

    None means that nobody knows: this system or file system has no such locks.
    """
    with _opened(folder) as descriptor:
        yield _lock_alone(descriptor)


@contextmanager
def run_beside_others(folder: Path) -> Iterator[SharedFolder]:
    """Be in ``folder`` with other runs, of which none may be alone meanwhile."""
    with _opened(folder) as descriptor:
        yield SharedFolder(descriptor)


class SharedFolder:
    """A folder that several runs write to."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @contextmanager
    def alone(self) -> Iterator[bool | None]:
        """Whether no other run is in the folder now; while this is entered, others wait.

        None as of ``only_run_in``. From then on other runs are not alone.
        """
        try:
            yield _lock_alone(self._descriptor)
        finally:
            _share(self._descriptor)


def _lock_alone(descriptor: int | None) -> bool | None:
    if fcntl is None or descriptor is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _share(descriptor: int | None) -> None:
    """Wait until nobody has the folder alone. A training has it until it ends: not for ever."""
    if fcntl is None or descriptor is None:
        return
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return
        else:
            return


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows, or a folder that may be written but not read
        yield None
        return
    _held.add(descriptor)
    try:
        yield descriptor
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _let_go() -> None:
    """In a forked process: without its copies, the lock ends with the process that took it."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
