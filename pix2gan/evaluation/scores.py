"""Scores of translated images against the real ones, gathered pair by pair."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from pix2gan import __version__
from pix2gan import image_metrics as metrics

MAX_PATCHES = 2**18  # of a level: 154 MB of RGB patches


@dataclass(frozen=True)
class ImageScores:
    """The scores of one translated image, which is called ``name``."""

    name: str
    psnr: float  # dB; infinite where the image equals its reference
    ssim: float
    l1: float  # of a value range of 1
    lpips: float | None = None  # where its network was given

    def as_dict(self) -> dict[str, Any]:
        """JSON values; an infinite PSNR, which JSON does not have, becomes None."""
        values = asdict(self) | {"psnr": finite(self.psnr)}
        return {key: value for key, value in values.items() if key != "lpips" or value is not None}


@dataclass(frozen=True)
class MeanScores:
    """The scores of a set of translated images.

    PSNR, SSIM and L1 are means over images. Images that equal their reference have no finite PSNR
    and are left out of its mean; it is infinite where all are.
    """

    count: int
    identical: int
    psnr: float
    ssim: float
    l1: float
    swd: metrics.SlicedWassersteinDistance

    def as_dict(self) -> dict[str, Any]:
        """JSON values; an infinite PSNR, which JSON does not have, becomes None."""
        return {
            "count": self.count,
            "identical": self.identical,
            "psnr": finite(self.psnr),
            "ssim": self.ssim,
            "l1": self.l1,
            "swd": {"mean": self.swd.mean, "levels": self.swd.levels},
        }


class PairedScores:
    """Scores pairs as they come; holds patches for the sliced Wasserstein distance, no images.

    Args:
        expected: How many pairs will come. Up to 2048, 128 patches are drawn from each image, as in
            the paper; from more images fewer each, so that memory stays bounded.
        seed: Of patches and projections.
    """

    def __init__(self, expected: int, *, seed: int = 0) -> None:
        patches = max(1, min(metrics.PATCHES_PER_IMAGE, MAX_PATCHES // max(1, expected)))
        self.patches_per_image = patches
        self.images: list[ImageScores] = []
        self._patches = metrics.LaplacianPatches(patches, seed=seed)
        self._reference_patches = metrics.LaplacianPatches(patches, seed=seed)

    def add(self, name: str, image: Tensor, reference: Tensor) -> None:
        """Score an image [C, H, W] in [0, 1] against its reference; at least 11x11 pixels."""
        image, reference = image[None], reference[None]
        scores = ImageScores(
            name,
            psnr=metrics.psnr(image, reference).item(),
            ssim=metrics.ssim(image, reference).item(),
            l1=metrics.l1(image, reference).item(),
        )
        self._patches.add(image)
        self._reference_patches.add(reference)
        self.images.append(scores)

    def mean(self) -> MeanScores:
        """The scores of all pairs so far; at least one."""
        finite_psnr = [image.psnr for image in self.images if math.isfinite(image.psnr)]
        count = len(self.images)
        return MeanScores(
            count=count,
            identical=count - len(finite_psnr),
            psnr=sum(finite_psnr) / len(finite_psnr) if finite_psnr else math.inf,
            ssim=sum(image.ssim for image in self.images) / count,
            l1=sum(image.l1 for image in self.images) / count,
            swd=self._patches.distance(self._reference_patches),
        )

    def protocol(self) -> dict[str, Any]:
        """How the scores come about, for a report."""
        return {
            "value_range": [0, 1],
            "psnr": "mean over images, identical ones left out; dB",
            "ssim": f"Gaussian window of {metrics.SSIM_WINDOW} pixels inside the image, sigma 1.5",
            "l1": "mean absolute difference",
            "swd": {
                "scale": metrics.SWD_SCALE,
                "patch": metrics.PATCH,
                "patches_per_image": self._patches.patches_per_image,
                "projections": metrics.PROJECTIONS,
                "normalised": "each set and level by its own mean and deviation per channel",
                "seed": self._patches.seed,
            },
        }


def versions() -> dict[str, str]:
    """What computed the scores."""
    return {
        "pix2gan": __version__,
        "torch": torch.__version__,
        "torchmetrics": metadata.version("torchmetrics"),
        "python": platform.python_version(),
    }


def finite(value: float) -> float | None:
    """``value``, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
