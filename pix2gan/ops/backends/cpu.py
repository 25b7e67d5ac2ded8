"""The native CPU backend: the kernels of csrc/cpu, for float32, float16 and bfloat16.

They come in one library for x86-64 and arm64 that picks SSE2, AVX2, AVX-512 (with or without
bfloat16) or NEON when it runs. Of ``scaled_conv2d`` the kernels do what surrounds the convolution,
which itself is PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pix2gan.ops.backends import _native

DEVICES = ("cpu",)
DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})

# The positions of the tensors that hold data, all of one dtype.
_DATA = {
    "bias_act": (0,),
    "bias_act_grad": (0, 1, 3),
    "bias_act_grad2": (0, 1, 2),
    "upfirdn2d": (0,),
    "instance_norm_stats": (0,),
    "instance_norm_act": (0, 5),
    "instance_norm_act_grad": (0, 1),
    "scaled_conv2d": (0, 1, 9),
    "scaled_conv2d_wgrad": (0, 1),
    "sum_rows": (0,),
}
# Of a step of Adam the gradient alone has a choice.
_GRADIENTS = frozenset({torch.float32, torch.bfloat16})


def is_available() -> tuple[bool, str]:
    """Loads the library, compiling it where that is necessary and possible."""
    return _native.load(_native.CPU)


def supports(primitive: str, *args: Any) -> bool:
    if primitive == "adam_step":
        return args[0].dtype == torch.float32 and args[1].dtype in _GRADIENTS
    if primitive == "thin_product":
        return args[0].dtype == args[1].dtype == torch.bfloat16
    positions = _DATA.get(primitive)
    if positions is None:
        return False
    dtype = args[0].dtype
    return dtype in DTYPES and all(args[i] is None or args[i].dtype == dtype for i in positions[1:])


def __getattr__(name: str) -> Any:
    """What ``pix2gan.ops.dispatch.compute`` asks for, straight from PyTorch."""
    if name == "new_instance_norm_act":
        op = torch.ops.pix2gan_native.new_instance_norm_act.default
        return getattr(op, "_op", op)  # without the Python function around it
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# The native ops take the arguments of the primitives as they are.


def bias_act(*args: Any) -> None:
    torch.ops.pix2gan_native.bias_act.default(*args)


def bias_act_grad(*args: Any) -> None:
    torch.ops.pix2gan_native.bias_act_grad.default(*args)


def bias_act_grad2(*args: Any) -> None:
    torch.ops.pix2gan_native.bias_act_grad2.default(*args)


def upfirdn2d(*args: Any) -> None:
    torch.ops.pix2gan_native.upfirdn2d.default(*args)


def instance_norm_stats(x: Tensor, mean: Tensor, m2: Tensor) -> None:
    torch.ops.pix2gan_native.instance_norm_stats.default(x, mean, m2)


def instance_norm_act(*args: Any) -> None:
    torch.ops.pix2gan_native.instance_norm_act.default(*args)


def instance_norm_act_grad(*args: Any) -> None:
    torch.ops.pix2gan_native.instance_norm_act_grad.default(*args)


def scaled_conv2d(*args: Any) -> None:
    torch.ops.pix2gan_native.scaled_conv2d.default(*args)


def scaled_conv2d_wgrad(*args: Any) -> None:
    torch.ops.pix2gan_native.scaled_conv2d_wgrad.default(*args)


def adam_step(*args: Any) -> None:
    torch.ops.pix2gan_native.adam_step.default(*args)


def sum_rows(x: Tensor, index: Tensor, out: Tensor) -> None:
    torch.ops.pix2gan_native.sum_rows.default(x, index, out)


def thin_product(a: Tensor, b: Tensor, form: int, out: Tensor) -> None:
    torch.ops.pix2gan_native.thin_product.default(a, b, form, out)
