"""A history of generated images, from which discriminators are shown old ones as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """The last ``size`` generated images, more or less (Shrivastava et al. 2017, section 2.3).

    A discriminator that sees only the newest images forgets what it has learned about older ones,
    and the generator returns to those. Random choices come from a generator of the pool's own,
    which is in its state; each process has a pool of its own.

    Args:
        size: 0 turns the pool off.
        seed: Of the random choices.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._images: list[Tensor] = []
        self._random = torch.Generator().manual_seed(seed % 2**63)

    def query(self, images: Tensor) -> Tensor:
        """Take the new ``images`` in and give as many back, detached. [N, C, H, W] -> the same

        Until the pool is full the new ones come back. Then each is as likely to come back itself as
        to take the place of an old one, which comes back instead.
        """
        images = images.detach()
        if self.size == 0:
            return images
        return torch.cat([self._exchange(image) for image in images.split(1)])

    def _exchange(self, image: Tensor) -> Tensor:
        if len(self._images) < self.size:
            self._images.append(image.clone())  # or the whole batch would stay in memory
            return image
        if torch.rand((), generator=self._random) < 0.5:
            return image
        place = int(torch.randint(self.size, (), generator=self._random))
        old, self._images[place] = self._images[place], image.clone()
        return old.to(image.device)

    def state_dict(self) -> dict[str, Any]:
        return {"images": list(self._images), "random": self._random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._images = list(state["images"])
        self._random.set_state(state["random"])
