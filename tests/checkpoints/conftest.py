"""A tiny model, whose files the tests look at and damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from pix2gan.checkpoints import ModelConfig, Preprocessing, save_model
from pix2gan.models import create_generator


@pytest.fixture
def generator() -> nn.Module:
    return create_generator("unet128", width=4, num_downs=3, upsampling="blur").eval()


@pytest.fixture
def config(generator: nn.Module) -> ModelConfig:
    return ModelConfig(
        architecture=dict(generator.config),  # type: ignore[arg-type]
        preprocessing=Preprocessing(size=64, domain_a="sketch"),
        name="tiny",
        licence="CC-BY-4.0",
        training={"dataset": "none", "steps": 0, "folder": Path("here")},
    )


@pytest.fixture
def model(tmp_path: Path, generator: nn.Module, config: ModelConfig) -> Path:
    return save_model(tmp_path / "model", generator, config)
