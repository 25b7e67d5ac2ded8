"""Padding and its adjoint, as ATen does them and as they are spelled out for torch.compile."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from pix2gan.ops.padding import PAD_MODES, pad_image, pad_image_adjoint

SIZES = [(1, 1, 2), (1, 5, 1), (2, 3, 2), (4, 6, 3)]
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
INDUCTOR = pytest.param("inductor", marks=[pytest.mark.stress, NEEDS_COMPILER])


def image(height: int, width: int, *, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    return x.contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("mode", PAD_MODES)
@pytest.mark.parametrize(("height", "width", "pad"), SIZES)
def test_the_adjoint_is_the_gradient(mode, height, width, pad):
    if mode == "reflect" and pad >= min(height, width):
        pytest.skip("reflection needs larger images")
    x = image(height, width, channels_last=False)
    y = pad_image(x, pad, mode)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    torch.testing.assert_close(pad_image_adjoint(dy, pad, mode), dx)


@pytest.mark.parametrize("compiler", ["aot_eager", INDUCTOR])
def test_replicated_borders_when_compiled(compiler):
    torch._dynamo.reset()

    def gradient(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        return pad_image(x, 2, "replicate"), pad_image_adjoint(dy, 2, "replicate")

    compiled = torch.compile(gradient, fullgraph=True, backend=compiler)
    for height, width in ((1, 5), (4, 6)):
        x, again = (image(height, width, channels_last=True) for _ in range(2))
        again.data.copy_(x.data)
        dy = torch.randn(2, 3, height + 4, width + 4, dtype=torch.float64)
        for found, expected in zip(compiled(x, dy), gradient(again, dy), strict=True):
            torch.testing.assert_close(found, expected)
        (compiled(x, dy)[0] * dy).sum().backward()
        (gradient(again, dy)[0] * dy).sum().backward()
        torch.testing.assert_close(x.grad, again.grad)
