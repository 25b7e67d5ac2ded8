"""Several discriminators that look at the same images at falling resolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pix2gan.models.discriminators import Discriminator
from pix2gan.training.discriminator_augmentation import DiscriminatorAugmentation


class MultiscaleDiscriminator(nn.Module):
    """``scales`` discriminators, each on images half as large as the one before (pix2pixHD).

    Args:
        create: Makes one discriminator of ``pix2gan.models``.
        scales: How many; images are average pooled (3x3, stride 2) between them.
        augmentation: Varies all images, real and generated, before they are looked at.
    """

    def __init__(
        self,
        create: Callable[[], Discriminator],
        scales: int = 1,
        augmentation: DiscriminatorAugmentation | None = None,
    ) -> None:
        super().__init__()
        self.augmentation = augmentation
        discriminators = [create() for _ in range(scales)]
        self.discriminators = nn.ModuleList(discriminators)
        #: The smallest side that images may have.
        self.minimum_size = (discriminators[0].minimum_size - 1) * 2 ** (scales - 1) + 1

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits [N, 1, h, w] of each discriminator, finest first."""
        return [judge(image) for judge, image in self._judges_and_images(x)]

    def features(self, x: Tensor, repeat: bool = False) -> list[list[Tensor]]:
        """For each discriminator, finest first, all activations, its logits last.

        With ``repeat`` the images are varied as those of the call before, so that the features of
        the two calls can be compared.
        """
        return [judge.features(image) for judge, image in self._judges_and_images(x, repeat)]

    def _judges_and_images(self, x: Tensor, repeat: bool = False) -> Iterator[tuple[Any, Tensor]]:
        if self.augmentation is not None:
            x = self.augmentation(x, repeat)
        for i, judge in enumerate(self.discriminators):
            if i > 0:
                x = F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)
            yield judge, x
