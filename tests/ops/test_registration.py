"""What PyTorch demands of an op: schema, fake, autograd; and the fakes' promises."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from pix2gan import ops
from pix2gan.ops.cases import cases
from pix2gan.ops.dispatch import primitives

pytestmark = pytest.mark.usefixtures("reference")


def op_of(primitive):
    return getattr(torch.ops.pix2gan, primitive).default


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def differentiable(case):
    """The case's arguments in float32, those that gradients reach requiring them."""
    args = case.cast(torch.float32)
    if case.primitive == "bias_act_grad2":  # the end of the line
        return args
    constants = {"upfirdn2d": (1,), "instance_norm_act": (9, 10), "instance_norm_act_grad": (4, 5)}
    for i, a in enumerate(args):
        if isinstance(a, torch.Tensor) and i not in constants.get(case.primitive, ()):
            a.requires_grad_()
    return args


def picked(primitive):
    """A few cases that differ; opcheck fails on empty tensors by a fault of its own."""
    found = [c for c in cases(primitive) if c.args[0].numel()]
    if primitive == "scaled_conv2d":
        found = [c for c in found if c.args[11] in ("linear", "relu", "lrelu")]
    return found[:: len(found) // 3][:3]


@pytest.mark.parametrize(
    "case", [c for p in primitives() for c in picked(p)], ids=lambda c: f"{c.primitive} {c.label}"
)
def test_opcheck(case):
    torch.library.opcheck(op_of(case.primitive), differentiable(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("primitive", primitives())
def test_fakes_tell_the_truth(primitive, dtype):
    for case in cases(primitive):
        for last in (False, True):
            args = case.cast(dtype)
            if last:
                args = tree_map_only(torch.Tensor, channels_last, args)
            real = op_of(primitive)(*args)
            with FakeTensorMode(allow_non_fake_inputs=False) as mode:
                fake = op_of(primitive)(*tree_map_only(torch.Tensor, mode.from_tensor, args))
            real = real if isinstance(real, tuple) else (real,)
            fake = fake if isinstance(fake, tuple) else (fake,)
            for r, f in zip(real, fake, strict=True):
                assert (r.shape, r.dtype, r.stride()) == (f.shape, f.dtype, f.stride())


def test_meta_tensors():
    x = torch.empty(2, 3, 8, 8, device="meta")
    assert ops.instance_norm_act(x, pad=1).shape == (2, 3, 10, 10)
    f = torch.empty(4, device="meta")
    assert ops.upsample2d(x, f).shape == (2, 3, 16, 16)
    w, s = torch.empty(5, 3, 3, 3, device="meta"), torch.empty(2, 3, device="meta")
    assert ops.modulated_conv2d(x, w, s, None, 2, 1, 1, f).shape == (2, 5, 16, 16)
    assert ops.bias_act(x, act="tanh").shape == x.shape


def test_inference_mode():
    x = torch.randn(2, 3, 8, 8)
    want = ops.instance_norm_act(x, act="relu", pad=1)
    with torch.inference_mode():
        assert torch.equal(ops.instance_norm_act(x, act="relu", pad=1), want)
