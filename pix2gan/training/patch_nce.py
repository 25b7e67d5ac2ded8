"""Contrastive learning of patches (Park et al. 2020, arXiv:2007.15651, section 3).

A patch of the output should be recognised, among patches of the input, as that of its own place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 256  # of the projections, in the paper


class PatchProjections(nn.Module):
    """A perceptron of two layers for each stage of a generator: features of patches to vectors.

    Args:
        channels: Of each stage.
        width: Of the hidden layer and of the vectors.
    """

    def __init__(self, channels: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(count, width), nn.ReLU(), nn.Linear(width, width))
            for count in channels
        )

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """The vectors of the features at some places, of length 1, in float32.

        Args:
            features: [N, C, H, W] of each stage.
            places: [P] of each stage, in 0 to H * W - 1.

        Returns:
            [N, P, width] of each stage.
        """
        vectors = []
        for project, stage, chosen in zip(self.stages, features, places, strict=True):
            patches = stage.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, chosen)  # [N, P, C]
            vectors.append(F.normalize(project(patches).float(), dim=2))
        return vectors


def draw_places(features: Sequence[Tensor], count: int) -> list[Tensor]:
    """For each stage [N, C, H, W] ``count`` places at random, all different, or all there are."""
    return [
        torch.randperm(stage.shape[2] * stage.shape[3], device=stage.device)[:count]
        for stage in features
    ]


def patch_nce_loss(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding each query's own key among all keys of its image; eq. 3 and 4.

    Args:
        queries: Vectors of the output's patches, [N, P, D], of length 1.
        keys: Those of the input's patches at the same places, which get no gradient.
        temperature: The lower, the more the most similar other patches matter.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarities = queries.float() @ keys.detach().float().transpose(1, 2)  # [N, P, P]
    own = torch.arange(queries.shape[1], device=queries.device).expand(queries.shape[:2])
    return F.cross_entropy(similarities.transpose(1, 2) / temperature, own)
