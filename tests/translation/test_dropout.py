"""Dropout that is left on in translation: as in training, and the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pix2gan import Translator
from pix2gan.checkpoints import ModelConfig, save_legacy, save_model
from pix2gan.cli import main
from pix2gan.errors import CheckpointError, ConfigError
from pix2gan.models import create_generator


def model(tmp_path, name: str, *, dropout: bool = True, legacy: bool = False, norm: str = "batch"):
    options = {"num_downs": 6} if name == "unet128" else {"num_blocks": 2}
    generator = create_generator(name, width=4, norm=norm, dropout=dropout, **options)
    for parameter in generator.parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=0.2)
    config = ModelConfig(architecture=dict(generator.config))
    if legacy:
        return save_legacy(tmp_path / "latest_net_G.pth", generator, config)
    return save_model(tmp_path / name, generator, config)


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [np.random.randint(0, 256, (70, 90, 3), np.uint8) for _ in range(3)]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["unet128", "resnet6"])
def test_a_seed_fixes_the_masks(tmp_path, pictures, name, legacy):
    path = model(tmp_path, name, legacy=legacy)
    off = Translator.from_pretrained(path, dropout=False)
    on = Translator.from_pretrained(path, dropout=True)
    state = torch.get_rng_state()
    first = on(pictures, output="numpy", batch_size=3)
    assert torch.equal(torch.get_rng_state(), state), "the global state is not touched"
    for image, made in zip(pictures, first, strict=True):
        assert np.array_equal(on(image, output="numpy", seed=0), made), "alone, by its seed"
        assert not np.array_equal(on(image, output="numpy", seed=1), made)
        assert not np.array_equal(off(image, output="numpy"), made)
    with pytest.raises(ConfigError, match="no styles"):
        off(pictures[0], seed=1)
    with pytest.raises(ConfigError, match="cannot be tiled"):
        on(pictures[0], tile=64)


ORIGINALS = {
    "unet batch": ("unet128", "batch", True, True),
    "unet instance": ("unet128", "instance", False, False),
    "resnet with dropout": ("resnet6", "instance", True, True),
    "resnet without": ("resnet6", "batch", False, False),
}


@pytest.mark.parametrize("case", ORIGINALS)
def test_original_files_translate_as_the_originals_test(tmp_path, pictures, case):
    """With dropout where the original repository has it, from the file and from its conversion."""
    name, norm, dropout, by_default = ORIGINALS[case]
    path = model(tmp_path, name, norm=norm, dropout=dropout, legacy=True)
    translator = Translator.from_pretrained(path)
    assert translator.keeps_dropout == translator.config.keeps_dropout == by_default
    made = translator(pictures, output="numpy")
    off = Translator.from_pretrained(path, dropout=False)(pictures, output="numpy")
    for one, other in zip(made, off, strict=True):
        assert np.array_equal(one, other) != by_default
    for options, expected in (([], made), (["--no-dropout"], off)):
        folder = tmp_path / f"model{len(options)}"
        assert main(["convert", str(path), str(folder), *options]) == 0
        converted = Translator.from_pretrained(folder)(pictures, output="numpy")
        assert all(map(np.array_equal, converted, expected))
    back = tmp_path / "back_net_G.pth"
    assert main(["convert", str(tmp_path / "model0"), str(back), "--to", "original"]) == 0
    again = torch.load(back, weights_only=True)
    stored = torch.load(path, weights_only=True)
    assert list(again) == list(stored)
    assert all(torch.equal(again[key], stored[key]) for key in stored)


def test_our_own_models_translate_without(tmp_path):
    translator = Translator.from_pretrained(model(tmp_path, "unet128"))
    assert not translator.keeps_dropout


def test_masks_are_those_of_dropout(tmp_path):
    """Half of the elements are dropped and the rest doubled, in the layers that have dropout."""
    on = Translator.from_pretrained(model(tmp_path, "unet128"), dropout=True)
    layers = [layer for layer in on.generator.ups if layer.dropout]
    assert len(layers) == 1, "num_downs - 5 inner levels"
    x = torch.randn(1, layers[0].conv.in_channels, 30, 30)
    with torch.no_grad():
        dropped = layers[0](x)
        layers[0].lasting_dropout = None
        whole = layers[0](x)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    assert 0.47 < float(kept[whole != 0].float().mean()) < 0.53


def test_a_network_without_dropout_has_none_to_leave_on(tmp_path, capsys):
    path = model(tmp_path, "resnet6", dropout=False)
    with pytest.raises(CheckpointError, match="was trained without dropout"):
        Translator.from_pretrained(path, dropout=True)
    arguments = ["translate", "x.png", "-m", str(path), "-o", "y.png", "--dropout"]
    assert main(arguments) == 2
    assert "was trained without dropout" in capsys.readouterr().err
