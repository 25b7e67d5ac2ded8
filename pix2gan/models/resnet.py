"""The ResNet generator of CycleGAN (Zhu et al., "Unpaired Image-to-Image Translation using
Cycle-Consistent Adversarial Networks", 2017; after Johnson et al., 2016), with CUT's antialiased
resampling as an option; with four halvings it is pix2pixHD's global generator (Wang et al.,
"High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs", 2018)."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from .blocks import (
    NO_BORDER,
    Border,
    ConvNormAct,
    PaddedConv2d,
    interior,
    make_down,
    make_up,
    pad,
    with_interior,
)
from .generator import Generator
from .initialisation import initialise
from .layer_graph import IMAGE, Input, Layer, chain
from .options import (
    DOWNSAMPLINGS,
    NORMS,
    PADDINGS,
    UPSAMPLINGS,
    check_choice,
    check_count,
    check_switch,
)


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), with dropout between the two convolutions."""

    def __init__(
        self, channels: int, *, norm: str, padding: str, dropout: bool, bias: bool
    ) -> None:
        super().__init__()
        first = PaddedConv2d(channels, channels, 3, padding=padding, bias=bias)
        second = PaddedConv2d(channels, channels, 3, padding=padding, bias=bias)
        self.first = ConvNormAct(first, norm=norm, act="relu", dropout=dropout)
        self.second = ConvNormAct(second, norm=norm, act="linear")

    @property
    def border(self) -> Border:
        return self.first.border

    def forward(self, x: Tensor, border: Border = NO_BORDER) -> Tensor:
        # x: [N, C, H, W] with self.border -> the same shape with border
        x, residual = with_interior(x, self.border)
        return self.second(self.first(x, self.second.border), border, residual)


class ResNet(Generator):
    """A 7x7 convolution, halvings, ``num_blocks`` residual blocks, as many doublings, 7x7, tanh.

    Channels: ``width``, doubled by each of the ``num_downs`` halvings, and back. Convolutions in
    front of a batch norm have no bias unless ``norm_bias`` is set. ``padding`` borders the 7x7
    convolutions and those of the blocks. ``downsampling``: "strided" (3x3, stride 2) or "blur"
    (3x3, norm, relu, antialiasing filter). ``upsampling``: "transposed" (3x3, stride 2), "nearest"
    (then 3x3, bordered by ``padding``) or "blur" (filter, then 3x3). ``dropout`` acts inside the
    blocks, in training mode only.

    Stages, for two halvings and b = num_blocks: 0 the input; 1 the first convolution; 2 and 3 the
    halvings; 4 to b + 3 the blocks; b + 4 and b + 5 the doublings; b + 6 the output image. CUT's
    default layers (0, 4, 8, 12, 16 of its nine-block network) correspond to stages 0, 2, 3, 4 and
    8.
    """

    def __init__(
        self,
        *,
        name: str = "resnet9",
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        norm: str = "instance",
        dropout: bool = False,
        downsampling: str = "strided",
        upsampling: str = "transposed",
        padding: str = "reflect",
        num_blocks: int = 9,
        num_downs: int = 2,
        norm_bias: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "name": name,
            "in_channels": check_count("in_channels", in_channels),
            "out_channels": check_count("out_channels", out_channels),
            "width": check_count("width", width),
            "norm": check_choice("norm", norm, NORMS),
            "dropout": check_switch("dropout", dropout),
            "downsampling": check_choice("downsampling", downsampling, DOWNSAMPLINGS),
            "upsampling": check_choice("upsampling", upsampling, UPSAMPLINGS),
            "padding": check_choice("padding", padding, PADDINGS),
            "num_blocks": check_count("num_blocks", num_blocks, minimum=0),
            "num_downs": check_count("num_downs", num_downs),
            "norm_bias": check_switch("norm_bias", norm_bias),
        }
        self.multiple = 2**num_downs
        # A reflected border of 1 in the blocks needs planes of at least 2x2
        self.minimum_size = self.multiple * (2 if padding == "reflect" and num_blocks else 1)
        channels = [width * 2**level for level in range(num_downs + 1)]
        self.stage_channels = (
            in_channels,
            *channels,
            *[channels[-1]] * num_blocks,
            *reversed(channels[:-1]),
            out_channels,
        )

        bias = norm_bias or norm != "batch"
        stem = PaddedConv2d(in_channels, width, 7, padding=padding, bias=bias)
        head = PaddedConv2d(width, out_channels, 7, padding=padding, bias=True)
        self.stem = ConvNormAct(stem, norm=norm, act="relu")
        self.downs = nn.ModuleList(
            make_down(
                channels[level],
                channels[level + 1],
                downsampling=downsampling,
                kernel=3,
                norm=norm,
                act="relu",
                bias=bias,
            )
            for level in range(num_downs)
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(channels[-1], norm=norm, padding=padding, dropout=dropout, bias=bias)
            for _ in range(num_blocks)
        )
        self.ups = nn.ModuleList(
            make_up(
                channels[level + 1],
                channels[level],
                upsampling=upsampling,
                kernel=3,
                padding=padding,
                norm=norm,
                act="relu",
                bias=bias,
            )
            for level in reversed(range(num_downs))
        )
        self.head: ConvNormAct | None = ConvNormAct(head, norm="none", act="tanh")
        initialise(self)

    @property
    def contrastive_stages(self) -> tuple[int, ...]:
        last_block = len(self.blocks) + len(self.downs) + 1
        return tuple(sorted({min(stage, last_block) for stage in (0, 2, 3, 4, 8)}))

    def run_stages(self, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        last = max(wanted)
        found = {0: x}
        head = [self.head] if self.head is not None else []
        stages = [self.stem, *self.downs, *self.blocks, *self.ups, *head][:last]
        borders = [stage.border for stage in stages] + [NO_BORDER]
        x = pad(x, borders[0])
        for number, stage in enumerate(stages, start=1):
            x = stage(x, borders[number])
            if number in wanted:
                found[number] = interior(x, borders[number])
        return {stage: found[stage] for stage in wanted}

    def layer_graph(self) -> list[Layer]:
        return self.layers_from(IMAGE)

    def layers_from(self, image: str, prefix: str = "") -> list[Layer]:
        """The layers with names that begin with ``prefix``, on the output called ``image``."""
        layers: list[Layer] = []
        downs = {f"{prefix}downs.{i}": down for i, down in enumerate(self.downs)}
        last = chain(layers, {f"{prefix}stem": self.stem, **downs}, image)
        last = add_blocks(layers, self.blocks, f"{prefix}blocks", last)
        ups: dict[str, nn.Module] = {f"{prefix}ups.{i}": up for i, up in enumerate(self.ups)}
        if self.head is not None:
            ups[f"{prefix}head"] = self.head
        chain(layers, ups, last)
        return layers


def add_blocks(layers: list[Layer], blocks: nn.ModuleList, prefix: str, last: str) -> str:
    """Appends residual blocks behind the output called ``last``; returns the name of theirs."""
    for number, block in enumerate(blocks):
        assert isinstance(block, ResidualBlock)
        first, name = f"{prefix}.{number}.first", f"{prefix}.{number}"
        layers.append(Layer(first, block.first, (Input(last),)))
        layers.append(Layer(name, block.second, (Input(first),), residual=last))
        last = name
    return last
