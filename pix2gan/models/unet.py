"""The U-Net generator of Pix2Pix (Isola et al., "Image-to-Image Translation with Conditional
Adversarial Networks", 2017)."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from pix2gan import ops

from .blocks import NO_BORDER, Border, ConvNormAct, interior, make_down, make_up, pad
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


class UNet(Generator):
    """``num_downs`` halvings, as many doublings, and a skip between planes of one size.

    Level i (0 the outermost) has ``width * min(2 ** i, max_width_factor)`` channels. Neither the
    outermost nor the innermost halving is normalised: of a single pixel, nothing but zero would
    remain. ``dropout`` acts, as in the paper, behind the doublings of the ``num_downs - 5`` inner
    levels, in training mode only.

    ``downsampling``: "strided" (4x4, stride 2) or "blur" (3x3, norm, activation, antialiasing
    filter). ``upsampling``: "transposed" (4x4, stride 2), "nearest" (then 3x3, bordered by
    ``padding``) or "blur" (filter, then 3x3).

    Stages, with n = num_downs: 0 the input; 1 to n the halvings, activated; n + 1 to 2n - 1 the
    doublings, activated, from the innermost outwards, without the skip; 2n the output image.
    """

    def __init__(
        self,
        *,
        name: str = "unet256",
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        norm: str = "instance",
        dropout: bool = False,
        downsampling: str = "strided",
        upsampling: str = "transposed",
        padding: str = "reflect",
        num_downs: int = 8,
        max_width_factor: int = 8,
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
            "num_downs": check_count("num_downs", num_downs, minimum=2),
            "max_width_factor": check_count("max_width_factor", max_width_factor),
        }
        self.multiple = self.minimum_size = 2**num_downs
        channels = [width * min(2**level, max_width_factor) for level in range(num_downs)]
        self.stage_channels = (in_channels, *channels, *reversed(channels[:-1]), out_channels)

        bias = norm != "batch"
        innermost = num_downs - 1
        self.downs = nn.ModuleList(
            make_down(
                channels[level - 1] if level else in_channels,
                channels[level],
                downsampling=downsampling,
                kernel=4,
                norm="none" if level in (0, innermost) else norm,
                act="relu" if level == innermost else "lrelu",
                bias=bias,
            )
            for level in range(num_downs)
        )
        # ups[level] undoes downs[level]; all but the innermost also see the skip of their level
        self.ups = nn.ModuleList(
            make_up(
                channels[level] * (1 if level == innermost else 2),
                channels[level - 1] if level else out_channels,
                upsampling=upsampling,
                kernel=4,
                padding=padding,
                norm=norm if level else "none",
                act="relu" if level else "tanh",
                bias=bias or level == 0,
                dropout=dropout and 4 <= level < innermost,
            )
            for level in range(num_downs)
        )
        initialise(self)

    def run_stages(self, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        last = max(wanted)
        levels = len(self.downs)
        found = {0: x}

        skips = []
        for level in range(min(levels, last)):
            border = self._border_above(level + 1) if level == levels - 1 else NO_BORDER
            x = self.downs[level](x, border)
            skips.append(x)
            found[level + 1] = interior(x, border)

        for level in reversed(range(2 * levels - last, levels)):
            if level < levels - 1:
                # relu(lrelu(v)) = relu(v): the norm on the way down serves the skip as well
                skip = ops.bias_act(skips[level], act="relu", gain=1)
                x = torch.cat((pad(skip, self._border_above(level + 1)), x), dim=1)
            border = self._border_above(level)
            x = self.ups[level](x, border)
            stage = 2 * levels - level
            if stage in wanted:
                found[stage] = interior(x, border)
        return {stage: found[stage] for stage in wanted}

    def layer_graph(self) -> list[Layer]:
        layers: list[Layer] = []
        inner = chain(layers, {f"downs.{i}": down for i, down in enumerate(self.downs)}, IMAGE)
        for level in reversed(range(len(self.ups))):
            skip = (Input(f"downs.{level}", relu=True),) if level < len(self.ups) - 1 else ()
            up = cast(ConvNormAct, self.ups[level])
            layers.append(Layer(f"ups.{level}", up, (*skip, Input(inner))))
            inner = f"ups.{level}"
        return layers

    def _border_above(self, level: int) -> Border:
        """What the doubling above ``level`` (the next on the way up) wants around its input."""
        return cast(ConvNormAct, self.ups[level - 1]).border if level else NO_BORDER
