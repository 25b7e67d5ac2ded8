"""Products of a few rows with a large matrix, which is read or written once, as it lies.

Three forms that are each other's gradients: a times b's transpose, a times b, and a's transpose
times b.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pix2gan.ops import dispatch

MOST_ROWS = 16
_TRANSPOSED, _PLAIN, _OUTER = range(3)


def is_thin(a: Tensor, b: Tensor) -> bool:
    """Whether [P, .] and the matrix [N, K] are what ``thin_product`` is for: few rows, bfloat16, on
    a CPU."""
    return (
        a.device.type == b.device.type == "cpu"
        and a.dtype == b.dtype == torch.bfloat16
        and 1 <= a.shape[0] <= MOST_ROWS
        and b.shape[0] % 4 == 0
        and b.shape[1] % 32 == 0
        and b.is_contiguous()
    )


def times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """[P, K] with [N, K] -> [P, N]: ``a @ b.t()``, for operands that are ``is_thin``."""
    return _product(_TRANSPOSED, a, b)


def times(a: Tensor, b: Tensor) -> Tensor:
    """[P, N] with [N, K] -> [P, K]: ``a @ b``, for operands that are ``is_thin``."""
    return _product(_PLAIN, a, b)


def _product(form: int, a: Tensor, b: Tensor) -> Tensor:
    result: Tensor = _ThinProduct.apply(form, a, b)  # type: ignore[no-untyped-call]
    return result


class _ThinProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: int, a: Tensor, b: Tensor) -> Tensor:
        ctx.form = form
        ctx.save_for_backward(a, b)
        rows = a.shape[1] if form == _OUTER else a.shape[0]
        out = a.new_empty(rows, b.shape[0] if form == _TRANSPOSED else b.shape[1])
        args = (a, b, form)
        dispatch.select("thin_product", args)(*args, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        grad, da, db = grad.contiguous(), None, None
        if ctx.needs_input_grad[1]:
            if ctx.form == _OUTER:
                da = _product(_TRANSPOSED, b, grad)
            else:
                da = _product(_PLAIN if ctx.form == _TRANSPOSED else _TRANSPOSED, grad, b)
        if ctx.needs_input_grad[2]:
            if ctx.form == _OUTER:
                db = _product(_PLAIN, a, grad)
            else:
                db = _product(_OUTER, *((grad, a) if ctx.form == _TRANSPOSED else (a, grad)))
        return None, da, db
