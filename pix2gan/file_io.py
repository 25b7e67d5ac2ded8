"""Files that are either whole or not there: everything pix2gan writes goes through here."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pix2gan.errors import ConfigError

if sys.platform != "win32":  # where nobody can remove a file that is open
    import fcntl


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], mode: str = "wb", *, sync_name: bool = True
) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on success it replaces ``path`` in one step.

    The data reach the disk (fsync) before the new name does, so after a crash, a kill or a full
    disk ``path`` holds either its old content or the whole new one. On an exception the temporary
    file is removed and ``path`` is untouched. Parent folders must exist.

    Args:
        path: The file to write. A symbolic link is followed: its target is replaced.
        mode: ``"wb"``, ``"w"`` (UTF-8, newlines as given) or either with ``"+"``.
        sync_name: Make sure that a power cut does not take the new name away. Who writes many files
            leaves that for the end, to one ``sync_folder``; whole or not there they are anyway.

    Raises:
        ValueError: If ``mode`` does not write a new file.
        OSError: As ``open`` and ``os.replace`` do; it names ``path``, not the temporary file.
    """
    if mode not in {"w", "wb", "w+", "wb+", "w+b"}:
        raise ValueError(f"atomic_write writes new files: mode must be 'w' or 'wb', got {mode!r}")
    target = Path(os.path.realpath(path) if os.path.islink(path) else path)  # noqa: PTH114
    try:
        temporary, file = _open_temporary(target, mode.replace("w", "x"))
    except OSError as error:
        raise _naming(path, error) from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode & 0o7777)
            if sys.platform != "win32":
                temporary.replace(target)  # before its lock ends
        if sys.platform == "win32":
            temporary.replace(target)  # it renames no open file
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        # Errors of the system about our file, whose name means nothing to anybody; the caller may
        # raise others, which stay what they are.
        ours = (None, temporary, str(temporary), file.name)
        if isinstance(error, OSError) and error.errno and error.filename in ours:
            raise _naming(path, error) from None
        raise
    if sync_name:
        sync_folder(target.parent)


def write_together(
    files: Sequence[tuple[str | os.PathLike[str], bytes]],
) -> list[Exception | None]:
    """Write whole files as ``atomic_write`` does, several for less than one after the other.

    The disk has begun with all of them before the first is waited for, so they share its flushes.
    Their names are left to ``sync_folder``.

    Returns:
        What went wrong with each of them, which has no effect on the others.
    """
    failures: list[Exception | None] = [None] * len(files)
    begun = [_write_in_two_steps(path, data) for path, data in files]
    for _ in range(2):
        for number, writing in enumerate(begun):
            try:
                next(writing, None)
            except Exception as error:
                failures[number] = error
    return failures


def _write_in_two_steps(path: str | os.PathLike[str], data: bytes) -> Iterator[None]:
    with atomic_write(path, sync_name=False) as file:
        file.write(data)
        file.flush()
        if hasattr(os, "posix_fadvise"):  # Linux begins to write what it need not keep
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        yield


def check_writable(folder: str | os.PathLike[str]) -> None:
    """OSError if no file can be made in ``folder``; leaves nothing there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _naming(folder, error) from None


def check_replaceable(path: Path, is_ours: Callable[[bytes], bool]) -> None:
    """Whether what is at ``path`` may be replaced: nothing, an empty file, or one of ours.

    Args:
        path: Where something is to be written that is made anew each time, as a report.
        is_ours: Tells by the first 64 KiB of a file if it is such a one.

    Raises:
        ConfigError: If it may not.
        OSError: If it cannot be read.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(f"{path} is no regular file, and could not be replaced: name a file")
    with path.open("rb") as file:
        found = file.read(2**16)
    if found and not is_ours(found):
        raise ConfigError(
            f"There is something else at {path}, which would be lost: choose a new name"
        )


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames in ``folder`` survive a power cut, where the system can (Windows cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_temporary(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is named as ``atomic_write`` names its files; a kill leaves them behind."""
    name = Path(path).name
    return name.startswith(".") and name.endswith(".tmp") and name.count(".") >= 3


def remove_if_left(temporary: Path) -> None:
    """Remove a temporary file of ``atomic_write`` unless a process still writes it, or nobody can
    know."""
    with suppress(OSError):
        if sys.platform == "win32":
            temporary.unlink()
            return
        descriptor = os.open(temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
        finally:
            os.close(descriptor)


def temporary_stem(name: str) -> str:
    """What ``atomic_write`` has of a file's ``name`` in that of its temporary file,
    ``.STEM.8 digits.tmp``: enough of it to leave room below the usual limit of 255 bytes."""
    data = os.fsencode(name)  # a name may be no UTF-8
    return name if len(data) <= 120 else data[:120].decode(errors="ignore")


def _naming(path: str | os.PathLike[str], error: OSError) -> OSError:
    """The same error, of the same class, about ``path``."""
    return OSError(error.errno, error.strerror or str(error), os.fspath(path))


def _open_temporary(target: Path, mode: str) -> tuple[Path, IO[Any]]:
    # open() rather than mkstemp: the file gets the permissions that the user's umask asks for. The
    # name is hidden and no image suffix.
    stem = temporary_stem(target.name)
    while True:
        temporary = target.parent / f".{stem}.{secrets.token_hex(4)}.tmp"
        with suppress(FileExistsError):
            if "b" in mode:
                file: IO[Any] = temporary.open(mode)
            else:
                file = temporary.open(mode, encoding="utf-8", newline="")
            if _is_kept(temporary, file):
                return temporary, file
            file.close()


def _is_kept(temporary: Path, file: IO[Any]) -> bool:
    """Lock a new file, which tells others that somebody writes it; False if ``remove_if_left`` was
    faster."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here: they are none to others either
        return True
    return temporary.exists()
