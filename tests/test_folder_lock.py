"""The lock on a folder: one run at a time, and none outlives its process."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from pix2gan import folder_lock
from pix2gan.folder_lock import only_run_in, run_beside_others

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


def test_the_second_is_not_alone_until_the_first_ends(tmp_path: Path) -> None:
    with only_run_in(tmp_path) as first:
        with only_run_in(tmp_path) as second:
            assert (first, second) == (True, False)
        with only_run_in(tmp_path) as third:
            assert third is False  # the second did not end the first's lock
    with only_run_in(tmp_path) as fourth:
        assert fourth is True


def test_one_of_several_is_alone_before_it_lets_others_in(tmp_path: Path) -> None:
    with run_beside_others(tmp_path) as first, run_beside_others(tmp_path) as second:
        with first.alone() as alone:
            assert alone is True
        with second.alone() as alone:
            assert alone is False
        with first.alone() as alone:  # the second is there now
            assert alone is False
        with only_run_in(tmp_path) as alone:
            assert alone is False
    with run_beside_others(tmp_path) as third, third.alone() as alone:
        assert alone is True


def test_others_wait_until_the_one_that_is_alone_is_done(tmp_path: Path) -> None:
    events = []

    def other() -> None:
        with run_beside_others(tmp_path) as second:
            with second.alone() as alone:
                events.append(("second is alone", alone))
            events.append(("second runs", True))

    with run_beside_others(tmp_path) as first:
        with first.alone():
            thread = threading.Thread(target=other)
            thread.start()
            while not events:
                time.sleep(0.001)
            time.sleep(0.1)  # it would go on meanwhile if it did not wait
            events.append(("first is done", True))
        thread.join()
    expected = [("second is alone", False), ("first is done", True), ("second runs", True)]
    assert events == expected


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_PATIENCE", 0.05)
    with only_run_in(tmp_path), run_beside_others(tmp_path) as second, second.alone() as alone:
        assert alone is False
    with only_run_in(tmp_path) as alone:
        assert alone is True


def test_an_exception_ends_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_run_in(tmp_path):
        raise KeyError
    with only_run_in(tmp_path) as alone:
        assert alone is True


def test_a_folder_that_cannot_be_locked_is_unknown(tmp_path: Path) -> None:
    with only_run_in(tmp_path / "missing") as alone:
        assert alone is None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    ready, held_open = os.pipe(), os.pipe()
    with only_run_in(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"r")
            os.close(held_open[1])
            os.read(held_open[0], 1)  # until the parent closes its end
            os._exit(0)
        os.read(ready[0], 1)
    try:
        with only_run_in(tmp_path) as alone:
            assert alone is True
    finally:
        os.close(held_open[1])
        os.waitpid(child, 0)
        for descriptor in (*ready, held_open[0]):
            os.close(descriptor)
