"""From training options to the options of ``pix2gan.models``."""

from __future__ import annotations

from typing import Any

from torch import nn

from pix2gan.errors import ConfigError
from pix2gan.models import create_discriminator, create_generator, model_options
from pix2gan.models.generator import Generator
from pix2gan.training.config import TrainConfig
from pix2gan.training.discriminator_augmentation import DiscriminatorAugmentation
from pix2gan.training.multiscale import MultiscaleDiscriminator


def create_configured_generator(config: TrainConfig, *, backwards: bool = False) -> Generator:
    """The generator that ``config`` asks for; ``backwards``, one from the outputs to the inputs.

    Raises:
        ConfigError: If there is no such generator, it lacks an option that was asked for, or it
            cannot take images of ``config.size``.
    """
    options: dict[str, Any] = {"width": config.width}
    known = model_options(config.generator)
    for name in ("norm", "dropout", "downsampling", "upsampling", "padding"):
        if name in known:
            options[name] = getattr(config, name)
        # --norm is the discriminator's, too
        elif name != "norm" and getattr(config, name) != getattr(type(config), name):
            raise ConfigError(
                f"{config.generator} has no --{name}: leave it out, or choose another --generator."
            )
    for name in ("num_downs", "num_blocks"):
        if getattr(config, name) is not None:
            options[name] = getattr(config, name)
    channels = config.in_channels, config.out_channels
    reads, makes = channels[::-1] if backwards else channels
    generator = create_generator(config.generator, in_channels=reads, out_channels=makes, **options)
    if config.size % generator.multiple or config.size < generator.minimum_size:
        raise ConfigError(
            f"--size {config.size} does not fit {config.generator}, which takes multiples of "
            f"{generator.multiple} from {generator.minimum_size} on: choose another --size, or "
            "fewer --num-downs."
        )
    return generator


def create_configured_discriminator(config: TrainConfig, in_channels: int) -> nn.Module:
    """The discriminators that ``config`` asks for, on images of ``in_channels`` channels.

    Raises:
        ConfigError: If the images are too small for the coarsest of them.
    """
    options: dict[str, Any] = {
        "in_channels": in_channels,
        "width": config.discriminator_width,
        "norm": config.norm,
        "spectral_norm": config.spectral_norm,
    }
    if config.discriminator == "patch":
        options["n_layers"] = config.n_layers
    augment = config.augment_discriminator
    discriminator = MultiscaleDiscriminator(
        lambda: create_discriminator(config.discriminator, **options),
        config.discriminator_scales,
        None if augment is None else DiscriminatorAugmentation(augment),
    )
    if config.size < discriminator.minimum_size:
        raise ConfigError(
            f"--size {config.size} is too small for these discriminators, which need "
            f"{discriminator.minimum_size}: choose a larger --size, or fewer --n-layers or "
            "--discriminator-scales."
        )
    return discriminator
