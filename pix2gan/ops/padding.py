"""Padding of images on all four sides, and its adjoint."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_MODES = ("reflect", "replicate", "zeros")


def check_padding(height: int, width: int, pad: int, mode: str) -> None:
    """``ValueError`` for a mode that is unknown and a width that the mode does not allow."""
    if mode not in PAD_MODES:
        raise ValueError(f"pad_mode must be one of {', '.join(PAD_MODES)}, not {mode!r}")
    if isinstance(pad, (float, str)):
        raise ValueError(f"pad must be a whole number of pixels, it is {pad!r}")
    if pad < 0:
        raise ValueError(f"pad must not be negative, it is {pad}")
    if mode == "reflect" and pad > 0 and pad >= min(height, width):
        raise ValueError(
            f"reflection padding must be smaller than the image: pad={pad} on {height} x {width}"
        )


def pad_image(x: Tensor, pad: int, mode: str) -> Tensor:
    """Pads [N, C, H, W] to [N, C, H + 2 pad, W + 2 pad]; differentiable."""
    if pad == 0:
        return x
    if mode == "replicate" and _inductor_may_follow():
        for dim in (2, 3):
            first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
            x = torch.cat([first] * pad + [x] + [last] * pad, dim)
        return x
    return F.pad(x, (pad,) * 4, mode="constant" if mode == "zeros" else mode)


def pad_image_adjoint(dy: Tensor, pad: int, mode: str) -> Tensor:
    """The adjoint of ``pad_image``: [N, C, H + 2 pad, W + 2 pad] to [N, C, H, W]; differentiable.

    Every element of dy is added to the pixel that it was copied from.
    """
    if pad == 0:
        return dy
    inner = dy[:, :, pad:-pad, pad:-pad]
    if mode == "zeros":
        return inner
    if mode == "replicate" and _inductor_may_follow():
        for dim in (2, 3):
            size = dy.shape[dim] - 2 * pad
            first, last = dy.narrow(dim, 0, pad), dy.narrow(dim, pad + size, pad)
            inner = dy.narrow(dim, pad, size)
            at = torch.arange(size, device=dy.device).view(-1, *[1] * (3 - dim))
            inner = inner + torch.where(at == 0, first.sum(dim, keepdim=True), 0)
            dy = inner + torch.where(at == size - 1, last.sum(dim, keepdim=True), 0)
        return dy
    backward = (
        torch.ops.aten.reflection_pad2d_backward
        if mode == "reflect"
        else torch.ops.aten.replication_pad2d_backward
    )
    # The second argument tells the shape only.
    like = inner.detach()
    return backward(dy, like, [pad] * 4)


def _inductor_may_follow() -> bool:
    """Whether ``torch.compile`` traces: torch's fake of the gradient of replicate padding promises
    inductor a contiguous result where that of a channels-last image is channels-last (2.13), so
    both are spelled out there. Reflection padding inductor spells out itself."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()
