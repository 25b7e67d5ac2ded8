"""instance_norm_act against torch.nn.functional, its derivatives, its statistics and tiles."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from pix2gan import ops
from pix2gan.ops.cases import bad_calls, cases, op_cases
from tests.ops import textbook

pytestmark = pytest.mark.usefixtures("reference")

CASES = op_cases("instance_norm_act")


def test_there_are_enough_cases():
    assert len(CASES) >= 30
    assert len(cases("instance_norm_stats")) >= 30
    assert len(bad_calls("instance_norm_act")) >= 8


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_equals_the_textbook(case):
    y = ops.instance_norm_act(**case.tensors, **case.options)
    torch.testing.assert_close(y, textbook.instance_norm_act(**case.tensors, **case.options))


def test_equals_torch():
    x, w, b = torch.randn(2, 3, 8, 8), torch.randn(3), torch.randn(3)
    torch.testing.assert_close(ops.instance_norm_act(x), F.instance_norm(x))
    torch.testing.assert_close(
        ops.instance_norm_act(x, w, b, "relu", pad=2),
        F.pad(F.relu(F.instance_norm(x, weight=w, bias=b)), (2,) * 4, mode="reflect"),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_derivatives(case):
    names = case.differentiable
    inputs = [case.tensors[name].requires_grad_() for name in names]
    constants = {k: v for k, v in case.tensors.items() if k not in names}

    def call(*tensors):
        given = dict(zip(names, tensors, strict=True))
        return ops.instance_norm_act(**given, **constants, **case.options)

    x = case.tensors["x"]
    if x.shape[2:].numel() == 1 and not constants and x.numel():
        # one pixel is normalised to 0 whatever it is: 1 / sqrt(eps) times rounding errors
        assert gradcheck(call, inputs, atol=1e-3)
        return
    # far from zero, finite differences lose digits
    atol = 1e-4 if x.numel() and x.abs().max() > 50 else 1e-5
    assert gradcheck(call, inputs, atol=atol, fast_mode=x.numel() > 12)
    assert gradgradcheck(call, inputs, atol=atol, fast_mode=x.numel() > 12)


def test_third_derivative():
    x, w = torch.randn(2, 2, 3, 3).double().requires_grad_(), torch.randn(2).double()
    r = torch.randn(2, 2, 5, 5).double()

    def third(function):
        g = (function(x, w, None, "tanh", pad=1) * r).sum()
        for _ in range(2):
            (g,) = torch.autograd.grad(g, x, create_graph=True)
            g = (g * g).sum()
        return torch.autograd.grad(g, x)[0]

    torch.testing.assert_close(third(ops.instance_norm_act), third(textbook.instance_norm_act))


@pytest.mark.parametrize("call", bad_calls("instance_norm_act"), ids=lambda c: c.label)
def test_refuses(call):
    with pytest.raises(call.error, match=call.message):
        ops.instance_norm_act(**call.arguments)


def test_given_statistics_are_constants():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    mean, rstd = torch.randn(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    ops.instance_norm_act(x, mean=mean, rstd=rstd).sum().backward()
    assert mean.grad is None
    assert rstd.grad is None
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_statistics_serve_a_batch_of_tiles():
    x, mean, rstd = torch.randn(4, 3, 5, 5), torch.randn(3), torch.rand(3) + 1
    want = (x - mean[:, None, None]) * rstd[:, None, None]
    torch.testing.assert_close(ops.instance_norm_act(x, mean=mean, rstd=rstd), want)
    torch.testing.assert_close(ops.instance_norm_act(x, mean=mean[None], rstd=rstd[None]), want)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
def test_merged_statistics_are_those_of_the_whole(offset):
    x = torch.randn(2, 3, 24, 30) + offset
    tiles = [x[:, :, :7], x[:, :, 7:20, :11], x[:, :, 7:20, 11:], x[:, :, 20:]]
    merged = ops.merge_instance_norm_stats(ops.instance_norm_stats(t) for t in tiles)
    exact = x.double()
    assert merged.count == 24 * 30
    torch.testing.assert_close(merged.mean.double(), exact.mean((2, 3)), rtol=1e-6, atol=1e-6)
    rstd = torch.rsqrt(exact.var((2, 3), correction=0) + 1e-5)
    torch.testing.assert_close(
        merged.rstd().double(), rstd, rtol=1e-4 if offset > 1e3 else 2e-6, atol=0
    )


def test_tiles_with_the_statistics_of_the_whole_have_no_seam():
    x = torch.randn(1, 4, 16, 16) * 3 + 1
    halves = x[:, :, :, :9], x[:, :, :, 9:]
    stats = ops.merge_instance_norm_stats(ops.instance_norm_stats(h) for h in halves)
    tiles = [
        ops.instance_norm_act(h, act="relu", mean=stats.mean, rstd=stats.rstd()) for h in halves
    ]
    torch.testing.assert_close(torch.cat(tiles, 3), ops.instance_norm_act(x, act="relu"))


def test_nothing_to_merge():
    with pytest.raises(ValueError, match="no statistics"):
        ops.merge_instance_norm_stats([])


def test_statistics_have_no_gradient():
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    stats = ops.instance_norm_stats(x)
    assert not stats.mean.requires_grad
    assert not torch.ops.pix2gan.instance_norm_stats(x)[1].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mean_far_above_the_deviation(dtype):
    # E[x^2] - E[x]^2 would leave nothing of the variance
    x = (torch.randn(1, 2, 64, 64) + 1000).to(dtype)
    y = ops.instance_norm_act(x)
    exact = textbook.instance_norm_act(x.double())
    error = (y.double() - exact).abs().max()
    assert error < (2e-4 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x, r = torch.randn(2, 3, 9, 9).to(dtype), torch.randn(2, 3, 9, 9).to(dtype)
    w = torch.randn(3)
    y = ops.instance_norm_act(x, w, None, "lrelu", residual=r, pad=1)
    exact = textbook.instance_norm_act(
        x.double(), w.double(), None, "lrelu", residual=r.double(), pad=1
    )
    assert y.dtype == dtype
    spacing = exact.abs() * torch.finfo(dtype).eps / 2
    assert ((y.double() - exact).abs() <= spacing * 1.01 + 1e-6).all()


def test_residual_gradient_of_a_reflected_border_is_summed_in_float32():
    # the corner pixels of a small image collect nine elements of dy
    r = torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    x = torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16)
    y = ops.instance_norm_act(x, residual=r, pad=2)
    dy = torch.randn_like(y)
    (dr,) = torch.autograd.grad(y, r, dy)
    exact = torch.zeros(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(F.pad(exact, (2,) * 4, mode="reflect"), exact, dy.double())
    assert torch.equal(dr, want.bfloat16())


def test_keeps_the_memory_format():
    x = torch.randn(2, 3, 8, 6).contiguous(memory_format=torch.channels_last)
    y = ops.instance_norm_act(x.requires_grad_(), act="relu", pad=1)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert ops.instance_norm_act(x.contiguous(), pad=1).is_contiguous()
