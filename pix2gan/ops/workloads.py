"""What ``pix2gan.ops.bench`` times: each op as generators run it, and the same in stock PyTorch.

The shapes are those of a ResNet generator at 256 x 256 and of the middle layers of a StyleGAN-type
one, an image at a time on a CPU and eight at a time elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import pix2gan.ops as public

OPS = ("bias_act", "upfirdn2d", "instance_norm_act", "modulated_conv2d")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

_TAPS = (1.0, 3.0, 3.0, 1.0)
_SQRT2 = math.sqrt(2)


@dataclass(frozen=True)
class Workload:
    """One op on one input. The functions take ``inputs`` by name and return the output."""

    op: str
    case: str
    inputs: dict[str, Tensor]  # all of them get gradients; x is the first
    ours: Callable[..., Tensor]
    stock: Callable[..., Tensor]
    vendor: Callable[..., Tensor] | None = None  # the vendor's plain convolution of this shape
    kept: int = 0  # tensors of x's size that backward has to read besides dy
    multiplications: int = 0  # of forward, each with an addition, where they are what takes time

    @property
    def shape(self) -> list[int]:
        return list(self.inputs["x"].shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs["x"].dtype

    def traffic(self, y: Tensor, direction: str) -> int:
        """Bytes that have to cross the memory bus: inputs read once, outputs written once.

        Parameters and statistics, which are small, are left out, as is what an implementation reads
        a second time.
        """
        images = [t for name, t in self.inputs.items() if name in ("x", "residual")]
        ends = sum(t.numel() for t in images) + y.numel()
        kept = self.kept * self.inputs["x"].numel() if direction == "backward" else 0
        return (ends + kept) * y.element_size()

    def operations(self, direction: str) -> int:
        """Floating-point operations of the convolution; its two gradients cost one each."""
        return 2 * self.multiplications * (2 if direction == "backward" else 1)


def workloads(
    ops: Sequence[str] = OPS,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    device: torch.device | str = "cpu",
    *,
    shrink: int = 1,
) -> Iterator[Workload]:
    """The workloads of some ops; ``shrink`` divides channels and sizes, for tests."""
    device = torch.device(device)
    batch = 1 if device.type == "cpu" else 8
    generator = torch.Generator().manual_seed(0)

    def new(*shape: int) -> Tensor:
        t = torch.randn(shape, generator=generator).to(device, dtype)
        return t.contiguous(memory_format=LAYOUTS[layout]) if len(shape) == 4 else t

    def image(channels: int, size: int) -> Tensor:
        return new(batch, channels // shrink, size // shrink, size // shrink)

    for op in ops:
        if op == "bias_act":
            yield from _bias_act(image(128, 128), new)
        elif op == "upfirdn2d":
            yield from _upfirdn2d(image(128, 128))
        elif op == "instance_norm_act":
            yield from _instance_norm_act(image(64, 256), image(256, 64), new)
        elif op == "modulated_conv2d":
            yield from _modulated_conv2d(image(256, 64), image(256, 32), new)
        else:
            raise ValueError(f"there is no op {op!r} to time, only {', '.join(OPS)}")


New = Callable[..., Tensor]


# ----------------------------------------------------------------------------------------- bias_act


def _bias_act(x: Tensor, new: New) -> Iterator[Workload]:
    inputs = {"x": x, "b": new(x.shape[1])}
    yield Workload(
        "bias_act",
        "lrelu",
        inputs,
        lambda x, b: public.bias_act(x, b, act="lrelu"),
        lambda x, b: F.leaky_relu(x + b[:, None, None], 0.2) * _SQRT2,
        kept=1,
    )
    yield Workload(
        "bias_act",
        "swish",
        inputs,
        lambda x, b: public.bias_act(x, b, act="swish"),
        lambda x, b: F.silu(x + b[:, None, None]) * _SQRT2,
        kept=1,
    )


# ---------------------------------------------------------------------------------------- upfirdn2d


def _upfirdn2d(x: Tensor) -> Iterator[Workload]:
    channels = x.shape[1]
    f = public.setup_filter(_TAPS, device=x.device)
    taps = f.to(x.dtype).expand(channels, 1, 4, 4)

    def zero_insertion(x: Tensor) -> Tensor:
        z = F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1))
        z = z.reshape(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        return F.conv2d(F.pad(z, (2, 1, 2, 1)), 4 * taps, groups=channels)

    yield Workload(
        "upfirdn2d",
        "up 2, 4 taps",
        {"x": x},
        lambda x: public.upsample2d(x, f),
        zero_insertion,
        lambda x: F.conv_transpose2d(x, 4 * taps, stride=2, padding=1, groups=channels),
    )
    yield Workload(
        "upfirdn2d",
        "down 2, 4 taps",
        {"x": x},
        lambda x: public.downsample2d(x, f),
        lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1)), taps, stride=2, groups=channels),
        lambda x: F.conv2d(x, taps, stride=2, padding=1, groups=channels),
    )
    yield Workload(
        "upfirdn2d",
        "filter, 4 taps",
        {"x": x},
        lambda x: public.filter2d(x, f),
        lambda x: F.conv2d(F.pad(x, (2, 1, 2, 1)), taps, groups=channels),
    )


# -------------------------------------------------------------------------------- instance_norm_act


def _instance_norm_act(large: Tensor, small: Tensor, new: New) -> Iterator[Workload]:
    yield Workload(
        "instance_norm_act",
        "relu",
        {"x": large},
        lambda x: public.instance_norm_act(x, act="relu"),
        lambda x: F.relu(F.instance_norm(x)),
        kept=1,
    )
    yield Workload(
        "instance_norm_act",
        "relu, reflect padding 1",
        {"x": small},
        lambda x: public.instance_norm_act(x, act="relu", pad=1),
        lambda x: F.pad(F.relu(F.instance_norm(x)), (1, 1, 1, 1), "reflect"),
        kept=1,
    )
    yield Workload(
        "instance_norm_act",
        "residual, reflect padding 1",
        {"x": small, "residual": new(*small.shape)},
        lambda x, residual: public.instance_norm_act(x, residual=residual, pad=1),
        lambda x, residual: F.pad(F.instance_norm(x) + residual, (1, 1, 1, 1), "reflect"),
        kept=1,
    )


# --------------------------------------------------------------------------------- modulated_conv2d


def _modulated_weight(weight: Tensor, styles: Tensor) -> Tensor:
    """A demodulated weight for each sample: [N, O, I, k, k]."""
    w = weight * styles[:, None, :, None, None]
    return w * torch.rsqrt(w.square().sum((2, 3, 4), keepdim=True) + 1e-8)


def _grouped_conv(x: Tensor, weight: Tensor, styles: Tensor, b: Tensor) -> Tensor:
    """The convolution as the paper describes it: a group for each sample."""
    n, _, height, width = x.shape
    w = _modulated_weight(weight, styles).flatten(0, 1)
    y = F.conv2d(x.reshape(1, -1, height, width), w, padding=weight.shape[2] // 2, groups=n).view(
        n, -1, height, width
    )
    return F.leaky_relu(y + b[:, None, None], 0.2) * _SQRT2


def _modulated_conv2d(x: Tensor, half: Tensor, new: New) -> Iterator[Workload]:
    n, inner, height, width = x.shape
    for k in (3, 1):
        yield Workload(
            "modulated_conv2d",
            f"{k}x{k}",
            {
                "x": x,
                "weight": new(inner, inner, k, k),
                "styles": new(n, inner),
                "b": new(inner),
            },
            lambda x, weight, styles, b: public.modulated_conv2d(
                x, weight, styles, padding=weight.shape[2] // 2, b=b, act="lrelu"
            ),
            _grouped_conv,
            lambda x, weight, styles, b: F.conv2d(x, weight, padding=weight.shape[2] // 2),
            multiplications=n * inner * inner * k * k * height * width,
        )
    outer = inner // 2
    f = public.setup_filter(_TAPS, device=x.device)
    taps = 4 * f.to(x.dtype).expand(outer, 1, 4, 4)

    def grouped_transposed(x: Tensor, weight: Tensor, styles: Tensor, b: Tensor) -> Tensor:
        w = _modulated_weight(weight, styles).transpose(1, 2).flip((3, 4)).flatten(0, 1)
        full = F.conv_transpose2d(x.reshape(1, -1, *x.shape[2:]), w, stride=2, groups=x.shape[0])
        full = full.view(x.shape[0], -1, *full.shape[2:])
        y = F.conv2d(full, taps, padding=1, groups=taps.shape[0])
        return F.leaky_relu(y + b[:, None, None], 0.2) * _SQRT2

    yield Workload(
        "modulated_conv2d",
        "3x3 up 2, 4 taps",
        {
            "x": half,
            "weight": new(outer, inner, 3, 3),
            "styles": new(n, inner),
            "b": new(outer),
        },
        lambda x, weight, styles, b: public.modulated_conv2d(
            x, weight, styles, up=2, padding=1, resample_filter=f, b=b, act="lrelu"
        ),
        grouped_transposed,
        lambda x, weight, styles, b: F.conv_transpose2d(
            x, weight.transpose(0, 1), stride=2, padding=1, output_padding=1
        ),
        multiplications=n * inner * outer * 9 * half.shape[2] * half.shape[3],
    )
