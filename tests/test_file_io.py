"""Files are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from pix2gan import file_io
from pix2gan.file_io import (
    atomic_write,
    check_writable,
    is_temporary,
    remove_if_left,
    write_together,
)

ROOT = Path(__file__).parents[1]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_writes_bytes_and_text(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"\x00\r\n")
    with atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("grün\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "a.txt").read_bytes() == "grün\n".encode()
    assert sorted(names_in(tmp_path)) == ["a.bin", "a.txt"]


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path, "w") as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_old_content_is_there_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path, "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
        (temporary,) = (name for name in names_in(tmp_path) if name != "a.txt")
        assert is_temporary(temporary)
    assert path.read_text() == "new"
    assert not is_temporary(path)


def test_permissions_are_kept_and_links_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    with atomic_write(link, "w") as file:
        file.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_new_files_get_the_permissions_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with atomic_write(tmp_path / "atomic", "w") as file:
        file.write("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("ä" * 120 + ".png", "x" * 250, ".hidden", "a b"):
        with atomic_write(tmp_path / name) as file:
            file.write(b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_a_mode_that_does_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'wb'"), atomic_write(tmp_path / "a", "ab"):
        pass


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "a"):
        pass


def test_killed_while_writing_leaves_the_old_file_readable(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0" * 100_000)
    script = f"""
import itertools
from pix2gan.file_io import atomic_write
for i in itertools.count():
    with atomic_write({str(path)!r}) as file:
        for _ in range(100):
            file.write(str(i % 10).encode() * 1000)
"""
    for delay in (0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        deadline = time.monotonic() + 20
        before = path.stat().st_ino
        while path.stat().st_ino == before and time.monotonic() < deadline:
            time.sleep(0.005)  # until it has begun
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_bytes()
        assert len(content) == 100_000
        assert len(set(content)) == 1
    assert all(is_temporary(name) or name == "a" for name in names_in(tmp_path))


def test_only_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        (temporary,) = tmp_path.iterdir()
        remove_if_left(temporary)
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    script = """
import os, signal, sys
from pix2gan.file_io import atomic_write
with atomic_write(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "b")], cwd=ROOT, check=False)
    (left,) = (path for path in tmp_path.iterdir() if is_temporary(path))
    remove_if_left(left)
    assert names_in(tmp_path) == ["a"]
    remove_if_left(left)  # it is gone


def test_who_is_slow_to_lock_a_new_file_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = file_io._is_kept, []

    def late(temporary: Path, file: IO[bytes]) -> bool:
        if not taken:
            taken.append(temporary)
            remove_if_left(temporary)
        return lock(temporary, file)

    monkeypatch.setattr(file_io, "_is_kept", late)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"whole")
    assert taken
    assert not taken[0].exists()
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_errors_name_the_file_and_no_temporary_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, kind in ((folder, IsADirectoryError), (tmp_path / "absent" / "a", FileNotFoundError)):
        with pytest.raises(kind) as raised, atomic_write(path) as file:
            file.write(b"a")
        assert (raised.value.filename, raised.value.filename2) == (str(path), None)
    assert names_in(tmp_path) == ["folder"]


def test_errors_of_others_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    assert raised.value.filename == str(tmp_path / "source")


def test_files_written_together_fail_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    names = ["a", "absent/b", "c", "folder", "e"]
    failures = write_together([(tmp_path / name, name.encode()) for name in names])
    assert [type(failure) for failure in failures] == [
        type(None),
        FileNotFoundError,
        type(None),
        IsADirectoryError,
        type(None),
    ]
    assert sorted(names_in(tmp_path)) == ["a", "c", "e", "folder"]
    assert all((tmp_path / name).read_text() == name for name in "ace")
    assert write_together([]) == []


def test_files_written_together_share_flushes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are with the system before the first is waited for, and each has its name after that."""
    flush, seen = os.fsync, []

    def flushed(descriptor: int) -> None:
        sizes = sorted(path.stat().st_size for path in tmp_path.iterdir() if is_temporary(path))
        seen.append((sizes, sorted(n for n in names_in(tmp_path) if not is_temporary(n))))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", flushed)
    assert write_together([(tmp_path / "ab"[i], b"0" * (i + 1)) for i in range(2)]) == [None, None]
    assert seen == [([1, 2], []), ([2], ["a"])]


def test_whether_a_folder_takes_files(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert names_in(tmp_path) == []
    with pytest.raises(OSError, match="absent") as raised:
        check_writable(tmp_path / "absent")
    assert raised.value.filename == str(tmp_path / "absent")
