"""Checkpoints are whole or not there, checked when read, and hold every random state."""

from __future__ import annotations

import errno
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pix2gan.errors import CheckpointError
from pix2gan.training.checkpointing import (
    CheckpointFolder,
    load_checkpoint,
    random_state,
    restore_random_state,
)

CPU = torch.device("cpu")


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.arange(1000.0) + step}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", keep=2)
    for step in (5, 10, 1_000_005):
        checkpoints.save(step, state(step))
    return checkpoints


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_the_newest_are_kept(folder: CheckpointFolder) -> None:
    assert names(folder) == ["step_000010.pt", "step_1000005.pt"]
    loaded = folder.load_newest(pytest.fail)
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.arange(1000.0) + 1_000_005)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "none", keep=2).load_newest(pytest.fail) is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.find(np.float32(1_000_400).tobytes())  # amid the weights
    assert place > 0
    data[place] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_file(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def pickled_code(path: Path) -> None:
    torch.save({"step": 1, "evil": Evil()}, path)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"step": 1}))


@pytest.mark.parametrize(
    "damage", [cut, flip_a_bit, empty, another_file, pickled_code, bare_pickle]
)
def test_a_damaged_checkpoint_falls_back(
    folder: CheckpointFolder, damage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    newest = folder.files()[-1]
    damage(newest)
    said: list[str] = []
    loaded = folder.load_newest(said.append)
    assert loaded is not None
    assert loaded["step"] == 10
    assert len(said) == 1
    assert str(newest) in said[0]
    assert names(folder) == ["step_000010.pt", "step_1000005.pt.damaged"]
    assert not (tmp_path / "pwned").exists()

    folder.save(15, state(15))  # what is damaged does not count as one of the two
    assert names(folder) == ["step_000010.pt", "step_000015.pt", "step_1000005.pt.damaged"]


def test_all_damaged_is_an_error(folder: CheckpointFolder) -> None:
    for path in folder.files():
        empty(path)
    with pytest.raises(CheckpointError, match="No checkpoint in"):
        folder.load_newest(lambda _: None)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step_1\.pt"):
        load_checkpoint(tmp_path / "step_1.pt")


class FullDisk:
    """A file that takes ``room`` bytes."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1000, 4000])
def test_a_full_disk_keeps_the_last(
    folder: CheckpointFolder, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda s, file: save(s, FullDisk(file, room)))
    before = names(folder)
    with pytest.raises(OSError, match="No space left on device") as caught:
        folder.save(1_000_010, state(1))
    assert caught.value.errno == errno.ENOSPC
    assert names(folder) == before  # no temporary file either
    loaded = folder.load_newest(pytest.fail)
    assert loaded is not None
    assert loaded["step"] == 1_000_005


def test_temporary_files_of_a_killed_save_are_removed(folder: CheckpointFolder) -> None:
    (folder.path / ".step_000020.pt.0a1b2c3d.tmp").write_bytes(b"half")
    folder.remove_temporary_files()
    assert names(folder) == ["step_000010.pt", "step_1000005.pt"]


def test_random_states_are_restored(tmp_path: Path) -> None:
    def draw() -> tuple[float, ...]:
        return torch.rand(()).item(), random.gauss(0, 1), float(np.random.standard_normal())

    draw()  # leaves a second normal deviate waiting in both generators
    path = tmp_path / "state.pt"
    torch.save({"step": 0, "random": random_state(CPU)}, path)
    expected = [draw() for _ in range(3)]
    restore_random_state(load_checkpoint(path)["random"], CPU)
    assert [draw() for _ in range(3)] == expected
