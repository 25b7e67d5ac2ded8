"""upfirdn2d against its definition, written out; its filters and their centring."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pix2gan import ops
from pix2gan.ops.cases import bad_calls, op_cases
from tests.ops import textbook

pytestmark = pytest.mark.usefixtures("reference")

CASES = op_cases("upfirdn2d")


def test_there_are_enough_cases():
    assert len(CASES) >= 30
    assert len(bad_calls("upfirdn2d")) >= 8


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_equals_the_textbook(case):
    y = ops.upfirdn2d(**case.tensors, **case.options)
    torch.testing.assert_close(y, textbook.upfirdn2d(**case.tensors, **case.options))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_derivatives(case):
    x = case.tensors["x"].requires_grad_()

    def call(x):
        return ops.upfirdn2d(x, case.tensors["f"], **case.options)

    assert gradcheck(call, [x], fast_mode=True)
    assert gradgradcheck(call, [x], fast_mode=True)


@pytest.mark.parametrize("call", bad_calls("upfirdn2d"), ids=lambda c: c.label)
def test_refuses(call):
    with pytest.raises(call.error, match=call.message):
        ops.upfirdn2d(**call.arguments)


def test_the_filter_is_a_constant():
    x, f = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    ops.upfirdn2d(x, f, padding=2).sum().backward()
    assert f.grad is None


def test_the_filter_stays_float32_for_half_precision():
    x, f = torch.randn(1, 2, 8, 8).bfloat16(), torch.tensor([1.0, 3.0, 3.0, 1.0]) / 7.7
    y = ops.filter2d(x, f)
    assert y.dtype == torch.bfloat16
    exact = textbook.upfirdn2d(x.double(), f.double(), padding=(2, 1, 2, 1))
    assert torch.equal(y, exact.float().bfloat16())


@pytest.mark.parametrize("taps", range(1, 9))
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_sizes(taps, factor):
    x, f = torch.randn(1, 1, 12, 24), torch.rand(taps) + 0.1
    assert ops.upsample2d(x, f, factor).shape == (1, 1, 12 * factor, 24 * factor)
    assert ops.downsample2d(x, f, factor).shape == (1, 1, 12 // factor, 24 // factor)
    assert ops.filter2d(x, f).shape == x.shape
    assert ops.filter2d(x, f, padding=1).shape == (1, 1, 14, 26)
    assert ops.upsample2d(x, f, (factor, 1)).shape == (1, 1, 12, 24 * factor)
    assert ops.downsample2d(x, f, (1, factor)).shape == (1, 1, 12 // factor, 24)


@pytest.mark.parametrize(("taps", "factor"), [(4, 2), (2, 2), (6, 2), (3, 3), (8, 4), (5, 3)])
def test_resampling_does_not_shift(taps, factor):
    # a symmetric filter that fits the grids symmetrically: mirrored input, mirrored output
    ramp = torch.arange(1.0, taps + 1)
    f = torch.minimum(ramp, ramp.flip(0))
    x = torch.randn(1, 2, 12, 12, dtype=torch.float64)
    for resample in (ops.upsample2d, ops.downsample2d):
        y, mirrored = resample(x, f, factor), resample(x.flip((2, 3)), f, factor)
        torch.testing.assert_close(y, mirrored.flip((2, 3)))


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [1, 2, 1], [1, 1]])
def test_brightness_is_kept_away_from_the_border(taps):
    f = ops.setup_filter(taps)
    x = torch.full((1, 1, 16, 16), 0.7)
    for y in (ops.upsample2d(x, f), ops.downsample2d(x, f), ops.filter2d(x, f)):
        inner = y[:, :, 3:-3, 3:-3]
        torch.testing.assert_close(inner, torch.full_like(inner, 0.7))


def test_setup_filter():
    f = ops.setup_filter([1, 3, 3, 1])
    assert f.shape == (4, 4)
    assert f.dtype == torch.float32
    torch.testing.assert_close(
        f, torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 64
    )
    assert ops.setup_filter([1.0] * 8).shape == (8,)
    assert ops.setup_filter([1, 2, 1], separable=True).tolist() == [0.25, 0.5, 0.25]
    assert ops.setup_filter(None).tolist() == [[1.0]]
    assert ops.setup_filter([1, 2], normalize=False, flip_filter=True, separable=True).tolist() == [
        2,
        1,
    ]
    assert ops.setup_filter([1, 1], gain=4).sum() == 4
    assert ops.setup_filter([1, 1], gain=4, separable=True).sum() == 2
    with pytest.raises(ValueError, match="1-D or 2-D"):
        ops.setup_filter([[[1.0]]])
    with pytest.raises(ValueError, match="sum to 0"):
        ops.setup_filter([1, -1])
    with pytest.raises(ValueError, match="1-D taps"):
        ops.setup_filter([[1, 1], [1, 1]], separable=True)
    with pytest.raises(ValueError, match="must not be negative"):
        ops.setup_filter([1, 1], gain=-1, separable=True)


def test_separable_equals_its_outer_product():
    x, f = torch.randn(2, 3, 9, 8, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    one = ops.upfirdn2d(x, f, up=2, padding=5, gain=3)
    two = ops.upfirdn2d(x, f.outer(f), up=2, padding=5, gain=3)
    torch.testing.assert_close(one, two)


def test_no_filter_is_the_identity():
    x = torch.randn(1, 2, 3, 4)
    assert torch.equal(ops.upfirdn2d(x, None), x)
    assert torch.equal(ops.upfirdn2d(x, None, up=2), textbook.insert_zeros(x, (2, 2)))
    assert torch.equal(ops.upfirdn2d(x, None, down=2), x[:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("padding", "full"),
    [(1, (1, 1, 1, 1)), ((1, 2), (1, 1, 2, 2)), ([0, 1], (0, 0, 1, 1)), ((-1, 1), (-1, -1, 1, 1))],
)
def test_forms_of_padding(padding, full):
    x, f = torch.randn(1, 1, 5, 5), torch.randn(3)
    assert torch.equal(ops.upfirdn2d(x, f, padding=padding), ops.upfirdn2d(x, f, padding=full))


def test_keeps_the_memory_format():
    x = torch.randn(2, 3, 8, 6).contiguous(memory_format=torch.channels_last)
    f = ops.setup_filter([1, 3, 3, 1])
    for y in (ops.upsample2d(x, f), ops.downsample2d(x, f)):
        assert y.is_contiguous(memory_format=torch.channels_last)
    assert ops.upsample2d(x.contiguous(), f).is_contiguous()
