"""CycleGAN against the same algorithm written out by hand, pass by pass."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pix2gan import Translator
from pix2gan.errors import ConfigError
from pix2gan.training import Trainer, train
from pix2gan.training.image_pool import ImagePool
from pix2gan.training.methods.cyclegan import CycleGAN
from pix2gan.training.metrics import read_metrics

SHAPE = (2, 3, 16, 16)


def batch(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {side: torch.rand(SHAPE, generator=random) * 2 - 1 for side in "AB"}


class Textbook:
    """Zhu et al. 2017, section 3 and 4, with a pass for every image that the text names."""

    def __init__(self, method: CycleGAN, lr: float) -> None:
        networks = copy.deepcopy(method.networks)
        self.g, self.f = networks["generator_AtoB"], networks["generator_BtoA"]
        self.d_a, self.d_b = networks["discriminator_A"], networks["discriminator_B"]
        self.networks, self.config = networks, method.config
        self.memory: dict[str, list[torch.Tensor]] = {"A": [], "B": []}
        self.random = {
            side: torch.Generator().manual_seed(method.config.seed + i)
            for i, side in enumerate("AB")
        }
        self.g_optimizer = torch.optim.SGD([*self.g.parameters(), *self.f.parameters()], lr)
        self.d_optimizer = torch.optim.SGD([*self.d_a.parameters(), *self.d_b.parameters()], lr)

    def step(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        config = self.config
        fake_b, fake_a = self.g(a), self.f(b)
        g_a = self.gan(self.d_a(fake_a), True)
        g_b = self.gan(self.d_b(fake_b), True)
        cycle_a, cycle_b = F.l1_loss(self.f(fake_b), a), F.l1_loss(self.g(fake_a), b)
        identity_a, identity_b = F.l1_loss(self.f(a), a), F.l1_loss(self.g(b), b)
        loss = g_a + g_b + config.lambda_cycle * (cycle_a + cycle_b)
        loss = loss + config.lambda_cycle * config.lambda_identity * (identity_a + identity_b)
        self.g_optimizer.zero_grad()
        loss.backward()
        self.g_optimizer.step()

        losses = {"g_a": g_a, "g_b": g_b, "cycle_a": cycle_a, "cycle_b": cycle_b}
        losses |= {"identity_a": identity_a, "identity_b": identity_b}
        self.d_optimizer.zero_grad()
        for side, judge, real, fake in (("A", self.d_a, a, fake_a), ("B", self.d_b, b, fake_b)):
            shown = self.remembered(side, fake.detach())
            d_real, d_fake = self.gan(judge(real), True), self.gan(judge(shown), False)
            ((d_real + d_fake) / 2).backward()
            losses |= {f"d_{side.lower()}_real": d_real, f"d_{side.lower()}_fake": d_fake}
        self.d_optimizer.step()
        return {name: value.item() for name, value in losses.items()}

    def gan(self, scales: list[torch.Tensor], real: bool) -> torch.Tensor:
        target = 1.0 if real else 0.0
        if self.config.gan_loss == "lsgan":
            return sum(((s - target) ** 2).mean() for s in scales)  # type: ignore[return-value]
        return sum(  # type: ignore[return-value]
            F.binary_cross_entropy_with_logits(s, torch.full_like(s, target)) for s in scales
        )

    def remembered(self, side: str, images: torch.Tensor) -> torch.Tensor:
        memory, random, shown = self.memory[side], self.random[side], []
        for image in images:
            if self.config.pool_size == 0:
                shown.append(image)
            elif len(memory) < self.config.pool_size:
                memory.append(image)
                shown.append(image)
            elif torch.rand((), generator=random).item() >= 0.5:
                place = torch.randint(self.config.pool_size, (), generator=random).item()
                shown.append(memory[place])
                memory[place] = image
            else:
                shown.append(image)
        return torch.stack(shown)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool_size": 3},
        {"pool_size": 0, "gan_loss": "vanilla", "discriminator_scales": 2},
        {"norm": "batch", "lambda_cycle": 3.0, "lambda_identity": 2.0},
    ],
    ids=["defaults", "full pool", "no pool, vanilla, two scales", "batch norm"],
)
def test_steps_are_the_papers(tiny, options: dict[str, Any]) -> None:
    config = tiny(method="cyclegan", dropout=False, precision="fp32", **options)
    trainer = Trainer(config)
    textbook = Textbook(trainer.method, lr=0.01)
    for player in trainer.players.values():
        # Adam's first steps have the size of the learning rate even where a gradient is noise.
        player.optimizer = torch.optim.SGD(player.parameters, 0.01)
        player.lr = 0.01
    for step in range(3):
        expected = textbook.step(**{k.lower(): v for k, v in batch(step).items()})
        trainer.train_step([batch(step)])
        assert trainer.metrics.take() == pytest.approx(expected, rel=1e-4)
    # Running statistics aside: they follow from the order of passes, on which the paper is silent.
    ours = dict(trainer.method.networks.named_parameters())
    for name, value in textbook.networks.named_parameters():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_without_identity_loss_the_domains_may_differ(tiny) -> None:
    options = {"method": "cyclegan", "in_channels": 1, "out_channels": 3}
    with pytest.raises(ConfigError, match="--lambda-identity 0"):
        CycleGAN(tiny(**options))
    run = train(tiny(**options, lambda_identity=0.0, steps=2, sample_every=2))
    assert not any("identity" in name for name in read_metrics(run / "metrics.jsonl")[0])
    assert Translator.from_pretrained(run / "model_AtoB").config.in_channels == 1
    assert Translator.from_pretrained(run / "model_BtoA").config.in_channels == 3


def test_a_run_leaves_a_model_of_each_direction(tiny) -> None:
    config = tiny(method="cyclegan", holdout=0.3)
    run = train(config)
    for direction in ("AtoB", "BtoA"):
        translator = Translator.from_pretrained(run / f"model_{direction}")
        assert translator.config.direction == direction
        assert translator.config.method == "cyclegan"
        assert translator(Image.new("RGB", (20, 12))).size == (20, 12)
    with Image.open(run / "samples" / "step_000012.png") as sheet:
        assert sheet.width == 6 * 16 + 5 * 4


def test_sample_columns(tiny) -> None:
    method = CycleGAN(tiny(method="cyclegan"))
    shown = batch(0)

    class Times(torch.nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    columns = method.sample(shown, {"generator_AtoB": Times(2), "generator_BtoA": Times(3)})
    a, b = shown["A"], shown["B"]
    for ours, expected in zip(columns, [a, 2 * a, 6 * a, b, 3 * b, 6 * b], strict=True):
        torch.testing.assert_close(ours, expected)


def test_no_player_leaves_gradients_with_the_other(tiny) -> None:
    trainer = Trainer(tiny(method="cyclegan"))
    networks, updates = trainer.method.networks, trainer.method.step(batch(0))
    for player, theirs in (("generators", "generator"), ("discriminators", "discriminator")):
        update = next(updates)
        assert update.player == player
        networks.zero_grad()
        update.loss.backward(inputs=trainer.players[player].parameters)
        with_gradient = {
            name.split("_")[0] for name, p in networks.named_parameters() if p.grad is not None
        }
        assert with_gradient == {theirs}


def test_what_a_generator_makes_is_computed_once(tiny) -> None:
    """Six translations in four passes, and two looks at each discriminator."""
    method = CycleGAN(tiny(method="cyclegan"))
    passes = dict.fromkeys(method.networks, 0)
    for name, network in method.networks.items():
        network.register_forward_hook(
            lambda *_, name=name: passes.update({name: passes[name] + 1})  # type: ignore[misc]
        )
    list(method.step(batch(0)))
    assert passes == dict.fromkeys(passes, 2)


# --- the pool ---


def images(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def values(pool: ImagePool, *new: float) -> list[float]:
    return pool.query(images(*new))[:, 0, 0, 0].tolist()


def test_a_pool_that_is_not_full_gives_back_what_it_gets() -> None:
    pool = ImagePool(3, seed=0)
    assert values(pool, 1, 2) == [1, 2]
    assert values(pool, 3) == [3]


def test_a_full_pool_gives_an_old_image_about_every_other_time() -> None:
    pool, given = ImagePool(50, seed=0), []
    for i in range(1000):
        given += values(pool, i)
    old = [value for i, value in enumerate(given) if value != i]
    assert 400 < len(old) < 550
    assert len(set(old)) == len(old)  # what was exchanged is gone
    ages = [i - value for i, value in enumerate(given) if value != i]
    assert max(ages) > 100


def test_a_pool_of_none_gives_back_the_same_tensor() -> None:
    new = images(1.0, 2.0).clone().requires_grad_()
    given = ImagePool(0, seed=0).query(new)
    assert given.data_ptr() == new.data_ptr()
    assert not given.requires_grad


def test_a_pool_goes_on_from_its_state(tmp_path: Path) -> None:
    pool = ImagePool(4, seed=7)
    for i in range(20):
        values(pool, i)
    torch.save(pool.state_dict(), tmp_path / "state.pt")
    again = ImagePool(4, seed=0)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [values(pool, i) for i in range(30)] == [values(again, i) for i in range(30)]


def test_a_pool_keeps_images_and_not_the_batches_that_they_came_in() -> None:
    pool = ImagePool(2, seed=0)
    pool.query(torch.zeros(8, 3, 4, 4))
    stored = pool.state_dict()["images"]
    assert [image.untyped_storage().nbytes() for image in stored] == [3 * 4 * 4 * 4] * 2
