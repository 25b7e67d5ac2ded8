"""Presets do what they are called; pipelines come from files that can run no code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pix2gan.data.augmentation import PRESETS, load_pipeline, parse_presets
from pix2gan.data.image_io import save_image
from pix2gan.data.paired import open_paired
from pix2gan.data.transforms import Augmenter, AugmentOptions, import_albumentations
from pix2gan.data.unpaired import open_unpaired
from pix2gan.errors import ConfigError, DataError

A = import_albumentations()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pairs of noise; B is A's negative."""
    for side in "AB":
        (tmp_path / "data" / side).mkdir(parents=True)
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        save_image(tmp_path / "data" / "A" / f"{number}.png", image)
        save_image(tmp_path / "data" / "B" / f"{number}.png", 255 - image)
    return tmp_path / "data"


def items(data: Path, augment: Any, **options: Any) -> list[dict[str, Any]]:
    dataset = open_paired(data, **{"size": 32, "augment": augment} | options)
    return [dataset[epoch, 0] for epoch in range(16)]


def kinds(made: list[dict[str, Any]], side: str = "A") -> int:
    return len({item[side].numpy().tobytes() for item in made})


def test_presets_do_their_own_thing_and_no_more(data: Path) -> None:
    assert kinds(items(data, "flip")) == 2
    assert kinds(items(data, "flip,flip-vertical")) == 4
    assert kinds(items(data, "")) == 1
    for name in PRESETS:
        made = items(data, name)
        shows = "B" if name == "rotate" else "A"
        assert kinds(made, shows) > (name != "shift")  # which is for plain backgrounds
        if name != "cutout" and name != "colour":
            for item in made:
                assert torch.allclose(item["A"], -item["B"], atol=0.03)
    assert parse_presets("flip, rotate,crop,shift,colour") == AugmentOptions()


def test_cutout_wipes_a_part_of_what_the_generator_reads(data: Path) -> None:
    whole = items(data, False)[0]
    wiped = [item for item in items(data, "cutout") if not torch.equal(item["A"], whole["A"])]
    assert 1 <= len(wiped) < 16
    for item in wiped:
        assert torch.equal(item["B"], whole["B"])
        changed = (item["A"] != whole["A"]).any(dim=0)
        assert 0 < int(changed.sum()) <= 64  # a quarter of the side, squared
        rows, columns = np.nonzero(changed.numpy())
        assert max(np.ptp(rows), np.ptp(columns)) < 8
    back = items(data, "cutout", direction="BtoA")
    assert kinds(back, "A") > 1
    assert kinds(back, "B") == 1


def test_windows_are_cut_out_of_large_images_unscaled(tmp_path: Path) -> None:
    ramp = np.arange(90 * 100, dtype=np.uint16).reshape(90, 100, 1).repeat(3, 2)
    for side in "AB":
        (tmp_path / side).mkdir()
        save_image(tmp_path / side / "1.png", ramp)
    made = items(tmp_path, "", fit="none")
    assert kinds(made) == 16
    for item in made:
        window = np.rint((item["A"][0].numpy().astype(np.float64) + 1) / 2 * 65535).astype(int)
        top, left = divmod(int(window[0, 0]), 100)
        assert np.array_equal(window, ramp[top : top + 32, left : left + 32, 0])
        assert torch.equal(item["A"], item["B"])
    assert kinds(items(tmp_path, False, fit="none")) == 1


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_pipeline_from_a_file_is_the_one_from_python(data: Path, suffix: str) -> None:
    compose = A.Compose([A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=1.0)])
    path = data.parent / f"mine{suffix}"
    A.save(compose, path, data_format=suffix[1:])
    ours, theirs = items(data, compose), items(data, str(path))
    assert kinds(ours) == 16
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["A"], other["A"])
        assert torch.equal(one["B"], other["B"])
    again = open_paired(data, size=32, augment=str(path))
    copy = pickle.loads(pickle.dumps(again))
    np.random.seed(5)
    assert torch.equal(copy[3, 0]["A"], ours[3]["A"])
    assert again.augmenter.text == path.read_text()  # type: ignore[union-attr]
    unpaired = open_unpaired(data, size=32, augment=str(path))
    assert len({unpaired[e, 0]["B"].numpy().tobytes() for e in range(4)}) == 4


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_target_that_is_a_mask_keeps_its_colours(data: Path, direction: Any) -> None:
    compose = A.Compose(
        [A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=1.0)],
        additional_targets={"target": "mask"},
    )
    made = items(data, compose, direction=direction)
    assert kinds(made, "A") == 16
    assert kinds(made, "B") == 2


def test_sketches_are_drawn_from_what_the_pipeline_makes(
    tmp_path: Path, synthesize: Callable[..., list[Path]]
) -> None:
    synthesize(tmp_path, count=1, size=64, layout="photos")
    made = items(tmp_path, A.Compose([A.HorizontalFlip(p=0.5)]), sketch="canny", size=48)
    assert kinds(made, "B") == 2


def test_pipelines_that_fail_or_change_the_size_are_named(data: Path) -> None:
    with pytest.raises(DataError, match=r"makes images of 16 x 16.*RandomCrop"):
        items(data, A.Compose([A.RandomCrop(16, 16)]))
    with pytest.raises(DataError, match="fails on an image of 1 channels"):
        items(data, A.Compose([A.CropNonEmptyMaskIfExists(8, 8, p=1)]),
              in_channels=1)  # fmt: skip
    with pytest.raises(ConfigError, match="not a int"):
        items(data, 7)


def described(*transforms: dict[str, Any], **more: Any) -> dict[str, Any]:
    transform = {"__class_fullname__": "Compose", "p": 1.0, "transforms": list(transforms), **more}
    return {"__version__": "2.0.8", "transform": transform}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            described({"__class_fullname__": "os.system", "command": "x"}),
            "no transform 'os.system'",
        ),
        (described({"__class_fullname__": "Lambda", "__name__": "x"}), "no transform 'Lambda'"),
        (described({"__class_fullname__": "save"}), "no transform 'save'"),
        (described({"__class_fullname__": ["x"]}), "no transform"),
        (described({"__class_fullname__": "HorizontalFlip", "p": "no"}), "is no pipeline"),
        (
            described({"__class_fullname__": "FDA", "reference_images": ["/x"]}),
            "no transform 'FDA'",
        ),
        ({"transform": {"__class_fullname__": "HorizontalFlip", "p": 1}}, "must hold a Compose"),
        ({"transform": [1]}, "has no transform"),
        ([1], "has no transform"),
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_files_that_describe_something_else(
    tmp_path: Path, content: Any, complaint: str, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text(json.dumps(content) if suffix == ".json" else yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=complaint):
        load_pipeline(path)


def test_files_that_would_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "x.yaml"
    path.write_text(f"transform: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_pipeline(path)
    assert not mark.exists()
    for text in ("a: [", "[" * 100_000, "\udcff"):
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ConfigError):
            load_pipeline(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_pipeline(tmp_path / "none.json")


def test_unknown_presets_are_named(data: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown augmentation 'filp': choose from flip,"):
        items(data, "filp")


def test_holes_have_the_size_that_was_asked_for() -> None:
    augmenter = Augmenter(40, AugmentOptions(cutout=0.5))
    image = np.zeros((40, 40, 1), np.float32)
    image[::2] = 1
    sizes = [int((augmenter.cut_out(image, seed) == 0.5).sum()) for seed in range(60)]
    assert max(sizes) == 400
    assert 15 < sizes.count(0) < 45
