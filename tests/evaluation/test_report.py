"""Reports of folders: matching, scoring, what is refused, what is written."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pix2gan import image_metrics as metrics
from pix2gan.checkpoints.resolve import pretrained_folder
from pix2gan.cli import main
from pix2gan.data.image_io import save_image
from pix2gan.errors import CheckpointError, ConfigError, DataError
from pix2gan.evaluation import report
from pix2gan.evaluation.report import evaluate_folders, match_images
from pix2gan.evaluation.scores import PairedScores


def picture(seed: int, height: int = 32, width: int = 40, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def write(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, pixels in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, pixels)
    return folder


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three translated images and the real ones, matched across suffixes and sub-folders."""
    outputs = write(
        tmp_path / "out", {"10.png": picture(1), "2.png": picture(2), "sub/2.png": picture(3)}
    )
    references = write(
        tmp_path / "real", {"10.png": picture(4), "2.bmp": picture(5), "sub/2.tif": picture(6)}
    )
    return outputs, references


def test_scores_are_those_of_the_metrics(folders: tuple[Path, Path]):
    result = evaluate_folders(*folders)
    assert [image.name for image in result.images] == ["2.png", "10.png", "sub/2.png"]
    images = torch.cat([tensor(picture(seed)) for seed in (2, 1, 3)])
    references = torch.cat([tensor(picture(seed)) for seed in (5, 4, 6)])
    expected = {
        "psnr": metrics.psnr(images, references),
        "ssim": metrics.ssim(images, references),
        "l1": metrics.l1(images, references),
    }
    for name, values in expected.items():
        found = [getattr(image, name) for image in result.images]
        assert found == pytest.approx(values.tolist(), rel=1e-4, abs=1e-6)
        assert getattr(result.mean, name) == pytest.approx(values.mean().item(), rel=1e-4)
    swd = metrics.sliced_wasserstein_distance(images, references)
    assert result.mean.swd.mean == pytest.approx(swd.mean, rel=1e-4)
    assert list(result.mean.swd.levels) == ["32", "16"]


def test_the_report_is_written_as_json(folders: tuple[Path, Path], tmp_path: Path):
    path = tmp_path / "new" / "report.json"
    result = evaluate_folders(*folders, report=path, seed=5)
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert written == result.as_dict()
    assert written["count"] == 3
    assert len(written["images"]) == 3
    assert written["psnr"] == result.mean.psnr
    assert written["protocol"]["swd"]["seed"] == 5
    assert written["protocol"]["swd"]["patches_per_image"] == 128
    assert written["versions"]["torch"] == torch.__version__
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]
    for line in ("3 images", "PSNR", "SSIM", "L1", "SWD"):
        assert line in result.summary()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_model_is_named_as_in_translation(folders: tuple[Path, Path], tmp_path: Path):
    """Of whatever ``translate -m`` takes, the report has the hash of the file with the weights."""
    bundled = pretrained_folder() / "sketch2motorbike"
    run, original = tmp_path / "run", tmp_path / "original"
    for direction in ("AtoB", "BtoA"):
        shutil.copytree(bundled, run / f"model_{direction}")
    with (run / "model_BtoA" / "model.safetensors").open("ab") as file:
        file.write(b" ")
    original.mkdir()
    for name in ("latest_net_G_A.pth", "latest_net_G_B.pth"):
        (original / name).write_bytes(name.encode())
    weights = "model.safetensors"
    for given, direction, name, file, path in [
        ("sketch2motorbike", None, "sketch2motorbike", weights, bundled / weights),
        (str(bundled), None, "sketch2motorbike", weights, bundled / weights),
        (bundled / weights, None, weights, weights, bundled / weights),
        (run, "BtoA", "run", f"model_BtoA/{weights}", run / "model_BtoA" / weights),
        (original, "BtoA", "original", "latest_net_G_B.pth", original / "latest_net_G_B.pth"),
    ]:
        found = evaluate_folders(*folders, model=given, direction=direction).of["model"]
        assert found == {"name": name, "file": file, "sha256": sha256(path)}
    arguments = ["evaluate", str(folders[0]), "--against", str(folders[1])]
    scores = tmp_path / "scores.json"
    command = [*arguments, "--report", str(scores), "--model"]
    assert main([*command, str(run), "--direction", "AtoB"]) == 0
    found = json.loads(scores.read_text())["model"]
    assert found["file"] == f"model_AtoB/{weights}"
    with pytest.raises(CheckpointError, match="2 models: give a direction"):
        evaluate_folders(*folders, model=run)
    with pytest.raises(CheckpointError, match=r"There is no model 'sketch2motorbik'.*Did you mean"):
        evaluate_folders(*folders, model="sketch2motorbik")
    with pytest.raises(CheckpointError, match="is not a model"):
        evaluate_folders(*folders, model=scores)


def test_identical_folders_score_perfectly(folders: tuple[Path, Path], tmp_path: Path):
    path = tmp_path / "report.json"
    result = evaluate_folders(folders[1], folders[1], report=path)
    assert result.mean.identical == result.mean.count == 3
    assert math.isinf(result.mean.psnr)
    assert result.mean.ssim == pytest.approx(1)
    assert result.mean.l1 == 0
    assert result.mean.swd.mean == 0
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert written["psnr"] is None
    assert written["images"][0]["psnr"] is None


def test_identical_images_are_left_out_of_the_mean_psnr():
    scores = PairedScores(2)
    one, other = tensor(picture(1))[0], tensor(picture(2))[0]
    scores.add("same", one, one)
    scores.add("different", one, other)
    mean = scores.mean()
    assert mean.identical == 1
    assert mean.psnr == scores.images[1].psnr


def test_grey_alpha_and_16_bits_are_compared_as_rgb(tmp_path: Path):
    grey = picture(1, channels=1)
    opaque = np.concatenate([picture(2), np.full((32, 40, 1), 255, np.uint8)], axis=2)
    outputs = write(tmp_path / "out", {"a.png": grey, "b.png": opaque, "c.png": picture(3)})
    references = write(
        tmp_path / "real",
        {
            "a.png": np.repeat(grey, 3, axis=2),
            "b.png": picture(2),
            "c.png": picture(3).astype(np.uint16) * 257,
        },
    )
    assert evaluate_folders(outputs, references).mean.l1 == pytest.approx(0, abs=1e-7)


def test_two_files_are_a_pair(tmp_path: Path):
    write(tmp_path, {"one.png": picture(1), "other.png": picture(2)})
    result = evaluate_folders(tmp_path / "one.png", tmp_path / "other.png")
    assert result.mean.count == 1
    with pytest.raises(DataError, match="two folders or two files"):
        evaluate_folders(tmp_path / "one.png", tmp_path)


def test_images_of_different_sizes_are_scored_by_scale(tmp_path: Path):
    sizes = {"a.png": (64, 64), "b.png": (32, 48)}
    folders = [
        write(
            tmp_path / name,
            {file: picture(seed, *size) for file, size in sizes.items()},
        )
        for seed, name in enumerate(("out", "real"))
    ]
    levels = evaluate_folders(*folders).mean.swd.levels
    assert list(levels) == ["1/1", "1/2", "1/4"]


def test_same_stems_are_told_apart_by_their_names(tmp_path: Path):
    references = write(tmp_path / "real", {"a.png": picture(1), "a.bmp": picture(2)})
    kept = write(tmp_path / "kept", {"a.png": picture(1), "a.bmp": picture(2)})
    added = write(tmp_path / "added", {"a.png.png": picture(1), "a.bmp.png": picture(2)})
    for outputs in (kept, added):
        assert evaluate_folders(outputs, references).mean.identical == 2
    partly = write(tmp_path / "partly", {"a.tif": picture(1), "a.bmp": picture(2)})
    assert evaluate_folders(partly, references).mean.identical == 2


def test_every_image_without_a_partner_is_named(tmp_path: Path):
    outputs = write(tmp_path / "out", {"a.png": picture(1), "x.png": picture(1)})
    references = write(
        tmp_path / "real", {"a.png": picture(1), "sub/x.png": picture(2), "y.png": picture(2)}
    )
    with pytest.raises(DataError) as error:
        evaluate_folders(outputs, references, report=tmp_path / "report.json")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("3 images of")
    assert [line.strip() for line in lines[1:]] == [
        str(outputs / "x.png"),
        str(references / "sub/x.png"),
        str(references / "y.png"),
    ]
    assert not (tmp_path / "report.json").exists()


def test_an_ambiguous_stem_is_not_guessed(tmp_path: Path):
    outputs = write(tmp_path / "out", {"a.tif": picture(1)})
    references = write(tmp_path / "real", {"a.png": picture(1), "a.bmp": picture(2)})
    with pytest.raises(DataError, match="3 images"):
        match_images(outputs, references)


def test_every_pair_that_cannot_be_scored_is_named(folders: tuple[Path, Path], tmp_path: Path):
    outputs, references = folders
    (outputs / "2.png").write_bytes((outputs / "2.png").read_bytes()[:200])
    save_image(outputs / "10.png", picture(1, 32, 41))
    write(outputs, {"tiny.png": picture(1, 10, 20)})
    write(references, {"tiny.png": picture(2, 10, 20)})
    write(outputs, {"many.tif": picture(1, channels=6)})
    write(references, {"many.tif": picture(2, channels=6)})
    with pytest.raises(DataError) as error:
        evaluate_folders(outputs, references, report=tmp_path / "report.json")
    text = str(error.value)
    assert text.startswith("4 of 5 pairs cannot be scored")
    assert len(text.splitlines()) == 5
    for part in ("2.png", "41 x 32", "20 x 10", "6 channels"):
        assert part in text
    assert not (tmp_path / "report.json").exists()


def test_a_long_list_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "MAX_LISTED", 2)
    outputs = write(tmp_path / "out", {f"{i}.bmp": picture(1, 12, 12) for i in range(5)})
    references = write(tmp_path / "real", {"real.bmp": picture(1, 12, 12)})
    with pytest.raises(DataError, match="and 4 more"):
        evaluate_folders(outputs, references)


def test_missing_and_empty_folders_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    full = write(tmp_path / "full", {"a.png": picture(1)})
    with pytest.raises(DataError, match="no images"):
        evaluate_folders(tmp_path / "empty", full)
    with pytest.raises(DataError, match="missing"):
        evaluate_folders(full, tmp_path / "missing")


def test_progress_is_told(folders: tuple[Path, Path]):
    seen: list[tuple[int, int]] = []
    evaluate_folders(*folders, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_many_images_give_fewer_patches_each():
    def patches(expected: int) -> int:
        return PairedScores(expected).protocol()["swd"]["patches_per_image"]

    assert [patches(n) for n in (0, 1, 2048, 4096, 10**9)] == [128, 128, 128, 64, 1]


def test_where_the_report_cannot_go_is_said_first(folders: tuple[Path, Path], tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "new" / "report.json"):
        with pytest.raises(ConfigError, match=f"^The report {path} "):
            evaluate_folders(*folders, report=path, progress=lambda *_: pytest.fail("scored"))


@pytest.mark.parametrize("option", ["report", "page"])
def test_a_report_replaces_reports_alone(folders: tuple[Path, Path], tmp_path: Path, option: str):
    other = next(folders[1].iterdir())
    content = other.read_bytes()
    with pytest.raises(ConfigError, match=f"something else at {other}, which would be lost"):
        evaluate_folders(*folders, **{option: other})
    assert other.read_bytes() == content
    ours = tmp_path / "ours"
    ours.touch()
    for _ in range(2):
        evaluate_folders(*folders, **{option: ours})
    assert ours.stat().st_size > 0


def test_no_folder_is_made_for_a_report_that_is_not_written(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_text("broken")
    with pytest.raises(DataError, match="1 of 1 pairs cannot be scored"):
        evaluate_folders(tmp_path / "a", tmp_path / "b", report=tmp_path / "new" / "report.json")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("seed", [-1, -(10**20), 2**64])
def test_seeds_that_are_none(folders: tuple[Path, Path], seed: int):
    with pytest.raises(ConfigError, match="seed must be at least 0 and below"):
        evaluate_folders(*folders, seed=seed)
