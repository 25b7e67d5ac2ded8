"""What every generator offers besides its forward pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from pix2gan.errors import ConfigError

from .layer_graph import Layer


class Generator(nn.Module):
    """An image-to-image network: ``[N, in_channels, H, W]`` -> ``[N, out_channels, H, W]``, tanh.

    Its work is a row of numbered stages: stage 0 is the input image, the last is the output image;
    each class documents those between.

    ``config`` rebuilds the architecture (``create_generator(**config)``). Height and width must be
    multiples of ``multiple`` and at least ``minimum_size``. ``stage_channels[i]`` is the number of
    channels of stage i. Where ``style_channels`` is not 0, the network takes a style code as well
    (``StyledGenerator``).
    """

    config: dict[str, Any]
    multiple: int
    minimum_size: int
    stage_channels: tuple[int, ...]
    style_channels: int = 0

    @property
    def in_channels(self) -> int:
        return self.stage_channels[0]

    @property
    def out_channels(self) -> int:
        return self.stage_channels[-1]

    @property
    def contrastive_stages(self) -> tuple[int, ...]:
        """The stages that contrastive methods (CUT) compare unless told otherwise.

        They lie on the way in, from the image itself to what has seen most of it.
        """
        return tuple(range(min(5, len(self.stage_channels) // 2)))

    def forward(self, x: Tensor) -> Tensor:
        """Translate a batch; raises ``ConfigError`` for a size or a channel count that is off."""
        self.check_input(x)
        last = len(self.stage_channels) - 1
        return self.run_stages(x, (last,))[last]

    def features(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The activations of the given stages, in the order asked for; later ones are not computed.

        Contrastive methods (CUT) compare them. A negative number counts from the end.
        """
        wanted = self._resolve(layers)
        self.check_input(x)
        found = self.run_stages(x, wanted) if wanted else {}
        return [found[stage] for stage in wanted]

    def feature_channels(self, layers: Sequence[int]) -> list[int]:
        """The channels of ``features(x, layers)``, known before anything runs."""
        return [self.stage_channels[stage] for stage in self._resolve(layers)]

    def check_input(self, x: Tensor) -> None:
        """Raise ``ConfigError`` unless ``x`` is a batch of a size that this network takes."""
        name = self.config["name"]
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"{name} takes batches of shape [N, {self.in_channels}, H, W], not {list(x.shape)}."
            )
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ConfigError(
                f"{name} takes heights and widths that are multiples of {self.multiple}, "
                f"not {height} x {width}: pad or resize the image first."
            )
        if min(height, width) < self.minimum_size:
            raise ConfigError(
                f"{name} takes images of at least {self.minimum_size} x {self.minimum_size} "
                f"pixels, not {height} x {width}: pad or enlarge the image first."
            )

    def run_stages(self, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        """Compute as far as the last wanted stage and return the wanted ones by number."""
        raise NotImplementedError

    def layer_graph(self) -> list[Layer]:
        """The layers in the order of their work, the last one makes the output.

        Raises ``NotImplementedError`` where a generator is not made of such layers.
        """
        raise NotImplementedError

    def _resolve(self, layers: Sequence[int]) -> list[int]:
        count = len(self.stage_channels)
        for layer in layers:
            if not -count <= layer < count:
                raise ConfigError(
                    f"{self.config['name']} has no stage {layer}; "
                    f"its stages are 0 (the input) to {count - 1} (the output)."
                )
        return [layer % count for layer in layers]
