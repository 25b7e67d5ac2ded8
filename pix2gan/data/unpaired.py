"""Unpaired data: a heap of images of each domain, and no telling which belong together.

``open_unpaired`` finds the two heaps, ``check_unpaired`` opens every file before training does.
Which domain is input and which is target is settled here: item ``"A"`` is always what the
generator reads and item ``"B"`` a real image of what it should make.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from torch.utils.data import Dataset

from pix2gan.data.augmentation import Augment, Augmentation, choose_augmentation
from pix2gan.data.image_cache import ImageCache
from pix2gan.data.image_file import ImageFile, open_file
from pix2gan.data.image_io import Array, list_images, to_channels
from pix2gan.data.inspection import check_channels, choose_to_open, in_threads, raise_broken
from pix2gan.data.manifest import is_manifest, read_manifest
from pix2gan.data.opening_options import Direction, check_choice, check_opening_options
from pix2gan.data.pair_layouts import Split, held_out_names
from pix2gan.data.sampler import Order, SampleKey, random_stream, shuffle
from pix2gan.data.shards import ShardMember, names_shards, open_shards
from pix2gan.data.transforms import (
    AugmentOptions,
    Fit,
    cut_windows,
    fit_image,
    to_tensor,
)
from pix2gan.data.value_range import ValueRange, to_sample
from pix2gan.errors import BadImageError, DataError

Pairing: TypeAlias = Literal["random", "serial"]

#: Mirrored and cut out of a slightly larger image, as in CycleGAN. Colours stay: they are part of
#: what tells the domains apart.
UNPAIRED_AUGMENTATION = AugmentOptions(rotate=0.0, scale=(1.0, 1.0), shift=0.0, colours=False)

_FOLDERS = {
    "train": (("trainA", "trainB"), ("A", "B")),
    "test": (("testA", "testB"), ("valA", "valB")),
}
_PARTNER_STREAM = 2  # beside the streams that the samples' own random choices come from


@dataclass(frozen=True)
class DomainImage:
    """An image of one domain."""

    name: str
    """``A/`` or ``B/``, then the path below its domain's folder without suffix; in a manifest the
    path as it stands there, in shards the key."""
    file: ImageFile


@dataclass(frozen=True)
class UnpairedSummary:
    """What ``check_unpaired`` found when everything was in order."""

    images_a: int
    images_b: int
    """Images of the input and of the target domain."""
    smallest: tuple[int, int]
    largest: tuple[int, int]
    """Sizes (height, width) of the smallest and the largest image by area."""

    def __str__(self) -> str:
        (h0, w0), (h1, w1) = self.smallest, self.largest
        return (
            f"{self.images_a} images of the input domain and {self.images_b} of the target domain, "
            f"unpaired, {w0} x {h0} to {w1} x {h1} pixels"
        )


class UnpairedDataset(Dataset[dict[str, Any]]):
    """Images of two domains as tensors, one of each an item; made by ``open_unpaired``.

    ``dataset[epoch, index]`` is ``{"A": float32 [in_channels, size, size], "B": float32
    [out_channels, size, size], "name_a": str, "name_b": str}`` with values in [-1, 1].
    ``dataset[index]`` is epoch 0. It is as long as the larger domain, so that an epoch shows each
    image of that once. The smaller domain is gone through as often as it takes: in an order of its
    own each time ("random" pairing), or so that an image always meets the same others ("serial").
    All random choices depend on (seed, epoch, index) alone.

    Decoded and fitted images are kept, up to ``cache_bytes`` in each worker process.
    """

    def __init__(
        self,
        images_a: Sequence[DomainImage],
        images_b: Sequence[DomainImage],
        *,
        size: int,
        pairing: Pairing,
        augmentation: Augmentation | None,
        seed: int,
        fit: Fit,
        in_channels: int,
        out_channels: int,
        input_range: ValueRange | None = None,
        output_range: ValueRange | None = None,
        cache_bytes: int,
    ) -> None:
        self.images_a, self.images_b = list(images_a), list(images_b)
        self.size, self.pairing, self.seed, self.fit = size, pairing, seed, fit
        self.in_channels, self.out_channels = in_channels, out_channels
        self.input_range, self.output_range = input_range, output_range
        self.augmenter = augmentation
        self._shards_a, self._shards_b = map(_count_in_shards, (self.images_a, self.images_b))
        #: How many images of the larger domain lie in each shard; samplers keep those together.
        self.shard_sizes = (
            self._shards_b if len(self.images_a) < len(self.images_b) else self._shards_a
        )
        self._cache = ImageCache(cache_bytes)

    def __len__(self) -> int:
        return max(len(self.images_a), len(self.images_b))

    @property
    def names(self) -> list[str]:
        """Name of each image, those of the input domain first."""
        return [image.name for image in [*self.images_a, *self.images_b]]

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        epoch, index = (0, key) if isinstance(key, int) else key
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shuffles_a = len(self.images_a) < len(self.images_b)  # the sampler shuffles the larger
        a = self._choose(self.images_a, self._shards_a, epoch, index, shuffles_a)
        b = self._choose(self.images_b, self._shards_b, epoch, index, not shuffles_a)
        seed_a, seed_b = (
            int(seed) for seed in random_stream(self.seed, epoch, index).integers(2**31, size=2)
        )
        source = self._load(a, self.in_channels, self.input_range, seed_a)
        target = self._load(b, self.out_channels, self.output_range, seed_b)
        if self.augmenter is not None:
            source = self.augmenter.colours(source, seed_a, target=False)
            # Of the input domain alone, whatever the method: in the other one, which discriminators
            # take for real, generators would learn to make holes.
            source = self.augmenter.cut_out(source, seed_a)
            target = self.augmenter.colours(target, seed_b, target=True)
        return {
            "A": to_tensor(source),
            "B": to_tensor(target),
            "name_a": a.name,
            "name_b": b.name,
        }

    def _choose(
        self,
        images: list[DomainImage],
        shard_sizes: tuple[int, ...],
        epoch: int,
        index: int,
        shuffles: bool,
    ) -> DomainImage:
        """The image of a domain that item ``index`` shows."""
        lap, place = divmod(index, len(images))
        if shuffles and self.pairing == "random":
            place = int(_order(len(images), self.seed, epoch, lap, shard_sizes)[place])
        return images[place]

    def _load(
        self, image: DomainImage, channels: int, values: ValueRange | None, seed: int
    ) -> Array:
        """Decoded, fitted and moved: a sample ``[size, size, channels]``."""
        cached = self._cache.get(image.name)
        if cached is None:
            opened = to_sample(open_file(image.file), values, str(image.file))
            pixels = to_channels(opened, channels)
            if self.augmenter is None or self.fit != "none":
                side = self.size if self.augmenter is None else self.augmenter.load_size
                pixels = fit_image(pixels, side, self.fit)
            cached = self._cache.put(image.name, [pixels])
        if self.augmenter is None:
            return cached[0]
        if self.fit == "none":
            cached = cut_windows(cached, self.augmenter.load_size, seed)
        return self.augmenter.geometry(list(cached), seed)[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": ImageCache(self._cache.capacity)}


@lru_cache(maxsize=16)
def _order(count: int, seed: int, epoch: int, lap: int, shard_sizes: tuple[int, ...]) -> Order:
    return shuffle(random_stream(seed, epoch, lap, _PARTNER_STREAM), count, shard_sizes)


def _count_in_shards(images: Sequence[DomainImage]) -> tuple[int, ...]:
    """How many images lie in each shard, in their order; empty for files."""
    urls = [i.file.shard.url for i in images if isinstance(i.file, ShardMember)]
    return tuple(len(list(group)) for _, group in groupby(urls))


# -- opening ---------------------------------------------------------------------------------------


def open_unpaired(
    data: str | os.PathLike[str],
    data_b: str | os.PathLike[str] | None = None,
    *,
    size: int = 256,
    direction: Direction = "AtoB",
    pairing: Pairing = "random",
    augment: Augment = True,
    holdout: float = 0.0,
    split: Split = "train",
    seed: int = 0,
    fit: Fit = "crop",
    in_channels: int = 3,
    out_channels: int = 3,
    input_range: ValueRange | None = None,
    output_range: ValueRange | None = None,
    cache_bytes: int = 2**30,
) -> UnpairedDataset:
    """Open unpaired data: folders ``A/`` and ``B/``, or ``trainA/`` and ``trainB/``, or any two.

    A domain of its own (``data`` and ``data_b``) is a folder or shards (``pix2gan.data.shards``).
    A manifest (``pix2gan.data.manifest``) or shards of pairs bring both domains, and the pairs are
    forgotten. Sub-folders are searched. Where the data bring ``testA/`` and ``testB/`` (or
    ``valA/`` and ``valB/``) of their own and ``holdout`` is 0, these are the "test" split.

    Args:
        data: What holds both domains; with ``data_b`` domain A alone.
        data_b: Domain B.
        size: Side of the square samples in pixels.
        direction: "AtoB": A is the input; "BtoA": B is the input (and becomes item "A").
        pairing: Which image of the smaller domain goes with which of the larger, see
            ``UnpairedDataset``.
        augment: Whether to augment samples at random, or how (see ``pix2gan.data.augmentation``);
            never done in the "test" split.
        holdout: Share of each domain that the "test" split holds and "train" lacks. Whether an
            image is held out depends on its name and the seed, not on the other files.
        split: "train", "test" or "all".
        seed: Of the hold-out and of all random choices.
        fit: How images of other shapes become squares, see ``fit_image``.
        in_channels: Channels of item "A".
        out_channels: Channels of item "B".
        input_range: The values in the input's files that are black and white, and become -1 and 1;
            None is the whole range of 8 or 16 bits, and 0 to 1 for floats.
        output_range: The same for the target.
        cache_bytes: Memory for decoded images, in each worker process.

    Raises:
        DataError: If the folders are not there, or nothing is in them.
        ConfigError: If an option makes no sense.
    """
    check_opening_options(direction=direction, split=split, fit=fit, holdout=holdout, size=size)
    check_choice("pairing", pairing, get_args(Pairing))
    wanted = "test" if split == "test" and holdout == 0 else "train"
    domains = [
        _choose_split(images, holdout, split, seed)
        for images in find_domains(Path(data), None if data_b is None else Path(data_b), wanted)
    ]
    if direction == "BtoA":
        domains.reverse()
    augmentation = choose_augmentation(augment, size, UNPAIRED_AUGMENTATION, ("image",))
    return UnpairedDataset(
        *domains,
        size=size,
        pairing=pairing,
        augmentation=augmentation if split != "test" else None,
        seed=seed,
        fit=fit,
        in_channels=in_channels,
        out_channels=out_channels,
        input_range=input_range,
        output_range=output_range,
        cache_bytes=cache_bytes,
    )


def find_domains(data: Path, data_b: Path | None, wanted: str) -> list[list[DomainImage]]:
    """The images of A and of B."""
    if data_b is not None:
        if wanted == "test":
            raise _no_test_split(data)
        return [_list_domain("A", data), _list_domain("B", data_b)]
    if is_manifest(data):
        return _list_manifest(data, wanted)
    if names_shards(data):
        if wanted == "test":
            raise _no_test_split(data)
        samples = [sample for shard in open_shards(data) for sample in shard]
        if samples[0].a is None:
            raise DataError(
                f"The samples of {data} have one image each; name both domains' shards."
            )
        return [
            [DomainImage(f"A/{sample.key}", sample.a) for sample in samples if sample.a],
            [DomainImage(f"B/{sample.key}", sample.b) for sample in samples],
        ]
    first, second = _find_folders(data, wanted)
    return [_list_domain("A", first), _list_domain("B", second)]


def _list_manifest(path: Path, wanted: str) -> list[list[DomainImage]]:
    rows = read_manifest(path)
    splits = ("train",) if wanted == "train" else ("test", "val")
    chosen = next((s for s in splits if any(row.split == s for row in rows)), "")
    rows = [row for row in rows if row.split == chosen]
    if not rows and wanted == "test":
        raise _no_test_split(path)
    # A path that several rows name is one image.
    files_a = dict.fromkeys(row.a for row in rows if row.a is not None)
    files_b = dict.fromkeys(row.b for row in rows if row.b is not None)
    if not files_a or not files_b:
        missing = "B" if files_a else "A"
        raise DataError(f"The {wanted} rows of {path} name no image of {missing}; add some.")
    return [
        [DomainImage(f"{letter}/{_below(file, path.parent)}", file) for file in files]
        for letter, files in (("A", files_a), ("B", files_b))
    ]


def _below(file: Path, folder: Path) -> str:
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def _no_test_split(data: Path) -> DataError:
    return DataError(f"{data} brings no test set of its own; hold out a share with holdout.")


def _find_folders(data: Path, wanted: str) -> tuple[Path, Path]:
    if not data.is_dir():
        raise DataError(f"There is no folder {data}; check the path.")
    for first, second in _FOLDERS[wanted]:
        if (data / first).is_dir() and (data / second).is_dir():
            return data / first, data / second
    if wanted == "test":
        raise _no_test_split(data)
    raise DataError(
        f"{data} does not hold folders A and B, or trainA and trainB; add them, or name the "
        "folders of both domains."
    )


def _list_domain(letter: str, folder: Path) -> list[DomainImage]:
    if names_shards(folder):
        samples = [sample for shard in open_shards(folder) for sample in shard]
        if samples[0].a is not None:
            raise DataError(f"The samples of {folder} are pairs; name it alone, without data_b.")
        return [DomainImage(f"{letter}/{sample.key}", sample.b) for sample in samples]
    files = list_images(folder)
    if not files:
        raise DataError(f"There are no images in {folder}; put those of domain {letter} there.")
    stems = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    counts = Counter(stems)
    return [  # a.jpg and a.png stay two images, with two names
        DomainImage(f"{letter}/{stem}{file.suffix if counts[stem] > 1 else ''}", file)
        for stem, file in zip(stems, files, strict=True)
    ]


def _choose_split(
    images: list[DomainImage], holdout: float, split: Split, seed: int
) -> list[DomainImage]:
    if split == "all" or holdout == 0:
        return images
    # By what follows "A/" or "B/": where pairs are used unpaired, both of a pair are held out.
    names = {image.name: image.name.partition("/")[2] for image in images}
    held = held_out_names(list(names.values()), holdout, seed)
    chosen = [image for image in images if (names[image.name] in held) == (split == "test")]
    if not chosen:
        raise DataError(
            f"The {split} split of domain {images[0].name[0]} is empty; it takes two images at "
            "least to hold one out."
        )
    return chosen


# -- checking --------------------------------------------------------------------------------------


def check_unpaired(
    dataset: UnpairedDataset,
    *,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> UnpairedSummary:
    """Open every file, so that a broken one is known before training rather than hours into it.

    Of images in shards some are opened, evenly spread: nobody would wait for all.

    Args:
        dataset: As opened by ``open_unpaired``.
        threads: How many files to decode at a time.
        progress: Called with (files done, files in all) now and then.

    Raises:
        DataError: Names the broken files (the first 20, then a count).
    """

    def inspect(
        work: tuple[DomainImage, int, ValueRange | None],
    ) -> tuple[int, int] | BadImageError:
        image, channels, values = work
        try:
            pixels = to_sample(open_file(image.file), values, str(image.file))
            check_channels(pixels, channels, str(image.file))
            return pixels.shape[0], pixels.shape[1]
        except BadImageError as error:
            return error

    work = [
        (image, channels, values)
        for images, channels, values in (
            (dataset.images_a, dataset.in_channels, dataset.input_range),
            (dataset.images_b, dataset.out_channels, dataset.output_range),
        )
        for image in choose_to_open(images, isinstance(images[0].file, ShardMember))
    ]
    results = in_threads(inspect, work, threads, progress)
    raise_broken([r for r in results if isinstance(r, BadImageError)], len(work), "images")
    sizes = sorted((result for result in results if isinstance(result, tuple)), key=np.prod)
    return UnpairedSummary(
        images_a=len(dataset.images_a),
        images_b=len(dataset.images_b),
        smallest=sizes[0],
        largest=sizes[-1],
    )
