"""A step of Adam (Kingma & Ba 2015) that takes gradients in half precision as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from pix2gan.ops import dispatch


@torch.no_grad()
def adam_step(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    rounded: Tensor | None = None,
    average: Tensor | None = None,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    step: float,
    scale: float = 1.0,
    share: float = 0.0,
) -> None:
    """Update a row of weights and its two moments in place; what ``torch.optim.Adam`` computes.

    Mixed precision keeps weights in float32 and computes with a copy in bfloat16. Here the gradient
    of that copy is read in bfloat16, and the copy and the moving average are written along with the
    weights, so that nothing passes through memory once more for their sake.

    Args:
        weight: [n] in float32, as ``mean`` and ``square``, the moments.
        gradient: [n] in float32 or bfloat16.
        rounded: [n] in bfloat16; becomes the new weights, rounded.
        average: [n] in float32; moves towards the new weights.
        lr: The learning rate.
        betas: Decay of the two moments.
        eps: What keeps the quotient finite.
        step: The number of this step, from 1.
        scale: The gradient is multiplied by it first.
        share: How far the average moves: 0 not at all, 1 to the new weights.
    """
    rows = (weight, gradient, mean, square, rounded, average)
    settings = (lr, *betas, eps, step, scale, share)
    dispatch.select("adam_step", (*rows, *settings))(*rows, *settings)
    # As PyTorch's own ops do: whoever goes on to differentiate through the old weights is told.
    torch.autograd.graph.increment_version(weight if rounded is None else (weight, rounded))
