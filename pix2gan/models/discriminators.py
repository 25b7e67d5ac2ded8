"""Discriminators that judge patches or pixels (Isola et al., 2017)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as add_spectral_norm

from pix2gan.errors import ConfigError

from .blocks import ConvNormAct, DeferredBiasConv2d
from .initialisation import initialise
from .options import NORMS, check_choice, check_count, check_switch

MAX_WIDTH_FACTOR = 8


class Discriminator(nn.Module):
    """A row of layers from ``[N, in_channels, H, W]`` to a map of logits ``[N, 1, h, w]``.

    ``config`` rebuilds the architecture (``create_discriminator(**config)``).
    """

    config: dict[str, Any]
    layers: nn.ModuleList
    minimum_size: int

    def forward(self, x: Tensor) -> Tensor:
        """One logit (no sigmoid) for each patch; raises ``ConfigError`` for too small an image."""
        return self.features(x)[-1]

    def features(self, x: Tensor) -> list[Tensor]:
        """The activations of all layers in order, the logits last, for feature matching."""
        if x.dim() != 4 or x.shape[1] != self.config["in_channels"]:
            raise ConfigError(
                f"The {self.config['name']} discriminator takes batches of shape "
                f"[N, {self.config['in_channels']}, H, W], not {list(x.shape)}."
            )
        if min(x.shape[-2:]) < self.minimum_size:
            raise ConfigError(
                f"The {self.config['name']} discriminator takes images of at least "
                f"{self.minimum_size} x {self.minimum_size} pixels, not {x.shape[-2]} x "
                f"{x.shape[-1]}: enlarge the images or use fewer layers."
            )
        activations = []
        for layer in self.layers:
            x = layer(x)
            activations.append(x)
        return activations

    def _finish(self, layers: list[ConvNormAct], spectral_norm: bool) -> None:
        self.layers = nn.ModuleList(layers)
        initialise(self)
        if spectral_norm:
            for layer in layers:
                add_spectral_norm(layer.conv)


class PatchDiscriminator(Discriminator):
    """PatchGAN: ``n_layers`` halvings, two more 4x4 convolutions; three layers see 70x70 pixels.

    ``spectral_norm`` bounds the Lipschitz constant of every convolution (Miyato et al., 2018).
    """

    def __init__(
        self,
        *,
        name: str = "patch",
        in_channels: int,
        width: int = 64,
        n_layers: int = 3,
        norm: str = "instance",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "name": name,
            "in_channels": check_count("in_channels", in_channels),
            "width": check_count("width", width),
            "n_layers": check_count("n_layers", n_layers),
            "norm": check_choice("norm", norm, NORMS),
            "spectral_norm": check_switch("spectral_norm", spectral_norm),
        }
        # The two last convolutions take one pixel each off what n_layers halvings have left
        self.minimum_size = 3 * 2**n_layers
        channels = [width * min(2**n, MAX_WIDTH_FACTOR) for n in range(n_layers + 1)]
        layers = [_layer(in_channels, width, stride=2)]
        for n in range(1, n_layers + 1):
            stride = 1 if n == n_layers else 2
            layers.append(_layer(channels[n - 1], channels[n], stride=stride, norm=norm))
        layers.append(_layer(channels[-1], 1, stride=1, act="linear"))
        self._finish(layers, spectral_norm)


class PixelDiscriminator(Discriminator):
    """Judges every pixel by itself: three 1x1 convolutions ("PixelGAN" in the paper)."""

    minimum_size = 1

    def __init__(
        self,
        *,
        name: str = "pixel",
        in_channels: int,
        width: int = 64,
        norm: str = "instance",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "name": name,
            "in_channels": check_count("in_channels", in_channels),
            "width": check_count("width", width),
            "norm": check_choice("norm", norm, NORMS),
            "spectral_norm": check_switch("spectral_norm", spectral_norm),
        }
        layers = [
            _layer(in_channels, width, kernel=1),
            _layer(width, 2 * width, kernel=1, norm=norm),
            _layer(2 * width, 1, kernel=1, act="linear"),
        ]
        self._finish(layers, spectral_norm)


def _layer(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 4,
    stride: int = 1,
    norm: str = "none",
    act: str = "lrelu",
) -> ConvNormAct:
    padding = 1 if kernel > 1 else 0
    conv = DeferredBiasConv2d(
        in_channels, out_channels, kernel, stride=stride, padding=padding, bias=norm != "batch"
    )
    return ConvNormAct(conv, norm=norm, act=act)
