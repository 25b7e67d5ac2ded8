"""modulated_conv2d against a weight for each sample, and what half precision makes of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from pix2gan import ops
from pix2gan.ops.cases import bad_calls, op_cases
from tests.ops import textbook

pytestmark = pytest.mark.usefixtures("reference")

CASES = op_cases("modulated_conv2d")


def test_there_are_enough_cases():
    assert len(CASES) >= 30
    assert len(bad_calls("modulated_conv2d")) >= 8


@pytest.mark.parametrize("grad", [False, True], ids=["fused", "composed"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_equals_the_textbook(case, grad):
    tensors = {k: v.clone() for k, v in case.tensors.items()}
    for name in case.differentiable if grad else ():
        tensors[name].requires_grad_()
    with torch.set_grad_enabled(grad):
        y = ops.modulated_conv2d(**tensors, **case.options)
    torch.testing.assert_close(
        y.detach(), textbook.modulated_conv2d(**case.tensors, **case.options)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_derivatives(case):
    names = case.differentiable
    inputs = [case.tensors[name].requires_grad_() for name in names]
    constants = {k: v for k, v in case.tensors.items() if k not in names}

    def call(*tensors):
        given = dict(zip(names, tensors, strict=True))
        return ops.modulated_conv2d(**given, **constants, **case.options)

    assert gradcheck(call, inputs, fast_mode=True)
    assert gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("call", bad_calls("modulated_conv2d"), ids=lambda c: c.label)
def test_refuses(call):
    with pytest.raises(call.error, match=call.message):
        ops.modulated_conv2d(**call.arguments)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("taps", [None, 2, 3, 4, 6])
def test_half_the_kernel_as_padding_gives_the_natural_size(up, down, k, taps):
    f = None if taps is None else torch.ones(taps)
    x, w, s = torch.randn(1, 2, 8, 12), torch.randn(3, 2, k, k), torch.randn(1, 2)
    y = ops.modulated_conv2d(x, w, s, up=up, down=down, padding=k // 2, resample_filter=f)
    assert y.shape == (1, 3, 8 * up // down, 12 * up // down)


def test_plain_convolution_is_torch():
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    ones = torch.ones(2, 3)
    y = ops.modulated_conv2d(x, w, ones, padding=1, demodulate=False)
    torch.testing.assert_close(y, F.conv2d(x, w, padding=1))
    flipped = ops.modulated_conv2d(x, w, ones, padding=1, demodulate=False, flip_weight=False)
    torch.testing.assert_close(flipped, F.conv2d(x, w.flip((2, 3)), padding=1))
    strided = ops.modulated_conv2d(x, w, ones, padding=1, down=2, demodulate=False)
    torch.testing.assert_close(strided, F.conv2d(x, w, padding=1, stride=2))
    transposed = ops.modulated_conv2d(
        x, w.transpose(0, 1).flip((2, 3)).transpose(0, 1), ones, padding=1, up=2, demodulate=False
    )
    want = F.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=1, output_padding=1) * 4
    torch.testing.assert_close(transposed, want)


def test_the_border_is_that_of_an_image_among_zeros():
    # enlarging x by zeros must not change what was computed before, borders included
    x, w, s = torch.randn(1, 2, 6, 6).double(), torch.randn(2, 2, 3, 3).double(), torch.ones(1, 2)
    f = torch.tensor([1.0, 3.0, 3.0, 1.0])
    for up, down in ((2, 1), (1, 2), (1, 1)):
        small = ops.modulated_conv2d(x, w, s, None, up, down, 1, f)
        large = ops.modulated_conv2d(F.pad(x, (4,) * 4), w, s, None, up, down, 1, f)
        edge = 4 * up // down
        torch.testing.assert_close(small, large[:, :, edge:-edge, edge:-edge])


def test_demodulated_output_has_unit_variance():
    x, w, s = torch.randn(4, 32, 16, 16), torch.randn(16, 32, 3, 3) * 7, torch.randn(4, 32) * 3
    y = ops.modulated_conv2d(x, w, s)
    assert abs(float(y.std()) - 1) < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("up", [1, 2])
def test_half_precision_does_not_overflow(dtype, up):
    x = (100 * torch.randn(2, 64, 8, 8)).to(dtype)
    w, s = 1000 * torch.randn(8, 64, 3, 3), 1000 * torch.randn(2, 64)
    f = ops.setup_filter([1, 3, 3, 1])
    exact = textbook.modulated_conv2d(
        x.double(), w.double(), s.double(), None, up, 1, 1, f.double()
    )
    y = ops.modulated_conv2d(x, w, s, None, up, 1, 1, f)
    assert y.dtype == dtype
    error = (y.double() - exact).abs().max() / exact.abs().max()
    assert error < 8 * torch.finfo(dtype).eps


def test_half_precision_gradients_do_not_overflow():
    x = (100 * torch.randn(1, 64, 6, 6)).half().requires_grad_()
    w = (1000 * torch.randn(8, 64, 3, 3)).requires_grad_()
    s = (1000 * torch.randn(1, 64)).requires_grad_()
    y = ops.modulated_conv2d(x, w, s, padding=1)
    grads = torch.autograd.grad(y.float().square().mean(), (x, w, s))
    doubles = [t.detach().double().requires_grad_() for t in (x, w, s)]
    exact = torch.autograd.grad(
        textbook.modulated_conv2d(*doubles, padding=1).square().mean(), doubles
    )
    for a, b in zip(grads, exact, strict=True):
        assert (a.double() - b).abs().max() < 0.02 * b.abs().max()


def test_zero_styles():
    x, w = torch.randn(1, 2, 4, 4).bfloat16(), torch.randn(3, 2, 3, 3)
    s = torch.zeros(1, 2, requires_grad=True)
    y = ops.modulated_conv2d(x, w, s, padding=1)
    assert not y.any()
    y.sum().backward()
    assert torch.isfinite(s.grad).all()


def test_inference_is_one_convolution(recorded):
    x, w, s = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 2)
    noise, b = torch.randn(1, 1, 4, 4), torch.randn(3)
    with torch.no_grad():
        ops.modulated_conv2d(x, w, s, noise, padding=1, b=b, act="swish")
    assert [name for name, _ in recorded] == ["scaled_conv2d"]


def test_training_needs_no_convolution_for_the_demodulation(recorded):
    x, w, s = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 2)
    tensors = [t.requires_grad_() for t in (x, w, s)]
    ops.modulated_conv2d(*tensors, padding=1, b=torch.randn(3), act="lrelu").sum().backward()
    assert [name for name, _ in recorded] == [
        "scaled_conv2d",
        "bias_act",
        "bias_act_grad",
        "scaled_conv2d",
        "scaled_conv2d_wgrad",
    ]


def test_keeps_the_memory_format():
    x = torch.randn(2, 3, 8, 6).contiguous(memory_format=torch.channels_last)
    w, s, f = torch.randn(4, 3, 3, 3), torch.randn(2, 3), ops.setup_filter([1, 3, 3, 1])
    for up, down in ((1, 1), (2, 1), (1, 2)):
        y = ops.modulated_conv2d(x, w, s, None, up, down, 1, f)
        assert y.is_contiguous(memory_format=torch.channels_last)
