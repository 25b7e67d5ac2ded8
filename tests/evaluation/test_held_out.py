"""A translator's scores on held-out pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pix2gan import image_metrics as metrics
from pix2gan.checkpoints.model_config import ModelConfig
from pix2gan.data.image_io import save_image
from pix2gan.data.paired import open_paired
from pix2gan.errors import DataError
from pix2gan.evaluation.held_out import evaluate_translator
from pix2gan.models import create_generator
from pix2gan.translation.translator import Translator


class Pairs:
    """Pairs of noise as a PairedDataset gives them: [-1, 1], by (epoch, index)."""

    def __init__(self, count: int, channels_a: int = 3) -> None:
        generator = torch.Generator().manual_seed(0)
        self.a = torch.rand(count, channels_a, 32, 32, generator=generator) * 2 - 1
        self.b = torch.randint(256, (count, 3, 32, 32), generator=generator) / 127.5 - 1
        self.read: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        self.read.append(key)
        return {"A": self.a[key[1]], "B": self.b[key[1]], "name": f"pair {key[1]}"}


class Darkening:
    """A translator that halves brightness; remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[torch.Tensor] = []

    def __call__(self, images: torch.Tensor, *, batch_size: int | None, output: str) -> Any:
        assert output == "tensor"
        self.batches.append(images)
        return images / 2


def test_translations_are_scored_in_8_bits_between_0_and_1():
    pairs, translator = Pairs(5), Darkening()
    scores = evaluate_translator(translator, pairs, batch_size=2)
    given = (pairs.a + 1) / 2
    real = (pairs.b + 1) / 2
    torch.testing.assert_close(torch.cat(translator.batches), given)
    assert [len(batch) for batch in translator.batches] == [2, 2, 1]
    assert pairs.read == [(0, index) for index in range(5)]
    made = (given / 2 * 255).round() / 255
    assert scores["psnr"] == pytest.approx(metrics.psnr(made, real).mean().item(), rel=1e-5)
    assert scores["ssim"] == pytest.approx(metrics.ssim(made, real).mean().item(), abs=1e-5)
    assert scores["l1"] == pytest.approx(metrics.l1(made, real).mean().item(), rel=1e-5)
    swd = metrics.sliced_wasserstein_distance(made, real)
    assert scores["swd"]["mean"] == pytest.approx(swd.mean, rel=1e-4)
    assert [image["name"] for image in scores["images"]] == [f"pair {i}" for i in range(5)]


def test_the_inputs_themselves_are_scored_beside():
    pairs = Pairs(3)
    scores = evaluate_translator(Darkening(), pairs)
    given, real = (pairs.a + 1) / 2, (pairs.b + 1) / 2
    expected = metrics.l1(given, real).mean().item()
    assert scores["untranslated"]["l1"] == pytest.approx(expected, abs=1e-4)
    assert scores["untranslated"]["l1"] < scores["l1"]


def test_inputs_of_another_kind_than_the_outputs_are_not_scored():
    def colour(images: torch.Tensor, *, batch_size: int | None, output: str) -> torch.Tensor:
        return images.expand(-1, 3, -1, -1)

    assert "untranslated" not in evaluate_translator(colour, Pairs(2, channels_a=1))


def test_a_perfect_translator_and_json():
    pairs = Pairs(3)

    def cheating(images: torch.Tensor, *, batch_size: int | None, output: str) -> torch.Tensor:
        return (pairs.b[: len(images)] + 1) / 2

    scores = evaluate_translator(cheating, pairs)
    assert scores["identical"] == 3
    assert scores["psnr"] is None
    assert scores["swd"]["mean"] == 0
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_progress_is_told_and_nothing_to_score_is_an_error():
    seen: list[tuple[int, int]] = []
    evaluate_translator(
        Darkening(), Pairs(3), batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 3), (3, 3)]
    with pytest.raises(DataError, match="no pairs"):
        evaluate_translator(Darkening(), Pairs(0))


def test_a_translator_on_the_test_split_of_a_folder(tmp_path: Path):
    rng = np.random.default_rng(0)
    for index in range(20):
        save_image(tmp_path / f"{index}.png", rng.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    pairs = open_paired(tmp_path, size=32, holdout=0.3, split="test")
    generator = create_generator("resnet6", width=4, num_blocks=1)
    translator = Translator(generator, ModelConfig(architecture=generator.config))
    scores = evaluate_translator(translator, pairs)
    assert 0 < scores["count"] == len(pairs) < 20
    assert {image["name"] for image in scores["images"]} == set(pairs.names)

    a = torch.stack([pairs[0, index]["A"] for index in range(len(pairs))])
    b = torch.stack([pairs[0, index]["B"] for index in range(len(pairs))])
    with torch.no_grad():
        made = (generator(a).clamp(-1, 1) + 1) / 2
    expected = metrics.l1((made * 255).round() / 255, (b + 1) / 2).mean().item()
    assert scores["l1"] == pytest.approx(expected, abs=1e-5)
