"""The coarse-to-fine generator of pix2pixHD (Wang et al., "High-Resolution Image Synthesis and
Semantic Manipulation with Conditional GANs", 2018)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

from torch import Tensor, nn

from .blocks import (
    NO_BORDER,
    Border,
    ConvNormAct,
    HalfImage,
    PaddedConv2d,
    interior,
    make_down,
    make_up,
    pad,
)
from .generator import Generator
from .initialisation import initialise
from .layer_graph import IMAGE, Input, Layer, chain
from .options import NORMS, PADDINGS, check_choice, check_count, check_switch
from .resnet import ResidualBlock, ResNet, add_blocks


class Enhancer(nn.Module):
    """One resolution more: a 7x7 convolution and a halving see the image, the coarser features are
    added, then residual blocks and a doubling."""

    def __init__(
        self, in_channels: int, width: int, num_blocks: int, *, norm: str, padding: str, bias: bool
    ) -> None:
        super().__init__()
        stem = PaddedConv2d(in_channels, width, 7, padding=padding, bias=bias)
        self.stem = ConvNormAct(stem, norm=norm, act="relu")
        self.down = make_down(
            width,
            2 * width,
            downsampling="strided",
            kernel=3,
            norm=norm,
            act="relu",
            bias=bias,
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(2 * width, norm=norm, padding=padding, dropout=False, bias=bias)
            for _ in range(num_blocks)
        )
        self.up = make_up(
            2 * width,
            width,
            upsampling="transposed",
            kernel=3,
            padding=padding,
            norm=norm,
            act="relu",
            bias=bias,
        )

    def stages(
        self, image: Tensor, coarser: Tensor | None, border: Border
    ) -> Iterator[tuple[Tensor, Border]]:
        """Each layer's activation with the border it has; ``coarser`` may be None while only the
        first is taken, the last has ``border``."""
        # image: [N, C, H, W]; coarser: [N, 2 width, H / 2, W / 2]
        x = self.stem(pad(image, self.stem.border))
        yield x, NO_BORDER
        layers = [*self.blocks, self.up]
        borders = [layer.border for layer in layers] + [border]
        assert coarser is not None
        x = pad(self.down(x) + coarser, borders[0])
        yield x, borders[0]
        for layer, after in zip(layers, borders[1:], strict=True):
            x = layer(x, after)
            yield x, after


class Pix2PixHD(Generator):
    """A ResNet at half (a quarter, ...) of the resolution, and an enhancer for each doubling of it.

    ``width`` is that of the finest enhancer; each coarser network has twice that of the one above,
    as the feature maps that are added demand. The ResNet has ``num_downs`` halvings and
    ``num_blocks`` blocks, each of the ``num_enhancers`` has ``enhancer_blocks``. Smaller images are
    averages (3x3, stride 2) of the larger one. All convolutions have biases, also with batch norm.

    Stages: 0 the input; 1 the first convolution of the finest enhancer; 2 its halving, the coarser
    features added; 3 to e + 2 its e blocks; e + 3 its doubling; e + 4 the output image.
    """

    def __init__(
        self,
        *,
        name: str = "pix2pixhd_enhancer",
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 32,
        norm: str = "instance",
        padding: str = "reflect",
        num_downs: int = 4,
        num_blocks: int = 9,
        num_enhancers: int = 1,
        enhancer_blocks: int = 3,
        norm_bias: bool = True,
    ) -> None:
        super().__init__()
        self.config = {
            "name": name,
            "in_channels": check_count("in_channels", in_channels),
            "out_channels": check_count("out_channels", out_channels),
            "width": check_count("width", width),
            "norm": check_choice("norm", norm, NORMS),
            "padding": check_choice("padding", padding, PADDINGS),
            "num_downs": check_count("num_downs", num_downs),
            "num_blocks": check_count("num_blocks", num_blocks, minimum=0),
            "num_enhancers": check_count("num_enhancers", num_enhancers),
            "enhancer_blocks": check_count("enhancer_blocks", enhancer_blocks, minimum=0),
            "norm_bias": check_switch("norm_bias", norm_bias),
        }
        bias = norm_bias or norm != "batch"
        self.coarse = ResNet(
            in_channels=in_channels,
            out_channels=out_channels,
            width=width * 2**num_enhancers,
            norm=norm,
            padding=padding,
            num_blocks=num_blocks,
            num_downs=num_downs,
            norm_bias=norm_bias,
        )
        self.coarse.head = None  # its features are what is wanted
        # from the coarsest to the finest
        self.enhancers = nn.ModuleList(
            Enhancer(
                in_channels,
                width * 2**level,
                enhancer_blocks,
                norm=norm,
                padding=padding,
                bias=bias,
            )
            for level in reversed(range(num_enhancers))
        )
        self.shrink = HalfImage()
        head = PaddedConv2d(width, out_channels, 7, padding=padding, bias=True)
        self.head = ConvNormAct(head, norm="none", act="tanh")
        self.multiple = self.coarse.multiple * 2**num_enhancers
        self.minimum_size = self.coarse.minimum_size * 2**num_enhancers
        blocks = [2 * width] * (1 + enhancer_blocks)
        self.stage_channels = (in_channels, width, *blocks, width, out_channels)
        initialise(self.enhancers)
        initialise(self.head)

    def run_stages(self, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        last = max(wanted)
        found = {0: x}
        if last > 0:
            finest = cast(Enhancer, self.enhancers[-1])
            coarser = self._coarser_features(x) if last > 1 else None
            stages = finest.stages(x, coarser, self.head.border)
            for number, (features, border) in enumerate(stages, start=1):
                if number in wanted:
                    found[number] = interior(features, border)
                if number == last:
                    break
            else:
                found[last] = self.head(features)
        return {stage: found[stage] for stage in wanted}

    def _coarser_features(self, x: Tensor) -> Tensor:
        """What the finest enhancer adds to its own: [N, C, H, W] -> [N, 2 width, H / 2, W / 2]."""
        pyramid = []
        for _ in self.enhancers:
            x = self.shrink(x)
            pyramid.append(x)
        top = len(self.coarse.stage_channels) - 2
        features = self.coarse.run_stages(pyramid.pop(), (top,))[top]
        for enhancer in list(self.enhancers)[:-1]:
            *_, (features, _) = cast(Enhancer, enhancer).stages(pyramid.pop(), features, NO_BORDER)
        return features

    def layer_graph(self) -> list[Layer]:
        layers: list[Layer] = []
        pyramid = [IMAGE]
        for level in range(1, len(self.enhancers) + 1):
            pyramid.append(chain(layers, {f"image.{level}": self.shrink}, pyramid[-1]))
        layers += self.coarse.layers_from(pyramid.pop(), "coarse.")
        last = layers[-1].name
        for number, module in enumerate(self.enhancers):
            enhancer, name = cast(Enhancer, module), f"enhancers.{number}"
            stem = chain(layers, {f"{name}.stem": enhancer.stem}, pyramid.pop())
            down = cast(ConvNormAct, enhancer.down)
            layers.append(Layer(f"{name}.down", down, (Input(stem),), residual=last))
            last = add_blocks(layers, enhancer.blocks, f"{name}.blocks", f"{name}.down")
            last = chain(layers, {f"{name}.up": enhancer.up}, last)
        chain(layers, {"head": self.head}, last)
        return layers
