"""Styles by seed: the same seed gives the same bytes, in whatever company; another one, a photo of
its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from pix2gan.checkpoints import ModelConfig
from pix2gan.data.image_io import open_image, save_image
from pix2gan.errors import ConfigError
from pix2gan.models import create_generator
from pix2gan.translation import Translator

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (16 + 8 * (i == 2), 20, 3), np.uint8) for i in range(5)]


@pytest.fixture(params=["modulated_unet", "modulated_resnet"])
def styled(request: pytest.FixtureRequest) -> Translator:
    """A random network, louder than at the start of a training."""
    depth = {"num_downs": 2} if request.param == "modulated_unet" else {"num_blocks": 1}
    generator = create_generator(request.param, width=8, **depth)
    nn.init.normal_(generator.affine.weight, std=0.2)
    config = ModelConfig(architecture=dict(generator.config))
    return Translator(generator, config, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_seed_gives_the_same_bytes_in_any_company(styled: Translator, dtype: str) -> None:
    translator = Translator(styled.generator, styled.config, device="cpu", dtype=dtype)
    alone = [translator(p, seed=7, output="tensor") for p in PICTURES]
    for batch_size in (1, 2, 5):
        together = translator(PICTURES, seed=7, batch_size=batch_size, output="tensor")
        assert all((a == b).all() for a, b in zip(alone, together, strict=True))
    backwards = translator(PICTURES[::-1], seed=7, output="tensor")
    assert all((a == b).all() for a, b in zip(alone, backwards[::-1], strict=True))


def test_seeds_choose_among_styles(styled: Translator) -> None:
    outputs = [styled(PICTURES[0], seed=s, output="numpy").astype(int) for s in (None, 0, 1, 2)]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert np.abs(one - other).mean() > 1, "grey levels"
    assert np.array_equal(styled(PICTURES[0], output="numpy"), outputs[0])


def test_without_styles_a_seed_is_an_error(unet: Translator, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="The generator unet128 has no styles for a seed") as e:
        unet(PICTURES[0], seed=1)
    assert "\n" not in str(e.value)
    (tmp_path / "in").mkdir()
    save_image(tmp_path / "in" / "a.png", PICTURES[0])
    with pytest.raises(ConfigError, match="no styles"):
        unet.translate_folder(tmp_path / "in", tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "1"])
def test_what_is_no_seed(styled: Translator, seed: object) -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number from 0 to"):
        styled(PICTURES[0], seed=seed)  # type: ignore[arg-type]


def test_folders_are_the_same_whatever_was_there(styled: Translator, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(PICTURES):
        save_image(tmp_path / "in" / f"{i}.png", picture)
    whole = tmp_path / "whole"
    report = styled.translate_folder(tmp_path / "in", whole, seed=3, progress=False)
    assert report.done == len(PICTURES)
    again = tmp_path / "again"
    styled.translate_folder(tmp_path / "in", again, seed=3, batch_size=2, progress=False)
    for name in ("1.png", "4.png"):
        (again / name).unlink()
    report = styled.translate_paths(tmp_path / "in", again, seed=3, batch_size=5, progress=False)
    assert (report.done, report.skipped) == (2, 3)
    for i, picture in enumerate(PICTURES):
        assert (again / f"{i}.png").read_bytes() == (whole / f"{i}.png").read_bytes()
        assert np.array_equal(open_image(whole / f"{i}.png"), styled(picture, seed=3))
    # What is there is not made again, not in another style either.
    report = styled.translate_folder(tmp_path / "in", again, seed=4, progress=False)
    assert report.skipped == len(PICTURES)
    styled.translate_folder(tmp_path / "in", again, seed=4, on_exists="overwrite", progress=False)
    assert (again / "1.png").read_bytes() != (whole / "1.png").read_bytes()
