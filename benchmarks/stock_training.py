"""Training steps as their papers' readers write them: stock ``torch.nn``, float32, fused Adam.

The opponents of ``benchmarks/training.py``. They share no code with ``pix2gan.training``.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.stock_networks import stock_discriminator, stock_generator


class StockPix2Pix:
    """Pix2Pix (Isola et al. 2017) with least squares; one optimizer a network."""

    def __init__(self, generator: Mapping[str, Any], lr: float) -> None:
        self.generator = stock_generator(generator)
        self.discriminator = stock_discriminator(generator["in_channels"] * 2)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimize_g = _adam(self.generator.parameters(), lr)
        self.optimize_d = _adam(self.discriminator.parameters(), lr)

    def step(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        fake = self.generator(a)
        fake_pair = torch.cat([a, fake], 1)

        self.discriminator.requires_grad_(True)
        self.optimize_d.zero_grad()
        d_fake = _lsgan(self.discriminator(fake_pair.detach()), False)
        d_real = _lsgan(self.discriminator(torch.cat([a, b], 1)), True)
        (0.5 * (d_fake + d_real)).backward()
        self.optimize_d.step()

        self.discriminator.requires_grad_(False)
        self.optimize_g.zero_grad()
        g_gan = _lsgan(self.discriminator(fake_pair), True)
        l1 = F.l1_loss(fake, b)
        (g_gan + 100 * l1).backward()
        self.optimize_g.step()
        return {"d_real": d_real, "d_fake": d_fake, "g_gan": g_gan, "l1": l1}


class StockCycleGAN:
    """CycleGAN (Zhu et al. 2017): cycle 10, identity 5, a pool of 50 images a domain."""

    def __init__(self, generator: Mapping[str, Any], lr: float) -> None:
        channels = generator["in_channels"]
        self.a_to_b, self.b_to_a = stock_generator(generator), stock_generator(generator)
        self.judge_a, self.judge_b = stock_discriminator(channels), stock_discriminator(channels)
        self.networks = {
            "generator_AtoB": self.a_to_b,
            "generator_BtoA": self.b_to_a,
            "discriminator_A": self.judge_a,
            "discriminator_B": self.judge_b,
        }
        both = itertools.chain(self.a_to_b.parameters(), self.b_to_a.parameters())
        judges = itertools.chain(self.judge_a.parameters(), self.judge_b.parameters())
        self.optimize_g, self.optimize_d = _adam(both, lr), _adam(judges, lr)
        self.pools: tuple[list[Tensor], list[Tensor]] = ([], [])

    def step(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        fake_b, fake_a = self.a_to_b(a), self.b_to_a(b)
        again_a, again_b = self.b_to_a(fake_b), self.a_to_b(fake_a)

        self.judge_a.requires_grad_(False)
        self.judge_b.requires_grad_(False)
        self.optimize_g.zero_grad()
        identity_a = F.l1_loss(self.b_to_a(a), a)
        identity_b = F.l1_loss(self.a_to_b(b), b)
        g_a = _lsgan(self.judge_a(fake_a), True)
        g_b = _lsgan(self.judge_b(fake_b), True)
        cycle_a, cycle_b = F.l1_loss(again_a, a), F.l1_loss(again_b, b)
        loss = g_a + g_b + 10 * (cycle_a + cycle_b) + 5 * (identity_a + identity_b)
        loss.backward()
        self.optimize_g.step()

        self.judge_a.requires_grad_(True)
        self.judge_b.requires_grad_(True)
        self.optimize_d.zero_grad()
        losses = {"g_a": g_a, "g_b": g_b, "cycle_a": cycle_a, "cycle_b": cycle_b}
        losses |= {"identity_a": identity_a, "identity_b": identity_b}
        for name, judge, real, fake, pool in (
            ("a", self.judge_a, a, fake_a, self.pools[0]),
            ("b", self.judge_b, b, fake_b, self.pools[1]),
        ):
            d_real = _lsgan(judge(real), True)
            d_fake = _lsgan(judge(_from_pool(pool, fake.detach())), False)
            (0.5 * (d_real + d_fake)).backward()
            losses |= {f"d_{name}_real": d_real, f"d_{name}_fake": d_fake}
        self.optimize_d.step()
        return losses


def _adam(parameters: Any, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.999), fused=True)


def _lsgan(logits: Tensor, real: bool) -> Tensor:
    return F.mse_loss(logits, torch.full_like(logits, float(real)))


def _from_pool(pool: list[Tensor], images: Tensor) -> Tensor:
    """Half of the time one of the last 50 images instead of the newest; batches of 1."""
    if len(pool) < 50:
        pool.append(images)
        return images
    if random.random() < 0.5:
        return images
    place = random.randrange(50)
    chosen, pool[place] = pool[place], images
    return chosen


STOCK: dict[str, type[Any]] = {"pix2pix": StockPix2Pix, "cyclegan": StockCycleGAN}


def to_format(networks: Mapping[str, nn.Module], memory_format: torch.memory_format) -> None:
    """Turn all networks into a memory format."""
    for network in networks.values():
        network.to(memory_format=memory_format)  # type: ignore[call-overload]
