"""Pix2Pix: image-to-image translation with conditional adversarial networks (Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from pix2gan.models.style import StyledGenerator
from pix2gan.training.dataset import TrainingData, open_paired_data
from pix2gan.training.losses import (
    GAN_LOSSES,
    distance_and_spread,
    feature_matching_loss,
    l1_loss,
    multiscale_gan_loss,
)
from pix2gan.training.method_options import Pix2PixConfig
from pix2gan.training.methods import Domains, Method, Translation, Update
from pix2gan.training.networks import (
    create_configured_discriminator,
    create_configured_generator,
)
from pix2gan.training.one_pass import run_each


class Pix2Pix(Method):
    """A generator G: A -> B and a discriminator D that sees the input beside the output.

    D tells (a, b) from (a, G(a)); G fools D and stays close to b in L1. Optionally G also matches
    D's activations on the real pair (feature matching, pix2pixHD) and D looks at several scales.

    A generator with a style code translates each image twice, in two styles. The L1 losses of both
    are then lowered by how far they lie apart (``distance_and_spread``), or L1 would teach G to
    ignore the code; D sees the first of them.
    """

    options = Pix2PixConfig
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "discriminator": ("discriminator",),
        "generator": ("generator",),
    }
    models: ClassVar[Mapping[str, str]] = {"model": "generator"}
    paired = True

    def __init__(self, config: Pix2PixConfig) -> None:
        self.config = config
        self.gan_loss = GAN_LOSSES[config.gan_loss]
        seen = config.in_channels + config.out_channels
        generator = create_configured_generator(config)
        self.in_two_styles = generator.style_channels > 0 and config.diversity > 0
        self.networks = nn.ModuleDict(
            {
                "generator": generator,
                "discriminator": create_configured_discriminator(config, seen),
            }
        )

    @staticmethod
    def open_data(config: Pix2PixConfig) -> TrainingData:
        return open_paired_data(config)

    def step(self, batch: Mapping[str, Tensor]) -> Iterator[Update]:
        generate, judge = self.networks["generator"], self.networks["discriminator"]
        a, b = batch["A"], batch["B"]
        real_pair = torch.cat([a, b], dim=1)  # [N, A + B channels, H, W]
        if self.in_two_styles:
            fake, other = generate(torch.cat([a, a])).to(a.dtype).chunk(2)
        else:
            fake = generate(a).to(a.dtype)
        fake_pair = torch.cat([a, fake], dim=1)

        # The paper halves D's objective, which slows it down relative to G.
        on_real, on_fake = run_each(judge, real_pair, fake_pair.detach(), norm=self.config.norm)
        d_real = multiscale_gan_loss(self.gan_loss, on_real, True)
        d_fake = multiscale_gan_loss(self.gan_loss, on_fake, False)
        yield Update("discriminator", 0.5 * (d_real + d_fake), {"d_real": d_real, "d_fake": d_fake})

        features = judge.features(fake_pair)  # type: ignore[operator]
        g_gan = multiscale_gan_loss(self.gan_loss, [scale[-1] for scale in features], True)
        log = {"g_gan": g_gan}
        if self.in_two_styles:
            log["l1"], log["spread"] = distance_and_spread(fake, other, b)
            score = log["l1"] - 0.5 * self.config.diversity * log["spread"]
        else:
            score = log["l1"] = l1_loss(fake, b)
        loss = g_gan + self.config.l1 * score
        if self.config.feature_matching > 0:
            with torch.no_grad():
                targets = judge.features(real_pair, repeat=True)  # type: ignore[operator]
            matching = torch.stack(
                [
                    feature_matching_loss(ours[:-1], theirs[:-1])
                    for ours, theirs in zip(features, targets, strict=True)
                ]
            ).sum()
            loss = loss + self.config.feature_matching * matching
            log["feature_matching"] = matching
        yield Update("generator", loss, log)

    def sample(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> list[Tensor]:
        """Input, output, target; between the last two, outputs in other styles where G has them."""
        generate = generators["generator"]
        outputs = [generate(batch["A"])]
        if isinstance(generate, StyledGenerator):
            outputs += [generate(batch["A"], generate.style_code(seed)) for seed in (1, 2)]
        return [batch["A"], *outputs, batch["B"]]

    def domains(self, model: str) -> Domains:
        kinds = ("sketch" if self.config.sketch else "photo", "photo")
        reads, makes = kinds if self.config.direction == "AtoB" else kinds[::-1]
        return Domains(self.config.direction, reads, makes)

    def translate(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> dict[str, Translation]:
        return {"model": Translation(batch["A"], generators["generator"](batch["A"]), batch["B"])}
