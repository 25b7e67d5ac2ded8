"""Scoring translations that have no targets: how far are they, as a set, from the target domain?

The sliced Wasserstein distance to real images of the target domain says little by itself. It stands
here in a table with what it would be for the inputs as they are, for inputs that were merely given
the target domain's colours, and for real images of the target domain, which no translation beats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pix2gan.evaluation.scores import versions
from pix2gan.image_metrics import sliced_wasserstein_distance

TWO_THIRDS = 2 / 3
_LEVELS = 256  # of a colour histogram


def evaluate_unpaired(
    translate: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, *, seed: int = 0
) -> dict[str, Any]:
    """The table of distances to ``targets``, each with ``mean`` and ``levels``.

    Args:
        translate: From [N, C, H, W] to [N, C, H, W], both in [0, 1].
        inputs: Images of the input domain that were not trained on, [N, 3, H, W] in [0, 1].
        targets: Images of the target domain, [M, 3, H, W]; as many as there are, for the distance
            of finite sets has a floor that falls with their sizes.
        seed: Of patches, projections, the choice of target images for colours, and of halves.

    Returns:
        JSON values: ``inputs``, ``translations``, ``colour_matched`` (the histograms of each input
        made those of a target image drawn at random, by channel), ``colour_moved`` (one curve a
        channel for all inputs, which gives them the histograms of the whole target domain),
        ``target_halves`` (one half of the targets to the other) and ``target_sample`` (as many
        targets as there are inputs to the other targets: the floor). ``ratio`` is that of the
        translations to the inputs, ``passes`` whether it is two thirds or less and both controls
        are beaten.
    """
    random = torch.Generator().manual_seed(seed)
    outputs = _in_8_bits(translate(inputs))
    partners = torch.randint(len(targets), (len(inputs),), generator=random)
    matched = [
        match_histogram(x[None], targets[p][None]) for x, p in zip(inputs, partners, strict=True)
    ]
    order = torch.randperm(len(targets), generator=random)
    half, count = len(targets) // 2, min(len(inputs), len(targets) // 2)
    sets = {
        "inputs": (inputs, targets),
        "translations": (outputs, targets),
        "colour_matched": (torch.cat(matched), targets),
        "colour_moved": (match_histogram(inputs, targets), targets),
        "target_halves": (targets[order[:half]], targets[order[half:]]),
        "target_sample": (targets[order[:count]], targets[order[count:]]),
    }
    table: dict[str, Any] = {}
    for name, (images, others) in sets.items():
        distance = sliced_wasserstein_distance(images, others, seed=seed)
        table[name] = {"images": len(images), "to": len(others), **distance._asdict()}
    ratio = table["translations"]["mean"] / table["inputs"]["mean"]
    controls = min(table[name]["mean"] for name in ("colour_matched", "colour_moved"))
    return {
        "swd": table,
        "ratio": ratio,
        "passes": bool(ratio <= TWO_THIRDS and table["translations"]["mean"] < controls),
        "size": min(inputs.shape[-2:]),
        "versions": versions(),
    }


def match_histogram(images: Tensor, like: Tensor) -> Tensor:
    """``images`` with the histograms of ``like``, channel by channel; both [*, C, *, *] in [0, 1].

    One rising curve a channel, the same for all of ``images``: a value becomes that of ``like``
    below which as large a share of pixels lies. Values are seen in 8 bits.
    """
    channels = []
    for ours, theirs in zip(images.unbind(1), like.unbind(1), strict=True):
        levels = (ours * (_LEVELS - 1)).round().long().clamp(0, _LEVELS - 1)
        counts = torch.bincount(levels.flatten(), minlength=_LEVELS).double()
        # The middle of each level's share, so that an image matched to itself stays as it is.
        share = (counts.cumsum(0) - counts / 2) / counts.sum()
        curve = torch.quantile(_sorted_sample(theirs), share.float())
        channels.append(curve.to(images.dtype)[levels])
    return torch.stack(channels, dim=1)


def _sorted_sample(values: Tensor, count: int = 2**20) -> Tensor:
    """At most ``count`` of the sorted values, evenly spread: quantiles need no more."""
    ordered = values.flatten().float().sort().values
    if len(ordered) <= count:
        return ordered
    places = torch.linspace(0, len(ordered) - 1, count, dtype=torch.float64).long()
    return ordered[places]


def _in_8_bits(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255
