"""Dtypes and memory formats that the ops and the backends agree on."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory_format(x: Tensor) -> torch.memory_format:
    """The format of an output that belongs to ``x``.

    Channels-last if and only if x is that and not contiguous as well: the one rule by which fakes
    promise strides and ops allocate. Anything else, strided views included, gives a contiguous
    output.
    """
    channels_last = (
        x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    return torch.channels_last if channels_last else torch.contiguous_format


def new_output(x: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """An uninitialised tensor of x's dtype and device in the memory format that belongs to x."""
    if memory_format(x) is torch.contiguous_format:
        return x.new_empty(shape)
    n, c, height, width = shape
    # half as long as torch.empty(memory_format=) takes
    return x.new_empty_strided((n, c, height, width), (c * height * width, 1, c * width, c))


def require_floating(x: Tensor, name: str) -> None:
    """``TypeError`` unless x is a float64, float32, float16 or bfloat16 tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} must be float64, float32, float16 or bfloat16, not {x.dtype}")


def require_same_device(x: Tensor, other: Tensor, name: str) -> None:
    """``ValueError`` unless ``other`` is on x's device."""
    if other.device != x.device:
        raise ValueError(f"{name} is on {other.device}, x on {x.device}: move one of them")
