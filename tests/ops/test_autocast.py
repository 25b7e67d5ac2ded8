"""Under autocast three ops follow x's dtype; modulated_conv2d takes the autocast dtype."""

from __future__ import annotations

import pytest
import torch

from pix2gan import ops

pytestmark = pytest.mark.usefixtures("reference")

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_three_ops_follow_x(dtype):
    x, b = torch.randn(2, 3, 8, 8).to(dtype), torch.randn(3)
    f = ops.setup_filter([1, 3, 3, 1])
    for call in (
        lambda: ops.bias_act(x, b, act="lrelu"),
        lambda: ops.upsample2d(x, f),
        lambda: ops.instance_norm_act(x, b, b, "relu", residual=x, pad=1),
    ):
        want = call()
        with torch.autocast("cpu", torch.bfloat16):
            found = call()
        assert found.dtype == dtype
        # not only the dtype: autocast must not have reached the arithmetic inside either
        assert torch.equal(found, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_their_gradients_do_too(dtype):
    x, b = torch.randn(2, 3, 8, 8).to(dtype).requires_grad_(), torch.randn(3, requires_grad=True)
    f = ops.setup_filter([1, 3, 3, 1])

    def gradients():
        y = ops.upsample2d(ops.instance_norm_act(ops.bias_act(x, b, act="swish"), b, b), f)
        first = torch.autograd.grad(y, (x, b), torch.ones_like(y), create_graph=True)
        return (*first, *torch.autograd.grad(first[0].sum(), (x, b)))

    want = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients()
    for a, w in zip(found, want, strict=True):
        assert a.dtype == w.dtype
        assert torch.equal(a, w)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_modulated_conv2d_is_cast(cast):
    x, w, s = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    tensors = [t.requires_grad_() for t in (x, w, s)]
    with torch.autocast("cpu", cast):
        y = ops.modulated_conv2d(*tensors, padding=1, b=torch.randn(4), act="lrelu")
    assert y.dtype == cast
    # parameters keep their own precision, and so do their gradients
    grads = torch.autograd.grad(y.sum(), tensors)
    assert {g.dtype for g in grads} == {torch.float32}


def test_modulated_conv2d_equals_half_precision_by_hand():
    x, w, s = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.modulated_conv2d(x, w, s, padding=1)
    assert torch.equal(found, ops.modulated_conv2d(x.bfloat16(), w, s, padding=1))


def test_float64_is_left_alone():
    x, w, s = torch.randn(1, 2, 4, 4).double(), torch.randn(3, 2, 3, 3), torch.ones(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.modulated_conv2d(x, w, s).dtype == torch.float64


def test_autocast_turned_off_inside():
    x, w, s = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.ones(1, 2)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert ops.modulated_conv2d(x, w, s).dtype == torch.float32
