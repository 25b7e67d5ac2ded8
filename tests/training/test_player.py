"""One step of a player: accumulation, clipping and loss scales, against the same done by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pix2gan.training.distributed import World
from pix2gan.training.method_options import Pix2PixConfig
from pix2gan.training.player import Player

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3))


def player(net: nn.Module, lr: float = 1e-2, **options: object) -> Player:
    config = Pix2PixConfig("data", out="run", **options)  # type: ignore[arg-type]
    return Player([net], lr, config, World(), CPU)


def adam(net: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.5, 0.999))


def assert_equal_weights(ours: nn.Module, theirs: nn.Module, **tolerances: float) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, **tolerances)


def test_accumulated_batches_are_one_large_batch() -> None:
    ours, theirs = network(), network()
    accumulating, optimizer = player(ours, accumulate=3), adam(theirs)
    for step in range(3):
        x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        for i, part in enumerate(x.chunk(3)):
            accumulating.add_gradient(ours(part).square().mean(), last=i == 2)
        accumulating.update(1.0)
        optimizer.zero_grad()
        theirs(x).square().mean().backward()
        optimizer.step()
    assert_equal_weights(ours, theirs)


def test_clipping_bounds_the_norm() -> None:
    ours, theirs = network(), network()
    clipping, optimizer = player(ours, clip_gradient=0.01), adam(theirs)
    for step in range(2):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = ours(x).square().sum()
        clipping.add_gradient(loss, last=True)
        clipping.update(1.0)
        optimizer.zero_grad()
        theirs(x).square().sum().backward()
        norm = torch.cat([p.grad.flatten() for p in theirs.parameters()]).norm()
        assert norm > 0.1
        for parameter in theirs.parameters():
            parameter.grad *= 0.01 / norm
        optimizer.step()
    # Adam divides by the gradient's own size, so what a tolerance leaves of 1e-6 is grown again
    assert_equal_weights(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_fp16_scales_its_loss_and_skips_overflows(clip: float) -> None:
    ours, theirs = network(), network()
    scaling, optimizer = player(ours, precision="fp16", clip_gradient=clip), adam(theirs)
    x = torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(ours)
    scaling.add_gradient(ours(x).sum() * float("inf"), last=True)
    scaling.update(1.0)
    assert_equal_weights(ours, before, rtol=0, atol=0)
    assert scaling.scaler.get_scale() == 2**15  # half of what it begins with
    resumed = player(ours, precision="fp16", clip_gradient=clip)
    resumed.load_state_dict(scaling.state_dict())
    assert resumed.scaler.get_scale() == 2**15
    for training, net in ((resumed, ours), (None, theirs)):
        loss = net(x).square().mean()
        if training is not None:
            training.add_gradient(loss, last=True)
            training.update(1.0)
        else:
            loss.backward()
            optimizer.step()
    assert_equal_weights(ours, theirs)


def test_the_factor_is_on_the_learning_rate_of_this_step_alone() -> None:
    ours = network()
    training = player(ours, lr=0.1)
    for factor in (0.5, 0.0, 0.25):
        before = copy.deepcopy(ours)
        training.add_gradient(ours(torch.ones(1, 3, 8, 8)).sum(), last=True)
        training.update(factor)
        moved = max(
            (a - b).abs().max().item()
            for a, b in zip(ours.parameters(), before.parameters(), strict=True)
        )
        assert moved == pytest.approx(0.1 * factor, rel=0.6)
        assert all(p.grad is None for p in ours.parameters())
