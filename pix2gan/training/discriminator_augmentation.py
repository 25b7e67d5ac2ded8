"""What discriminators see, varied at random: training with few images (DiffAugment).

Zhao et al., "Differentiable augmentation for data-efficient GAN training" (2020, arXiv:2006.10738):
a discriminator that has seen each of a few hundred real images too often knows them by heart. Real
and generated images are therefore varied alike before it sees them, and the generator's gradient
goes through the variation, so the generator does not learn to make varied images.

Geometry is kornia's. Colours are the paper's three lines: kornia clips values to [0, 1], and would
stop the gradient there. All numbers come from torch's global generator on the CPU, which is part of
every checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pix2gan.errors import ConfigError

POLICIES = ("colour", "translation", "cutout")
_SHIFT = 0.125  # of the side, at most
_HOLE = 0.25  # of the area: half of the side


class DiscriminatorAugmentation(nn.Module):
    """Varies images [N, C, H, W] in [-1, 1], each by numbers of its own; differentiable.

    Args:
        policies: Names in ``POLICIES``, joined by commas.

    Raises:
        ConfigError: If a name is unknown.
    """

    def __init__(self, policies: str) -> None:
        super().__init__()
        names = [name.strip() for name in policies.split(",")]
        for name in names:
            if name not in POLICIES:
                raise ConfigError(
                    f"--augment-discriminator takes {', '.join(POLICIES)}, joined by commas, got "
                    f"{policies!r}."
                )
        import kornia.augmentation as kornia

        self.varies_colours = "colour" in names
        self.moves: list[Any] = []  # not modules of this one: they hold no weights
        if "translation" in names:
            shift = (-_SHIFT, _SHIFT)
            self.moves.append(kornia.RandomTranslate(translate_x=shift, translate_y=shift, p=1.0))
        if "cutout" in names:
            self.moves.append(
                kornia.RandomErasing(scale=(_HOLE, _HOLE), ratio=(1.0, 1.0), value=0.0, p=1.0)
            )
        self._drawn: list[Any] = []

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor, repeat: bool = False) -> Tensor:
        """The images, varied.

        Args:
            x: Images, of one kind or several along C (a pair is varied as one).
            repeat: Take the numbers of the call before, which had as many images.
        """
        if not repeat:
            self._drawn = self._draw(x)
        drawn = list(self._drawn)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.varies_colours:
                x = vary_colours(x, *(values.to(x.device) for values in drawn.pop(0)))
            for move, parameters in zip(self.moves, drawn, strict=True):
                x = move(x, params=parameters)
        return x

    def _draw(self, x: Tensor) -> list[Any]:
        colours = [torch.rand(3, len(x))] if self.varies_colours else []
        return [*colours, *(move.forward_parameters(x.shape) for move in self.moves)]


def vary_colours(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """The paper's colours: each of the three [N] in [0, 1), 0.5 leaving an image as it is.

    Saturation is varied where the channels [N, C, H, W] are images of three channels each.
    """
    brightness, saturation, contrast = (
        values.view(-1, 1, 1, 1) for values in (brightness, saturation, contrast)
    )
    x = x + (brightness - 0.5)
    if x.shape[1] % 3 == 0:
        images = x.unflatten(1, (-1, 3))  # [N, images, 3, H, W]
        grey = images.mean(dim=2, keepdim=True)
        x = (grey + (images - grey) * (2 * saturation).unsqueeze(1)).flatten(1, 2)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)
