"""scaled_conv2d, the op below modulated_conv2d: values, all derivatives, and its epilogue."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pix2gan.ops.cases import cases
from tests.ops import textbook

pytestmark = pytest.mark.usefixtures("reference")

CONV, WGRAD = torch.ops.pix2gan.scaled_conv2d, torch.ops.pix2gan.scaled_conv2d_wgrad
CASES, WGRAD_CASES = cases("scaled_conv2d"), cases("scaled_conv2d_wgrad")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_equals_the_textbook(case):
    torch.testing.assert_close(CONV(*case.args), textbook.scaled_conv2d(*case.args))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_derivatives(case):
    tensors = [a for a in case.args if isinstance(a, torch.Tensor)]
    smooth = case.args[11] not in ("linear", "relu", "lrelu")
    for t in tensors:
        t.requires_grad_()

    def call(*given):
        given = iter(given)
        return CONV(*(next(given) if isinstance(a, torch.Tensor) else a for a in case.args))

    if smooth:
        with pytest.raises(NotImplementedError, match="put bias_act behind it"):
            call(*tensors)
        return
    assert gradcheck(call, tensors, fast_mode=True)
    assert gradgradcheck(call, tensors, fast_mode=True)


@pytest.mark.parametrize("case", WGRAD_CASES, ids=lambda c: c.label)
def test_weight_gradient(case):
    x, dy, s, d, stride, padding, transposed, kh, kw = case.args
    shape = (x.shape[1], dy.shape[1]) if transposed else (dy.shape[1], x.shape[1])
    w = torch.zeros(*shape, kh, kw, dtype=torch.float64, requires_grad=True)
    plain = (None, None, "linear", 0.0, 1.0, -1.0)
    y = textbook.scaled_conv2d(x, w, s, d, stride, padding, transposed, *dy.shape[2:], *plain)
    want = torch.autograd.grad(y, w, dy)[0] if x.shape[0] else torch.zeros_like(w)
    torch.testing.assert_close(WGRAD(*case.args), want)


@pytest.mark.parametrize("case", WGRAD_CASES, ids=lambda c: c.label)
def test_derivatives_of_the_weight_gradient(case):
    tensors = [a for a in case.args if isinstance(a, torch.Tensor)]
    for t in tensors:
        t.requires_grad_()

    def call(*given):
        given = iter(given)
        return WGRAD(*(next(given) if isinstance(a, torch.Tensor) else a for a in case.args))

    assert gradcheck(call, tensors, fast_mode=True)
    assert gradgradcheck(call, tensors, fast_mode=True)


def test_zero_styles_have_gradients():
    # the gradient of s must not come out of a division by it
    x, w = torch.randn(1, 2, 4, 4).double(), torch.randn(2, 2, 3, 3).double()
    s = torch.zeros(1, 2).double().requires_grad_()

    def call(s):
        return CONV(x, w, s, None, 1, 1, False, 4, 4, None, None, "linear", 0.0, 1.0, -1.0)

    assert gradcheck(call, [s])
    assert gradgradcheck(call, [s])
