"""The original repositories' generators, composed of stock torch.nn modules: same keys, same sums.

Written from their papers and the table of their keys; weights are random.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_layer(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.InstanceNorm2d(channels)


class Level(nn.Module):
    """One level of the U-Net: halve, go deeper, double; its output beside its input."""

    def __init__(self, kind, image, outer, inner, deeper, norm, dropout):
        super().__init__()
        bias = norm == "instance"
        down = nn.Conv2d(image, inner, 4, 2, 1, bias=bias)
        lrelu, relu = nn.LeakyReLU(0.2), nn.ReLU()
        if kind == "outermost":
            up = nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1)
            layers = [down, deeper, relu, up, nn.Tanh()]
        elif kind == "innermost":
            up = nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias)
            layers = [lrelu, down, relu, up, norm_layer(norm, outer)]
        else:
            up = nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1, bias=bias)
            layers = [lrelu, down, norm_layer(norm, inner), deeper, relu, up]
            layers += [norm_layer(norm, outer)] + ([nn.Dropout(0.5)] if dropout else [])
        self.model = nn.Sequential(*layers)
        self.outermost = kind == "outermost"

    def forward(self, x: Tensor) -> Tensor:
        if self.outermost:
            return self.model(x)
        # the originals' leaky ReLU works in place, so that what is concatenated is activated
        return torch.cat([F.leaky_relu(x, 0.2), self.model(x)], 1)


class OriginalUNet(nn.Module):
    def __init__(self, num_downs=7, width=4, norm="batch", image=3, output=3, dropout=False):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(num_downs)]
        level = Level("innermost", widths[-2], widths[-2], widths[-1], None, norm, dropout)
        for i in reversed(range(1, num_downs - 1)):
            drop = dropout and i >= 4
            level = Level("middle", widths[i - 1], widths[i - 1], widths[i], level, norm, drop)
        self.model = Level("outermost", image, output, widths[0], level, norm, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Block(nn.Module):
    def __init__(self, width: int, norm: str, bias: bool, dropout: bool = False):
        super().__init__()
        drop = [nn.Dropout(0.5)] if dropout else []
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            norm_layer(norm, width),
            nn.ReLU(),
            *drop,
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            norm_layer(norm, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Down(nn.Module):
    """CUT's antialiased halving."""

    def __init__(self, channels: int):
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        filt = taps[:, None] * taps / 16
        self.register_buffer("filt", filt[None, None].repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, self.filt, stride=2, groups=x.shape[1])


class Up(nn.Module):
    """CUT's antialiased doubling: every output is a mean of 2x2 inputs, weighted 9, 3, 3, 1."""

    def __init__(self, channels: int, gain: float):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        filt = taps[:, None] * taps / 64 * gain
        self.register_buffer("filt", filt[None, None].repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def original_resnet(
    *,
    width=4,
    blocks=9,
    norm="instance",
    dropout=False,
    blur_down=False,
    blur_up=False,
    downs=2,
    bias=None,
    image=3,
    output=3,
    up_gain=4.0,
    head=True,
) -> nn.Sequential:
    bias = norm == "instance" if bias is None else bias
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(image, width, 7, bias=bias)]
    layers += [norm_layer(norm, width), nn.ReLU()]
    for i in range(downs):
        c = width * 2**i
        stride = 1 if blur_down else 2
        layers += [nn.Conv2d(c, 2 * c, 3, stride, 1, bias=bias), norm_layer(norm, 2 * c)]
        layers += [nn.ReLU(), *([Down(2 * c)] if blur_down else [])]
    top = width * 2**downs
    layers += [Block(top, norm, bias, dropout) for _ in range(blocks)]
    for i in reversed(range(downs)):
        c = width * 2**i
        if blur_up:
            layers += [Up(2 * c, up_gain), nn.Conv2d(2 * c, c, 3, 1, 1, bias=bias)]
        else:
            layers += [nn.ConvTranspose2d(2 * c, c, 3, 2, 1, output_padding=1, bias=bias)]
        layers += [norm_layer(norm, c), nn.ReLU()]
    if head:
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, output, 7), nn.Tanh()]
    return nn.Sequential(*layers)


class OriginalResNet(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.model = original_resnet(**options)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class OriginalEnhancer(nn.Module):
    """pix2pixHD's local enhancer around a global generator."""

    def __init__(self, width=4, downs=3, blocks=4, enhancers=1, norm="instance", image=3, output=3):
        super().__init__()
        self.enhancers = enhancers
        self.model = original_resnet(
            width=width * 2**enhancers,
            downs=downs,
            blocks=blocks,
            norm=norm,
            bias=True,
            image=image,
            head=False,
        )
        for n in range(1, enhancers + 1):
            c = width * 2 ** (enhancers - n)
            down = [nn.ReflectionPad2d(3), nn.Conv2d(image, c, 7), norm_layer(norm, c), nn.ReLU()]
            down += [nn.Conv2d(c, 2 * c, 3, 2, 1), norm_layer(norm, 2 * c), nn.ReLU()]
            up = [Block(2 * c, norm, True) for _ in range(3)]
            up += [nn.ConvTranspose2d(2 * c, c, 3, 2, 1, output_padding=1)]
            up += [norm_layer(norm, c), nn.ReLU()]
            if n == enhancers:
                up += [nn.ReflectionPad2d(3), nn.Conv2d(c, output, 7), nn.Tanh()]
            setattr(self, f"model{n}_1", nn.Sequential(*down))
            setattr(self, f"model{n}_2", nn.Sequential(*up))

    def forward(self, x: Tensor) -> Tensor:
        pool = nn.AvgPool2d(3, stride=2, padding=[1, 1], count_include_pad=False)
        pyramid = [x]
        for _ in range(self.enhancers):
            pyramid.append(pool(pyramid[-1]))
        y = self.model(pyramid[-1])
        for n in range(1, self.enhancers + 1):
            finer = pyramid[self.enhancers - n]
            y = getattr(self, f"model{n}_2")(getattr(self, f"model{n}_1")(finer) + y)
        return y


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Values that show in every tensor, filters excepted."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("filt"):
            continue
        if not tensor.is_floating_point():
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.dim() == 1:
            tensor.normal_(std=0.5, generator=generator)
        else:
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
    return network
