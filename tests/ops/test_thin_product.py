"""Products of a few rows with a large matrix: native kernel and reference against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pix2gan.ops.thin_product import is_thin, times, times_transposed


def operands(rows: int, n: int, k: int, *, transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and a cotangent of their product."""
    generator = torch.Generator().manual_seed(rows + n + k)
    shapes = (rows, k if transposed else n), (n, k), (rows, n if transposed else k)
    a, b, dy = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    return a, b, dy


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 16])
@pytest.mark.parametrize(("n", "k"), [(4, 32), (12, 544), (44, 1056)])
def test_products_and_gradients(backend, rows: int, n: int, k: int, transposed: bool) -> None:
    a, b, dy = operands(rows, n, k, transposed=transposed)
    assert is_thin(a, b)
    inputs = a.requires_grad_(), b.requires_grad_()
    y = (times_transposed if transposed else times)(*inputs)
    found = y, *torch.autograd.grad(y, inputs, dy)
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    exact = exact_inputs[0] @ (exact_inputs[1].t() if transposed else exact_inputs[1])
    wanted = exact, *torch.autograd.grad(exact, exact_inputs, dy.double())
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.bfloat16
        # Summed in float32, rounded once.
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=2**-9)


def test_gradients_have_gradients(backend) -> None:
    for transposed in (True, False):
        a, b, dy = operands(3, 8, 64, transposed=transposed)
        found = []
        for ours in (True, False):
            inputs = [
                t.detach().clone().to(torch.bfloat16 if ours else torch.double) for t in (a, b)
            ]
            for t in inputs:
                t.requires_grad_()
            if ours:
                y = (times_transposed if transposed else times)(*inputs)
            else:
                y = inputs[0] @ (inputs[1].t() if transposed else inputs[1])
            first = torch.autograd.grad(y, inputs, dy.to(y.dtype), create_graph=True)
            total = sum((g.double() ** 2).sum() for g in first)
            found.append([g.double() for g in torch.autograd.grad(total, inputs)])
        for mine, exact in zip(*found, strict=True):
            assert (mine - exact).norm() < 0.02 * exact.norm()


def test_strided_rows(backend) -> None:
    a, b, _ = operands(3, 8, 32, transposed=False)
    wide = torch.zeros(3, 16, dtype=torch.bfloat16)
    wide[:, ::2] = a
    assert torch.equal(times(wide[:, ::2], b), times(a, b))


def test_what_is_thin() -> None:
    a, b = torch.zeros(16, 8).bfloat16(), torch.zeros(8, 64).bfloat16()
    assert is_thin(a, b)
    assert not is_thin(torch.zeros(17, 8).bfloat16(), b)
    assert not is_thin(a[:0], b)
    assert not is_thin(a.float(), b)
    assert not is_thin(a, b[:6])
    assert not is_thin(a, b[:, :48].contiguous())
    assert not is_thin(a, b[:, ::2])


def test_shapes_that_do_not_match_are_an_error(backend) -> None:
    with pytest.raises(RuntimeError):
        times(torch.zeros(2, 8).bfloat16(), torch.zeros(12, 64).bfloat16())
