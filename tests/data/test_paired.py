"""Pairs are found in every layout, checked before use, and made the same each time."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pix2gan.data.image_io import open_image, save_image
from pix2gan.data.paired import PairedDataset, check_paired, open_paired
from pix2gan.errors import BadImageError, ConfigError, DataError

Synthesize = Callable[..., list[Path]]


def plain(data: Path, **options: Any) -> PairedDataset:
    return open_paired(data, **{"size": 32, "augment": False, "split": "all"} | options)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (
        first["name"] == second["name"]
        and torch.equal(first["A"], second["A"])
        and torch.equal(first["B"], second["B"])
    )


def as_image(tensor: torch.Tensor) -> np.ndarray:
    return ((tensor + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


# -- layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["side-by-side", "folders", "train-folders"])
def test_layouts_hold_the_same_pairs(tmp_path: Path, synthesize: Synthesize, layout: str) -> None:
    synthesize(tmp_path, count=3, size=32, layout=layout)
    dataset = plain(tmp_path)
    assert len(dataset) == 3
    assert dataset.names == ["1", "2", "3"]
    labels = {tuple(colour) for colour in as_image(dataset[0]["A"]).reshape(-1, 3)}
    assert (0, 0, 255) in labels
    assert len(labels) <= 4
    assert (as_image(dataset[0]["B"])[0] == 255).all()


def test_items_are_tensors_in_minus_one_to_one(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=2, size=32)
    for item in (plain(tmp_path)[1], plain(tmp_path)[(0, 1)]):
        assert item["name"] == "2"
        for side in ("A", "B"):
            assert item[side].shape == (3, 32, 32)
            assert item[side].dtype == torch.float32
            assert item[side].abs().max() <= 1
        assert item["B"].max() == 1


def test_pixels_are_exact_where_nothing_is_to_be_done(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    files = synthesize(tmp_path, count=1, size=32, layout="folders")
    item = plain(tmp_path)[0]
    assert np.array_equal(as_image(item["A"]), open_image(files[0]))
    assert np.array_equal(as_image(item["B"]), open_image(files[1]))


def test_direction_makes_the_input_a(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=1, size=32)
    forward, back = plain(tmp_path)[0], plain(tmp_path, direction="BtoA")[0]
    assert torch.equal(forward["A"], back["B"])
    assert torch.equal(forward["B"], back["A"])


def test_names_match_by_relative_path_whatever_the_suffix(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    for name in ("A/x/10.png", "A/x/2.png", "A/1.jpg", "B/x/10.jpg", "B/x/2.jpg", "B/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(tmp_path / name, image)
    assert plain(tmp_path).names == ["1", "x/2", "x/10"]


def test_a_train_folder_is_entered_and_its_test_set_used(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    synthesize(tmp_path / "train", count=3, size=32)
    synthesize(tmp_path / "val", count=2, size=32, seed=1)
    assert len(open_paired(tmp_path, size=32)) == 3
    assert len(open_paired(tmp_path, size=32, split="test")) == 2
    held = open_paired(tmp_path, size=32, split="test", holdout=0.34)
    assert 1 <= len(held) <= 2


def test_test_folders_are_the_test_split(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=3, size=32, layout="train-folders")
    with pytest.raises(DataError, match="no test set"):
        open_paired(tmp_path, size=32, split="test")
    for side in "AB":
        (tmp_path / f"test{side}").mkdir()
        save_image(tmp_path / f"test{side}" / "9.png", np.zeros((32, 32, 3), np.uint8))
    assert open_paired(tmp_path, size=32, split="test").names == ["9"]
    assert open_paired(tmp_path, size=32).names == ["1", "2", "3"]


@pytest.mark.parametrize("fit", ["pad", "resize", "crop"])
def test_both_images_are_fitted_alike(tmp_path: Path, fit: Any) -> None:
    gradient = np.linspace(0, 255, 60, dtype=np.uint8)[None, :, None].repeat(30, 0).repeat(3, 2)
    save_image(tmp_path / "1.png", np.concatenate([gradient, gradient], axis=1))
    item = plain(tmp_path, fit=fit)[0]
    assert torch.equal(item["A"], item["B"])


def test_channels_are_the_networks(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=1, size=32)
    item = plain(tmp_path, in_channels=1, out_channels=4, direction="BtoA")[0]
    assert item["A"].shape == (1, 32, 32)
    assert item["B"].shape == (4, 32, 32)
    assert (item["B"][3] == 1).all()


def test_files_of_other_channels_are_named(tmp_path: Path) -> None:
    for side, number in ((side, number) for side in "AB" for number in range(4)):
        (tmp_path / side).mkdir(exist_ok=True)
        np.save(tmp_path / side / f"{number}.npy", np.zeros((8, 8, 5), np.uint8))
    options = {"in_channels": 5, "out_channels": 5}
    assert check_paired(plain(tmp_path, **options)).pairs == 4
    np.save(tmp_path / "A" / "1.npy", np.zeros((8, 8, 3), np.uint8))
    np.save(tmp_path / "B" / "2.npy", np.zeros((8, 8, 1), np.uint8))
    for direction in ("AtoB", "BtoA"):
        with pytest.raises(DataError) as caught:
            check_paired(plain(tmp_path, direction=direction, **options))
        first, *named = str(caught.value).splitlines()
        assert first.startswith("2 of 4 pairs cannot be used")
        assert [line.strip().partition(" where")[0] for line in named] == [
            f"{tmp_path / 'A' / '1.npy'}: it has 3 channels",
            f"{tmp_path / 'B' / '2.npy'}: it has 1 channel",
        ]


def test_sketches_have_no_five_channels(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=1, size=32)
    with pytest.raises(ConfigError, match="1 to 4 channels, not 5"):
        open_paired(tmp_path, sketch="canny", out_channels=5)


def test_16_bit_and_palette_and_grey_files_are_read(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(2, 1)
    save_image(tmp_path / "8.png", values)
    save_image(tmp_path / "16.png", values.astype(np.uint16) * 257)
    dataset = plain(tmp_path, size=16)
    assert torch.equal(dataset[0]["B"], dataset[1]["B"])
    assert dataset[0]["B"].shape == (3, 16, 16)


# -- sketches --------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, str, Any]]:
    """Replaces the sketcher by the green channel, so that alignment shows; records its calls."""
    from pix2gan.data import sketch

    calls: list[tuple[np.ndarray, str, Any]] = []

    def draw(photo: np.ndarray, method: str, rng: Any) -> np.ndarray:
        calls.append((photo.copy(), method, None if rng is None else rng.integers(2**60)))
        return photo[..., 1]

    monkeypatch.setattr(sketch, "draw_sketch", draw)
    return calls


def test_sketches_are_drawn_from_the_moved_photo(
    tmp_path: Path, synthesize: Synthesize, drawn: list[tuple[np.ndarray, str, Any]]
) -> None:
    synthesize(tmp_path, count=2, size=96, layout="photos")
    dataset = open_paired(tmp_path, size=64, sketch="canny", in_channels=1)
    changed = 0
    for epoch in range(8):
        item = dataset[epoch, 0]
        photo, method, _ = drawn[-1]
        assert method == "canny"
        assert photo.shape == (64, 64, 3)
        assert item["A"].shape == (1, 64, 64)
        assert np.array_equal(as_image(item["A"])[..., 0], photo[..., 1])
        # B is that photo with other colours: what is white in one is white in the other.
        target = as_image(item["B"])
        assert (target[(photo == 255).all(axis=2)] >= 254).all()
        changed += not np.array_equal(target, photo)
    assert changed >= 4
    assert len({call[0].tobytes() for call in drawn}) == 8


def test_sketch_settings_depend_on_the_key_alone(
    tmp_path: Path, synthesize: Synthesize, drawn: list[tuple[np.ndarray, str, Any]]
) -> None:
    synthesize(tmp_path, count=2, size=48, layout="photos")
    dataset = open_paired(tmp_path, size=32, sketch="xdog")
    keys = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for key in keys + keys[::-1]:
        dataset[key]
    drawn_settings = [call[2] for call in drawn]
    assert drawn_settings[:4] == drawn_settings[4:][::-1]
    assert len(set(drawn_settings)) == 4
    fixed = open_paired(tmp_path, size=32, sketch="xdog", augment=False)
    fixed[0]
    assert drawn[-1][2] is None


@pytest.mark.parametrize("method", ["canny", "xdog", "strokes", "mixed"])
def test_every_way_to_sketch_works_with_grey_photos_too(
    tmp_path: Path, synthesize: Synthesize, method: str
) -> None:
    synthesize(tmp_path, count=1, size=128, layout="photos")
    save_image(tmp_path / "grey.png", open_image(tmp_path / "1.png")[..., :1])
    dataset = open_paired(tmp_path, size=96, sketch=method)
    for index in range(2):
        item = dataset[0, index]
        assert item["A"].shape == (3, 96, 96)
        assert torch.equal(item["A"][0], item["A"][2])
        assert item["A"].min() < 0 < item["A"].mean()


def test_photo_to_sketch(tmp_path: Path, synthesize: Synthesize, drawn: object) -> None:
    synthesize(tmp_path, count=1, size=48, layout="photos")
    forward = plain(tmp_path, sketch="canny", in_channels=1)[0]
    back = plain(tmp_path, sketch="canny", direction="BtoA", out_channels=1)[0]
    assert torch.equal(forward["A"], back["B"])
    assert torch.equal(forward["B"], back["A"])


def test_photos_without_a_plain_background_can_be_left_out(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    synthesize(tmp_path, count=2, size=64, layout="photos")
    y, x = np.mgrid[0:48, 0:64]
    busy = np.stack([x * 4, y * 5, (x ^ y) * 4], axis=2).astype(np.uint8)
    save_image(tmp_path / "3.png", busy)
    dataset = plain(tmp_path, sketch="canny", only_plain_background=True)
    assert dataset.names == ["1", "2"]
    assert dataset.left_out == ["3"]
    assert "1 photos without" in str(check_paired(dataset))
    assert len(plain(tmp_path, sketch="canny")) == 3
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match="background"):
        plain(tmp_path, sketch="canny", only_plain_background=True)


# -- randomness ------------------------------------------------------------------------------------


def test_samples_depend_on_seed_epoch_and_index_alone(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    synthesize(tmp_path, count=3, size=40)
    first = open_paired(tmp_path, size=32)
    second = pickle.loads(pickle.dumps(open_paired(tmp_path, size=32, cache_bytes=0)))
    keys = [(epoch, index) for epoch in range(3) for index in range(3)]
    made = {key: first[key] for key in keys}
    np.random.seed(7)
    torch.manual_seed(7)
    for key in reversed(keys):
        assert same(second[key], made[key])
        assert same(first[key], made[key])
    other = open_paired(tmp_path, size=32, seed=1)
    assert not all(same(other[key], made[key]) for key in keys)
    assert len({made[epoch, 0]["A"].numpy().tobytes() for epoch in range(3)}) == 3


def test_labels_and_photo_stay_aligned_when_augmented(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    """Where the label map says background, the photo is paper."""
    synthesize(tmp_path, count=2, size=64)
    dataset = open_paired(tmp_path, size=48)
    for epoch in range(6):
        item = dataset[epoch, 0]
        labels, photo = as_image(item["A"]), as_image(item["B"])
        background = (labels.astype(int) - (0, 0, 255)).__abs__().max(axis=2) < 8
        assert 0.2 < background.mean() < 0.95
        assert photo[background].mean() > 245
        assert photo[~background].mean() < 215


def test_the_test_split_is_never_augmented(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=6, size=32)
    dataset = open_paired(tmp_path, size=32, holdout=0.4, split="test")
    assert same(dataset[0, 0], dataset[5, 0])
    training = open_paired(tmp_path, size=32, holdout=0.4)
    assert not same(training[0, 0], training[5, 0])


def test_the_cache_is_bounded_and_changes_nothing(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=4, size=32)
    room_for_two = 2 * 2 * 32 * 32 * 3
    dataset = plain(tmp_path, cache_bytes=room_for_two)
    first = [dataset[index] for index in range(4)]
    assert dataset._cache.used == room_for_two
    assert all(same(dataset[index], first[index]) for index in range(4))
    for path in tmp_path.iterdir():
        path.unlink()
    assert same(dataset[0], first[0])  # from memory
    with pytest.raises(BadImageError, match="no such file"):
        dataset[3]


# -- hold-out --------------------------------------------------------------------------------------


def test_the_split_is_complete_and_depends_on_names_and_seed(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    synthesize(tmp_path, count=40, size=16)
    train = set(open_paired(tmp_path, size=16, holdout=0.25).names)
    test = set(open_paired(tmp_path, size=16, holdout=0.25, split="test").names)
    assert not train & test
    assert len(train | test) == 40
    assert 3 <= len(test) <= 18
    other = set(open_paired(tmp_path, size=16, holdout=0.25, split="test", seed=1).names)
    assert other != test
    for name in list(train)[:10]:  # other files do not matter
        (tmp_path / f"{name}.png").unlink()
    assert set(open_paired(tmp_path, size=16, holdout=0.25, split="test").names) == test


@pytest.mark.parametrize("holdout", [0.01, 0.5, 0.99])
def test_each_split_of_two_pairs_gets_one(
    tmp_path: Path, synthesize: Synthesize, holdout: float
) -> None:
    synthesize(tmp_path, count=2, size=16)
    assert len(open_paired(tmp_path, size=16, holdout=holdout)) == 1
    assert len(open_paired(tmp_path, size=16, holdout=holdout, split="test")) == 1
    assert len(open_paired(tmp_path, size=16, holdout=holdout, split="all")) == 2


def test_a_single_pair_cannot_be_held_out(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=1, size=16)
    assert len(open_paired(tmp_path, size=16, holdout=0.5)) == 1
    with pytest.raises(DataError, match="test split"):
        open_paired(tmp_path, size=16, holdout=0.5, split="test")


# -- errors ----------------------------------------------------------------------------------------


def test_folders_that_fit_no_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        open_paired(tmp_path / "missing")
    with pytest.raises(DataError, match="no images"):
        open_paired(tmp_path)
    with pytest.raises(DataError, match="folder of photos"):
        open_paired(tmp_path, sketch="canny")
    (tmp_path / "trainA").mkdir()
    with pytest.raises(DataError, match="no folder trainB"):
        open_paired(tmp_path)


def test_unmatched_files_are_named(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=30, size=16, layout="folders")
    for number in range(1, 26):
        (tmp_path / "B" / f"{number}.png").unlink()
    (tmp_path / "A" / "30.png").unlink()
    with pytest.raises(DataError) as caught:
        open_paired(tmp_path)
    message = str(caught.value)
    assert message.startswith("26 images under ")
    assert str(Path("A") / "1.png") in message
    assert "and 6 more" in message
    with pytest.raises(DataError, match="26 images"):
        check_paired(tmp_path)


def test_folders_without_a_common_name_look_unpaired(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    synthesize(tmp_path, count=1, size=16, layout="folders")
    (tmp_path / "A" / "1.png").rename(tmp_path / "A" / "other.png")
    with pytest.raises(DataError, match="unpaired"):
        open_paired(tmp_path)


def test_ambiguous_names_are_refused(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=2, size=16, layout="folders")
    save_image(tmp_path / "A" / "1.jpg", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataError, match=r"ambiguous[^$]*1\.jpg"):
        open_paired(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"direction": "AB"}, {"split": "val"}, {"fit": "squash"}, {"holdout": 1.0}, {"holdout": -0.1},
     {"size": 0}],
)  # fmt: skip
def test_options_that_make_no_sense(
    tmp_path: Path, synthesize: Synthesize, options: dict[str, Any]
) -> None:
    synthesize(tmp_path, count=1, size=16)
    with pytest.raises(ConfigError, match=str(next(iter(options)))):
        open_paired(tmp_path, **options)


def test_indices_end_where_the_pairs_do(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=2, size=16)
    dataset = plain(tmp_path)
    assert [item["name"] for item in dataset] == ["1", "2"]  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        dataset[-1]


# -- checking --------------------------------------------------------------------------------------


def test_check_says_what_there_is(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=5, size=16)
    done: list[tuple[int, int]] = []
    summary = check_paired(tmp_path, progress=lambda count, total: done.append((count, total)))
    assert summary.pairs == 5
    assert summary.smallest == summary.largest == (16, 16)
    assert str(summary) == "5 pairs (side-by-side), 16 x 16 to 16 x 16 pixels"
    assert done == [(number, 5) for number in range(1, 6)]


def test_check_names_every_broken_file(tmp_path: Path, synthesize: Synthesize) -> None:
    synthesize(tmp_path, count=30, size=16)
    for number in (3, 17):
        data = (tmp_path / f"{number}.png").read_bytes()
        (tmp_path / f"{number}.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "21.png").write_bytes(b"")
    save_image(tmp_path / "22.png", np.zeros((8, 15, 3), np.uint8))
    with pytest.raises(DataError) as caught:
        check_paired(tmp_path)
    message = str(caught.value)
    assert message.startswith("4 of 30 pairs cannot be used")
    for number, reason in ((3, "damaged"), (17, "damaged"), (21, "empty"), (22, "width is 15")):
        assert any(f"{number}.png" in line and reason in line for line in message.splitlines())
    for number in range(1, 26):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="and 5 more"):
        check_paired(tmp_path)


def test_check_finds_partners_that_do_not_lie_on_each_other(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    synthesize(tmp_path, count=2, size=32, layout="folders")
    save_image(tmp_path / "A" / "2.png", np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(DataError, match="64 x 32 pixels but its partner"):
        check_paired(tmp_path)
    assert check_paired(tmp_path, fit="resize").pairs == 2
    save_image(tmp_path / "A" / "2.png", np.zeros((64, 64, 3), np.uint8))
    assert check_paired(tmp_path).pairs == 2  # another resolution of the same view


def test_check_finds_photos_mistaken_for_pairs(tmp_path: Path) -> None:
    for number in range(3):
        save_image(tmp_path / f"{number}.png", np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(DataError, match="sketch"):
        check_paired(tmp_path)
    assert check_paired(tmp_path, sketch="canny").pairs == 3


def test_broken_photos_are_named_when_backgrounds_are_judged(
    tmp_path: Path, synthesize: Synthesize
) -> None:
    synthesize(tmp_path, count=2, size=32, layout="photos")
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2\.png"):
        plain(tmp_path, sketch="canny", only_plain_background=True)
