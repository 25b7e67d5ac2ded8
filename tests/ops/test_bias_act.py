"""bias_act against torch.nn.functional, its derivatives against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pix2gan import ops
from pix2gan.ops.bias_act import representable
from pix2gan.ops.cases import OpCase, bad_calls, op_cases
from tests.ops import textbook

pytestmark = pytest.mark.usefixtures("reference")

CASES = op_cases("bias_act")


def ids(case: OpCase) -> str:
    return case.label


def test_there_are_enough_cases():
    assert len(CASES) >= 30
    assert len({c.label for c in CASES}) == len(CASES)
    assert len(bad_calls("bias_act")) >= 8
    assert {c.options["act"] for c in CASES} == set(textbook.ACTIVATIONS)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equals_the_textbook(case):
    torch.testing.assert_close(
        ops.bias_act(**case.tensors, **case.options),
        textbook.bias_act(**case.tensors, **case.options),
    )


@pytest.mark.parametrize("act", textbook.ACTIVATIONS)
def test_defaults(act):
    x, b = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(ops.bias_act(x, b, act=act), textbook.bias_act(x, b, act=act))
    torch.testing.assert_close(
        ops.bias_act(x, b, dim=-3, act=act), textbook.bias_act(x, b, act=act)
    )


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_derivatives(case):
    inputs = [case.tensors[name].requires_grad_() for name in case.differentiable]

    def call(*tensors):
        return ops.bias_act(**dict(zip(case.differentiable, tensors, strict=True)), **case.options)

    if case.options.get("clamp") == 0:
        # everything is clipped: the gradient is zero, which finite differences at 0 would not see
        for g in torch.autograd.grad(call(*inputs).sum(), inputs):
            assert not g.any()
        return
    fast = case.tensors["x"].numel() > 80
    assert gradcheck(call, inputs, fast_mode=fast)
    assert gradgradcheck(call, inputs, fast_mode=fast)


@pytest.mark.parametrize("call", bad_calls("bias_act"), ids=lambda c: c.label)
def test_refuses(call):
    with pytest.raises(call.error, match=call.message):
        ops.bias_act(**call.arguments)


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_is_zero_where_a_rounded_clamp_clipped(act, dtype):
    # 0.3 is not representable: y is its neighbour, above it in bfloat16, below it in float16
    x = torch.tensor([[-9.0, -0.25, 0.25, 9.0]], dtype=dtype, requires_grad=True)
    y = ops.bias_act(x, act=act, gain=1, clamp=0.3)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx[0, 3] == 0
    assert dx[0, 2] == 1
    assert float(y.detach()[0, 3]) == representable(0.3, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_representable_rounds_as_torch_does(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, generator=generator, dtype=torch.float64).abs().exp() * 1e-3
    values = torch.cat([values, torch.tensor([0.0, 256.0, 65504.0, 1e-9, 1e38, 3.0000001])])
    for value in values.double().tolist():
        assert representable(value, dtype) == float(
            torch.tensor(value, dtype=torch.float64).to(dtype)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x, b = torch.randn(2, 8, 9, 9).to(dtype), torch.randn(8)
    y = ops.bias_act(x, b, act="lrelu", clamp=1.0)
    assert y.dtype == dtype
    assert torch.equal(
        y, textbook.bias_act(x.double(), b.double(), act="lrelu", clamp=1.0).to(dtype)
    )


def test_keeps_the_memory_format():
    x = torch.randn(2, 3, 4, 5)
    b = torch.randn(3)
    last = x.contiguous(memory_format=torch.channels_last)
    assert ops.bias_act(x, b).is_contiguous()
    assert ops.bias_act(last, b).is_contiguous(memory_format=torch.channels_last)
    assert ops.bias_act(x[:, :, :, ::2], b).is_contiguous()
    # both at once, as one channel makes it: contiguous wins
    one = torch.randn(2, 1, 4, 5).contiguous(memory_format=torch.channels_last)
    assert ops.bias_act(one, b[:1]).stride() == (20, 20, 5, 1)


def test_does_nothing_where_there_is_nothing_to_do():
    x = torch.randn(2, 3)
    assert ops.bias_act(x) is x


def test_nan_and_infinity_pass():
    x = torch.tensor([[math.nan, math.inf, -math.inf]])
    y = ops.bias_act(x, act="relu", gain=1)
    assert math.isnan(y[0, 0])
    assert y[0, 1:].tolist() == [math.inf, 0.0]
    clipped = ops.bias_act(x, act="relu", gain=1, clamp=2)
    assert math.isnan(clipped[0, 0])
    assert clipped[0, 1] == 2


def test_third_derivative_raises():
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(ops.bias_act(x, act="tanh").sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        second.sum().backward()


def test_bias_of_another_dtype_gets_its_own_gradient():
    x = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    ops.bias_act(x, b, act="relu").sum().backward()
    assert (x.grad.dtype, b.grad.dtype) == (torch.bfloat16, torch.float32)
