"""The lock on a folder: one run at a time, and none outlives its process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pix2gan.folder_lock import only_run_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


def test_the_second_is_not_alone_until_the_first_ends(tmp_path: Path) -> None:
    with only_run_in(tmp_path) as first:
        with only_run_in(tmp_path) as second:
            assert (first, second) == (True, False)
        with only_run_in(tmp_path) as third:
            assert third is False  # the second did not end the first's lock
    with only_run_in(tmp_path) as fourth:
        assert fourth is True


def test_who_shares_keeps_those_out_who_do_not(tmp_path: Path) -> None:
    with only_run_in(tmp_path, shared=True) as first:
        with only_run_in(tmp_path, shared=True) as second:
            assert (first, second) == (True, True)
        with only_run_in(tmp_path) as other:
            assert other is False
    with only_run_in(tmp_path), only_run_in(tmp_path, shared=True) as third:
        assert third is False


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
