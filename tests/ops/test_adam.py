"""A step of Adam: the reference against torch.optim, the native kernel against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pix2gan import ops
from pix2gan.ops.adam import adam_step
from pix2gan.ops.backends import cpu

SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.5, 0.999), "eps": 1e-8}


def gradients(n: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(n, generator=generator).to(dtype) for _ in range(5)]


def trained(n: int, dtype: torch.dtype, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """What five steps leave behind."""
    rows = {name: torch.zeros(n) for name in ("weight", "mean", "square", "average")}
    rows["weight"] += torch.linspace(-1, 1, n)
    rows["rounded"] = torch.empty(n, dtype=torch.bfloat16)
    for step, gradient in enumerate(gradients(n, dtype), start=1):
        adam_step(
            rows["weight"],
            gradient,
            rows["mean"],
            rows["square"],
            rows["rounded"],
            rows["average"],
            **SETTINGS,
            step=step,
            scale=scale,
            share=0.25,
        )
    return rows


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_it_is_torchs_adam(backend: str) -> None:
    if backend == "cpu" and not cpu.is_available()[0]:
        pytest.skip(cpu.is_available()[1])
    weight = torch.linspace(-1, 1, 50).requires_grad_()
    average = torch.zeros(50)
    optimizer = torch.optim.Adam([weight], **SETTINGS)
    for gradient in gradients(50, torch.float32):
        weight.grad = gradient * 0.5
        optimizer.step()
        average.lerp_(weight.detach(), 0.25)
    with ops.use_backend(backend):
        rows = trained(50, torch.float32, scale=0.5)
    torch.testing.assert_close(rows["weight"], weight.detach())
    torch.testing.assert_close(rows["average"], average)
    torch.testing.assert_close(rows["square"], optimizer.state[weight]["exp_avg_sq"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_native_kernel_is_the_reference(instruction_set: str, dtype: torch.dtype) -> None:
    for n in (0, 1, 7, 16, 33, 40_000):  # the last one in several tasks
        with ops.use_backend("cpu"):
            ours = trained(n, dtype)
        with ops.use_backend("reference"):
            theirs = trained(n, dtype)
        assert torch.equal(ours["rounded"], ours["weight"].bfloat16())
        del ours["rounded"], theirs["rounded"]
        torch.testing.assert_close(ours, theirs)


def test_weights_without_a_gradient_stay_and_averages_still_follow(instruction_set: str) -> None:
    n = 150
    for name, first in (("gradient", 0.5), ("mean", 0.5), ("square", 0.5), ("average", 2.0)):
        found = []
        for backend in ("cpu", "reference"):
            rows = {key: torch.zeros(n) for key in ("gradient", "mean", "square")}
            rows |= {key: torch.linspace(-1, 1, n) for key in ("weight", "average")}
            rows["rounded"] = torch.empty(n, dtype=torch.bfloat16)
            rows[name][:40] = first  # of all others, nothing moves
            before = rows["weight"].clone()
            with ops.use_backend(backend):
                adam_step(**rows, **SETTINGS, step=3, share=0.25)
            assert torch.equal(rows["weight"][48:], before[48:])
            assert torch.equal(rows["average"][48:], before[48:])
            assert torch.equal(rows["rounded"], rows["weight"].bfloat16())
            found.append(rows)
        found[0].pop("rounded"), found[1].pop("rounded")
        torch.testing.assert_close(*found)


def test_weights_are_rounded_as_pytorch_does_subnormal_ones_too() -> None:
    weight = torch.tensor([1e-39, -3e-39, 1.00390625, 1.01171875, float("inf"), 0.0] * 5)
    rounded = torch.empty(30, dtype=torch.bfloat16)
    nothing = [torch.zeros(30) for _ in range(3)]
    adam_step(weight, *nothing, rounded, **SETTINGS, step=1)
    assert torch.equal(rounded, weight.bfloat16())
    assert rounded[0] != 0


def test_going_back_through_old_weights_is_an_error() -> None:
    weight, x = torch.ones(3), torch.ones(3, requires_grad=True)
    y = (weight * x).sum()
    adam_step(weight, torch.ones(3), torch.zeros(3), torch.zeros(3), **SETTINGS, step=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
