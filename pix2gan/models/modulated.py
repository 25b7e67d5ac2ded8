"""Pix2Pix's U-Net and CycleGAN's ResNet, built of modulated convolutions.

Every convolution is ``ops.modulated_conv2d``, whose weights a style code scales for each image and
whose demodulation takes the place of normalisation (StyleGAN2, Karras et al. 2020,
arXiv:1912.04958). Bias and leaky ReLU are its epilogue, and halving and doubling go through its
antialiasing filter (arXiv:1904.11486), so that nothing stands between two convolutions but the skip
and the residual connections.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from pix2gan import ops

from .blocks import NO_BORDER, Geometry
from .layer_graph import IMAGE, Input, Layer, chain
from .options import check_count
from .style import StyledGenerator

# StyleGAN2 starts from N(0, 1) and learns at 2e-3; these networks learn at Pix2Pix's 2e-4.
STANDARD_DEVIATION = 0.1
FILTER = (1, 3, 3, 1)
RESNET_DOWNS = 2


class ModulatedConv2d(nn.Module):
    """act(modulated convolution + bias), resampled by ``up`` or ``down``.

    The size is otherwise kept, with zeros around. The scale of the weights is divided out by the
    demodulation; what it decides is how far a step of Adam turns them.
    """

    filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        up: int = 1,
        down: int = 1,
        demodulate: bool = True,
        act: str = "lrelu",
    ) -> None:
        super().__init__()
        self.in_channels, self.kernel, self.up, self.down = in_channels, kernel, up, down
        self.demodulate, self.act = demodulate, act
        # Without demodulation: unit variance all the same, from weights that a step of Adam turns
        # as far as it does the others ("equalised learning rate", arXiv:1710.10196)
        self.scale = 1 / (STANDARD_DEVIATION * math.sqrt(in_channels * kernel**2))
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        nn.init.normal_(self.weight, 0.0, STANDARD_DEVIATION)
        nn.init.zeros_(self.bias)
        resampling = ops.setup_filter(FILTER) if up * down > 1 else None
        self.register_buffer("filter", resampling, persistent=False)

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        # x: [N, I, H, W], styles: [N, I] or [1, I] -> [N, O, H up / down, W up / down]
        if not self.demodulate:
            styles = styles * self.scale
        return ops.modulated_conv2d(
            x,
            self.weight,
            styles.expand(x.shape[0], -1),
            up=self.up,
            down=self.down,
            padding=self.kernel // 2,
            resample_filter=None if self.filter is None else self.filter.float(),
            demodulate=self.demodulate,
            b=self.bias,
            act=self.act,
        )


class StyledLayer(nn.Module):
    """A modulated convolution in a style that is known, as a step of ``layer_graph``.

    The residual that it is given is added as ``ModulatedBlock`` does.
    """

    border = NO_BORDER
    normalises = False

    def __init__(self, conv: ModulatedConv2d, styles: Tensor) -> None:
        super().__init__()
        self.conv, self.styles = conv, styles  # styles: [1, I]

    @property
    def geometry(self) -> Geometry:
        # the filter of 4 taps lies behind the convolution, both at the higher resolution
        beyond = self.conv.kernel // 2 + (2 if self.conv.filter is not None else 0)
        return Geometry(self.conv.up, self.conv.down, -(-beyond // self.conv.up))

    @property
    def out_channels(self) -> int:
        return self.conv.weight.shape[0]

    def convolve(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H up / down, W up / down]"""
        return self.conv(x, self.styles)

    def finish(
        self, x: Tensor, stats: ops.InstanceNormStats | None, residual: Tensor | None = None
    ) -> Tensor:
        return x if residual is None else add_residual(x, residual)


def add_residual(x: Tensor, residual: Tensor) -> Tensor:
    """The variance stays what it was."""
    return (x + residual) * math.sqrt(0.5)


def to_image(in_channels: int, out_channels: int) -> ModulatedConv2d:
    """The last layer: 1x1, tanh, and not demodulated, so that a channel can be faint."""
    return ModulatedConv2d(in_channels, out_channels, 1, demodulate=False, act="tanh")


def convolutions(network: nn.Module) -> list[ModulatedConv2d]:
    """Every modulated convolution, in the order of registration, which is that of their styles."""
    return [m for m in network.modules() if isinstance(m, ModulatedConv2d)]


def style_sizes(network: nn.Module) -> list[int]:
    """The input channels of every modulated convolution."""
    return [conv.in_channels for conv in convolutions(network)]


def styled_layers(network: StyledGenerator, z: Tensor | None) -> Iterator[StyledLayer]:
    """Every modulated convolution in the style of ``z`` [1, style_channels]; None is the fixed."""
    return map(StyledLayer, convolutions(network), network.styles(network.fixed_draws[:1], z))


class Doubling(nn.Module):
    """An antialiased doubling, then a convolution over the skip and what was doubled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = ModulatedConv2d(in_channels, out_channels, up=2)
        self.merge = ModulatedConv2d(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor, styles: Iterator[Tensor]) -> Tensor:
        # x: [N, I, H, W], skip: [N, O, 2H, 2W] -> [N, O, 2H, 2W]
        x = self.up(x, next(styles))
        merged: Tensor = self.merge(torch.cat((skip, x), dim=1), next(styles))
        return merged


class ModulatedUNet(StyledGenerator):
    """A convolution, ``num_downs`` halvings, as many doublings, a skip between planes of one size.

    Planes of 1 / 2**i of the image's size have ``width * min(2**(i - 1), max_width_factor)``
    channels, as in ``UNet``; those of full size, which ``UNet`` does without, ``width // 2``.

    Stages, with n = num_downs: 0 the input; 1 the first convolution; 2 to n + 1 the halvings;
    n + 2 to 2n + 1 the doublings, from the innermost outwards; 2n + 2 the output image.
    """

    def __init__(
        self,
        *,
        name: str = "modulated_unet",
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        num_downs: int = 6,
        max_width_factor: int = 4,
        style_channels: int = 64,
        code_channels: int = 128,
        mapping_layers: int = 3,
    ) -> None:
        super().__init__()
        self.config = {
            "name": name,
            "in_channels": check_count("in_channels", in_channels),
            "out_channels": check_count("out_channels", out_channels),
            "width": check_count("width", width, minimum=2),
            "num_downs": check_count("num_downs", num_downs),
            "max_width_factor": check_count("max_width_factor", max_width_factor),
            "style_channels": check_count("style_channels", style_channels),
            "code_channels": check_count("code_channels", code_channels),
            "mapping_layers": check_count("mapping_layers", mapping_layers),
        }
        self.multiple = self.minimum_size = 2**num_downs
        channels = [
            width // 2,
            *(width * min(2**level, max_width_factor) for level in range(num_downs)),
        ]
        self.stage_channels = (in_channels, *channels, *reversed(channels[:-1]), out_channels)
        # All in the order in which run_stages needs them, and so their styles
        self.stem = ModulatedConv2d(in_channels, channels[0])
        self.downs = nn.ModuleList(
            ModulatedConv2d(channels[level], channels[level + 1], down=2)
            for level in range(num_downs)
        )
        self.ups = nn.ModuleList(
            Doubling(channels[level + 1], channels[level]) for level in reversed(range(num_downs))
        )
        self.head = to_image(channels[0], out_channels)
        self._make_styles(style_sizes(self))

    def run_stages(
        self, x: Tensor, wanted: Collection[int], styles: Sequence[Tensor] | None = None
    ) -> dict[int, Tensor]:
        remaining = iter(self.styles(x) if styles is None else styles)
        found = {0: x}
        skips: list[Tensor] = []
        layers = [self.stem, *self.downs, *self.ups, self.head][: max(wanted)]
        for stage, layer in enumerate(layers, start=1):
            if isinstance(layer, Doubling):
                x = layer(x, skips.pop(), remaining)
            else:
                x = layer(x, next(remaining))
                if stage <= len(self.downs):
                    skips.append(x)
            if stage in wanted:
                found[stage] = x
        return {stage: found[stage] for stage in wanted}

    def layer_graph(self, z: Tensor | None = None) -> list[Layer]:
        layers: list[Layer] = []
        styled = styled_layers(self, z)
        planes = [chain(layers, {"stem": next(styled)}, IMAGE)]
        for level in range(len(self.downs)):
            planes.append(chain(layers, {f"downs.{level}": next(styled)}, planes[-1]))
        inner = planes.pop()
        for number in range(len(self.ups)):
            up = chain(layers, {f"ups.{number}.up": next(styled)}, inner)
            inner = f"ups.{number}"
            layers.append(Layer(inner, next(styled), (Input(planes.pop()), Input(up))))
        chain(layers, {"head": next(styled)}, inner)
        return layers


class ModulatedBlock(nn.Module):
    """(x + conv(lrelu(conv(x)))) / sqrt(2): the variance of x stays what it was."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ModulatedConv2d(channels, channels)
        self.second = ModulatedConv2d(channels, channels, act="linear")

    def forward(self, x: Tensor, styles: Iterator[Tensor]) -> Tensor:
        # x: [N, C, H, W] -> the same shape
        return add_residual(self.second(self.first(x, next(styles)), next(styles)), x)


class ModulatedResNet(StyledGenerator):
    """A convolution, two halvings, ``num_blocks`` residual blocks, two doublings, an image.

    Channels: ``width``, 2 ``width``, 4 ``width`` and back, as in ``ResNet``; the first convolution
    is 3x3 and the last 1x1.

    Stages, with b = num_blocks: 0 the input; 1 the first convolution; 2 and 3 the halvings; 4 to
    b + 3 the blocks; b + 4 and b + 5 the doublings; b + 6 the output image.
    """

    def __init__(
        self,
        *,
        name: str = "modulated_resnet",
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        num_blocks: int = 9,
        style_channels: int = 64,
        code_channels: int = 128,
        mapping_layers: int = 3,
    ) -> None:
        super().__init__()
        self.config = {
            "name": name,
            "in_channels": check_count("in_channels", in_channels),
            "out_channels": check_count("out_channels", out_channels),
            "width": check_count("width", width),
            "num_blocks": check_count("num_blocks", num_blocks, minimum=0),
            "style_channels": check_count("style_channels", style_channels),
            "code_channels": check_count("code_channels", code_channels),
            "mapping_layers": check_count("mapping_layers", mapping_layers),
        }
        self.multiple = self.minimum_size = 2**RESNET_DOWNS
        channels = [width * 2**level for level in range(RESNET_DOWNS + 1)]
        self.stage_channels = (
            in_channels,
            *channels,
            *[channels[-1]] * num_blocks,
            *reversed(channels[:-1]),
            out_channels,
        )
        # All in the order in which run_stages needs them, and so their styles
        self.stem = ModulatedConv2d(in_channels, width)
        self.downs = nn.ModuleList(
            ModulatedConv2d(channels[level], channels[level + 1], down=2)
            for level in range(RESNET_DOWNS)
        )
        self.blocks = nn.ModuleList(ModulatedBlock(channels[-1]) for _ in range(num_blocks))
        self.ups = nn.ModuleList(
            ModulatedConv2d(channels[level + 1], channels[level], up=2)
            for level in reversed(range(RESNET_DOWNS))
        )
        self.head = to_image(width, out_channels)
        self._make_styles(style_sizes(self))

    def run_stages(
        self, x: Tensor, wanted: Collection[int], styles: Sequence[Tensor] | None = None
    ) -> dict[int, Tensor]:
        remaining = iter(self.styles(x) if styles is None else styles)
        found = {0: x}
        layers = [self.stem, *self.downs, *self.blocks, *self.ups, self.head][: max(wanted)]
        for stage, layer in enumerate(layers, start=1):
            if isinstance(layer, ModulatedBlock):
                x = layer(x, remaining)
            else:
                x = layer(x, next(remaining))
            if stage in wanted:
                found[stage] = x
        return {stage: found[stage] for stage in wanted}

    def layer_graph(self, z: Tensor | None = None) -> list[Layer]:
        layers: list[Layer] = []
        styled = styled_layers(self, z)
        last = chain(layers, {"stem": next(styled)}, IMAGE)
        for number in range(len(self.downs)):
            last = chain(layers, {f"downs.{number}": next(styled)}, last)
        for number in range(len(self.blocks)):
            first, name = f"blocks.{number}.first", f"blocks.{number}"
            layers.append(Layer(first, next(styled), (Input(last),)))
            layers.append(Layer(name, next(styled), (Input(first),), residual=last))
            last = name
        for number in range(len(self.ups)):
            last = chain(layers, {f"ups.{number}": next(styled)}, last)
        chain(layers, {"head": next(styled)}, last)
        return layers
