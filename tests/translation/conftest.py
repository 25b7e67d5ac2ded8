"""Small networks whose work can be checked: a random U-Net, and one that returns its input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn

from pix2gan.checkpoints import ModelConfig, Preprocessing
from pix2gan.models import create_generator
from pix2gan.translation import Translator

from .image_trees import write

MULTIPLE = 8


class Mirror(nn.Module):
    """Returns its input, so that what comes out shows what went in; remembers the inputs."""

    multiple = MULTIPLE

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % MULTIPLE == x.shape[3] % MULTIPLE == 0
        self.seen.append(x.clone())
        return x


MakeMirror: TypeAlias = Callable[..., Translator]


@pytest.fixture
def make_mirror() -> MakeMirror:
    """make_mirror(in_channels=3, domain_a="photo", ...) -> a translator around a `Mirror`."""

    def make(
        network: nn.Module | None = None,
        in_channels: int = 3,
        out_channels: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        **preprocessing: Any,
    ) -> Translator:
        config = ModelConfig(
            architecture={"name": "mirror"},
            in_channels=in_channels,
            out_channels=out_channels or in_channels,
            value_range=value_range,
            preprocessing=Preprocessing(**{"size": 32, **preprocessing}),
        )
        return Translator(network or Mirror(), config, device="cpu")

    return make


@pytest.fixture
def mirror(make_mirror: MakeMirror) -> Translator:
    return make_mirror()


@pytest.fixture(scope="session")
def unet() -> Translator:
    """A random U-Net of three levels; 3 channels in, 3 out."""
    torch.manual_seed(7)
    generator = create_generator("unet128", width=4, num_downs=3)
    for parameter in generator.parameters():  # louder than at the start of a training
        nn.init.normal_(parameter, std=0.2)
    return Translator(generator, ModelConfig(architecture=dict(generator.config)), device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """30 images of five sizes in three folders."""
    root = tmp_path / "photos"
    for i in range(30):
        suffix = ("png", "jpg", "webp")[i % 3]
        sub = ("", "deep", "deep/er")[i // 10]
        write(root / sub / f"{i}.{suffix}", 14 + i % 5, 15 + 5 * (i % 2), seed=i)
    return root
