"""The CUDA C++ backend: the kernels of csrc/cuda, for float32, float16 and bfloat16.

Of ``scaled_conv2d`` the kernels do what surrounds the convolution, which itself is cuDNN's. The
library is built for the GPUs of this machine, at install time or at first use. The kernels
are tested in an emulation on CPUs; they have not run on a GPU yet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pix2gan.ops.backends import _native

# One binding serves both devices: what it takes is the same.
from pix2gan.ops.backends.cpu import DTYPES as DTYPES
from pix2gan.ops.backends.cpu import supports as supports

DEVICES = ("cuda",)


def is_available() -> tuple[bool, str]:
    """Loads the library, compiling it where that is necessary and possible."""
    if torch.version.cuda is None:
        built_for = "AMD GPUs" if torch.version.hip else "the CPU only"
        return False, f"torch {torch.__version__} was built for {built_for}"
    if not torch.cuda.is_available():
        return False, "torch finds no NVIDIA GPU"
    return _native.load(_native.CUDA)


# The native ops take the arguments of the primitives as they are.


def bias_act(*args: Any) -> None:
    torch.ops.pix2gan_cuda.bias_act.default(*args)


def bias_act_grad(*args: Any) -> None:
    torch.ops.pix2gan_cuda.bias_act_grad.default(*args)


def bias_act_grad2(*args: Any) -> None:
    torch.ops.pix2gan_cuda.bias_act_grad2.default(*args)


def upfirdn2d(*args: Any) -> None:
    torch.ops.pix2gan_cuda.upfirdn2d.default(*args)


def instance_norm_stats(x: Tensor, mean: Tensor, m2: Tensor) -> None:
    torch.ops.pix2gan_cuda.instance_norm_stats.default(x, mean, m2)


def instance_norm_act(*args: Any) -> None:
    torch.ops.pix2gan_cuda.instance_norm_act.default(*args)


def instance_norm_act_grad(*args: Any) -> None:
    torch.ops.pix2gan_cuda.instance_norm_act_grad.default(*args)


def scaled_conv2d(*args: Any) -> None:
    torch.ops.pix2gan_cuda.scaled_conv2d.default(*args)


def scaled_conv2d_wgrad(*args: Any) -> None:
    torch.ops.pix2gan_cuda.scaled_conv2d_wgrad.default(*args)
