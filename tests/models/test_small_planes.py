"""Convolutions as products of matrices are the convolutions that they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pix2gan.models import convolutions, create_generator, small_planes
from pix2gan.models.small_planes import conv2d_as_matmul, conv_transpose2d_as_matmul

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 6, 4, 4), (2, 6, 2, 2), (3, 6, 5, 7), (1, 6, 1, 1)])
@pytest.mark.parametrize("kernel", [(4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 1, 0), (7, 1, 3, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_those_of_the_convolution(
    memory_format, shape, kernel, transposed: bool
) -> None:
    side, stride, padding, output_padding = kernel
    if not transposed and min(shape[2:]) + 2 * padding < side:
        pytest.skip("the kernel does not fit")
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight = torch.randn(*((6, 5) if transposed else (5, 6)), side, side, dtype=torch.float64)
    weight = weight.contiguous(memory_format=memory_format)
    found = []
    for ours in (True, False):
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if transposed and ours:
            y = conv_transpose2d_as_matmul(*inputs, stride, padding, output_padding)
        elif transposed:
            y = F.conv_transpose2d(*inputs, None, stride, padding, output_padding)
        else:
            y = (conv2d_as_matmul if ours else _conv2d)(*inputs, stride, padding)
        cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        found.append((y, *torch.autograd.grad(y, inputs, cotangent)))
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def _conv2d(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    return F.conv2d(x, weight, None, stride, padding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_exact_as_the_convolution(dtype: torch.dtype) -> None:
    x, down, up = torch.randn(2, 8, 4, 4), torch.randn(6, 8, 4, 4), torch.randn(8, 6, 4, 4)
    for ours, theirs, weight in (
        (conv2d_as_matmul, F.conv2d, down),
        (lambda *a: conv_transpose2d_as_matmul(*a, 0), F.conv_transpose2d, up),
    ):
        x, weight = x.to(dtype), weight.to(dtype).float()
        exact = theirs(x.double(), weight.double(), None, 2, 1)
        with torch.autocast("cpu", dtype):
            mine, other = ours(x, weight, 2, 1), theirs(x, weight, None, 2, 1)
        assert mine.dtype == other.dtype == dtype
        assert (mine - exact).abs().mean() <= 2 * (other - exact).abs().mean()


def test_a_u_net_takes_it_in_its_depths_and_learns_the_same(monkeypatch) -> None:
    monkeypatch.setattr(small_planes, "LEAST_WEIGHTS", 16 * 16 * 16)
    x = torch.randn(1, 3, 64, 64)
    taken: list[int] = []
    found = []
    for most in (0, 64):
        monkeypatch.setattr(small_planes, "MOST_COLUMNS", most)
        torch.manual_seed(0)
        network = create_generator("unet256", width=16, num_downs=6)
        network.to(memory_format=torch.channels_last)
        taken.clear()
        monkeypatch.setattr(
            convolutions,
            "conv_transpose2d_as_matmul",
            lambda *a: taken.append(1) or conv_transpose2d_as_matmul(*a),
        )
        y = network(x)
        y.square().mean().backward()
        # From 1, 2, 4 and 8 pixels a side; the last one makes few channels and always takes it.
        assert len(taken) == (1 if most == 0 else 5)
        found.append((y, [p.grad for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_gradients_have_gradients() -> None:
    x, down = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    up = torch.randn(3, 2, 4, 4)
    inputs = [t.double().requires_grad_() for t in (x, down, up)]
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d_as_matmul(x, w, 2, 1), inputs[:2])
    assert torch.autograd.gradgradcheck(
        lambda x, w: conv_transpose2d_as_matmul(x, w, 2, 1, 0), inputs[::2]
    )
