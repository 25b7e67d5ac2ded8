"""Losses against numbers worked out by hand, the schedule and the moving average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pix2gan.training.ema import MovingAverage
from pix2gan.training.losses import (
    feature_matching_loss,
    l1_loss,
    least_squares_gan_loss,
    multiscale_gan_loss,
    vanilla_gan_loss,
)
from pix2gan.training.schedules import constant_then_linear

LOGITS = torch.tensor([[[[0.0, 2.0], [-1.0, 3.0]]]])


def test_least_squares() -> None:
    assert least_squares_gan_loss(LOGITS, True).item() == (1 + 1 + 4 + 4) / 4
    assert least_squares_gan_loss(LOGITS, False).item() == (0 + 4 + 1 + 9) / 4


def test_vanilla_is_cross_entropy_of_the_sigmoid() -> None:
    chances = [1 / (1 + math.exp(-v)) for v in (0.0, 2.0, -1.0, 3.0)]
    real = -sum(math.log(p) for p in chances) / 4
    fake = -sum(math.log(1 - p) for p in chances) / 4
    assert vanilla_gan_loss(LOGITS, True).item() == pytest.approx(real, rel=1e-6)
    assert vanilla_gan_loss(LOGITS, False).item() == pytest.approx(fake, rel=1e-6)


def test_vanilla_does_not_overflow() -> None:
    far = torch.tensor([1e4, -1e4])
    assert vanilla_gan_loss(far, True).item() == pytest.approx(5e3)
    assert vanilla_gan_loss(far, False).item() == pytest.approx(5e3)


@pytest.mark.parametrize("loss", [least_squares_gan_loss, vanilla_gan_loss])
def test_gan_losses_are_computed_in_float32(loss) -> None:
    value = loss(LOGITS.bfloat16().requires_grad_(), True)
    assert value.dtype == torch.float32
    assert value.item() == loss(LOGITS, True).item()


def test_scales_are_summed() -> None:
    total = multiscale_gan_loss(least_squares_gan_loss, [LOGITS, torch.zeros(1, 1, 1, 1)], True)
    assert total.item() == 2.5 + 1.0


def test_l1() -> None:
    assert l1_loss(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 2.0])).item() == 2.5


def test_feature_matching_sums_the_means_of_layers() -> None:
    ours = [torch.tensor([1.0, 3.0], requires_grad=True), torch.full((2, 2), 0.5)]
    theirs = [torch.tensor([0.0, 0.0], requires_grad=True), torch.zeros(2, 2)]
    loss = feature_matching_loss(ours, theirs)
    assert loss.item() == 2.0 + 0.5
    loss.backward()
    assert ours[0].grad is not None
    assert theirs[0].grad is None  # the real side is a target


def test_schedule() -> None:
    factors = [constant_then_linear(done, total=8) for done in range(9)]
    assert factors == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


def test_schedule_with_other_starts() -> None:
    assert [constant_then_linear(done, 4, decay_start=0.0) for done in range(5)] == [
        1,
        0.75,
        0.5,
        0.25,
        0,
    ]
    assert {constant_then_linear(done, 4, decay_start=1.0) for done in range(5)} == {1}


def network_of(value: float) -> nn.Module:
    network = nn.BatchNorm1d(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
        network.running_mean.fill_(value)
    return network


def test_moving_average() -> None:
    average = MovingAverage(network_of(0.0), decay=0.25)
    average.update(network_of(1.0))
    # The first decays are smaller: 2 / 11, and 3 / 12 from the second update on.
    expected = 1 - 2 / 11
    assert average.network.weight[0].item() == pytest.approx(expected)
    average.update(network_of(1.0))
    expected = 0.25 * expected + 0.75
    assert average.network.weight[0].item() == pytest.approx(expected)
    assert average.network.running_mean[0].item() == 1.0  # buffers are copied
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())


def test_moving_average_off_follows_exactly() -> None:
    average = MovingAverage(network_of(0.0), decay=0.0)
    average.update(network_of(0.3))
    assert torch.equal(average.network.weight, network_of(0.3).weight)


def test_moving_average_state_continues() -> None:
    first = MovingAverage(network_of(0.0), decay=0.9)
    first.update(network_of(1.0))
    second = MovingAverage(network_of(5.0), decay=0.9)
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.update(network_of(2.0))
    assert torch.equal(first.network.weight, second.network.weight)
