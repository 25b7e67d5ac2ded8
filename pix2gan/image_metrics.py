"""How close translated images are to real ones: PSNR, SSIM, L1, sliced Wasserstein distance.

Every function takes images [N, C, H, W] with values in [0, 1] (``data_range`` 1), in any floating
dtype, and computes in float32. The first three compare image n with reference n and return one
value an image, [N]. The sliced Wasserstein distance compares two sets and knows no pairs.

PSNR and SSIM are torchmetrics', which is imported when first needed. Nothing needs torchvision.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW = 11  # pixels; SSIM is undefined for images smaller than its window
PATCH = 7  # pixels on a side
PATCHES_PER_IMAGE = 128
PROJECTIONS = 512
SMALLEST_LEVEL = 16  # pixels; the pyramid is not halved below it
SWD_SCALE = 1e3  # as the paper's tables are printed

_PROJECTIONS_AT_ONCE = 128
_CONSTANT = 1e-6  # a level that deviates less is rounding noise: 8-bit images step by 4e-3


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, [N]; infinite where image and reference are identical."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    images, references = _comparable(images, references)
    return peak_signal_noise_ratio(
        images, references, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity, [N]: 1 for identical images. H and W must be at least 11.

    As in Wang et al. 2004: a Gaussian window of 11 pixels with sigma 1.5, which stays inside the
    image, K1 = 0.01, K2 = 0.03; channels are averaged.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    images, references = _comparable(images, references)
    if min(images.shape[-2:]) < SSIM_WINDOW:
        height, width = images.shape[-2:]
        raise ValueError(f"SSIM needs images of at least 11x11 pixels, got {width}x{height}")
    _, planes = structural_similarity_index_measure(
        images, references, data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    # Versions of torchmetrics differ in whether their mean includes the reflected borders.
    border = SSIM_WINDOW // 2
    return planes[..., border:-border, border:-border].mean(dim=(1, 2, 3))


def l1(images: Tensor, references: Tensor) -> Tensor:
    """Mean absolute difference over channels and pixels, [N], in units of the value range."""
    images, references = _comparable(images, references)
    return (images - references).abs().mean(dim=(1, 2, 3))


class SlicedWassersteinDistance(NamedTuple):
    """Distances times 1000. Lower is better; 0 for identical sets.

    ``levels`` goes from the finest level of the pyramid, which shows noise and sharpness, to the
    coarsest, which shows shapes. A key is the shorter side in pixels ("256", "128", ...), or, where
    images of different sizes were gathered, the scale ("1/1", "1/2", ...). ``mean`` is over levels.
    """

    levels: dict[str, float]
    mean: float


def sliced_wasserstein_distance(
    images_a: Tensor,
    images_b: Tensor,
    *,
    patches_per_image: int = PATCHES_PER_IMAGE,
    projections: int = PROJECTIONS,
    seed: int = 0,
) -> SlicedWassersteinDistance:
    """Distance between the distributions of small patches of two sets, level by level.

    After Karras et al. 2018, "Progressive Growing of GANs", section 5: from each level of each
    image's Laplacian pyramid 128 patches of 7x7 pixels, all channels, are drawn at random; each
    set's patches of a level are normalised by that set's own mean and standard deviation per
    channel; the distance is the mean over 512 random directions of the 1-D Wasserstein distance
    between the patches projected on them. Because of the normalisation, a set that differs in mean
    colour or in contrast alone is at distance 0: pair it with L1.

    The distance of finite sets has a floor that falls with their sizes, so only figures from
    equally many images are comparable. Sets of different sizes are compared exactly, through their
    quantile functions, nothing being dropped.

    Args:
        images_a, images_b: [N, C, H, W] and [M, C, H, W] in [0, 1].
        seed: Fixes patches and directions. The order of the images does not matter: where patches
            lie in an image depends on the seed and the image alone.
    """
    if images_a.shape[1:] != images_b.shape[1:]:
        raise ValueError(
            f"sets of images of different shapes: {tuple(images_a.shape[1:])} and "
            f"{tuple(images_b.shape[1:])}"
        )
    a = LaplacianPatches(patches_per_image, seed=seed)
    b = LaplacianPatches(patches_per_image, seed=seed)
    a.add(images_a)
    b.add(images_b)
    return a.distance(b, projections=projections)


class LaplacianPatches:
    """The descriptors of one set of images, gathered batch by batch.

    Images of different sizes may be added; levels are then matched by scale, that is by how often
    they were halved. Holds ``patches_per_image * C * 49`` floats an image and level.
    """

    def __init__(self, patches_per_image: int = PATCHES_PER_IMAGE, *, seed: int = 0) -> None:
        if patches_per_image < 1:
            raise ValueError(f"patches_per_image must be at least 1, got {patches_per_image}")
        self.patches_per_image = patches_per_image
        self.seed = seed
        self._descriptors: list[list[Tensor]] = []  # by level, finest first: [P, C, 7, 7] each
        self._sides: set[int] = set()

    def add(self, images: Tensor) -> None:
        """Take patches from images [N, C, H, W] in [0, 1]; H and W at least 7."""
        if images.ndim != 4:
            raise ValueError(f"images must be [N, C, H, W], got {tuple(images.shape)}")
        if len(images) == 0:
            return
        if min(images.shape[-2:]) < PATCH:
            height, width = images.shape[-2:]
            raise ValueError(f"patches need images of at least 7x7 pixels, got {width}x{height}")
        if self._descriptors and self._descriptors[0][0].shape[1] != images.shape[1]:
            raise ValueError(
                f"images of {images.shape[1]} channels added to a set of images of "
                f"{self._descriptors[0][0].shape[1]}"
            )
        images = images.detach().float().cpu()
        self._sides.add(min(images.shape[-2:]))
        generators = [_generator_for(image, self.seed) for image in images]
        for level, planes in enumerate(laplacian_pyramid(images)):
            if level == len(self._descriptors):
                self._descriptors.append([])
            self._descriptors[level] += [
                _random_patches(image, self.patches_per_image, generator)
                for image, generator in zip(planes, generators, strict=True)
            ]

    def distance(
        self, other: LaplacianPatches, *, projections: int = PROJECTIONS
    ) -> SlicedWassersteinDistance:
        """The distance to another set; see :func:`sliced_wasserstein_distance`."""
        if not self._descriptors or not other._descriptors:
            raise ValueError("the sliced Wasserstein distance of an empty set is undefined")
        if len(self._descriptors) != len(other._descriptors):
            raise ValueError(
                f"the sets have pyramids of {len(self._descriptors)} and "
                f"{len(other._descriptors)} levels: their images differ in size"
            )
        levels = {}
        pairs = zip(self._descriptors, other._descriptors, strict=True)
        for level, (mine, theirs) in enumerate(pairs):
            generator = torch.Generator().manual_seed(self.seed)
            levels[self._label(level, other)] = SWD_SCALE * sliced_distance(
                normalize_descriptors(torch.cat(mine)),
                normalize_descriptors(torch.cat(theirs)),
                projections=projections,
                generator=generator,
            )
        return SlicedWassersteinDistance(levels, sum(levels.values()) / len(levels))

    def _label(self, level: int, other: LaplacianPatches) -> str:
        sides = self._sides | other._sides
        if len(sides) > 1:
            return f"1/{2**level}"
        side = next(iter(sides))
        for _ in range(level):
            side = (side + 1) // 2
        return str(side)


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Band-pass images from the finest to the coarsest level (Burt and Adelson 1983).

    [N, C, H, W] -> [N, C, H, W], [N, C, ceil(H/2), ceil(W/2)], ... down to 16 pixels on the shorter
    side (never below). Each level is the Gaussian pyramid's minus its coarser neighbour expanded;
    the last holds what is left, so that expanding and adding restores the images. Filters are the
    binomial 1 4 6 4 1, borders reflected.
    """
    levels = []
    while min(images.shape[-2:]) // 2 >= SMALLEST_LEVEL:
        coarse = _smooth(images)[:, :, ::2, ::2]
        levels.append(images - expand(coarse, images.shape[-2], images.shape[-1]))
        images = coarse
    return [*levels, images]


def expand(coarse: Tensor, height: int, width: int) -> Tensor:
    """Twice as fine: zeros between pixels, smoothed, brightness kept. -> [N, C, height, width]"""
    fine = coarse.new_zeros(*coarse.shape[:2], height, width)
    fine[:, :, ::2, ::2] = coarse
    return 4 * _smooth(fine)


def normalize_descriptors(descriptors: Tensor) -> Tensor:
    """Mean 0 and deviation 1 per channel over a set of descriptors. [M, C, h, w] -> [M, C * h * w]

    A channel without variation becomes 0.
    """
    exact = descriptors.double()
    mean = exact.mean(dim=(0, 2, 3), keepdim=True)
    deviation = exact.std(dim=(0, 2, 3), keepdim=True, correction=0)
    scale = torch.where(deviation > _CONSTANT, 1 / deviation, 0.0)
    return ((descriptors - mean.float()) * scale.float()).flatten(1)


def sliced_distance(a: Tensor, b: Tensor, *, projections: int, generator: torch.Generator) -> float:
    """Sliced Wasserstein-1 distance of point sets [N, D] and [M, D] (Rabin et al. 2011).

    The mean over random unit vectors of the distance between the projections on them.
    """
    total = 0.0
    for start in range(0, projections, _PROJECTIONS_AT_ONCE):
        count = min(_PROJECTIONS_AT_ONCE, projections - start)
        directions = torch.randn(count, a.shape[1], generator=generator)
        directions = F.normalize(directions, dim=1)
        total += wasserstein_distance_1d(directions @ a.T, directions @ b.T).sum().item()
    return total / projections


def wasserstein_distance_1d(a: Tensor, b: Tensor) -> Tensor:
    """Exact Wasserstein-1 distance of samples on a line. [..., N], [..., M] -> [...], float64

    The integral over q of the difference of the quantile functions. With equally many samples it is
    the mean absolute difference of the sorted samples; otherwise both quantile functions are
    piecewise constant between the multiples of 1/N and of 1/M.
    """
    n, m = a.shape[-1], b.shape[-1]
    a, b = a.sort(dim=-1).values, b.sort(dim=-1).values
    if n == m:
        return (a - b).abs().mean(dim=-1, dtype=torch.float64)
    # In units of 1 / (n m), where the steps are integers: a steps every m, b every n.
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    lengths = torch.diff(ends, prepend=ends.new_zeros(1)).double() / (n * m)
    difference = (a[..., (ends - 1) // m] - b[..., (ends - 1) // n]).abs()
    return difference.double() @ lengths


def _comparable(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    if images.ndim != 4 or images.shape != references.shape:
        raise ValueError(
            "images and references must have one shape [N, C, H, W], got "
            f"{tuple(images.shape)} and {tuple(references.shape)}"
        )
    return images.detach().float(), references.detach().float()


def _smooth(images: Tensor) -> Tensor:
    """Convolution with 1 4 6 4 1 along both axes, borders reflected. [N, C, H, W] -> the same"""
    channels = images.shape[1]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype) / 16
    row = taps.expand(channels, 1, 1, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(padded, row, groups=channels), row.mT, groups=channels)


def _random_patches(image: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Patches anywhere inside the image. [C, H, W] -> [count, C, 7, 7]"""
    height, width = image.shape[-2:]
    top = torch.randint(height - PATCH + 1, (count,), generator=generator)
    left = torch.randint(width - PATCH + 1, (count,), generator=generator)
    windows = image.unfold(1, PATCH, 1).unfold(2, PATCH, 1)  # [C, H-6, W-6, 7, 7]
    return windows[:, top, left].transpose(0, 1)


def _generator_for(image: Tensor, seed: int) -> torch.Generator:
    # Seeded by what the image shows, so that the order in which files are read changes nothing and
    # equal sets are at distance 0. In 8 bits, so that float rounding does not move the patches.
    shown = (image * 255).round().clamp(0, 255).to(torch.uint8).contiguous()
    content = hashlib.blake2b(shown.numpy().tobytes(), digest_size=8)
    content.update(str(seed).encode())
    return torch.Generator().manual_seed(int.from_bytes(content.digest(), "little") >> 1)
