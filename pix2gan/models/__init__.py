"""Generators and discriminators, built by name.

    from pix2gan.models import create_generator
    generator = create_generator("unet256", in_channels=1, norm="batch")
    generator(torch.zeros(1, 1, 256, 256)).shape    # [1, 3, 256, 256], values in [-1, 1]

Importing this package does not import torch; building a network does.
"""

from __future__ import annotations

from .registry import (
    create_discriminator,
    create_generator,
    list_discriminators,
    list_models,
    model_options,
)

__all__ = [
    "create_discriminator",
    "create_generator",
    "list_discriminators",
    "list_models",
    "model_options",
]
