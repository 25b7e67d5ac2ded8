"""Generators and discriminators against the same networks composed of stock torch.nn modules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2gan.models import create_discriminator, create_generator
from pix2gan.models.blocks import BlurDown, ConvNormAct

PADS = {
    "reflect": nn.ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
    "zeros": nn.ZeroPad2d,
}


class BinomialDown(nn.Module):
    """Reflect, blur with [1, 2, 1] / 4 along both axes, keep every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
        kernel = (taps[:, None] * taps / 16).expand(x.shape[1], 1, 3, 3)
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, kernel, stride=2, groups=x.shape[1])


def textbook_norm(norm: str, channels: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.InstanceNorm2d(channels)] if norm == "instance" else []


def textbook_down(down: str, inputs: int, outputs: int, kernel: int, norm: str, act: nn.Module):
    stride = 1 if down == "blur" else 2
    size = 3 if down == "blur" else kernel
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=1)
    blur = [BinomialDown()] if down == "blur" else []
    return [conv, *textbook_norm(norm, outputs), act, *blur]


def textbook_up(up: str, inputs: int, outputs: int, kernel: int, padding: str):
    if up == "nearest":
        enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        return [enlarge, PADS[padding](1), nn.Conv2d(inputs, outputs, 3)]
    if up == "blur":
        # [1, 3, 3, 1] over inserted zeros with replicated borders is bilinear interpolation
        enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        return [enlarge, nn.Conv2d(inputs, outputs, 3, padding=1)]
    return [
        nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=1, output_padding=kernel % 2)
    ]


class TextbookUNet(nn.Module):
    """The U-Net as a nest of levels: act, halve, norm, (inner levels), relu, double, norm."""

    def __init__(self, channels, *, image, output, norm, down, up, padding, dropout):
        super().__init__()
        count = len(channels)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(channels):
            inner = level == count - 1
            inputs = channels[level - 1] if level else image
            outputs = channels[level - 1] if level else output
            plain = "none" if level == 0 or inner else norm
            act = nn.ReLU() if inner else nn.LeakyReLU(0.2)
            self.downs.append(nn.Sequential(*textbook_down(down, inputs, width, 4, plain, act)))
            tail = textbook_norm(norm, outputs) if level else []
            if dropout and 4 <= level < count - 1:
                tail.append(nn.Dropout(0.5))
            convolve = textbook_up(up, width * (1 if inner else 2), outputs, 4, padding)
            self.ups.append(nn.Sequential(*convolve, *tail))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.level(0, x))

    def level(self, number: int, x: Tensor) -> Tensor:
        skip = self.downs[number](x)
        if number < len(self.downs) - 1:
            skip = torch.cat((skip, self.level(number + 1, skip)), dim=1)
        return self.ups[number](torch.relu(skip))


class TextbookBlock(nn.Module):
    def __init__(self, width: int, norm: str, padding: str, dropout: bool):
        super().__init__()
        drop = [nn.Dropout(0.5)] if dropout else []
        self.body = nn.Sequential(
            *[PADS[padding](1), nn.Conv2d(width, width, 3), *textbook_norm(norm, width)],
            *[nn.ReLU(), *drop],
            *[PADS[padding](1), nn.Conv2d(width, width, 3), *textbook_norm(norm, width)],
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def textbook_resnet(width, blocks, *, image, output, norm, down, up, padding, dropout):
    layers = [PADS[padding](3), nn.Conv2d(image, width, 7), *textbook_norm(norm, width), nn.ReLU()]
    for inputs in (width, 2 * width):
        layers += textbook_down(down, inputs, 2 * inputs, 3, norm, nn.ReLU())
    layers += [TextbookBlock(4 * width, norm, padding, dropout) for _ in range(blocks)]
    for outputs in (2 * width, width):
        layers += textbook_up(up, 2 * outputs, outputs, 3, padding)
        layers += [*textbook_norm(norm, outputs), nn.ReLU()]
    return nn.Sequential(*layers, PADS[padding](3), nn.Conv2d(width, output, 7), nn.Tanh())


def layers_in_order(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """The (convolution, batch norm) of each of pix2gan's layers, as the forward pass meets them."""
    for module in network.modules():
        if isinstance(module, ConvNormAct):
            yield module.conv, module.batch_norm


def stock_layers(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
            yield module


def randomise(network: nn.Module) -> None:
    """Give every tensor a value that shows: biases in front of norms too."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("filter") or not tensor.is_floating_point():
            continue
        with torch.no_grad():
            if tensor.dim() > 1:
                tensor.normal_(std=tensor[0].numel() ** -0.5)
            elif name.endswith(("running_var", "batch_norm.weight")):
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.normal_(std=0.5)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy what ``source`` has; a bias that it leaves out (before batch norm) becomes zero."""
    theirs = iter(list(stock_layers(target)))
    for conv, norm in layers_in_order(source):
        other = next(theirs)
        assert isinstance(other, nn.ConvTranspose2d) == isinstance(conv, nn.ConvTranspose2d)
        with torch.no_grad():
            other.weight.copy_(conv.weight)
            nn.init.zeros_(other.bias) if conv.bias is None else other.bias.copy_(conv.bias)
        if norm is not None:
            next(theirs).load_state_dict(norm.state_dict())
    assert next(theirs, None) is None


def unet_pair(*, norm, down="strided", up="transposed", padding="reflect", dropout=False, levels=3):
    network = create_generator(
        "unet256",
        in_channels=2,
        out_channels=4,
        width=3,
        max_width_factor=2,
        num_downs=levels,
        norm=norm,
        downsampling=down,
        upsampling=up,
        padding=padding,
        dropout=dropout,
    )
    channels = [3, *[6] * (levels - 1)]
    textbook = TextbookUNet(
        channels, image=2, output=4, norm=norm, down=down, up=up, padding=padding, dropout=dropout
    )
    return paired(network, textbook)


def resnet_pair(*, norm, down="strided", up="transposed", padding="reflect", dropout=False):
    network = create_generator(
        "resnet6",
        in_channels=2,
        out_channels=4,
        width=3,
        num_blocks=2,
        norm=norm,
        downsampling=down,
        upsampling=up,
        padding=padding,
        dropout=dropout,
    )
    textbook = textbook_resnet(
        3, 2, image=2, output=4, norm=norm, down=down, up=up, padding=padding, dropout=dropout
    )
    return paired(network, textbook)


def paired(network, textbook):
    torch.manual_seed(7)
    randomise(network)
    copy_weights(network, textbook)
    return network, textbook


PAIRS = {"unet": unet_pair, "resnet": resnet_pair}
RESAMPLINGS = list(itertools.product(("strided", "blur"), ("transposed", "nearest", "blur")))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("down", "up"), RESAMPLINGS)
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("kind", ["unet", "resnet"])
def test_outputs_equal_the_textbook(kind, norm, down, up, training):
    network, textbook = PAIRS[kind](norm=norm, down=down, up=up)
    network.train(training)
    textbook.train(training)
    # 40 x 48 reaches both ways that nearest upsampling is computed
    x = torch.rand(2, 2, 40, 48) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(x), textbook(x), rtol=1e-5, atol=1e-5)
    ours = {k: v for k, v in network.named_buffers() if "running" in k or "tracked" in k}
    theirs = [v for k, v in textbook.named_buffers() if "running" in k or "tracked" in k]
    for mine, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zeros"])
@pytest.mark.parametrize(
    ("kind", "up"),
    [("unet", "nearest"), ("resnet", "transposed"), ("resnet", "nearest"), ("resnet", "blur")],
)
def test_every_padding_equals_the_textbook(kind, up, padding):
    for norm in ("instance", "none"):
        network, textbook = PAIRS[kind](norm=norm, up=up, padding=padding)
        x = torch.rand(1, 2, 64, 40) * 2 - 1
        torch.testing.assert_close(network(x), textbook(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_dropout_equals_the_textbook(norm):
    for network, textbook, size in (
        (*unet_pair(norm=norm, up="nearest", dropout=True, levels=6), 64),
        (*resnet_pair(norm=norm, dropout=True), 16),
    ):
        x = torch.rand(2, 2, size, size) * 2 - 1
        torch.manual_seed(3)
        ours = network(x)
        torch.manual_seed(3)
        torch.testing.assert_close(ours, textbook(x), rtol=1e-5, atol=1e-5)
        assert not torch.equal(network(x), network(x)), "dropout is on while training"
        copy_weights(network, textbook)  # the running statistics have moved on
        network.eval(), textbook.eval()
        torch.testing.assert_close(network(x), textbook(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("kind", ["unet", "resnet"])
def test_gradients_equal_the_textbook(kind, norm):
    network, textbook = PAIRS[kind](norm=norm, up="nearest", down="blur")
    network.double(), textbook.double()
    x = torch.rand(2, 2, 32, 32, dtype=torch.float64) * 2 - 1
    direction = torch.randn(2, 4, 32, 32, dtype=torch.float64)
    for net in (network, textbook):
        (net(x) * direction).sum().backward()
    theirs = iter(list(stock_layers(textbook)))
    compared = 0
    for conv, norm_layer in layers_in_order(network):
        for mine, other in ((conv, next(theirs)), (norm_layer, norm_layer and next(theirs))):
            for name, parameter in mine.named_parameters() if mine is not None else ():
                if not parameter.requires_grad:
                    assert norm == "instance", "only instance norm cancels a bias"
                    assert parameter.grad is None
                    continue
                expected = other.get_parameter(name).grad
                torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-9)
                compared += 1
    assert compared >= 8


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_patch_discriminator_equals_the_textbook(norm):
    network = create_discriminator("patch", in_channels=5, width=4, n_layers=4, norm=norm)
    layers = [nn.Conv2d(5, 4, 4, 2, 1), nn.LeakyReLU(0.2)]
    for inputs, outputs, stride in ((4, 8, 2), (8, 16, 2), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 4, stride, 1), *textbook_norm(norm, outputs)]
        layers += [nn.LeakyReLU(0.2)]
    network, textbook = paired(network, nn.Sequential(*layers, nn.Conv2d(32, 1, 4, 1, 1)))
    x = torch.rand(2, 5, 64, 80)
    torch.testing.assert_close(network(x), textbook(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_pixel_discriminator_equals_the_textbook(norm):
    network = create_discriminator("pixel", in_channels=5, width=4, norm=norm)
    layers = [nn.Conv2d(5, 4, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 1), *textbook_norm(norm, 8)]
    layers += [nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 1)]
    network, textbook = paired(network, nn.Sequential(*layers))
    x = torch.rand(2, 5, 9, 12)
    torch.testing.assert_close(network(x), textbook(x), rtol=1e-5, atol=1e-5)


def test_blur_layers_are_what_the_pairs_above_compared():
    network, _ = unet_pair(norm="instance", down="blur", up="blur")
    assert all(isinstance(down, BlurDown) for down in network.downs)
