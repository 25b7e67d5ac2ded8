"""A lock on a folder, so that two runs never write to it at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held: set[int] = set()  # file descriptors of this process's locks


@contextmanager
def only_run_in(folder: Path, *, shared: bool = False) -> Iterator[bool | None]:
    """Whether no other run writes to ``folder`` now; while this one does, others get False.

    The lock ends with the process that holds it, however it ends. None means that nobody knows:
    this system or file system has no such locks.

    Args:
        folder: The folder.
        shared: Others may write to it, too, if they also share it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that may be written but not read
        yield None
        return
    _held.add(descriptor)
    try:
        alone: bool | None = True
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            alone = None
        yield alone
    finally:
        if descriptor in _held:  # else this is a forked process, and it is closed
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
