"""One step of a player: accumulation, clipping and loss scales, against the same done by hand."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

from pix2gan import ops
from pix2gan.models import create_discriminator, create_generator
from pix2gan.training.distributed import World
from pix2gan.training.ema import MovingAverage
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


# --- rounded copies of the weights ---


def unet(**options: object) -> nn.Module:
    torch.manual_seed(0)
    net = create_generator("unet256", width=4, num_downs=3, **options)
    return net.to(memory_format=torch.channels_last)


def loss_of(net: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", torch.bfloat16):
        return net(x.contiguous(memory_format=torch.channels_last)).float().square().mean()


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_weights_with_rounded_copies_learn_what_others_do(clip: float) -> None:
    ours, theirs = unet(), unet()
    config = Pix2PixConfig("data", out="run", clip_gradient=clip)
    average, other = MovingAverage(ours, 0.9), MovingAverage(theirs, 0.9)
    rounding = Player([ours], 1e-2, config, World(), CPU, [(ours, average)])
    assert rounding.rounds
    optimizer = adam(theirs)
    before = copy.deepcopy(ours.state_dict())
    with ops.use_backend("reference"):  # to the bit, or rounding would drive them apart
        for seed in range(3):
            rounding.learn(loss_of(ours, seed), 1.0)
            optimizer.zero_grad()
            loss_of(theirs, seed).backward()
            if clip:
                nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            optimizer.step()
            other.update(theirs)
    tolerances = {"rtol": 1e-3, "atol": 1e-4} if clip else {}
    assert_equal_weights(ours, theirs, **tolerances)
    assert_equal_weights(average.network, other.network, **tolerances)
    assert before.keys() == ours.state_dict().keys()
    moved = [not torch.equal(v, before[k]) for k, v in ours.state_dict().items()]
    assert sum(moved) >= 6  # every convolution's weight
    assert all(v.dtype == torch.float32 for v in ours.state_dict().values())
    for module in ours.modules():
        if getattr(module, "rounded_weight", None) is not None:
            assert torch.equal(module.rounded_weight, module.weight.bfloat16())
            assert module.rounded_weight.grad is None


def test_a_player_with_rounded_copies_goes_on_from_its_state() -> None:
    whole, half = unet(), unet()
    first, second = player(whole), player(half)
    for seed in range(2):
        first.learn(loss_of(whole, seed), 1.0)
        second.learn(loss_of(half, seed), 1.0)
    state = copy.deepcopy((half.state_dict(), second.state_dict()))
    resumed = unet()
    third = player(resumed)
    resumed.load_state_dict(state[0])
    third.load_state_dict(state[1])
    for seed in range(2, 4):
        first.learn(loss_of(whole, seed), 1.0)
        third.learn(loss_of(resumed, seed), 1.0)
    assert_equal_weights(whole, resumed, rtol=0, atol=0)


def test_without_autocast_gradients_reach_the_copies_too() -> None:
    net = unet()
    training = player(net)
    before = copy.deepcopy(net)
    x = torch.randn(1, 3, 16, 16)
    training.learn(net(x).square().mean(), 1.0)
    changed = zip(net.parameters(), before.parameters(), strict=True)
    assert sum(not torch.equal(new, old) for new, old in changed) >= 6
    with torch.no_grad():  # where nothing is trained, the weights themselves
        y = net(x)
        for module in net.modules():
            if hasattr(module, "rounded_weight"):
                module.rounded_weight = None
        assert torch.equal(net(x), y)


@pytest.mark.parametrize(
    "options", [{"accumulate": 2}, {"precision": "fp32"}, {"precision": "fp16"}, {"compile": True}]
)
def test_sums_of_gradients_and_other_precisions_do_without_copies(options: dict) -> None:
    net = unet()
    assert not player(net, **options).rounds
    assert all(getattr(m, "rounded_weight", None) is None for m in net.modules())


def test_weights_that_are_computed_have_no_copies() -> None:
    judge = create_discriminator("patch", in_channels=3, width=4, n_layers=1, spectral_norm=True)
    training = player(judge)
    assert all(getattr(m, "rounded_weight", None) is None for m in judge.modules())
    before = copy.deepcopy(judge.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        training.learn(judge(torch.randn(1, 3, 16, 16)).square().mean(), 1.0)
    changed = [k for k, v in judge.state_dict().items() if not torch.equal(v, before[k])]
    assert any("original" in name for name in changed)


def test_a_player_that_is_gone_frees_its_memory() -> None:
    net = unet()
    training = player(net)
    training.learn(loss_of(net, 0), 1.0)
    gone = weakref.ref(training)
    del training
    assert gone() is None
