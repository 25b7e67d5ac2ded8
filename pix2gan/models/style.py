"""Generators that take a style code beside the image: noise, a mapping network, styles per layer.

After StyleGAN (Karras et al. 2019, arXiv:1812.04948: mapping network, mean code) and StyleGAN2
(Karras et al. 2020, arXiv:1912.04958: styles scale the weights of convolutions).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2gan import ops
from pix2gan.errors import ConfigError

from .generator import Generator
from .layer_graph import Layer

# The fixed code is the mean over this many draws; their own deviation is a sixteenth of the codes'.
FIXED_DRAWS = 256
STYLE_DEVIATION = 0.25


class DenseAct(nn.Module):
    """act(x W^T + b): [N, I] -> [N, O], W drawn from N(0, deviation^2 / I), b constant."""

    def __init__(
        self, inputs: int, outputs: int, *, act: str, deviation: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        nn.init.normal_(self.weight, 0.0, deviation / math.sqrt(inputs))
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return ops.bias_act(F.linear(x, self.weight), self.bias, act=self.act)


class MappingNetwork(nn.Module):
    """Noise z [N, Z] -> code w [N, W], through dense layers with leaky ReLU.

    z is scaled to unit mean square first: only its direction counts.
    """

    def __init__(self, style_channels: int, code_channels: int, layers: int) -> None:
        super().__init__()
        inputs = [style_channels, *[code_channels] * (layers - 1)]
        self.layers = nn.ModuleList(DenseAct(n, code_channels, act="lrelu") for n in inputs)

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = layer(w)
        return w


class StyledGenerator(Generator):
    """A generator whose output depends on a style code z [N, style_channels] as well.

    z is drawn from N(0, 1); the mapping network makes a code w of it, and one dense layer makes of
    w the styles of all convolutions: 1 at the start, give or take a quarter. Without z, a
    training network draws one for each image from torch's global generator, and a network in eval
    mode is deterministic: it takes the mean of w ("truncated" to a point, as StyleGAN has it).
    """

    fixed_draws: Tensor

    def _make_styles(self, sizes: Sequence[int]) -> None:
        """Add what turns z into styles, ``sizes`` being the input channels of each convolution.

        Reads ``config``: style_channels, code_channels, mapping_layers.
        """
        self.style_channels = self.config["style_channels"]
        self.style_sizes = list(sizes)
        code_channels = self.config["code_channels"]
        self.mapping = MappingNetwork(
            self.style_channels, code_channels, self.config["mapping_layers"]
        )
        self.affine = DenseAct(
            code_channels, sum(sizes), act="linear", deviation=STYLE_DEVIATION, bias=1.0
        )
        draws = draw_codes(0, FIXED_DRAWS, self.style_channels)
        self.register_buffer("fixed_draws", draws, persistent=False)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Translate a batch in the style of ``z``: [N, style_channels], or [1, ...] for all alike.

        Raises ``ConfigError`` for a size, a channel count or a code that is off.
        """
        self.check_input(x)
        if z is None and self.training:
            z = torch.randn(x.shape[0], self.style_channels, device=x.device)
        last = len(self.stage_channels) - 1
        return self.run_stages(x, (last,), self.styles(x, z))[last]

    def features(self, x: Tensor, layers: Sequence[int], z: Tensor | None = None) -> list[Tensor]:
        """As in ``Generator``; without ``z`` in the fixed style, in training mode too.

        So the features of two images differ by what the images show, not by what was drawn.
        """
        wanted = self._resolve(layers)
        self.check_input(x)
        found = self.run_stages(x, wanted, self.styles(x, z)) if wanted else {}
        return [found[stage] for stage in wanted]

    def style_code(self, seed: int) -> Tensor:
        """The z [1, style_channels] that a seed stands for, on the CPU, whatever the device."""
        return draw_codes(seed, 1, self.style_channels)

    def styles(self, x: Tensor, z: Tensor | None = None) -> list[Tensor]:
        """The styles of every convolution, [N, I] or [1, I] each; the fixed ones without ``z``."""
        # Small products that decide on everything: in the precision of the weights
        with _without_autocast(x):
            weight = self.affine.weight
            if z is None:
                w = self.mapping(self.fixed_draws.to(weight.dtype)).mean(0, keepdim=True)
            else:
                self._check_code(x, z)
                w = self.mapping(z.to(weight.device, weight.dtype))
            return list(self.affine(w).split(self.style_sizes, dim=1))

    def run_stages(
        self, x: Tensor, wanted: Collection[int], styles: Sequence[Tensor] | None = None
    ) -> dict[int, Tensor]:
        """As in ``Generator``, with the result of ``styles``; the fixed styles by default."""
        raise NotImplementedError

    def layer_graph(self, z: Tensor | None = None) -> list[Layer]:
        """As in ``Generator``, in the style of ``z`` [1, style_channels]; the fixed by default."""
        raise NotImplementedError

    def _check_code(self, x: Tensor, z: Tensor) -> None:
        if z.dim() != 2 or z.shape[0] not in (1, x.shape[0]) or z.shape[1] != self.style_channels:
            raise ConfigError(
                f"{self.config['name']} takes style codes of shape [{x.shape[0]}, "
                f"{self.style_channels}] or [1, {self.style_channels}], not {list(z.shape)}."
            )


def draw_codes(seed: int, count: int, channels: int) -> Tensor:
    """``count`` codes z [count, channels] from N(0, 1), on the CPU: the same ones for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, generator=generator, device="cpu")


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    device = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
