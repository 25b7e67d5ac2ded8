"""Scoring the generators, as training goes, on what is held out from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from pix2gan import image_metrics
from pix2gan.training.dataset import Items
from pix2gan.training.methods import Translation

_SCORED = 200  # of more items, as many spread over them: an evaluation should not take long

Translate = Callable[[dict[str, Any]], Mapping[str, Translation]]


def score_held_out(
    translate: Translate, items: Items, batch: int, paired: bool
) -> tuple[float, dict[str, float]]:
    """How far the translations of ``items`` are from the real images: (one figure, all of them).

    Args:
        translate: ``Method.translate`` with the generators given.
        paired: Whether an output should equal the real image beside it. Then the figure is the mean
            L1 distance, else the sliced Wasserstein distance of the two sets.

    Lower is better; with several models the figure is their mean. Where there is one model its
    scores are called ``held_out_l1`` and the like, else ``held_out_MODEL_l1``.
    """
    count = min(_SCORED, len(items))
    places = [i * len(items) // count for i in range(count)]
    scorers: dict[str, _Paired | _Unpaired] = {}
    for start in range(0, count, batch):
        chosen = [items[(0, place)] for place in places[start : start + batch]]
        for name, made in translate(default_collate(chosen)).items():
            scorer = scorers.setdefault(name, _Paired() if paired else _Unpaired())
            scorer.add(_in_0_to_1(made.output), _in_0_to_1(made.real))
    if not scorers:
        return float("nan"), {}
    scores: dict[str, float] = {}
    for name, scorer in scorers.items():
        prefix = "held_out" if len(scorers) == 1 else f"held_out_{name}"
        scores |= {f"{prefix}_{key}": value for key, value in scorer.scores().items()}
    figures = [scorer.scores()[scorer.figure] for scorer in scorers.values()]
    return sum(figures) / len(figures), scores


class _Paired:
    figure = "l1"

    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {}

    def add(self, output: Tensor, real: Tensor) -> None:
        metrics = {"l1": image_metrics.l1, "psnr": image_metrics.psnr, "ssim": image_metrics.ssim}
        if min(output.shape[-2:]) < image_metrics.SSIM_WINDOW:
            del metrics["ssim"]
        for name, metric in metrics.items():
            self.found.setdefault(name, []).append(metric(output, real))

    def scores(self) -> dict[str, float]:
        return {name: torch.cat(values).mean().item() for name, values in self.found.items()}


class _Unpaired:
    figure = "swd"

    def __init__(self) -> None:
        self.outputs = image_metrics.LaplacianPatches()
        self.reals = image_metrics.LaplacianPatches()

    def add(self, output: Tensor, real: Tensor) -> None:
        self.outputs.add(output)
        self.reals.add(real)

    def scores(self) -> dict[str, float]:
        return {"swd": self.outputs.distance(self.reals).mean}


def _in_0_to_1(images: Tensor) -> Tensor:
    return (images.detach().float().cpu().clamp(-1, 1) + 1) / 2
