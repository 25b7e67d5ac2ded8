"""The Triton backend: NVIDIA GPUs from compute capability 8.0 on, and AMD's.

Set TRITON_INTERPRET=1 before Triton is imported, and the kernels run on the CPU, slowly, for tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from pix2gan.ops.backends.triton.bias_act import bias_act, bias_act_grad, bias_act_grad2
    from pix2gan.ops.backends.triton.instance_norm import (
        instance_norm_act,
        instance_norm_act_grad,
        instance_norm_stats,
    )
    from pix2gan.ops.backends.triton.launch import INTERPRETED
    from pix2gan.ops.backends.triton.scaled_conv2d import scaled_conv2d, scaled_conv2d_wgrad
    from pix2gan.ops.backends.triton.upfirdn2d import upfirdn2d

    _problem = ""
except ImportError as error:
    INTERPRETED = False
    _problem = f"Triton cannot be imported ({error}); pip install triton, on Linux"

DEVICES: tuple[str, ...] = ("cpu",) if INTERPRETED else ("cuda",)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Where lanes count the pixels of a plane, they do so in int32, also those of the output, which may
# have four times as many.
LARGEST_PLANE = 2**29


def is_available() -> tuple[bool, str]:
    if _problem or INTERPRETED:
        return not _problem, _problem
    if not torch.cuda.is_available():
        return False, "PyTorch sees no GPU; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly"
    if torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
        return False, "it needs an NVIDIA GPU of compute capability 8.0 or later"
    return True, ""


def supports(primitive: str, *args: Any) -> bool:
    """float32, float16 and bfloat16; norms and convolutions of images that int32 can number."""
    if primitive.startswith(("instance_norm", "scaled_conv2d")):
        x = args[0]
        if x.shape[2] * x.shape[3] > LARGEST_PLANE:
            return False
    return all(a.dtype in DTYPES for a in args if isinstance(a, Tensor))
