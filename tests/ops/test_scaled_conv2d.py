"""scaled_conv2d, the op below modulated_conv2d: values, all derivatives, and its epilogue."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from pix2gan.ops.cases import cases

pytestmark = pytest.mark.usefixtures("reference")

CONV, WGRAD = torch.ops.pix2gan.scaled_conv2d, torch.ops.pix2gan.scaled_conv2d_wgrad
CASES, WGRAD_CASES = cases("scaled_conv2d"), cases("scaled_conv2d_wgrad")


def textbook(
    x, w, s, d, stride, padding, transposed, out_h, out_w, noise, b, act, alpha, gain, clamp
):
    """One convolution an image, with a weight that is scaled for it."""
    images = []
    for n in range(x.shape[0]):
        wn = w
        into, out = (0, 1) if transposed else (1, 0)
        if s is not None:
            wn = wn * s[n].view([-1 if axis == into else 1 for axis in range(4)])
        if d is not None:
            wn = wn * d[n].view([-1 if axis == out else 1 for axis in range(4)])
        if transposed:
            y = F.conv_transpose2d(x[n : n + 1], wn, stride=stride, padding=padding)
            y = F.pad(y, (0, out_w - y.shape[3], 0, out_h - y.shape[2]))
            # what is left over at the end still gets its share where the padding had cut it off
            if padding and (out_w > y.shape[3] or out_h > y.shape[2] or True):
                full = F.conv_transpose2d(x[n : n + 1], wn, stride=stride)
                full = F.pad(full, (0, stride, 0, stride))
                y = full[:, :, padding : padding + out_h, padding : padding + out_w]
        else:
            y = F.conv2d(x[n : n + 1], wn, stride=stride, padding=padding)
        images.append(y)
    y = (
        torch.cat(images)
        if images
        else x.new_zeros(0, w.shape[1 if transposed else 0], out_h, out_w)
    )
    y = y if noise is None else y + noise
    y = y if b is None else y + b[:, None, None]
    activations = {
        "linear": lambda v: v,
        "relu": F.relu,
        "lrelu": lambda v: F.leaky_relu(v, alpha),
        "tanh": torch.tanh,
        "swish": F.silu,
    }
    y = activations[act](y) * gain
    return y if clamp < 0 else y.clamp(-clamp, clamp)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_equals_the_textbook(case):
    torch.testing.assert_close(CONV(*case.args), textbook(*case.args))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_derivatives(case):
    tensors = [a for a in case.args if isinstance(a, torch.Tensor)]
    smooth = case.args[11] not in ("linear", "relu", "lrelu")
    if sum(t.numel() for t in tensors) > 1500:
        pytest.skip("many channels are for the kernels")
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
    y = textbook(x, w, s, d, stride, padding, transposed, *dy.shape[2:], *plain)
    want = torch.autograd.grad(y, w, dy)[0] if x.shape[0] else torch.zeros_like(w)
    torch.testing.assert_close(WGRAD(*case.args), want)


@pytest.mark.parametrize("case", WGRAD_CASES, ids=lambda c: c.label)
def test_derivatives_of_the_weight_gradient(case):
    tensors = [a for a in case.args if isinstance(a, torch.Tensor)]
    if sum(t.numel() for t in tensors) > 1500:
        pytest.skip("many channels are for the kernels")
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
