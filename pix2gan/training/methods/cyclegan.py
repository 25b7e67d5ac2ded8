"""CycleGAN: unpaired translation with cycle-consistent adversarial networks (Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from pix2gan.errors import ConfigError
from pix2gan.training.dataset import TrainingData, open_unpaired_data
from pix2gan.training.image_pool import ImagePool
from pix2gan.training.losses import GAN_LOSSES, l1_loss, multiscale_gan_loss
from pix2gan.training.method_options import CycleGANConfig
from pix2gan.training.methods import Domains, Method, Translation, Update
from pix2gan.training.networks import (
    create_configured_discriminator,
    create_configured_generator,
)
from pix2gan.training.one_pass import run_each


class CycleGAN(Method):
    """Generators G: A -> B and F: B -> A, and a discriminator of each domain.

    G and F fool the discriminators, undo each other (F(G(a)) = a, G(F(b)) = b in L1), and leave
    alone what is of their target domain already (G(b) = b, F(a) = a).
    """

    options = CycleGANConfig
    players: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "generators": ("generator_AtoB", "generator_BtoA"),
        "discriminators": ("discriminator_A", "discriminator_B"),
    }
    models: ClassVar[Mapping[str, str]] = {
        "model_AtoB": "generator_AtoB",
        "model_BtoA": "generator_BtoA",
    }

    def __init__(self, config: CycleGANConfig) -> None:
        if config.lambda_identity > 0 and config.in_channels != config.out_channels:
            raise ConfigError(
                f"The identity loss compares the {config.in_channels} channels of domain A with "
                f"the {config.out_channels} of domain B: give --lambda-identity 0."
            )
        self.config = config
        self.gan_loss = GAN_LOSSES[config.gan_loss]
        self.networks = nn.ModuleDict(
            {
                "generator_AtoB": create_configured_generator(config),
                "generator_BtoA": create_configured_generator(config, backwards=True),
                "discriminator_A": create_configured_discriminator(config, config.in_channels),
                "discriminator_B": create_configured_discriminator(config, config.out_channels),
            }
        )
        self.pools = {
            "A": ImagePool(config.pool_size, config.seed),
            "B": ImagePool(config.pool_size, config.seed + 1),
        }

    @staticmethod
    def open_data(config: CycleGANConfig) -> TrainingData:
        return open_unpaired_data(config)

    def step(self, batch: Mapping[str, Tensor]) -> Iterator[Update]:
        config = self.config
        generate_b, generate_a = self.networks["generator_AtoB"], self.networks["generator_BtoA"]
        judge_a, judge_b = self.networks["discriminator_A"], self.networks["discriminator_B"]
        a, b = batch["A"], batch["B"]

        # One pass for both of what a generator is shown: the other domain, and its own.
        own_b, own_a = ((b,), (a,)) if config.lambda_identity > 0 else ((), ())
        fake_b, *same_b = run_each(generate_b, a, *own_b, norm=config.norm)
        fake_a, *same_a = run_each(generate_a, b, *own_a, norm=config.norm)
        fake_a, fake_b = fake_a.to(a.dtype), fake_b.to(b.dtype)
        g_a = multiscale_gan_loss(self.gan_loss, judge_a(fake_a), True)
        g_b = multiscale_gan_loss(self.gan_loss, judge_b(fake_b), True)
        cycle_a = l1_loss(generate_a(fake_b), a)
        cycle_b = l1_loss(generate_b(fake_a), b)
        loss = g_a + g_b + config.lambda_cycle * (cycle_a + cycle_b)
        log = {"g_a": g_a, "g_b": g_b, "cycle_a": cycle_a, "cycle_b": cycle_b}
        if config.lambda_identity > 0:
            identity_a, identity_b = l1_loss(same_a[0], a), l1_loss(same_b[0], b)
            weight = config.lambda_cycle * config.lambda_identity
            loss = loss + weight * (identity_a + identity_b)
            log |= {"identity_a": identity_a, "identity_b": identity_b}
        yield Update("generators", loss, log)

        on_a, on_fake_a = run_each(judge_a, a, self.pools["A"].query(fake_a), norm=config.norm)
        on_b, on_fake_b = run_each(judge_b, b, self.pools["B"].query(fake_b), norm=config.norm)
        d_a_real = multiscale_gan_loss(self.gan_loss, on_a, True)
        d_a_fake = multiscale_gan_loss(self.gan_loss, on_fake_a, False)
        d_b_real = multiscale_gan_loss(self.gan_loss, on_b, True)
        d_b_fake = multiscale_gan_loss(self.gan_loss, on_fake_b, False)
        # The paper halves the discriminators' objective, which slows them down.
        loss = 0.5 * (d_a_real + d_a_fake) + 0.5 * (d_b_real + d_b_fake)
        log = {"d_a_real": d_a_real, "d_a_fake": d_a_fake}
        yield Update("discriminators", loss, log | {"d_b_real": d_b_real, "d_b_fake": d_b_fake})

    def sample(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> list[Tensor]:
        """A, fake B, A again; B, fake A, B again."""
        to_b, to_a = generators["generator_AtoB"], generators["generator_BtoA"]
        fake_b, fake_a = to_b(batch["A"]), to_a(batch["B"])
        return [batch["A"], fake_b, to_a(fake_b), batch["B"], fake_a, to_b(fake_a)]

    def translate(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> dict[str, Translation]:
        a, b = batch["A"], batch["B"]
        return {
            "model_AtoB": Translation(a, generators["generator_AtoB"](a), b),
            "model_BtoA": Translation(b, generators["generator_BtoA"](b), a),
        }

    def domains(self, model: str) -> Domains:
        return Domains("AtoB" if model == "model_AtoB" else "BtoA")

    def state_dict(self) -> dict[str, Any]:
        return {name: pool.state_dict() for name, pool in self.pools.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, pool in self.pools.items():
            pool.load_state_dict(state[name])
