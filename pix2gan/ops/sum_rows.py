"""Sums of rows that are picked by number: patches of an image, patches laid over one another."""

from __future__ import annotations

import torch
from torch import Tensor

from pix2gan.ops import dispatch


def sum_rows(x: Tensor, index: Tensor) -> Tensor:
    """out[i] = sum over j of x[index[i, j]], in float32 at least, rounded once. No gradient.

    Args:
        x: [R, C].
        index: [Q, M] in int64, from 0 to R; R stands for a row of zeros.

    Returns [Q, C] in x's dtype.
    """
    out = torch.empty((index.shape[0], x.shape[1]), dtype=x.dtype, device=x.device)
    args = (x.detach(), index)
    dispatch.select("sum_rows", args)(*args, out)
    return out
