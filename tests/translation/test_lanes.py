"""Passes side by side: a share of the cores each, and the same bytes every time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pix2gan.translation import Translator, folder_run
from pix2gan.translation.lanes import Lanes

from .image_trees import translate, tree, write


def test_each_lane_has_its_share_and_the_others_keep_theirs() -> None:
    before = torch.get_num_threads()
    both = threading.Barrier(2, timeout=60)

    def threads() -> int:
        both.wait()  # or one lane would answer for both
        torch.ones(8, 8).sum()  # with its first op a thread looks at its number
        return torch.get_num_threads()

    try:
        torch.set_num_threads(4)
        with Lanes(torch.device("cpu")) as lanes:
            assert lanes.count == 2
            shares = [lanes.submit(threads) for _ in range(2)]
            assert [share.result() for share in shares] == [2, 2]
            assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as new:
            assert new.submit(torch.get_num_threads).result() == 4
        torch.set_num_threads(1)
        with Lanes(torch.device("cpu")) as lanes:
            assert lanes.count == 1
    finally:
        torch.set_num_threads(before)


def test_a_gpu_has_one_lane() -> None:
    with Lanes(torch.device("cuda")) as lanes:
        assert lanes.count == 1
        assert lanes.submit(torch.get_num_threads).result() == torch.get_num_threads()


@pytest.mark.parametrize("jobs", [None, 1, 3])
def test_small_and_large_images_mixed(
    unet: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int | None
) -> None:
    """Large ones go through the network by themselves; order and bytes do not depend on it."""
    monkeypatch.setattr(Lanes, "MOST_PIXELS", 16 * 16)
    for i in range(24):
        write(tmp_path / "in" / f"{i}.png", 32 if i % 5 == 2 else 16, 16, seed=i)
    (tmp_path / "in" / "7.png").write_text("broken")
    out = tmp_path / "out"
    report = translate(unet, tmp_path / "in", out, batch_size=3, jobs=jobs)
    assert (report.done, len(report.failed)) == (23, 1)
    assert [image.source.name for image in report.images] == [f"{i}.png" for i in range(24)]
    expected = tree(out)
    for name in ("3.png", "12.png", "23.png"):
        (out / name).unlink()
    assert translate(unet, tmp_path / "in", out, batch_size=3, jobs=2).done == 3
    assert tree(out) == expected


def test_names_reach_the_disk_by_the_end(
    mirror: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(folder_run, "sync_folder", synced.append)
    for folder in ("", "a", "a/b"):
        write(tmp_path / "in" / folder / "x.png")
    translate(mirror, tmp_path / "in", tmp_path / "out")
    out = tmp_path / "out"
    assert set(synced) == {out, out / "a", out / "a" / "b"}
