"""Two heaps of images: found, held out, paired at random but the same each time."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pix2gan.data.image_io import save_image
from pix2gan.data.unpaired import UnpairedDataset, check_unpaired, open_unpaired
from pix2gan.errors import ConfigError, DataError


def make(folder: Path, count: int, shade: int, side: int = 12) -> None:
    """``count`` images of one colour each: ``shade``, its number, 0."""
    for i in range(count):
        colour = np.full((side, side, 3), (shade, i, 0), np.uint8)
        save_image(folder / f"{i}.png", colour)


@pytest.fixture
def heaps(tmp_path: Path) -> Path:
    """Three images of A and eight of B."""
    for letter, count, shade in (("A", 3, 50), ("B", 8, 200)):
        (tmp_path / "heaps" / letter).mkdir(parents=True)
        make(tmp_path / "heaps" / letter, count, shade)
    return tmp_path / "heaps"


def plain(*folders: Path, **options: Any) -> UnpairedDataset:
    return open_unpaired(*folders, **{"size": 8, "augment": False} | options)


def numbers(dataset: UnpairedDataset, epoch: int) -> list[tuple[int, int]]:
    """For each item which image of A and which of B it shows."""
    items = [dataset[epoch, index] for index in range(len(dataset))]
    return [
        tuple(round((float(item[side][1, 0, 0]) + 1) * 127.5) for side in "AB")  # type: ignore[misc]
        for item in items
    ]


def test_items_are_one_image_of_each_domain(heaps: Path) -> None:
    item = plain(heaps)[1]
    assert (item["name_a"][0], item["name_b"]) == ("A", "B/1")
    for side, shade in (("A", 50), ("B", 200)):
        assert item[side].shape == (3, 8, 8)
        assert item[side].dtype == torch.float32
        assert item[side][0] == pytest.approx(shade / 127.5 - 1)


def test_an_epoch_shows_each_image_evenly(heaps: Path) -> None:
    dataset = plain(heaps)
    assert len(dataset) == 8
    for epoch in range(3):
        shown = numbers(dataset, epoch)
        assert sorted(b for _, b in shown) == list(range(8))
        counts = np.bincount([a for a, _ in shown], minlength=3)
        assert sorted(counts) == [2, 3, 3]


def test_random_pairing_depends_on_seed_and_epoch_alone(heaps: Path) -> None:
    shown = [numbers(plain(heaps, seed=seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(pairs) for pairs in shown}) == 4
    again = pickle.loads(pickle.dumps(plain(heaps, seed=1)))
    assert numbers(again, 1) == shown[3]


def test_equally_many_images_are_shuffled_against_each_other(tmp_path: Path) -> None:
    for letter in "AB":
        (tmp_path / letter).mkdir()
        make(tmp_path / letter, 9, 9)
    first, second = (numbers(plain(tmp_path), epoch) for epoch in (0, 1))
    assert sorted(b for _, b in first) == list(range(9))
    assert first != second
    assert [b for _, b in first] != list(range(9))


def test_serial_pairing_never_changes(heaps: Path) -> None:
    dataset = plain(heaps, pairing="serial")
    expected = [(index % 3, index) for index in range(8)]
    assert [numbers(dataset, epoch) for epoch in (0, 1)] == [expected, expected]


def test_direction_swaps_the_domains(heaps: Path) -> None:
    dataset = plain(heaps, direction="BtoA", in_channels=1)
    item = dataset[0]
    assert (item["name_a"], item["name_b"][0]) == ("B/0", "A")
    assert (item["A"].shape[0], item["B"].shape[0]) == (1, 3)


@pytest.mark.parametrize("names", [("A", "B"), ("trainA", "trainB"), ("summer", "winter")])
def test_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    folders = [tmp_path / name for name in names]
    for folder in folders:
        (folder / "deep").mkdir(parents=True)
        make(folder / "deep", 2, 9)
    given = folders if names[0] == "summer" else [tmp_path]
    assert plain(*given).names == ["A/deep/0", "A/deep/1", "B/deep/0", "B/deep/1"]


def test_the_datas_own_test_set(heaps: Path) -> None:
    for letter in "AB":
        (heaps / f"test{letter}").mkdir()
        make(heaps / f"test{letter}", 1, 9)
    assert plain(heaps, split="test").names == ["A/0", "B/0"]
    assert len(plain(heaps).names) == 11


def test_hold_out(heaps: Path) -> None:
    splits = [
        set(plain(heaps, holdout=0.4, split=split, seed=3).names) for split in ("train", "test")
    ]
    assert splits[0] | splits[1] == set(plain(heaps).names)
    assert not splits[0] & splits[1]
    assert all(any(name[0] == side for name in split) for split in splits for side in "AB")
    (heaps / "A" / "another.png").write_bytes((heaps / "A" / "0.png").read_bytes())
    assert set(plain(heaps, holdout=0.4, split="test", seed=3).names) >= splits[1] - {"A/another"}


def test_names_that_differ_in_the_suffix_alone_stay_two_images(heaps: Path) -> None:
    save_image(heaps / "A" / "0.jpg", np.zeros((9, 9, 3), np.uint8))
    names = plain(heaps).names
    assert {"A/0.jpg", "A/0.png", "A/1"} <= set(names)
    assert len(set(names)) == 12


def test_augmentation_is_the_samples_own(heaps: Path) -> None:
    rng = np.random.default_rng(0)
    save_image(heaps / "A" / "0.png", rng.integers(0, 255, (20, 20, 3)).astype(np.uint8))
    dataset = open_unpaired(heaps, size=8, pairing="serial")
    views = [dataset[epoch, 0]["A"] for epoch in range(6)]
    assert len({view.numpy().tobytes() for view in views}) > 1
    assert torch.equal(open_unpaired(heaps, size=8, pairing="serial")[4, 0]["A"], views[4])


def test_files_of_other_channels_are_named(tmp_path: Path) -> None:
    for side, number in ((side, number) for side in "AB" for number in range(3)):
        (tmp_path / side).mkdir(exist_ok=True)
        np.save(tmp_path / side / f"{number}.npy", np.zeros((8, 8, 5), np.uint8))
    options = {"in_channels": 5, "out_channels": 5}
    assert check_unpaired(plain(tmp_path, **options)).images_a == 3
    make(tmp_path / "A", 1, 50)  # 0.png, in RGB
    np.save(tmp_path / "B" / "2.npy", np.zeros((8, 8, 6), np.uint8))
    with pytest.raises(DataError) as caught:
        check_unpaired(plain(tmp_path, **options))
    first, *named = str(caught.value).splitlines()
    assert first.startswith("2 of 7 images cannot be used")
    assert [line.strip().partition(" where")[0] for line in named] == [
        f"{tmp_path / 'A' / '0.png'}: it has 3 channels",
        f"{tmp_path / 'B' / '2.npy'}: it has 6 channels",
    ]


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_cutout_is_of_the_input_domain_alone(tmp_path: Path, direction: str) -> None:
    rng = np.random.default_rng(0)
    for side in "AB":
        (tmp_path / side).mkdir()
        for i in range(3):
            noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            save_image(tmp_path / side / f"{i}.png", noise)
    whole = plain(tmp_path, direction=direction)
    varied = plain(tmp_path, direction=direction, augment="cutout")
    keys = [(epoch, index) for epoch in range(4) for index in range(3)]
    same = [torch.equal(varied[key]["A"], whole[key]["A"]) for key in keys]
    assert 0 < sum(same) < 12
    assert all(torch.equal(varied[key]["B"], whole[key]["B"]) for key in keys)


def test_check_names_broken_files(heaps: Path) -> None:
    summary = check_unpaired(plain(heaps))
    assert (summary.images_a, summary.images_b, summary.largest) == (3, 8, (12, 12))
    assert "3 images of the input domain and 8 of the target domain" in str(summary)
    (heaps / "B" / "4.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 11 images cannot be used.*\n.*4\.png"):
        check_unpaired(plain(heaps))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pairing": "best"}, ConfigError, "pairing"),
        ({"holdout": 1.0}, ConfigError, "holdout"),
        ({"size": 1}, ConfigError, "size"),
        ({"split": "test"}, DataError, "no test set of its own"),
    ],
)
def test_bad_options(
    heaps: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plain(heaps, **options)


def test_folders_that_are_missing_or_empty(tmp_path: Path, heaps: Path) -> None:
    with pytest.raises(DataError, match="does not hold folders A and B"):
        plain(tmp_path)
    with pytest.raises(DataError, match="There is no folder"):
        plain(heaps, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty.*domain B"):
        plain(heaps / "A", tmp_path / "empty")
