"""The method reads as the paper's algorithm; here it is compared with one written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pix2gan.errors import ConfigError
from pix2gan.training.losses import distance_and_spread
from pix2gan.training.methods import find_method, list_methods, register_method
from pix2gan.training.methods.pix2pix import Pix2Pix
from pix2gan.training.multiscale import MultiscaleDiscriminator

BATCH = {
    "A": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16).sin(),
    "B": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16).cos(),
}


@pytest.mark.parametrize("gan_loss", ["lsgan", "vanilla"])
@pytest.mark.parametrize("scales", [1, 2])
def test_losses_are_the_papers(tiny, gan_loss: str, scales: int) -> None:
    config = tiny(
        dropout=False, gan_loss=gan_loss, discriminator_scales=scales, l1=30.0, feature_matching=7.0
    )
    method = Pix2Pix(config)
    generate = method.networks["generator"]
    judges = list(method.networks["discriminator"].discriminators)
    assert len(judges) == scales
    updates = method.step(BATCH)

    def gan(logits: torch.Tensor, real: bool) -> torch.Tensor:
        target = torch.full_like(logits, float(real))
        if gan_loss == "lsgan":
            return F.mse_loss(logits, target)
        return F.binary_cross_entropy_with_logits(logits, target)

    def views(image: torch.Tensor) -> list[torch.Tensor]:
        half = F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
        return [image, half][:scales]

    with torch.no_grad():
        fake = generate(BATCH["A"])
        pair_of_fakes = views(torch.cat([BATCH["A"], fake], 1))
        real_pair = views(torch.cat([BATCH["A"], BATCH["B"]], 1))
        d_real = sum(gan(judge(view), True) for judge, view in zip(judges, real_pair, strict=True))
        d_fake = sum(
            gan(judge(view), False) for judge, view in zip(judges, pair_of_fakes, strict=True)
        )
    update = next(updates)
    assert update.player == "discriminator"
    torch.testing.assert_close(update.loss.detach(), 0.5 * (d_real + d_fake))
    torch.testing.assert_close(dict(update.log), {"d_real": d_real, "d_fake": d_fake})

    # The generator plays against the discriminator as it is after its own update.
    with torch.no_grad():
        for parameter in method.networks["discriminator"].parameters():
            parameter.mul_(1.5)
        g_gan = sum(
            gan(judge(view), True) for judge, view in zip(judges, pair_of_fakes, strict=True)
        )
        l1 = F.l1_loss(fake, BATCH["B"])
        matching = torch.zeros(())
        for judge, ours, theirs in zip(judges, pair_of_fakes, real_pair, strict=True):
            layers = zip(judge.features(ours)[:-1], judge.features(theirs)[:-1], strict=True)
            matching = matching + sum(F.l1_loss(a, b) for a, b in layers)
    update = next(updates)
    assert update.player == "generator"
    torch.testing.assert_close(update.loss.detach(), g_gan + 30 * l1 + 7 * matching)
    torch.testing.assert_close(
        dict(update.log), {"g_gan": g_gan, "l1": l1, "feature_matching": matching}
    )
    assert next(updates, None) is None


def test_the_discriminator_is_not_trained_through_the_generator(tiny) -> None:
    method = Pix2Pix(tiny())
    update = next(method.step(BATCH))
    update.loss.backward()
    assert all(p.grad is None for p in method.networks["generator"].parameters())
    weights = [p for p in method.networks["discriminator"].parameters() if p.dim() == 4]
    assert len(weights) == 3
    assert all(w.grad is not None for w in weights)


STYLED = {"generator": "modulated_unet", "num_blocks": None, "num_downs": 2, "dropout": False}


@pytest.mark.parametrize("diversity", [0.5, 1.0])
def test_a_style_code_is_trained_by_the_energy_score(tiny, diversity: float) -> None:
    method = Pix2Pix(tiny(**STYLED, diversity=diversity, l1=30.0))
    generate = method.networks["generator"]
    a, b = BATCH["A"], BATCH["B"]
    torch.manual_seed(3)
    first, second = generate(torch.cat([a, a])).detach().chunk(2)
    assert (first - second).abs().mean() > 0.001
    torch.manual_seed(3)
    updates = method.step(BATCH)
    next(updates)
    (judge,) = method.networks["discriminator"].discriminators
    with torch.no_grad():
        g_gan = F.mse_loss(logits := judge(torch.cat([a, first], 1)), torch.ones_like(logits))
    l1 = 0.5 * (F.l1_loss(first, b) + F.l1_loss(second, b))
    spread = F.l1_loss(first, second)
    update = next(updates)
    score = l1 - 0.5 * diversity * spread
    torch.testing.assert_close(update.loss.detach(), g_gan + 30 * score)
    torch.testing.assert_close(dict(update.log), {"g_gan": g_gan, "l1": l1, "spread": spread})
    update.loss.backward()
    assert generate.mapping.layers[0].weight.grad.abs().max() > 0


def test_the_energy_score_is_least_for_the_targets_own_distribution() -> None:
    # Each pixel is -1 or 1, as a coin falls: L1 alone cannot tell what is constant from what varies
    # between the two; the energy score prefers the coin, and half of it what varies half as far.
    targets = torch.tensor([-1.0, 1.0]).repeat(50_000)[torch.randperm(100_000)]
    coins = targets[torch.randperm(100_000)], targets[torch.randperm(100_000)]

    def score(scale: float, diversity: float) -> float:
        distance, spread = distance_and_spread(scale * coins[0], scale * coins[1], targets)
        return (distance - 0.5 * diversity * spread).item()

    assert score(1, 0) == pytest.approx(score(0, 0), abs=0.02)
    assert score(1, 1) < score(0.7, 1) - 0.1 < score(0, 1) - 0.2
    assert score(1.5, 1) > score(1, 1) + 0.1


def test_without_diversity_there_is_one_translation(tiny) -> None:
    update = list(Pix2Pix(tiny(**STYLED, diversity=0.0)).step(BATCH))[1]
    assert set(update.log) == {"g_gan", "l1"}


def test_sample_columns_of_styles(tiny) -> None:
    method = Pix2Pix(tiny(**STYLED))
    generate = method.networks["generator"].eval()
    a, fixed, one, two, b = method.sample(BATCH, {"generator": generate})
    assert torch.equal(a, BATCH["A"])
    assert torch.equal(b, BATCH["B"])
    assert torch.equal(fixed, generate(a))
    assert torch.equal(two, generate(a, generate.style_code(2)))
    assert not torch.equal(one, two)


def test_sample_columns(tiny) -> None:
    method = Pix2Pix(tiny())
    columns = method.sample(BATCH, {"generator": torch.nn.Identity()})
    assert [torch.equal(c, BATCH[k]) for c, k in zip(columns, "AAB", strict=True)] == [True] * 3


def test_channels(tiny) -> None:
    method = Pix2Pix(tiny(in_channels=1, out_channels=4))
    batch = {"A": torch.zeros(1, 1, 16, 16), "B": torch.zeros(1, 4, 16, 16)}
    assert [update.player for update in method.step(batch)] == ["discriminator", "generator"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "unet999"}, "unet999"),
        ({"size": 18}, "--size 18 does not fit resnet6"),
        ({"generator": "unet128", "num_blocks": 2}, "num_blocks"),
        ({**STYLED, "upsampling": "nearest"}, "modulated_unet has no --upsampling: leave it out"),
        ({**STYLED, "dropout": True}, "modulated_unet has no --dropout"),
        ({"n_layers": 4}, "--size 16 is too small for these discriminators"),
        ({"discriminator_scales": 4}, "--size 16 is too small for these discriminators"),
    ],
)
def test_networks_that_do_not_fit(tiny, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pix2Pix(tiny(**options))


@pytest.mark.parametrize("size", [11, 12, 13])
def test_the_smallest_size_for_several_scales_is_exact(tiny, size: int) -> None:
    judge: MultiscaleDiscriminator = Pix2Pix(tiny(discriminator_scales=2)).networks["discriminator"]
    assert judge.minimum_size == 11  # 6 for a discriminator of one layer, and (11 + 1) // 2 = 6
    logits = judge(torch.zeros(1, 6, size, size))
    assert [min(each.shape[-2:]) > 0 for each in logits] == [True, True]
    with pytest.raises(ConfigError):
        judge(torch.zeros(1, 6, 10, 10))


def test_pixel_discriminator_with_spectral_norm(tiny) -> None:
    method = Pix2Pix(tiny(discriminator="pixel", spectral_norm=True, norm="batch"))
    assert len(list(method.step(BATCH))) == 2


def test_methods_are_found_by_name() -> None:
    assert find_method("pix2pix") is Pix2Pix
    with pytest.raises(ConfigError, match=r"--method must be .*pix2pix.*, got 'pix3pix'"):
        find_method("pix3pix")


def test_methods_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pix2gan.training.method_registry._METHODS", {})
    register_method("mine", "pix2gan.training.methods.pix2pix:Pix2Pix")
    assert list_methods() == ["mine"]
    assert find_method("mine") is Pix2Pix
