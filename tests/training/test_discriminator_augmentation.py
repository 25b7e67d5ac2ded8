"""Discriminators see varied images; the generator's gradient goes through; resuming is exact."""

from __future__ import annotations

import pytest
import torch

from pix2gan.errors import ConfigError
from pix2gan.models import create_discriminator
from pix2gan.training import train
from pix2gan.training.checkpointing import load_checkpoint
from pix2gan.training.discriminator_augmentation import (
    POLICIES,
    DiscriminatorAugmentation,
    vary_colours,
)
from pix2gan.training.multiscale import MultiscaleDiscriminator


def images(channels: int = 6) -> torch.Tensor:
    return torch.rand(3, channels, 32, 32) * 2 - 1


@pytest.mark.parametrize("policy", [*POLICIES, ",".join(POLICIES)])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_each_policy_varies_each_image_and_lets_gradients_through(
    policy: str, channels: int
) -> None:
    augment = DiscriminatorAugmentation(policy)
    x = images(channels).requires_grad_()
    y = augment(x)
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    assert all(not torch.equal(a, b) for a, b in zip(x, y, strict=True))
    assert torch.equal(augment(x, repeat=True), y)
    assert not torch.equal(augment(x), y)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()
    assert not list(augment.state_dict())


def test_it_draws_from_the_global_generator_and_nothing_else() -> None:
    augment, x = DiscriminatorAugmentation(",".join(POLICIES)), images()
    state = torch.get_rng_state()
    first = augment(x)
    torch.set_rng_state(state)
    assert torch.equal(DiscriminatorAugmentation(",".join(POLICIES))(x), first)


def test_cutout_wipes_a_quarter_and_translation_an_eighth_of_the_side() -> None:
    ones = torch.ones(40, 2, 32, 32)
    hole = DiscriminatorAugmentation("cutout")(ones) == 0
    assert (hole.flatten(1).float().mean(dim=1) == 0.25).all()
    moved = DiscriminatorAugmentation("translation")(ones)
    assert (moved[:, :, 4:-4, 4:-4] == 1).all()
    assert (moved != 1).any()


def test_colours_are_the_papers() -> None:
    x, half = images(3).double(), torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(vary_colours(x, half, half, half), x)
    torch.testing.assert_close(vary_colours(x, half + 0.25, half, half), x + 0.25)
    grey = vary_colours(x, half, half * 0, half)
    torch.testing.assert_close(grey, x.mean(dim=1, keepdim=True).expand_as(x))
    strong = vary_colours(x, half, half, half + 0.5)
    torch.testing.assert_close(strong.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(strong.std(dim=(1, 2, 3)), 1.5 * x.std(dim=(1, 2, 3)))


def test_features_of_two_calls_see_the_same_variation() -> None:
    judge = MultiscaleDiscriminator(
        lambda: create_discriminator("patch", in_channels=6, width=4, n_layers=1),
        2,
        DiscriminatorAugmentation(",".join(POLICIES)),
    )
    x = images()
    first, second = judge.features(x), judge.features(x, repeat=True)
    for ours, theirs in zip(first, second, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(judge(x)[0], first[0][-1])


def test_a_training_with_it_resumes_exactly(tiny) -> None:
    options = {
        "augment_discriminator": "colour,translation,cutout",
        "feature_matching": 1.0,
        "checkpoint_every": 3,
        "steps": 6,
        "keep_checkpoints": 2,
    }
    whole = train(tiny("whole", **options))
    parts = train(tiny("parts", **options))
    (parts / "checkpoints" / "step_000006.pt").unlink()
    parts = train(tiny("parts", resume=True, **options))
    states = [load_checkpoint(run / "checkpoints" / "step_000006.pt") for run in (whole, parts)]
    for name, tensor in states[0]["networks"].items():
        assert torch.equal(tensor, states[1]["networks"][name]), name
    plain = train(tiny("plain", **{**options, "augment_discriminator": None}))
    other = load_checkpoint(plain / "checkpoints" / "step_000006.pt")["networks"]
    assert any(not torch.equal(states[0]["networks"][name], other[name]) for name in other)


def test_unknown_policies_are_named() -> None:
    with pytest.raises(ConfigError, match=r"takes colour, translation, cutout.*'color'"):
        DiscriminatorAugmentation("color")
