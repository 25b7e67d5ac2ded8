"""Scoring a translator on pairs that were held back from its training.

translator = Translator.from_pretrained("sketch2motorbike")
pairs = open_paired(photos, sketch="mixed", holdout=0.1, split="test")
scores = evaluate_translator(translator, pairs)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from pix2gan.errors import DataError
from pix2gan.evaluation.scores import PairedScores, versions


class Translating(Protocol):
    """A Translator, as far as it is needed here."""

    def __call__(self, images: Tensor, *, batch_size: int | None, output: str) -> Any: ...


class Pairs(Protocol):
    """A PairedDataset, as far as it is needed here."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Mapping[str, Any]: ...


def evaluate_translator(
    translator: Translating,
    pairs: Pairs,
    *,
    batch_size: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Translate the A of every pair and score it against its B.

    Images are rounded to 8 bits before they are scored, so that the scores are those of the files
    that the translator would write. Borders that the dataset padded are scored like the rest.

    Args:
        translator: Called with batches [N, C, H, W] in [0, 1] and ``output="tensor"``.
        pairs: Each is scored once, as epoch 0 shows it; the "test" split is never augmented.
        batch_size: Pairs translated at once.
        seed: Of the sliced Wasserstein distance's patches and projections.
        progress: Called with (pairs done, pairs in all) after each batch.

    Returns:
        JSON values: ``count``, ``identical``, ``psnr``, ``ssim``, ``l1`` and ``swd`` (``mean`` and
        ``levels``) of the translations; ``untranslated``, the same of the inputs as they are,
        where A and B have equally many channels: what the translator must beat; ``protocol``,
        ``versions``, and ``images`` with the scores of each.

    Raises:
        DataError: If there are no pairs.
    """
    total = len(pairs)
    if total == 0:
        raise DataError("There are no pairs to score: hold some back, or give another folder.")
    translated = PairedScores(total, seed=seed)
    untranslated = PairedScores(total, seed=seed)
    for start in range(0, total, batch_size):
        items = [pairs[0, index] for index in range(start, min(start + batch_size, total))]
        inputs = torch.stack([_from_network_range(item["A"]) for item in items])
        outputs = translator(inputs, batch_size=batch_size, output="tensor").cpu()
        for item, given, made in zip(items, inputs, outputs, strict=True):
            name, real = str(item["name"]), _in_8_bits(_from_network_range(item["B"]))
            translated.add(name, _in_8_bits(made), real)
            if given.shape == real.shape:
                untranslated.add(name, _in_8_bits(given), real)
        if progress is not None:
            progress(start + len(items), total)
    return {
        **translated.mean().as_dict(),
        **({"untranslated": untranslated.mean().as_dict()} if untranslated.images else {}),
        "protocol": {"images": "rounded to 8 bits", **translated.protocol()},
        "versions": versions(),
        "images": [image.as_dict() for image in translated.images],
    }


def _from_network_range(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]"""
    return (image.float() + 1) / 2


def _in_8_bits(image: Tensor) -> Tensor:
    return (image * 255).round() / 255
