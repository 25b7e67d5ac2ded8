"""The networks as their papers' readers write them: stock ``torch.nn`` modules, nothing else.

They are in the opponents of ``benchmarks/generators.py`` and ``benchmarks/training.py`` and share
no code with ``pix2gan.models``.
``stock_generator(config)`` builds the network that a pix2gan generator's ``.config`` describes, and
``copy_weights`` fills it from that generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD_LAYERS: dict[str, type[nn.Module]] = {
    "reflect": nn.ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
    "zeros": nn.ZeroPad2d,
}


def has_stock(name: str) -> bool:
    """Whether ``stock_generator`` knows generators of this name."""
    return name.startswith(("resnet", "unet"))


def stock_generator(config: Mapping[str, Any]) -> nn.Module:
    """The network that pix2gan builds from ``config``: [N, C, H, W] -> [N, O, H, W]."""
    if config["name"].startswith("resnet"):
        return _resnet(config)
    if config["name"].startswith("unet"):
        return _unet(config)
    raise ValueError(f"no stock composition of {config['name']!r} is known; write it here")


def stock_discriminator(in_channels: int, width: int = 64, n_layers: int = 3) -> nn.Module:
    """The patch discriminator with instance norm: [N, C, H, W] -> logits [N, 1, h, w]."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2, True),
    ]
    for n in range(1, n_layers + 1):
        ins, outs = (width * min(2**level, 8) for level in (n - 1, n))
        stride = 1 if n == n_layers else 2
        layers += [
            nn.Conv2d(ins, outs, 4, stride=stride, padding=1),
            nn.InstanceNorm2d(outs),
            nn.LeakyReLU(0.2, True),
        ]
    last = width * min(2**n_layers, 8)
    return nn.Sequential(*layers, nn.Conv2d(last, 1, 4, padding=1))


def copy_weights(source: nn.Module, target: nn.Module, example: Tensor) -> None:
    """Give ``target`` the weights of ``source``, layer by layer in the order in which they run.

    ``example`` is an input [N, C, H, W] for both. A bias that only the target has becomes 0.
    Raises ValueError where the two do not run the same convolutions and norms.
    """
    ours, theirs = _layers_as_run(source, example), _layers_as_run(target, example)
    if len(ours) != len(theirs):
        raise ValueError(f"the networks run {len(ours)} and {len(theirs)} layers with weights")
    for position, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        missing = {key: torch.zeros_like(value) for key, value in other.state_dict().items()}
        weights = {key: value for key, value in mine.state_dict().items() if key in missing}
        if {k: v.shape for k, v in (missing | weights).items()} != {
            k: v.shape for k, v in missing.items()
        } or "weight" not in weights:
            raise ValueError(f"layer {position} is {mine} in one network and {other} in the other")
        other.load_state_dict(missing | weights)


class UNetLevel(nn.Module):
    """One level of the U-Net with all deeper ones inside: x -> x beside what the deeper made."""

    def __init__(self, *layers: nn.Module, outermost: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        if self.outermost:
            return self.layers(x)
        return torch.cat([x, self.layers(x)], dim=1)


class ResNetBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class BlurDownsample(nn.Module):
    """Reflection padding, the filter [1, 2, 1] x [1, 2, 1] / 16, every second pixel."""

    taps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("taps", torch.outer(taps, taps).repeat(channels, 1, 1, 1))
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.pad(x), self.taps, stride=2, groups=x.shape[1])


class BlurUpsample(nn.Module):
    """Replication padding, zeros between pixels, the filter [1, 3, 3, 1] x [1, 3, 3, 1] / 16."""

    taps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        self.register_buffer("taps", torch.outer(taps, taps).repeat(channels, 1, 1, 1))
        self.pad = nn.ReplicationPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        groups = x.shape[1]
        x = F.conv_transpose2d(self.pad(x), self.taps, stride=2, padding=2, groups=groups)
        return x[:, :, 1:-1, 1:-1]


def _unet(config: Mapping[str, Any]) -> nn.Module:
    bias = config["norm"] != "batch"
    widths = [
        config["width"] * min(2**level, config["max_width_factor"])
        for level in range(config["num_downs"])
    ]
    innermost = len(widths) - 1

    def down(level: int, normalised: bool) -> list[nn.Module]:
        ins = widths[level - 1] if level else config["in_channels"]
        outs = widths[level]
        norm = _norm(config["norm"], outs) if normalised else []
        if config["downsampling"] == "blur":
            # Antialiasing filters the activated plane, so the activation comes before, not after.
            act = nn.ReLU(True) if level == innermost else nn.LeakyReLU(0.2, True)
            conv = nn.Conv2d(ins, outs, 3, padding=1, bias=bias)
            return [conv, *norm, act, BlurDownsample(outs)]
        conv = nn.Conv2d(ins, outs, 4, stride=2, padding=1, bias=bias)
        return [*([nn.LeakyReLU(0.2, True)] if level else []), conv, *norm]

    def up(level: int) -> list[nn.Module]:
        ins = widths[level] * (1 if level == innermost else 2)
        if level == 0:
            return [nn.ReLU(True), *_up(config, ins, config["out_channels"], 4, True), nn.Tanh()]
        outs = widths[level - 1]
        dropped = [nn.Dropout(0.5)] if config["dropout"] and 4 <= level < innermost else []
        layers = _up(config, ins, outs, 4, bias)
        return [nn.ReLU(True), *layers, *_norm(config["norm"], outs), *dropped]

    inner: list[nn.Module] = []
    for level in reversed(range(len(widths))):
        layers = [*down(level, 0 < level < innermost), *inner, *up(level)]
        inner = [UNetLevel(*layers, outermost=level == 0)]
    return inner[0]


def _resnet(config: Mapping[str, Any]) -> nn.Module:
    width, norm, padding = config["width"], config["norm"], config["padding"]
    bias = norm != "batch"

    def stage(*layers: nn.Module, channels: int) -> list[nn.Module]:
        return [*layers, *_norm(norm, channels), nn.ReLU(True)]

    def padded_conv(ins: int, outs: int, kernel: int, bias: bool) -> list[nn.Module]:
        return [PAD_LAYERS[padding](kernel // 2), nn.Conv2d(ins, outs, kernel, bias=bias)]

    layers = stage(*padded_conv(config["in_channels"], width, 7, bias), channels=width)
    for ins in (width, 2 * width):
        if config["downsampling"] == "blur":
            conv = nn.Conv2d(ins, 2 * ins, 3, padding=1, bias=bias)
            layers += [*stage(conv, channels=2 * ins), BlurDownsample(2 * ins)]
        else:
            conv = nn.Conv2d(ins, 2 * ins, 3, stride=2, padding=1, bias=bias)
            layers += stage(conv, channels=2 * ins)
    deep = 4 * width
    for _ in range(config["num_blocks"]):
        layers += [
            ResNetBlock(
                *stage(*padded_conv(deep, deep, 3, bias), channels=deep),
                *([nn.Dropout(0.5)] if config["dropout"] else []),
                *padded_conv(deep, deep, 3, bias),
                *_norm(norm, deep),
            )
        ]
    for ins in (4 * width, 2 * width):
        layers += stage(*_up(config, ins, ins // 2, 3, bias), channels=ins // 2)
    layers += [*padded_conv(width, config["out_channels"], 7, True), nn.Tanh()]
    return nn.Sequential(*layers)


def _up(config: Mapping[str, Any], ins: int, outs: int, kernel: int, bias: bool) -> list[nn.Module]:
    """Twice the height and width; ``kernel`` is that of the transposed convolution."""
    if config["upsampling"] == "nearest":
        pad = PAD_LAYERS[config["padding"]](1)
        return [
            nn.Upsample(scale_factor=2, mode="nearest"),
            pad,
            nn.Conv2d(ins, outs, 3, bias=bias),
        ]
    if config["upsampling"] == "blur":
        return [BlurUpsample(ins), nn.Conv2d(ins, outs, 3, padding=1, bias=bias)]
    return [
        nn.ConvTranspose2d(
            ins, outs, kernel, stride=2, padding=1, output_padding=kernel % 2, bias=bias
        )
    ]


def _norm(norm: str, channels: int) -> list[nn.Module]:
    if norm == "instance":
        return [nn.InstanceNorm2d(channels)]
    return [nn.BatchNorm2d(channels)] if norm == "batch" else []


def _layers_as_run(network: nn.Module, example: Tensor) -> list[nn.Module]:
    """The convolutions and batch norms of a network, in the order in which a forward runs them."""
    ran: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    hooks = [
        module.register_forward_hook(lambda layer, *_: ran.append(layer))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    try:
        with torch.no_grad():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return ran
