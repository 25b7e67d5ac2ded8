"""Every way to compute a convolution gives what PyTorch's own gives, and each is chosen where it
should be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pix2gan.models import convolutions
from pix2gan.models.blocks import Border, interior, with_interior
from pix2gan.models.few_channels import conv2d_to_few, conv2d_to_few_by_fours

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((2, 6, 9, 7), 4, 1, 1),
        ((1, 6, 8, 8), 4, 2, 1),
        ((2, 6, 9, 8), 7, 1, 0),
        ((1, 6, 5, 5), 7, 1, 3),
        ((1, 6, 4, 4), 3, 1, 1),
    ],
)
def test_a_convolution_to_few_channels(memory_format, shape, kernel, stride, padding) -> None:
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format)
    x.requires_grad_()
    for outs in (1, 3):
        weight = torch.randn(outs, 6, kernel, kernel, dtype=torch.float64, requires_grad=True)
        exact = F.conv2d(x, weight, None, stride, padding)
        cotangent = torch.randn_like(exact)
        wanted = (exact, *torch.autograd.grad(exact, (x, weight), cotangent))
        ways = [conv2d_to_few(x, weight, stride, padding)]
        if stride == 1:
            ways.append(conv2d_to_few_by_fours(x, weight, padding))
        for y in ways:
            found = (y, *torch.autograd.grad(y, (x, weight), cotangent))
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_its_gradients_have_gradients() -> None:
    inputs = torch.randn(1, 2, 4, 4).double(), torch.randn(1, 2, 3, 3).double()
    inputs = tuple(t.requires_grad_() for t in inputs)
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d_to_few(x, w, 1, 1), inputs)
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d_to_few_by_fours(x, w, 1), inputs)


@pytest.mark.parametrize("way", [conv2d_to_few, conv2d_to_few_by_fours])
def test_in_bfloat16_it_is_as_exact_as_the_convolution(way) -> None:
    x, weight = torch.randn(1, 64, 12, 12).bfloat16(), torch.randn(3, 64, 4, 4).bfloat16()
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    found = way(x, weight, 1, 1) if way is conv2d_to_few else way(x, weight, 1)
    other = F.conv2d(x, weight, padding=1)
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().mean() <= 2 * (other - exact).abs().mean()


class Ways:
    """Which way a convolution took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        for name in (
            "conv2d_as_matmul",
            "conv_transpose2d_as_matmul",
            "conv2d_to_few",
            "conv2d_to_few_by_fours",
        ):
            monkeypatch.setattr(convolutions, name, self._told(name, getattr(convolutions, name)))

    def _told(self, name, way):
        return lambda *args: (self.taken.append(name), way(*args))[1]

    def of(self, x: torch.Tensor, weight: torch.Tensor, padding: int = 1) -> str:
        self.taken.clear()
        convolutions.conv2d(x, weight, 1, padding)
        return " ".join(self.taken)

    def of_transposed(self, x: torch.Tensor, weight: torch.Tensor) -> str:
        self.taken.clear()
        convolutions.conv_transpose2d(x, weight, 2, 1, 0)
        return " ".join(self.taken)


def test_which_way_a_convolution_takes(monkeypatch) -> None:
    ways = Ways(monkeypatch)
    x, pixels = torch.randn(1, 64, 8, 8), torch.randn(1, 512, 4, 4)
    large = torch.randn(512, 512, 2, 2)
    assert ways.of(pixels, large) == "conv2d_as_matmul"
    assert ways.of(torch.randn(1, 512, 17, 17), large) == ""
    assert ways.of(pixels, large[:8]) == ""
    assert ways.of(x, torch.randn(1, 64, 4, 4)) == "conv2d_to_few"
    assert ways.of(x, torch.randn(3, 64, 7, 7), 3) == "conv2d_to_few_by_fours"
    assert ways.of(x, torch.randn(5, 64, 4, 4)) == ""
    assert ways.of(x[:, :16], torch.randn(3, 16, 4, 4)) == ""
    assert ways.of(x, torch.randn(1, 64, 1, 1)) == ""
    assert ways.of_transposed(pixels, torch.randn(512, 128, 4, 4)) == "conv_transpose2d_as_matmul"
    assert ways.of_transposed(x, torch.randn(64, 3, 4, 4)) == "conv_transpose2d_as_matmul"
    assert ways.of_transposed(x, torch.randn(64, 8, 4, 4)) == ""


def test_only_eager_training_on_a_cpu_takes_another_way() -> None:
    x = torch.zeros(1, 3, 4, 4)
    assert convolutions.trains_on_cpu(x)
    assert not convolutions.trains_on_cpu(x.to("meta"))
    with torch.no_grad():
        assert not convolutions.trains_on_cpu(x)


@pytest.mark.parametrize("readers", [(True, True), (True, False), (False, True)])
def test_the_gradients_of_a_plane_and_its_interior_meet(readers) -> None:
    border = Border(2, "reflect")
    found = []
    for both in (with_interior, lambda x, border: (x, interior(x, border))):
        torch.manual_seed(0)
        x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
        outer, inner = both(x * x, border)
        total = sum((y**3).sum() for y, read in zip((outer, inner), readers, strict=True) if read)
        found.append(torch.autograd.grad(total, x))
    torch.testing.assert_close(*found)

    def twice(x):
        outer, inner = with_interior(x * x, border)
        return outer.sin(), inner**3

    assert torch.autograd.gradgradcheck(twice, (x,))
