"""torch.compile(fullgraph=True) over every op: the same values, gradients and strides."""

from __future__ import annotations

import shutil

import pytest
import torch

from pix2gan import ops

pytestmark = pytest.mark.usefixtures("reference")

F4 = ops.setup_filter([1, 3, 3, 1])


def bias_act(x, w, s, b):
    return ops.bias_act(x, b[:3], act="swish", clamp=1.5) + ops.bias_act(x, act="lrelu", dim=-1)


def upfirdn2d(x, w, s, b):
    y = ops.downsample2d(ops.upsample2d(x, F4), F4, padding=(1, 1, -1, 2))
    return y + ops.filter2d(x, F4, flip_filter=True).mean()


def instance_norm_act(x, w, s, b):
    y = ops.instance_norm_act(x, b[:3], None, "relu", residual=x, pad=1)
    return ops.instance_norm_act(y, None, b[:3], "tanh", pad=2, pad_mode="replicate")


def frozen_norm(x, w, s, b):
    stats = ops.instance_norm_stats(x)
    return ops.instance_norm_act(x, mean=stats.mean, rstd=stats.rstd())


def modulated_conv2d(x, w, s, b):
    noise = torch.ones(1, 1, 2 * x.shape[2], 2 * x.shape[3])
    y = ops.modulated_conv2d(
        x, w, s, noise, up=2, padding=1, resample_filter=F4, b=b, act="lrelu", clamp=3.0
    )
    return y + ops.modulated_conv2d(x, w, s, up=2, padding=1, demodulate=False, flip_weight=False)


FUNCTIONS = (bias_act, upfirdn2d, instance_norm_act, frozen_norm, modulated_conv2d)


def inputs(channels_last=False):
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 3, 8, 6), (5, 3, 3, 3), (2, 3), (5,))
    x, w, s, b = (torch.randn(shape, generator=generator) for shape in shapes)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    return [t.requires_grad_() for t in (x, w, s, b)]


def run(function, tensors):
    y = function(*tensors)
    grads = torch.autograd.grad(y.float().square().mean(), tensors, allow_unused=True)
    return [y, *(g for g in grads if g is not None)]


def assert_same(function, tensors, **options):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, **options)
    for want, found in zip(run(function, tensors), run(compiled, tensors), strict=True):
        torch.testing.assert_close(found, want)
    with torch.no_grad():
        want, found = function(*tensors), compiled(*tensors)
    torch.testing.assert_close(found, want)
    assert found.stride() == want.stride()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_same_as_eager(function, channels_last):
    assert_same(function, inputs(channels_last), backend="aot_eager")


@pytest.mark.parametrize("function", [upfirdn2d, modulated_conv2d], ids=lambda f: f.__name__)
def test_dynamic_shapes(function):
    assert_same(function, inputs(), backend="aot_eager", dynamic=True)


def test_autocast():
    def net(x, w, s, b):
        return ops.instance_norm_act(ops.modulated_conv2d(x, w, s, padding=1, act="relu"), b)

    with torch.autocast("cpu", torch.bfloat16):
        assert_same(net, inputs(), backend="aot_eager")


def test_one_graph_serves_several_sizes():
    torch._dynamo.reset()
    compiled = torch.compile(instance_norm_act, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 7, 9):
        x = torch.randn(2, 3, size, size + 1)
        _, w, s, b = inputs()
        torch.testing.assert_close(compiled(x, w, s, b), instance_norm_act(x, w, s, b))


def test_errors_are_raised_under_compile():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: ops.instance_norm_act(x, pad=9), backend="eager")
    with pytest.raises(Exception, match="reflection padding must be smaller"):
        compiled(torch.randn(1, 1, 4, 4))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor():
    """One pass through the default compiler, which relies on the strides that fakes promise."""

    def net(x, w, s, b):
        return ops.instance_norm_act(x * 2, b[:3], act="relu", pad=1) + 1

    assert_same(net, inputs(channels_last=True), backend="inductor")


def test_export():
    class Net(torch.nn.Module):
        def forward(self, x):
            return ops.instance_norm_act(ops.upsample2d(x, F4), act="relu", pad=1)

    x = torch.randn(1, 3, 8, 8)
    exported = torch.export.export(Net(), (x,))
    torch.testing.assert_close(exported.module()(x), Net()(x))
