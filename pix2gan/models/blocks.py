"""What the networks are made of: convolutions, and what follows a convolution, fused.

A convolution here never adds its own bias: bias and activation are one op (``ops.bias_act``), and
so are instance norm, activation, residual and the padding for the *next* convolution
(``ops.instance_norm_act``). Every layer therefore says by ``border`` how it wants its input padded,
and is told by ``border=`` how the layer after it wants that; nothing is copied merely to be padded.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2gan import ops
from pix2gan.ops.padding import pad_image

from .convolutions import conv2d, conv_transpose2d

LEAKY_SLOPE = 0.2
DROPOUT_PROBABILITY = 0.5
FOLDING_PIXELS = 256


class Border(NamedTuple):
    """The padding that a layer wants around its input."""

    width: int
    mode: str  # "reflect" or "replicate"; zeros are left to the convolution, which has them free


NO_BORDER = Border(0, "reflect")


class Geometry(NamedTuple):
    """How the rows (and columns) of a layer's output lie over those of its input.

    There are ``up / down`` times as many. One depends on those that lie under it, and on ``reach``
    more on either side.
    """

    up: int
    down: int
    reach: int


def pad(x: Tensor, border: Border) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2 width, W + 2 width]."""
    return pad_image(x, border.width, border.mode)


def interior(x: Tensor, border: Border) -> Tensor:
    """The view that ``pad`` was applied to: [N, C, H + 2 width, W + 2 width] -> [N, C, H, W]."""
    width = border.width
    return x[:, :, width:-width, width:-width] if width else x


def with_interior(x: Tensor, border: Border) -> tuple[Tensor, Tensor]:
    """x and its ``interior``, for two readers whose gradients are added in one pass."""
    if not border.width or torch.compiler.is_compiling():
        return x, interior(x, border)
    both: tuple[Tensor, Tensor] = _WithInterior.apply(x, border)  # type: ignore[no-untyped-call]
    return both


class _WithInterior(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, border: Border) -> tuple[Tensor, Tensor]:
        ctx.border = border
        ctx.set_materialize_grads(False)
        return x.view_as(x), interior(x, border)

    @staticmethod
    def backward(
        ctx: Any, whole: Tensor | None, inner: Tensor | None
    ) -> tuple[Tensor | None, None]:
        if inner is None:
            return whole, None
        width = ctx.border.width
        if whole is None or torch.is_grad_enabled():
            padded = F.pad(inner, (width,) * 4)
            return padded if whole is None else whole + padded, None
        total = torch.empty_like(whole)
        torch.add(interior(whole, ctx.border), inner, out=interior(total, ctx.border))
        for dim in (2, 3):
            for first in (0, whole.shape[dim] - width):
                total.narrow(dim, first, width).copy_(whole.narrow(dim, first, width))
        return total, None


class DeferredBiasConv2d(nn.Conv2d):
    """A convolution whose bias is added by the op behind it, not by itself.

    ``rounded_weight`` is what it computes with where there is one, see ``keep_rounded_weights``.
    """

    border = NO_BORDER
    rounded_weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = _weight_to_compute_with(self, x)
        return conv2d(x, weight, self.stride[0], int(self.padding[0]))

    @property
    def geometry(self) -> Geometry:
        return Geometry(1, self.stride[0], self.kernel_size[0] // 2)


class PaddedConv2d(DeferredBiasConv2d):
    """A stride-1 convolution of an odd kernel that keeps the size, with a border of any mode."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, padding: str, bias: bool
    ) -> None:
        width = kernel // 2
        zeros = width if padding == "zeros" else 0
        super().__init__(in_channels, out_channels, kernel, padding=zeros, bias=bias)
        self.border = NO_BORDER if padding == "zeros" else Border(width, padding)


class DeferredBiasConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution whose bias is added by the op behind it, not by itself.

    Of a kernel of 3 or 4 and stride 2: height and width are doubled. ``rounded_weight``: as of
    ``DeferredBiasConv2d``.
    """

    border = NO_BORDER
    geometry = Geometry(2, 1, 1)
    rounded_weight: Tensor | None = None

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        # The output size is fixed by the architecture; the argument is the base class's.
        assert isinstance(self.padding, tuple)
        weight = _weight_to_compute_with(self, x)
        return conv_transpose2d(x, weight, self.stride[0], self.padding[0], self.output_padding[0])


class NearestUpConv2d(DeferredBiasConv2d):
    """Nearest-neighbour upsampling by 2, a border of 1, then a 3x3 convolution.

    Upsampled pixels come in equal pairs, so this is also a transposed 4x4 convolution of stride 2
    whose taps are sums of the nine: 16 multiplications an input pixel for 36, and no enlarged
    copy of the input. Forward and backward took a third of the time on CPU for planes of 16x16
    and more; below, folding the weights costs more than it saves. A reflected border of 1 repeats
    the outermost pixel of an enlarged plane, so it equals a replicated one of the small plane.
    """

    geometry = Geometry(2, 1, 1)

    def __init__(self, in_channels: int, out_channels: int, *, padding: str, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, bias=bias)
        self.border = NO_BORDER if padding == "zeros" else Border(1, "replicate")

    def forward(self, x: Tensor) -> Tensor:
        # x: [N, C, H, W] with its border -> [N, O, 2H, 2W] of the plane without
        width = self.border.width
        # A graph that is exported is for images of any size: it must not look at one.
        if (
            torch.compiler.is_exporting()
            or (x.shape[-2] - 2 * width) * (x.shape[-1] - 2 * width) >= FOLDING_PIXELS
        ):
            return F.conv_transpose2d(
                x, _fold_nearest(self.weight), None, stride=2, padding=1 + 2 * width
            )
        enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if width:
            return F.conv2d(enlarged[:, :, 1:-1, 1:-1], self.weight)
        return F.conv2d(enlarged, self.weight, padding=1)


def _fold_nearest(weight: Tensor) -> Tensor:
    """[O, I, 3, 3] -> [I, O, 4, 4], the transposed convolution that also enlarges by nearest."""
    weight = weight.transpose(0, 1)
    for axis in (-2, -1):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack((last, middle + last, first + middle, first), axis)
    return weight


class BlurUpConv2d(DeferredBiasConv2d):
    """Antialiased upsampling by 2 with [1, 3, 3, 1] x [1, 3, 3, 1], then a 3x3 convolution.

    As in CUT: the filter sees replicated borders, the convolution zeros.
    """

    border = Border(1, "replicate")
    geometry = Geometry(2, 1, 2)
    filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        self.register_buffer("filter", ops.setup_filter([1, 3, 3, 1]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # x: [N, C, H + 2, W + 2] -> [N, O, 2H, 2W]
        x = ops.upfirdn2d(x, self.filter.float(), up=2, padding=[0, -1, 0, -1], gain=4)
        return super().forward(x)


class ConvNormAct(nn.Module):
    """A convolution, then norm, activation, dropout, residual and the next layer's padding.

    ``norm`` is "instance" (not affine, the image's own statistics), "batch" or "none".

    A bias in front of an instance norm is cancelled by it. It is kept, because the architectures
    of the papers count it and their checkpoints hold it, but frozen and never read: no pass over
    memory, no gradient of rounding noise for the optimizer to follow. One in front of a batch norm
    (pix2pixHD's have it) counts where running statistics normalise, and is added.

    ``image_statistics``: out of training, a batch norm normalises each image by its own statistics
    and not by the running ones. That is what a batch norm in training mode makes of a batch of one,
    and how the original pix2pix is tested.

    ``lasting_dropout``: out of training, dropout goes on, with masks from this generator (on the
    CPU). So the original pix2pix is tested, too.
    """

    image_statistics = False
    lasting_dropout: torch.Generator | None = None

    def __init__(
        self,
        conv: DeferredBiasConv2d | DeferredBiasConvTranspose2d,
        *,
        norm: str,
        act: str,
        dropout: bool = False,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.act = act
        self.dropout = dropout
        self.batch_norm = nn.BatchNorm2d(conv.out_channels) if norm == "batch" else None
        if norm == "instance" and conv.bias is not None:
            conv.bias.requires_grad_(False)

    @property
    def border(self) -> Border:
        return self.conv.border

    @property
    def geometry(self) -> Geometry:
        return self.conv.geometry

    @property
    def out_channels(self) -> int:
        return self.conv.out_channels

    def convolve(self, x: Tensor) -> Tensor:
        """The part that looks at neighbours: [N, C, H, W] with ``border`` -> [N, O, H', W']."""
        return self.conv(x)

    def finish(
        self, x: Tensor, stats: ops.InstanceNormStats | None, residual: Tensor | None = None
    ) -> Tensor:
        """What follows ``convolve`` out of training; ``stats`` where the layer ``normalises``."""
        return (
            self.activate(x, residual)
            if stats is None
            else self.normalise(x, stats, NO_BORDER, residual)
        )

    def forward(
        self, x: Tensor, border: Border = NO_BORDER, residual: Tensor | None = None
    ) -> Tensor:
        # x: [N, C, H, W] with self.border -> [N, O, H', W'] with border; residual: [N, O, H', W']
        x = self.conv(x)
        lasting = None if self.training else self.lasting_dropout
        dropping = self.dropout and (self.training or lasting is not None)
        if self.normalises:
            fused = NO_BORDER if dropping else border
            x = self.normalise(x, None, fused, residual)
            if not dropping:
                return x
        else:
            x = self.activate(x, residual)
        if lasting is not None and dropping:
            x = _drop(x, lasting)
        elif dropping:
            x = F.dropout(x, DROPOUT_PROBABILITY)
        return pad(x, border)

    @property
    def normalises(self) -> bool:
        """Whether what this layer makes depends on the statistics of the whole image."""
        if self.batch_norm is not None:
            return self.image_statistics and not self.training
        return self.norm == "instance"

    def normalise(
        self,
        x: Tensor,
        stats: ops.InstanceNormStats | None = None,
        border: Border = NO_BORDER,
        residual: Tensor | None = None,
    ) -> Tensor:
        """What follows a convolution whose image is normalised, by its own statistics or ``stats``.

        x: [N, C, H, W]; with border in the result.
        """
        affine = self.batch_norm
        return ops.instance_norm_act(
            x,
            None if affine is None else affine.weight,
            None if affine is None else affine.bias,
            act=self.act,
            alpha=LEAKY_SLOPE,
            residual=residual,
            pad=border.width,
            pad_mode=border.mode,
            mean=None if stats is None else stats.mean,
            rstd=None if stats is None else stats.rstd(),
        )

    def activate(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """What follows a convolution in all other cases: batch norm or none, activation."""
        bias = self.conv.bias
        if self.batch_norm is not None:
            x = x if bias is None else ops.bias_act(x, bias, act="linear", gain=1)
            x = self.batch_norm(x)
            bias = None
        x = ops.bias_act(x, bias, act=self.act, alpha=LEAKY_SLOPE, gain=1)
        return x if residual is None else x + residual


def _drop(x: Tensor, masks: torch.Generator) -> Tensor:
    """Dropout with a mask that is the same on every device and in every memory format."""
    kept = torch.empty(x.shape).bernoulli_(1 - DROPOUT_PROBABILITY, generator=masks)
    return x * (kept / (1 - DROPOUT_PROBABILITY)).to(x)


def _weight_to_compute_with(
    conv: DeferredBiasConv2d | DeferredBiasConvTranspose2d, x: Tensor
) -> Tensor:
    if conv.rounded_weight is None:
        return conv.weight
    if torch.is_autocast_enabled(x.device.type):
        return conv.rounded_weight
    # In float32 among what is trained, gradients still go to the copy.
    return conv.rounded_weight.to(x.dtype) if torch.is_grad_enabled() else conv.weight


def keep_rounded_weights(network: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Let convolutions compute with copies of their weights in bfloat16, which get the gradients.

    Whoever changes a weight then changes its copy, and nothing is converted in forward or backward.
    Left out are weights that are computed from others (spectral norm) or summed in float32.

    Returns:
        The copy of each weight that has one, in its layout.
    """
    copies = {}
    for module in network.modules():
        if isinstance(module, (DeferredBiasConv2d, DeferredBiasConvTranspose2d)):
            weight = module._parameters.get("weight")
            if weight is not None and not isinstance(module, NearestUpConv2d):
                module.rounded_weight = weight.detach().bfloat16().requires_grad_()
                copies[weight] = module.rounded_weight
    return copies


class Resampling(nn.Module):
    """A layer without weights: nothing follows what it makes of its neighbourhoods."""

    border = NO_BORDER
    geometry: ClassVar[Geometry]
    out_channels = None  # as many as came in
    normalises = False

    def convolve(self, x: Tensor) -> Tensor:
        """[N, C, H, W] with ``border`` -> [N, C, H', W']."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x)

    def finish(
        self, x: Tensor, stats: ops.InstanceNormStats | None, residual: Tensor | None = None
    ) -> Tensor:
        return x if residual is None else x + residual


class HalfImage(Resampling):
    """Averages of 3x3 pixels, every second one; pixels outside of the image do not count."""

    geometry = Geometry(1, 2, 1)

    def convolve(self, x: Tensor) -> Tensor:
        # x: [N, C, H, W] -> [N, C, H / 2, W / 2]
        return F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)


class BlurredHalf(Resampling):
    """Every second pixel behind the filter [1, 2, 1] x [1, 2, 1], which sees a reflection."""

    border = Border(1, "reflect")
    geometry = Geometry(1, 2, 1)
    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", ops.setup_filter([1, 2, 1]), persistent=False)

    def convolve(self, x: Tensor) -> Tensor:
        # x: [N, C, H + 2, W + 2] -> [N, C, H / 2, W / 2]
        return ops.upfirdn2d(x, self.filter.float(), down=2)


class BlurDown(nn.Module):
    """A 3x3 convolution at full size, norm and activation, then antialiased downsampling by 2.

    As in CUT: the convolution sees zeros at the border, the filter a reflection.
    """

    border = NO_BORDER

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: str, act: str, bias: bool
    ) -> None:
        super().__init__()
        conv = DeferredBiasConv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.layer = ConvNormAct(conv, norm=norm, act=act)
        self.shrink = BlurredHalf()

    def forward(self, x: Tensor, border: Border = NO_BORDER) -> Tensor:
        # x: [N, C, H, W] -> [N, O, H / 2, W / 2] with border
        return pad(self.shrink(self.layer(x, self.shrink.border)), border)


def make_down(
    in_channels: int,
    out_channels: int,
    *,
    downsampling: str,
    kernel: int,
    norm: str,
    act: str,
    bias: bool,
) -> ConvNormAct | BlurDown:
    """A layer that halves height and width; ``kernel`` (3 or 4) is that of "strided"."""
    if downsampling == "blur":
        return BlurDown(in_channels, out_channels, norm=norm, act=act, bias=bias)
    conv = DeferredBiasConv2d(in_channels, out_channels, kernel, stride=2, padding=1, bias=bias)
    return ConvNormAct(conv, norm=norm, act=act)


def make_up(
    in_channels: int,
    out_channels: int,
    *,
    upsampling: str,
    kernel: int,
    padding: str,
    norm: str,
    act: str,
    bias: bool,
    dropout: bool = False,
) -> ConvNormAct:
    """A layer that doubles height and width; ``kernel`` (3 or 4) is that of "transposed"."""
    conv: DeferredBiasConv2d | DeferredBiasConvTranspose2d
    if upsampling == "nearest":
        conv = NearestUpConv2d(in_channels, out_channels, padding=padding, bias=bias)
    elif upsampling == "blur":
        conv = BlurUpConv2d(in_channels, out_channels, bias=bias)
    else:
        conv = DeferredBiasConvTranspose2d(
            in_channels,
            out_channels,
            kernel,
            stride=2,
            padding=1,
            output_padding=kernel % 2,
            bias=bias,
        )
    return ConvNormAct(conv, norm=norm, act=act, dropout=dropout)
