"""Paired data: for each image of the input domain the one that it should become.

``open_paired`` recognises three layouts of folders, ``check_paired`` opens every file before
training does. Which image is input and which is target is settled here: item ``"A"`` is
always what the generator reads and item ``"B"`` what it should make.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from torch.utils.data import Dataset

from pix2gan.data.image_cache import ImageCache
from pix2gan.data.image_io import Array, to_channels, to_rgb
from pix2gan.data.inspection import in_threads, raise_broken
from pix2gan.data.pair_layouts import (
    Layout,
    PairFiles,
    Split,
    choose_split,
    find_pairs,
    open_pair,
)
from pix2gan.data.sampler import SampleKey, random_stream
from pix2gan.data.transforms import (
    Augmenter,
    AugmentOptions,
    Fit,
    fit_image,
    has_plain_background,
    is_photo,
    to_tensor,
)
from pix2gan.errors import BadImageError, ConfigError, DataError

Direction: TypeAlias = Literal["AtoB", "BtoA"]


@dataclass(frozen=True)
class PairedSummary:
    """What ``check_paired`` found when everything was in order."""

    layout: Layout
    pairs: int
    left_out: tuple[str, ...]
    """Names left out because their background is not plain."""
    smallest: tuple[int, int]
    largest: tuple[int, int]
    """Sizes (height, width) of the smallest and the largest image of domain B by area."""

    def __str__(self) -> str:
        (h0, w0), (h1, w1) = self.smallest, self.largest
        text = f"{self.pairs} pairs ({self.layout}), {w0} x {h0} to {w1} x {h1} pixels"
        if self.left_out:
            text += f"; {len(self.left_out)} photos without a plain background left out"
        return text


class PairedDataset(Dataset[dict[str, Any]]):
    """Pairs as tensors; made by ``open_paired``.

    ``dataset[epoch, index]`` is ``{"A": float32 [in_channels, size, size], "B": float32
    [out_channels, size, size], "name": str}`` with values in [-1, 1]; "A" is the generator's
    input and "B" its target, whatever the direction. ``dataset[index]`` is epoch 0. All random
    choices depend on (seed, epoch, index) alone.

    Decoded and fitted images are kept, up to ``cache_bytes`` in each worker process.
    """

    def __init__(
        self,
        pairs: Sequence[PairFiles],
        layout: Layout,
        *,
        size: int,
        direction: Direction,
        sketch: str | None,
        augment: AugmentOptions | None,
        seed: int,
        fit: Fit,
        in_channels: int,
        out_channels: int,
        cache_bytes: int,
        left_out: Sequence[str] = (),
    ) -> None:
        self.pairs, self.layout, self.size = list(pairs), layout, size
        self.direction, self.sketch, self.seed, self.fit = direction, sketch, seed, fit
        self.in_channels, self.out_channels = in_channels, out_channels
        self.left_out = list(left_out)
        self.augmenter = Augmenter(size, augment) if augment else None
        self._cache = ImageCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> list[str]:
        """Name of each pair in order: path below the data folder without suffix."""
        return [pair.name for pair in self.pairs]

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        epoch, index = (0, key) if isinstance(key, int) else key
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"sample {index} of {len(self.pairs)}")
        images = self._load(index)
        geometry_seed, colour_seed = random_stream(self.seed, epoch, index).integers(2**31, size=2)
        if self.augmenter is not None:
            images = self.augmenter.geometry(images, int(geometry_seed))
        if self.sketch is not None:
            images = [self._draw(images[0], epoch, index), images[0]]
        if self.direction == "BtoA":
            images.reverse()
        source, target = images
        if self.augmenter is not None:
            # Colours come last, so sketches are drawn from the photo as it is. In sketch data one
            # side is a photo by definition; elsewhere only photos that are read are varied.
            if self.sketch is not None and self.direction == "AtoB":
                target = self.augmenter.colours(target, int(colour_seed), target=True)
            elif is_photo(source):
                source = self.augmenter.colours(source, int(colour_seed), target=False)
        return {
            "A": to_tensor(to_channels(source, self.in_channels)),
            "B": to_tensor(to_channels(target, self.out_channels)),
            "name": self.pairs[index].name,
        }

    def _draw(self, photo: Array, epoch: int, index: int) -> Array:
        from pix2gan.data import sketch

        assert self.sketch is not None
        # Varied from sample to sample in training; without augmentation fixed middle settings.
        rng = random_stream(self.seed, epoch, index, 1) if self.augmenter is not None else None
        drawing: Array = sketch.draw_sketch(photo, self.sketch, rng)
        return drawing[..., np.newaxis]

    def _load(self, index: int) -> list[Array]:
        """Decoded images as uint8 squares: [A, B], or [photo] where A is drawn from it."""
        cached = self._cache.get(index)
        if cached is None:
            side = self.augmenter.load_size if self.augmenter is not None else self.size
            opened = open_pair(self.pairs[index], self.layout)
            channels = self._channels()
            fitted = [
                fit_image(to_channels(image, count), side, self.fit)
                for image, count in zip(opened, channels, strict=True)
            ]
            cached = self._cache.put(index, fitted)
        return list(cached)

    def _channels(self) -> list[int]:
        """Channels in which the files' images are kept: sketches are drawn from RGB."""
        if self.sketch is not None:
            return [3]
        channels = [self.in_channels, self.out_channels]
        return channels if self.direction == "AtoB" else channels[::-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": ImageCache(self._cache.capacity)}


# -- opening ---------------------------------------------------------------------------------------


def open_paired(
    data: str | os.PathLike[str],
    *,
    size: int = 256,
    direction: Direction = "AtoB",
    sketch: str | None = None,
    augment: bool | AugmentOptions = True,
    holdout: float = 0.0,
    split: Split = "train",
    seed: int = 0,
    fit: Fit = "pad",
    in_channels: int = 3,
    out_channels: int = 3,
    only_plain_background: bool = False,
    cache_bytes: int = 2**30,
) -> PairedDataset:
    """Open paired data of any of these layouts, recognised by what the folder holds.

    - *side by side*: images (in sub-folders too) whose left half is A and right half is B;
    - *two folders*: ``A/`` and ``B/``, or ``trainA/`` and ``trainB/``, matched by relative path
      without suffix;
    - *sketched photos*, with ``sketch``: photos are domain B, and A is drawn from them.

    A folder with ``train/`` (and perhaps ``test/`` or ``val/``) of these is entered. Where the data
    bring a test set of their own (also ``testA/`` and ``testB/``) and ``holdout`` is 0, that is the
    "test" split.

    Args:
        data: The folder.
        size: Side of the square samples in pixels.
        direction: "AtoB": A is the input; "BtoA": B is the input (and becomes item "A").
        sketch: How to draw sketches (see ``pix2gan.data.sketch``), or None for real pairs.
        augment: Whether to augment samples at random, or how; never done in the "test" split.
        holdout: Share of the pairs that the "test" split holds and "train" lacks. Whether a pair
            is held out depends on its name and the seed, not on the other files.
        split: "train", "test" or "all".
        seed: Of the hold-out and of all random choices.
        fit: How images of other shapes become squares, see ``fit_image``.
        in_channels: Channels of item "A".
        out_channels: Channels of item "B".
        only_plain_background: Leave out photos (images of domain B) whose background is not light
            and even (``has_plain_background``).
        cache_bytes: Memory for decoded images, in each worker process.

    Raises:
        DataError: If no layout fits, files do not match up, or nothing is left.
        ConfigError: If an option makes no sense.
    """
    check_choice("direction", direction, get_args(Direction))
    check_choice("split", split, get_args(Split))
    check_choice("fit", fit, get_args(Fit))
    if not 0 <= holdout < 1:
        raise ConfigError(f"holdout is a share from 0 up to 1, not {holdout}; try 0.1.")
    if size < 2:
        raise ConfigError(f"size is the side of the samples in pixels, not {size}; try 256.")
    layout, found = find_pairs(Path(data), sketch is not None, split, own_test=holdout == 0)
    chosen = choose_split(found, holdout, split, seed)
    if not chosen:
        raise DataError(
            f"The {split} split of {os.fspath(data)} is empty; hold out a share with holdout."
        )
    left_out: list[str] = []
    if only_plain_background:
        plain = _with_plain_background(chosen, layout)
        left_out = [pair.name for pair in chosen if pair.name not in plain]
        chosen = [pair for pair in chosen if pair.name in plain]
        if not chosen:
            raise DataError(
                f"No photo in {os.fspath(data)} has a light and even background; "
                "do not ask for plain backgrounds only."
            )
    options = AugmentOptions() if augment is True else augment or None
    return PairedDataset(
        chosen,
        layout,
        size=size,
        direction=direction,
        sketch=sketch,
        augment=options if split != "test" else None,
        seed=seed,
        fit=fit,
        in_channels=in_channels,
        out_channels=out_channels,
        cache_bytes=cache_bytes,
        left_out=left_out,
    )


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ConfigError(f"Unknown {option} {value!r}: choose one of {', '.join(choices)}.")


# -- checking --------------------------------------------------------------------------------------


def check_paired(
    data: str | os.PathLike[str] | PairedDataset,
    *,
    sketch: str | None = None,
    fit: Fit = "pad",
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> PairedSummary:
    """Open every file, so that a broken one is known before training rather than hours into it.

    Args:
        data: The folder (all of its pairs are checked), or a dataset opened from it.
        sketch: As for ``open_paired``, when ``data`` is a folder.
        fit: As for ``open_paired``, when ``data`` is a folder; "resize" allows the two images of
            a pair to differ in shape.
        threads: How many files to decode at a time.
        progress: Called with (files done, files in all) now and then.

    Raises:
        DataError: Names the broken, unmatched and misshapen files (the first 20, then a count).
    """
    if not isinstance(data, PairedDataset):
        data = open_paired(data, sketch=sketch, fit=fit, augment=False, split="all")
    dataset = data

    def inspect(pair: PairFiles) -> tuple[int, int] | BadImageError:
        try:
            images = open_pair(pair, dataset.layout)
            for image, count in zip(images, dataset._channels(), strict=True):
                if image.shape[2] > 4 and image.shape[2] != count:
                    reason = f"it has {image.shape[2]} channels where {count} are expected."
                    raise BadImageError(pair.b, reason)
            _check_shapes(pair, images, dataset.fit)
            return images[-1].shape[0], images[-1].shape[1]
        except BadImageError as error:
            return error

    results = in_threads(inspect, dataset.pairs, threads, progress)
    broken = [result for result in results if isinstance(result, BadImageError)]
    raise_broken(broken, len(dataset), "pairs")
    sizes = sorted((result for result in results if isinstance(result, tuple)), key=np.prod)
    _check_wide_enough(dataset, sizes)
    return PairedSummary(
        layout=dataset.layout,
        pairs=len(dataset),
        left_out=tuple(dataset.left_out),
        smallest=sizes[0],
        largest=sizes[-1],
    )


def _check_shapes(pair: PairFiles, images: list[Array], fit: Fit) -> None:
    """The images of a pair must have one shape, or fitting would shift one against the other."""
    (ha, wa), (hb, wb) = images[0].shape[:2], images[-1].shape[:2]
    if fit != "resize" and abs(wa * hb - wb * ha) > 0.02 * wa * hb + max(wa, wb, ha, hb):
        reason = (
            f"it is {wa} x {ha} pixels but its partner {pair.b} is {wb} x {hb}, which cannot lie "
            "on each other; crop them alike or use fit=resize."
        )
        raise BadImageError(pair.a or pair.b, reason)


def _check_wide_enough(dataset: PairedDataset, sizes: list[tuple[int, int]]) -> None:
    narrow = sum(height > 2 * width for height, width in sizes)
    if dataset.layout == "side-by-side" and 2 * narrow > len(sizes):
        raise DataError(
            "Most images are too narrow to be pairs A|B side by side; give folders A and B, "
            "or say sketch if they are single photos."
        )


def _with_plain_background(pairs: list[PairFiles], layout: Layout) -> set[str]:
    """Names of the pairs whose image of domain B has a plain background."""

    def inspect(pair: PairFiles) -> bool | BadImageError:
        try:
            return has_plain_background(to_rgb(open_pair(pair, layout)[-1]))
        except BadImageError as error:
            return error

    found = in_threads(inspect, pairs, 4, None)
    raise_broken([r for r in found if isinstance(r, BadImageError)], len(pairs), "pairs")
    return {pair.name for pair, result in zip(pairs, found, strict=True) if result is True}
