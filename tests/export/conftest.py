"""Tiny models of every generator, as folders that `export_model` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pix2gan.checkpoints import ModelConfig, Preprocessing, save_model
from pix2gan.models import create_generator

TINY: dict[str, dict[str, Any]] = {
    "modulated_resnet": {"width": 4, "num_blocks": 1, "style_channels": 6, "code_channels": 8},
    "modulated_unet": {"width": 4, "num_downs": 2, "style_channels": 6, "code_channels": 8},
    "pix2pixhd": {"width": 2, "num_blocks": 1},
    "pix2pixhd_enhancer": {"width": 2, "num_downs": 1, "num_blocks": 1, "enhancer_blocks": 1},
    "resnet6": {"width": 4, "num_blocks": 1},
    "resnet9": {"width": 4, "num_blocks": 1},
    "unet128": {"width": 4, "num_downs": 3},
    "unet256": {"width": 2, "num_downs": 4},
    "unet512": {"width": 2, "num_downs": 4},
}

SaveTiny = Callable[..., Path]


@pytest.fixture(scope="session")
def save_tiny(tmp_path_factory: pytest.TempPathFactory) -> SaveTiny:
    """save_tiny("unet128", norm="batch") -> the folder of a random model, called "tiny"."""

    def save(name: str, preprocessing: Preprocessing | None = None, **options: Any) -> Path:
        torch.manual_seed(1)
        generator = create_generator(name, **{**TINY[name], **options})
        for parameter in generator.parameters():  # louder than at the start of a training
            if parameter.dim() == 4:
                nn.init.normal_(parameter, std=0.2)
        for module in generator.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
        config = ModelConfig(
            architecture=dict(generator.config),
            in_channels=generator.in_channels,
            out_channels=generator.out_channels,
            preprocessing=preprocessing or Preprocessing(size=64),
            name="tiny",
            version="7",
            licence="CC0-1.0",
        )
        return save_model(tmp_path_factory.mktemp("model"), generator, config)

    return save
