"""Paired data: for each image of the input domain the one that it should become.

``open_paired`` recognises folders of three layouts, manifests and shards, ``check_paired`` opens
every file before training does. Which image is input and which is target is settled here: item
``"A"`` is always what the generator reads and item ``"B"`` what it should make.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from pix2gan.data.augmentation import Augment, Augmentation, choose_augmentation
from pix2gan.data.image_cache import ImageCache
from pix2gan.data.image_io import Array, to_channels, to_rgb, to_uint8
from pix2gan.data.inspection import check_channels, choose_to_open, in_threads, raise_broken
from pix2gan.data.opening_options import Direction, check_opening_options
from pix2gan.data.pair_layouts import (
    FoundPairs,
    Layout,
    PairFiles,
    Split,
    choose_split,
    find_pairs,
    open_pair,
)
from pix2gan.data.sampler import SampleKey, random_stream
from pix2gan.data.seams import Halves, are_pairs, look_at_halves
from pix2gan.data.transforms import (
    AugmentOptions,
    Fit,
    cut_windows,
    fit_image,
    has_plain_background,
    is_photo,
    to_tensor,
)
from pix2gan.data.value_range import ValueRange
from pix2gan.errors import BadImageError, ConfigError, DataError

_CUTOUT_STREAM = 3  # beside the streams that the samples' other random choices come from


@dataclass(frozen=True)
class PairedSummary:
    """What ``check_paired`` found when everything was in order."""

    layout: Layout
    pairs: int
    opened: int
    """How many of them were opened: of shards only some, evenly spread."""
    left_out: tuple[str, ...]
    """Names left out because their background is not plain."""
    smallest: tuple[int, int]
    largest: tuple[int, int]
    """Sizes (height, width) of the smallest and the largest image of domain B by area."""

    def __str__(self) -> str:
        (h0, w0), (h1, w1) = self.smallest, self.largest
        text = f"{self.pairs} pairs ({self.layout}), {w0} x {h0} to {w1} x {h1} pixels"
        if self.opened < self.pairs:
            text += f" as far as {self.opened} of them show"
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
        augmentation: Augmentation | None,
        seed: int,
        fit: Fit,
        in_channels: int,
        out_channels: int,
        input_range: ValueRange | None = None,
        output_range: ValueRange | None = None,
        side_by_side: bool = False,
        cache_bytes: int,
        left_out: Sequence[str] = (),
        shard_sizes: Sequence[int] = (),
    ) -> None:
        self.pairs, self.layout, self.size = list(pairs), layout, size
        self.direction, self.sketch, self.seed, self.fit = direction, sketch, seed, fit
        self.in_channels, self.out_channels = in_channels, out_channels
        self.input_range, self.output_range = input_range, output_range
        self.side_by_side = side_by_side
        self.left_out = list(left_out)
        #: How many pairs lie in each shard; samplers keep those of one shard together.
        self.shard_sizes = tuple(shard_sizes)
        self.augmenter = augmentation
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
            if self.fit == "none":
                images = cut_windows(images, self.augmenter.load_size, int(geometry_seed))
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
            hole = random_stream(self.seed, epoch, index, _CUTOUT_STREAM).integers(2**31)
            source = self.augmenter.cut_out(source, int(hole))
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
        drawing: Array = sketch.draw_sketch(to_uint8(photo), self.sketch, rng)
        return drawing[..., np.newaxis]

    def _load(self, index: int) -> list[Array]:
        """Decoded samples as squares: [A, B], or [photo] where A is drawn from it.

        With fit "none" and augmentation they are as large as they are: windows are cut later.
        """
        cached = self._cache.get(index)
        if cached is None:
            opened = [
                to_channels(image, count)
                for image, count in zip(self._open(index), self._channels(), strict=True)
            ]
            if self.augmenter is None or self.fit != "none":
                side = self.size if self.augmenter is None else self.augmenter.load_size
                opened = [fit_image(image, side, self.fit) for image in opened]
            cached = self._cache.put(index, opened)
        return list(cached)

    def _open(self, index: int) -> list[Array]:
        ranges = self.input_range, self.output_range
        if self.direction == "BtoA":
            ranges = ranges[::-1]
        return open_pair(self.pairs[index], self.layout, ranges)

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
    side_by_side: bool = False,
    augment: Augment = True,
    holdout: float = 0.0,
    split: Split = "train",
    seed: int = 0,
    fit: Fit = "pad",
    in_channels: int = 3,
    out_channels: int = 3,
    input_range: ValueRange | None = None,
    output_range: ValueRange | None = None,
    only_plain_background: bool = False,
    cache_bytes: int = 2**30,
) -> PairedDataset:
    """Open paired data of any of these layouts, recognised by what the folder holds.

    - *side by side*: images (in sub-folders too) whose left half is A and right half is B;
    - *two folders*: ``A/`` and ``B/``, or ``trainA/`` and ``trainB/``, matched by relative path
      without suffix;
    - *sketched photos*, with ``sketch``: photos are domain B, and A is drawn from them;
    - *two files*: the rows of a manifest (``pix2gan.data.manifest``) or the samples of shards
      (``pix2gan.data.shards``); of one image each, these are side by side or photos, too.

    A folder with ``train/`` (and perhaps ``test/`` or ``val/``) of these is entered. Where the data
    bring a test set of their own (also ``testA/`` and ``testB/``) and ``holdout`` is 0, that is the
    "test" split.

    Args:
        data: The folder, the manifest or the shards.
        size: Side of the square samples in pixels.
        direction: "AtoB": A is the input; "BtoA": B is the input (and becomes item "A").
        sketch: How to draw sketches (see ``pix2gan.data.sketch``), or None for real pairs.
        side_by_side: The images hold A|B side by side, even if ``check_paired`` sees no seam.
        augment: Whether to augment samples at random, or how (see ``pix2gan.data.augmentation``);
            never done in the "test" split.
        holdout: Share of the pairs that the "test" split holds and "train" lacks. Whether a pair
            is held out depends on its name and the seed, not on the other files.
        split: "train", "test" or "all".
        seed: Of the hold-out and of all random choices.
        fit: How images of other shapes become squares, see ``fit_image``.
        in_channels: Channels of item "A".
        out_channels: Channels of item "B".
        input_range: The values in the input's files that are black and white, and become -1 and 1;
            None is the whole range of 8 or 16 bits, and 0 to 1 for floats.
        output_range: The same for the target.
        only_plain_background: Leave out photos (images of domain B) whose background is not light
            and even (``has_plain_background``).
        cache_bytes: Memory for decoded images, in each worker process.

    Raises:
        DataError: If no layout fits, files do not match up, or nothing is left.
        ConfigError: If an option makes no sense.
    """
    check_opening_options(direction=direction, split=split, fit=fit, holdout=holdout, size=size)
    most = max(in_channels, out_channels)
    if sketch is not None and most > 4:
        raise ConfigError(f"Sketches and photos have 1 to 4 channels, not {most}; give pairs.")
    found = find_pairs(Path(data), sketch is not None, split, own_test=holdout == 0)
    layout = found.layout
    chosen = choose_split(found.pairs, holdout, split, seed)
    if not chosen:
        raise DataError(
            f"The {split} split of {os.fspath(data)} is empty; hold out a share with holdout."
        )
    left_out: list[str] = []
    if only_plain_background:
        plain = _with_plain_background(
            chosen, layout, output_range if direction == "AtoB" else input_range
        )
        left_out = [pair.name for pair in chosen if pair.name not in plain]
        chosen = [pair for pair in chosen if pair.name in plain]
        if not chosen:
            raise DataError(
                f"No photo in {os.fspath(data)} has a light and even background; "
                "do not ask for plain backgrounds only."
            )
    names = ("image",) if sketch is not None else ("image", "target")
    augmentation = choose_augmentation(
        augment, size, AugmentOptions(), names if direction == "AtoB" else names[::-1]
    )
    return PairedDataset(
        chosen,
        layout,
        size=size,
        direction=direction,
        sketch=sketch,
        augmentation=augmentation if split != "test" else None,
        seed=seed,
        fit=fit,
        in_channels=in_channels,
        out_channels=out_channels,
        input_range=input_range,
        output_range=output_range,
        side_by_side=side_by_side,
        cache_bytes=cache_bytes,
        left_out=left_out,
        shard_sizes=_count_in_shards(found, chosen),
    )


def _count_in_shards(found: FoundPairs, chosen: Sequence[PairFiles]) -> list[int]:
    """How many of the chosen pairs, which are in the order of the found ones, lie in each shard."""
    kept = {id(pair) for pair in chosen}
    pairs = iter(found.pairs)
    counts = (sum(id(next(pairs)) in kept for _ in range(size)) for size in found.shard_sizes)
    return [count for count in counts if count]


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

    def inspect(index: int) -> _Looked | BadImageError:
        pair = dataset.pairs[index]
        try:
            images = dataset._open(index)
            files = (pair.b,) if pair.a is None else (pair.a, pair.b)
            for place, (image, count) in enumerate(zip(images, dataset._channels(), strict=True)):
                check_channels(image, count, str(files[min(place, len(files) - 1)]))
            _check_shapes(pair, images, dataset.fit)
            halves = look_at_halves(*images) if dataset.layout == "side-by-side" else None
            return _Looked((images[-1].shape[0], images[-1].shape[1]), halves)
        except BadImageError as error:
            return error

    results = in_threads(
        inspect,
        choose_to_open(range(len(dataset)), in_shards=bool(dataset.shard_sizes)),
        threads,
        progress,
    )
    broken = [result for result in results if isinstance(result, BadImageError)]
    sound = [result for result in results if isinstance(result, _Looked)]
    raise_broken(broken, len(results), "pairs")
    halves = [result.halves for result in sound if result.halves is not None]
    if halves and not dataset.side_by_side and not are_pairs(halves):
        raise DataError(
            "These images look like single photos, not like pairs A|B side by side: most show no "
            "seam in their middle. Say --sketch mixed (sketch=) to have inputs drawn from photos, "
            "give folders A and B, or say --side-by-side (side_by_side=) if they are pairs all the "
            "same."
        )
    sizes = sorted((result.size for result in sound), key=np.prod)
    return PairedSummary(
        layout=dataset.layout,
        pairs=len(dataset),
        opened=len(results),
        left_out=tuple(dataset.left_out),
        smallest=sizes[0],
        largest=sizes[-1],
    )


@dataclass(frozen=True)
class _Looked:
    """What was seen of a pair: height and width of B, and how halves of one image meet."""

    size: tuple[int, int]
    halves: Halves | None


def _check_shapes(pair: PairFiles, images: list[Array], fit: Fit) -> None:
    """The images of a pair must have one shape, or fitting would shift one against the other."""
    (ha, wa), (hb, wb) = images[0].shape[:2], images[-1].shape[:2]
    if fit == "none" and (ha, wa) != (hb, wb):
        reason = f"it is {wa} x {ha} pixels but its partner {pair.b} is {wb} x {hb}; scale one."
        raise BadImageError(str(pair.a or pair.b), reason)
    if fit != "resize" and abs(wa * hb - wb * ha) > 0.02 * wa * hb + max(wa, wb, ha, hb):
        reason = (
            f"it is {wa} x {ha} pixels but its partner {pair.b} is {wb} x {hb}, which cannot lie "
            "on each other; crop them alike or use fit=resize."
        )
        raise BadImageError(str(pair.a or pair.b), reason)


def _with_plain_background(
    pairs: list[PairFiles], layout: Layout, values: ValueRange | None
) -> set[str]:
    """Names of the pairs whose image of domain B has a plain background."""

    def inspect(pair: PairFiles) -> bool | BadImageError:
        try:
            return has_plain_background(to_rgb(open_pair(pair, layout, (None, values))[-1]))
        except BadImageError as error:
            return error

    found = in_threads(inspect, pairs, 4, None)
    raise_broken([r for r in found if isinstance(r, BadImageError)], len(pairs), "pairs")
    return {pair.name for pair, result in zip(pairs, found, strict=True) if result is True}
