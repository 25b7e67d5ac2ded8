"""Metrics: against closed forms, scipy and the textbook definitions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import wasserstein_distance

from pix2gan.image_metrics import (
    LaplacianPatches,
    expand,
    l1,
    laplacian_pyramid,
    normalize_descriptors,
    psnr,
    sliced_distance,
    sliced_wasserstein_distance,
    ssim,
    wasserstein_distance_1d,
)


def blobs(count: int, size: int = 64, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Images in [0, 1] with structure at every scale."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, channels, size, size)
    side = 4
    while side <= size:
        noise = torch.randn(count, channels, side, side, generator=generator)
        total += F.interpolate(noise, size=(size, size), mode="bilinear") / side**0.5
        side *= 2
    return (total * 0.25 + 0.5).clamp(0, 1)


def blurred(images: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images


def test_psnr_of_a_known_error():
    references = blobs(2).clamp(0.2, 0.8)
    images = references + torch.tensor([0.1, -0.01]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(psnr(images, references), torch.tensor([20.0, 40.0]))


def test_psnr_of_identical_images_is_infinite():
    assert psnr(blobs(1), blobs(1)).item() == float("inf")


def test_l1_of_a_known_error_image_by_image():
    references = torch.zeros(2, 3, 16, 16)
    images = references.clone()
    images[1, 0] = 0.3
    torch.testing.assert_close(l1(images, references), torch.tensor([0.0, 0.1]))


def test_ssim_matches_its_definition():
    images, references = blobs(2, 32, seed=1), blobs(2, 32, seed=2)
    x = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(x**2) / (2 * 1.5**2))
    window = torch.outer(window, window) / window.sum() ** 2

    def local_mean(planes: torch.Tensor) -> torch.Tensor:
        return F.conv2d(planes.double(), window.expand(3, 1, 11, 11), groups=3)

    a, b = images.double(), references.double()
    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a, var_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    torch.testing.assert_close(
        ssim(images, references), expected.mean(dim=(1, 2, 3)).float(), atol=1e-4, rtol=1e-4
    )


def test_ssim_of_identical_images_is_one_for_any_batch_size():
    for count in (1, 3):
        torch.testing.assert_close(ssim(blobs(count), blobs(count)), torch.ones(count))


def test_paired_metrics_refuse_other_shapes():
    for metric in (psnr, ssim, l1):
        with pytest.raises(ValueError, match="one shape"):
            metric(blobs(1, 32), blobs(1, 64))
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))


def test_pyramid_restores_the_images():
    for height, width in ((64, 64), (37, 70), (33, 32)):
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        *bands, restored = laplacian_pyramid(images)
        for band in reversed(bands):
            restored = band + expand(restored, *band.shape[-2:])
        torch.testing.assert_close(restored, images)


def test_pyramid_of_a_constant_is_zero_but_for_its_last_level():
    *bands, last = laplacian_pyramid(torch.full((1, 3, 64, 48), 0.3))
    assert [tuple(band.shape[-2:]) for band in bands] == [(64, 48)]
    assert tuple(last.shape[-2:]) == (32, 24)
    torch.testing.assert_close(bands[0], torch.zeros(1, 3, 64, 48), atol=1e-6, rtol=0)
    torch.testing.assert_close(last, torch.full((1, 3, 32, 24), 0.3))


def test_pyramid_levels_of_256_pixels_are_the_papers():
    levels = laplacian_pyramid(torch.rand(1, 1, 256, 256))
    assert [level.shape[-1] for level in levels] == [256, 128, 64, 32, 16]


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 25), (7, 31), (1, 5), (24, 16)])
def test_distance_on_a_line_equals_scipys(n: int, m: int):
    rng = np.random.default_rng(n * 100 + m)
    a, b = rng.normal(size=(3, n)), rng.normal(0.5, 2.0, size=(3, m))
    expected = [wasserstein_distance(a[row], b[row]) for row in range(3)]
    distance = wasserstein_distance_1d(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(distance.numpy(), expected, rtol=1e-12)


def test_a_shift_of_a_gaussian_is_its_distance():
    a = torch.randn(1, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert wasserstein_distance_1d(a, a + 0.7).item() == pytest.approx(0.7, rel=1e-12)


def test_sliced_distance_of_a_shift_in_space():
    """E |<shift, u>| over unit vectors u of R^3 is |shift| / 2."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 3, generator=generator)
    shift = torch.tensor([0.0, 3.0, 4.0])
    distance = sliced_distance(points, points + shift, projections=4000, generator=generator)
    assert distance == pytest.approx(2.5, rel=0.03)


def test_descriptors_are_normalised_by_channel():
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.randn(50, 3, 7, 7, generator=generator)
    descriptors *= torch.tensor([1.0, 0.1, 0.0]).reshape(1, 3, 1, 1)
    descriptors += torch.tensor([5.0, -2.0, 0.3]).reshape(1, 3, 1, 1)
    channels = normalize_descriptors(descriptors).reshape(50, 3, 49)
    torch.testing.assert_close(channels.mean(dim=(0, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        channels.std(dim=(0, 2), correction=0), torch.tensor([1.0, 1.0, 0.0])
    )


def test_identical_sets_are_at_distance_zero():
    result = sliced_wasserstein_distance(blobs(4), blobs(4), projections=16)
    assert list(result.levels) == ["64", "32", "16"]
    assert result.mean == 0.0
    assert set(result.levels.values()) == {0.0}


def test_the_order_of_images_does_not_matter():
    a, b = blobs(6, seed=1), blobs(6, seed=2)
    shuffled = a[torch.tensor([3, 1, 5, 0, 4, 2])]
    one = sliced_wasserstein_distance(a, b, projections=16)
    other = sliced_wasserstein_distance(shuffled, b, projections=16)
    assert one.mean > 0
    for level in one.levels:
        assert one.levels[level] == pytest.approx(other.levels[level], rel=1e-4)


def test_batches_change_nothing():
    a, b = LaplacianPatches(seed=3), LaplacianPatches(seed=3)
    for image in blobs(4, seed=1):
        a.add(image[None])
    b.add(blobs(4, seed=2))
    whole = sliced_wasserstein_distance(blobs(4, seed=1), blobs(4, seed=2), projections=16, seed=3)
    assert a.distance(b, projections=16).mean == pytest.approx(whole.mean, rel=1e-4)


def test_a_seed_repeats_and_another_seed_differs():
    a, b = blobs(4, seed=1), blobs(4, seed=2)
    first = sliced_wasserstein_distance(a, b, projections=16, seed=0)
    again = sliced_wasserstein_distance(a, b, projections=16, seed=0)
    other = sliced_wasserstein_distance(a, b, projections=16, seed=1)
    assert first == again
    assert first != other
    assert other.mean == pytest.approx(first.mean, rel=0.5)


def test_distance_grows_with_blur_and_most_at_the_finest_level():
    images, others = blobs(24, seed=1), blobs(24, seed=2)
    for references in (images, others):
        results = [
            sliced_wasserstein_distance(blurred(images, times), references, projections=16)
            for times in (0, 1, 4, 12)
        ]
        means = [result.mean for result in results]
        assert means == sorted(means)
        finest, coarsest = ([r.levels[side] for r in results] for side in ("64", "16"))
        assert finest[1] - finest[0] > 2 * (coarsest[1] - coarsest[0])


def test_brightness_and_contrast_alone_are_no_distance():
    """The normalisation of the paper: documented, and why L1 is reported beside it."""
    images = blobs(6)
    paler = sliced_wasserstein_distance(images * 0.5 + 0.3, images, projections=16)
    other = sliced_wasserstein_distance(blobs(6, seed=1), images, projections=16)
    assert paler.mean < 2 * other.mean  # the floor of two finite samples


def test_sets_of_different_sizes_are_compared():
    a, b = blobs(8, seed=1), blobs(3, seed=2)
    result = sliced_wasserstein_distance(a, b, projections=16)
    far = sliced_wasserstein_distance(blurred(a, 8), b, projections=16)
    assert 0 < result.mean < far.mean


def test_images_of_mixed_sizes_are_matched_by_scale():
    a, b = LaplacianPatches(), LaplacianPatches()
    for patches in (a, b):
        patches.add(blobs(2, 64))
        patches.add(blobs(2, 32))
    result = a.distance(b, projections=8)
    assert list(result.levels) == ["1/1", "1/2", "1/4"]
    assert result.mean == 0.0


def test_any_number_of_channels_and_constant_images():
    grey = sliced_wasserstein_distance(
        blobs(2, 32, 1, seed=1), blobs(2, 32, 1, seed=2), projections=8
    )
    assert grey.mean > 0
    flat = torch.full((2, 5, 32, 32), 0.3)
    assert sliced_wasserstein_distance(flat, flat * 2, projections=8).mean == 0.0


def test_half_precision_is_computed_in_float32():
    a, b = blobs(2, seed=1).bfloat16(), blobs(2, seed=2).bfloat16()
    for metric in (psnr, ssim, l1):
        torch.testing.assert_close(metric(a, b), metric(a.float(), b.float()))
    half = sliced_wasserstein_distance(a, b, projections=8)
    assert half == sliced_wasserstein_distance(a.float(), b.float(), projections=8)


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        sliced_wasserstein_distance(blobs(1, 32), blobs(1, 64))
    with pytest.raises(ValueError, match="7x7"):
        sliced_wasserstein_distance(torch.rand(1, 3, 6, 9), torch.rand(1, 3, 6, 9))
    with pytest.raises(ValueError, match="empty"):
        sliced_wasserstein_distance(torch.rand(0, 3, 32, 32), torch.rand(0, 3, 32, 32))
    mixed = LaplacianPatches()
    mixed.add(blobs(1, 32, 3))
    with pytest.raises(ValueError, match="channels"):
        mixed.add(blobs(1, 32, 1))


def test_metrics_need_no_torchvision_and_import_torchmetrics_late():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import pix2gan.image_metrics as m, torch\n"
        "assert 'torchmetrics' not in sys.modules\n"
        "a, b = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)\n"
        "print(m.psnr(a, b).item(), m.ssim(a, b).item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
