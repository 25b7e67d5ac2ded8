"""Distances of sets to a domain: the table, and the controls that translations must beat."""

from __future__ import annotations

import torch

from pix2gan.evaluation.unpaired import evaluate_unpaired, match_histogram


def stripes(count: int, seed: int, period: int) -> torch.Tensor:
    """Noise smoothed along rows, so that patches have a texture. [N, 3, 32, 32] in [0, 1]"""
    noise = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, (1, period), 1, (0, period // 2))[..., :32]


def test_the_table_puts_what_is_of_the_domain_below_what_is_not() -> None:
    inputs, targets = stripes(6, 0, 1), stripes(14, 1, 7)
    good = evaluate_unpaired(lambda x: stripes(len(x), 2, 7), inputs, targets)
    swd = {name: entry["mean"] for name, entry in good["swd"].items()}
    assert swd["translations"] < 0.6 * swd["inputs"]
    assert swd["translations"] < min(swd["colour_matched"], swd["colour_moved"])
    assert swd["target_halves"] < 0.8 * swd["inputs"]
    assert good["passes"]
    assert good["ratio"] == swd["translations"] / swd["inputs"]
    assert (good["swd"]["target_sample"]["images"], good["swd"]["target_sample"]["to"]) == (6, 8)
    assert set(good["swd"]["inputs"]["levels"]) == {"32", "16"}


def test_leaving_inputs_alone_or_changing_colours_does_not_pass() -> None:
    inputs, targets = stripes(6, 0, 1), stripes(14, 1, 7) * 0.5
    same = evaluate_unpaired(lambda x: x, inputs, targets)
    assert abs(same["ratio"] - 1) < 0.02  # rounded to 8 bits
    assert not same["passes"]
    control = evaluate_unpaired(lambda x: match_histogram(x, targets), inputs, targets)
    assert not control["passes"]


def test_histograms_are_matched_by_channel() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 16, 16, generator=random)
    like = torch.rand(2, 3, 32, 32, generator=random) ** 3
    like[:, 1] = 0.25
    matched = match_histogram(images, like)
    assert matched.shape == images.shape
    assert torch.all(matched[:, 1] == 0.25)
    for channel in (0, 2):
        quantiles = torch.linspace(0.05, 0.95, 19)
        ours = torch.quantile(matched[:, channel].flatten(), quantiles)
        theirs = torch.quantile(like[:, channel].flatten(), quantiles)
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)
        order = images[:, channel].flatten().argsort()
        assert torch.all(matched[:, channel].flatten()[order].diff() >= -1e-6)  # a rising curve


def test_an_image_matched_to_itself_stays_as_it_is() -> None:
    image = (torch.rand(1, 3, 24, 24) * 255).round() / 255
    torch.testing.assert_close(match_histogram(image, image), image, atol=1 / 255, rtol=0)
