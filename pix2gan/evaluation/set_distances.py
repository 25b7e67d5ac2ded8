"""Distances of sets of images by the features of a network: FID, KID; and of pairs: LPIPS.

FID and KID are torchmetrics', which is given the features; the network is the caller's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


class _Given(nn.Module):
    """Passes on what are features already."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of normal distributions fitted to [N, D] and [M, D] (Heusel et al. 2017).

    In float64. At least two of each; its bias falls with their number, so that only figures of
    equally many are comparable.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(a.shape[1])).set_dtype(torch.float64)
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    # Rounding may leave equal sets a little below zero.
    return max(0.0, float(metric.compute()))


def kernel_distance(a: Tensor, b: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Kernel distance of [N, D] and [M, D]: mean and deviation over subsets.

    As in Bińkowski et al. 2018, "Demystifying MMD GANs".

    Polynomial kernel of degree 3; subsets of at most a thousand, as many as there are of fewer.
    Unbiased, and so below zero now and then where the sets are alike.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(KID_SUBSET_SIZE, len(a), len(b))
    subsets = KID_SUBSETS if size < max(len(a), len(b)) else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will hold all features: these are there already
        metric = KernelInceptionDistance(
            feature=_Given(a.shape[1]), subsets=subsets, subset_size=size
        ).set_dtype(torch.float64)
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation) if subsets > 1 else 0.0


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """LPIPS of N pairs (Zhang et al. 2018), from the feature maps of each layer: [N].

    The maps are those of the paper: of unit length along their channels, times the root of the
    layer's weights. The squared differences are summed over channels, averaged over pixels and
    summed over layers.
    """
    layers = [(x - y).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)]
    return torch.stack(layers).sum(0)
