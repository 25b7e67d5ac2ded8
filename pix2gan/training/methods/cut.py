"""CUT and FastCUT: contrastive learning for unpaired translation (Park et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pix2gan.errors import ConfigError
from pix2gan.training.dataset import TrainingData, open_unpaired_data
from pix2gan.training.losses import GAN_LOSSES, multiscale_gan_loss
from pix2gan.training.method_options import CUTConfig, FastCUTConfig
from pix2gan.training.methods import Domains, Method, Translation, Update
from pix2gan.training.networks import (
    create_configured_discriminator,
    create_configured_generator,
)
from pix2gan.training.one_pass import run_each
from pix2gan.training.patch_nce import PatchProjections, draw_places, patch_nce_loss


class CUT(Method):
    """A generator G: A -> B, a discriminator of B, and projections of G's inner stages.

    G fools the discriminator, and each patch of G(a) resembles the patch of ``a`` at its place more
    than other patches of ``a``, seen by the first stages of G itself. So may each patch of G(b)
    that of ``b``, which leaves alone what is of domain B already.
    """

    options = CUTConfig
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "discriminator": ("discriminator",),
        "generator": ("generator", "projections"),
    }
    models: ClassVar[Mapping[str, str]] = {"model": "generator"}

    def __init__(self, config: CUTConfig) -> None:
        if config.in_channels != config.out_channels:
            raise ConfigError(
                f"{config.method} looks at its outputs with the network that reads its inputs: "
                "--in-channels and --out-channels must be the same."
            )
        self.config = config
        self.gan_loss = GAN_LOSSES[config.gan_loss]
        generator = create_configured_generator(config)
        self.has_styles = generator.style_channels > 0
        # The same in all processes: they meet in each batch norm, so all mirror or none.
        self.random = torch.Generator().manual_seed(config.seed % 2**63)
        self.stages = config.nce_stages() or generator.contrastive_stages
        self.networks = nn.ModuleDict(
            {
                "generator": generator,
                "discriminator": create_configured_discriminator(config, config.out_channels),
                "projections": PatchProjections(generator.feature_channels(self.stages)),
            }
        )

    @staticmethod
    def open_data(config: CUTConfig) -> TrainingData:
        return open_unpaired_data(config, config.direction)

    def step(self, batch: Mapping[str, Tensor]) -> Iterator[Update]:
        config = self.config
        generate, judge = self.networks["generator"], self.networks["discriminator"]
        a, b = batch["A"], batch["B"]
        sources = (a, b) if config.nce_identity else (a,)

        flips = config.flip_equivariance and bool(torch.rand((), generator=self.random) < 0.5)
        shown = [image.flip(3) for image in sources] if flips else sources
        keys = None
        if flips or self.has_styles:
            # Its features on the way are not those to compare: a mirrored input must give a
            # mirrored output, and styles are for outputs (features are those of the fixed style).
            outputs = run_each(generate, *shown, norm=config.norm)
        else:  # what G sees in its inputs comes with its outputs, in one pass
            passes = self._features(shown, (*self.stages, -1))
            outputs = [stages[-1] for stages in passes]
            keys = [[stage.detach() for stage in stages[:-1]] for stages in passes]
        outputs = [output.to(a.dtype) for output in outputs]

        fake = outputs[0]
        on_real, on_fake = run_each(judge, b, fake.detach(), norm=config.norm)
        d_real = multiscale_gan_loss(self.gan_loss, on_real, True)
        d_fake = multiscale_gan_loss(self.gan_loss, on_fake, False)
        yield Update("discriminator", 0.5 * (d_real + d_fake), {"d_real": d_real, "d_fake": d_fake})

        g_gan = multiscale_gan_loss(self.gan_loss, judge(fake), True)
        queries = self._features(outputs, self.stages)
        if flips:
            queries = [[stage.flip(3) for stage in stages] for stages in queries]
        if keys is None:
            # Behind the pass with gradient: autocast keeps the weights that it has cast first.
            with torch.no_grad():
                keys = self._features(sources, self.stages)
        nce = [self._contrast(*pair) for pair in zip(queries, keys, strict=True)]
        loss = g_gan + config.lambda_nce * torch.stack(nce).mean()
        log = {"g_gan": g_gan, "nce": nce[0]} | ({"nce_identity": nce[1]} if nce[1:] else {})
        yield Update("generator", loss, log)

    def _features(self, images: Any, stages: tuple[int, ...]) -> list[list[Tensor]]:
        """For each batch of ``images`` the stages of the generator."""
        generator: Any = self.networks["generator"]
        return run_each(lambda x: generator.features(x, stages), *images, norm=self.config.norm)

    def _contrast(self, queries: list[Tensor], keys: list[Tensor]) -> Tensor:
        """PatchNCE, averaged over stages."""
        project = self.networks["projections"]
        places = draw_places(queries, self.config.nce_patches)
        pairs = zip(project(queries, places), project(keys, places), strict=True)
        temperature = self.config.nce_temperature
        return torch.stack([patch_nce_loss(ours, own, temperature) for ours, own in pairs]).mean()

    def sample(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> list[Tensor]:
        """A, fake B; B, and what G makes of it."""
        translate = generators["generator"]
        return [batch["A"], translate(batch["A"]), batch["B"], translate(batch["B"])]

    def translate(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> dict[str, Translation]:
        return {"model": Translation(batch["A"], generators["generator"](batch["A"]), batch["B"])}

    def domains(self, model: str) -> Domains:
        return Domains(self.config.direction)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.random.set_state(state["random"])


class FastCUT(CUT):
    """CUT without the identity pass, with a higher weight of PatchNCE and mirrored inputs."""

    options = FastCUTConfig
