"""Where pairs come from: folders, manifests and shards, and opening a pair's files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pix2gan.data.image_file import ImageFile, open_file
from pix2gan.data.image_io import Array, list_images, natural_key, to_rgb
from pix2gan.data.manifest import MANIFEST_SUFFIXES, is_manifest, read_manifest
from pix2gan.data.shards import names_shards, open_shards
from pix2gan.data.transforms import trim_margins
from pix2gan.data.value_range import ValueRange, to_sample
from pix2gan.errors import BadImageError, DataError

Split: TypeAlias = Literal["train", "test", "all"]
Layout: TypeAlias = Literal["side-by-side", "two folders", "two files", "sketched photos"]

NAMED_IN_ERRORS = 20
"""So many files are named in an error, the others counted."""

_PAIR_FOLDERS = {
    "train": (("trainA", "trainB"), ("A", "B")),
    "test": (("testA", "testB"), ("valA", "valB")),
}


@dataclass(frozen=True)
class PairFiles:
    """Where a pair comes from: two files, or one that holds both."""

    name: str
    """Path below the data folder without suffix, "/" between folders; in a manifest B's path as it
    stands there, in shards the key."""
    a: ImageFile | None
    """Image of domain A; None where it is drawn from ``b``, or the left half of it."""
    b: ImageFile
    """Image of domain B, or of both side by side."""


@dataclass(frozen=True)
class FoundPairs:
    """The pairs of a data set."""

    layout: Layout
    pairs: list[PairFiles]
    shard_sizes: tuple[int, ...] = ()
    """How many pairs each shard holds, in the order of ``pairs``; empty for other data."""

    def __post_init__(self) -> None:
        assert not self.shard_sizes or sum(self.shard_sizes) == len(self.pairs)


def find_pairs(
    data: Path, sketched: bool, split: Split = "all", own_test: bool = True
) -> FoundPairs:
    """Recognise the layout of ``data`` and list its pairs, files in natural order.

    Args:
        data: A folder, a manifest (see ``pix2gan.data.manifest``) or shards
            (``pix2gan.data.shards``).
        sketched: Whether domain A is drawn from photos, so that files are single photos.
        split: Which of the data's own train and test folders to list, where there are such.
        own_test: Whether the data's own test folders make up the "test" split. If not, that is
            held out from the training folders.

    Raises:
        DataError: If no layout fits or files do not match up; it names them.
    """
    wanted = "test" if split == "test" and own_test else "train"
    if is_manifest(data):
        return _find_in_manifest(data, sketched, wanted)
    if names_shards(data):
        return _find_in_shards(data, sketched, wanted)
    if not data.is_dir():
        suffixes = ", ".join(sorted(MANIFEST_SUFFIXES))
        what = f"{data} is a file, but no manifest ({suffixes}) and no .tar"
        raise DataError(f"{what if data.exists() else f'There is no folder {data}'}; check it.")
    if (data / "train").is_dir() and not list_images(data, recursive=False):
        names = ("test", "val") if wanted == "test" else ("train",)
        entered = next((data / name for name in names if (data / name).is_dir()), None)
        if entered is None:
            raise _no_test_split(data)
        return _find_in(entered, sketched, "train")
    return _find_in(data, sketched, wanted)


def _find_in_manifest(path: Path, sketched: bool, wanted: str) -> FoundPairs:
    rows = read_manifest(path)
    splits = ("train",) if wanted == "train" else ("test", "val")
    # The test set is "test", and "val" where there is none of that name; as with folders.
    chosen = next((s for s in splits if any(row.split == s for row in rows)), None)
    if chosen is None:
        raise _no_test_split(path) if wanted == "test" else DataError(f"{path} has no train rows.")
    pairs = []
    for row in rows:
        if row.split != chosen:
            continue
        if row.b is None:
            raise DataError(f"{path}: {row.a} has no B; name one, or train an unpaired method.")
        pairs.append(PairFiles(row.name, row.a, row.b))
    layout: Layout = _layout_of(path, {pair.a is None for pair in pairs}, sketched)
    return FoundPairs(layout, pairs)


def _find_in_shards(data: Path, sketched: bool, wanted: str) -> FoundPairs:
    if wanted == "test":
        raise _no_test_split(data)
    shards = open_shards(data)
    pairs = [PairFiles(sample.key, sample.a, sample.b) for shard in shards for sample in shard]
    layout = _layout_of(data, {pair.a is None for pair in pairs}, sketched)
    return FoundPairs(layout, pairs, tuple(map(len, shards)))


def _layout_of(data: Path, single: set[bool], sketched: bool) -> Layout:
    """The layout of images that were listed: ``single`` says whether they come one by one."""
    if len(single) > 1:
        raise DataError(f"Some rows of {data} name A and B and others B alone; make them alike.")
    if single == {False}:
        if sketched:
            raise _sketch_of_pairs(data, "the photos alone")
        return "two files"
    return "sketched photos" if sketched else "side-by-side"


def _sketch_of_pairs(data: Path, instead: str) -> DataError:
    return DataError(
        f"{data} holds pairs of two images, and sketch draws one of the two from the other: leave "
        f"sketch out, or name {instead}."
    )


def _find_in(data: Path, sketched: bool, wanted: str) -> FoundPairs:
    folders = [data / name for pair in _PAIR_FOLDERS["train"] for name in pair]
    present = [folder for folder in folders if folder.is_dir()]
    if sketched:
        # A folder that happens to be called A is one of photos like any other; two are pairs.
        for first, second in _PAIR_FOLDERS["train"]:
            if data / first in present and data / second in present:
                raise _sketch_of_pairs(data, f"the folder of photos, as in {data / second}")
        photos = list_images(data)
        if not photos:
            raise DataError(f"There are no images in {data}; name a folder of photos.")
        pairs = [PairFiles(_stem(photo, data), None, photo) for photo in photos]
        return FoundPairs("sketched photos", pairs)
    if present:
        return FoundPairs("two folders", match_folders(*_choose_folders(data, present, wanted)))
    files = list_images(data)
    if not files:
        raise DataError(
            f"There are no images in {data}; give A|B side by side in each image, "
            "or folders A and B, or photos together with sketch."
        )
    if wanted == "test":
        raise _no_test_split(data)
    return FoundPairs("side-by-side", [PairFiles(_stem(file, data), None, file) for file in files])


def _no_test_split(data: Path) -> DataError:
    return DataError(f"{data} brings no test set of its own; hold out a share with holdout.")


def _choose_folders(data: Path, present: list[Path], wanted: str) -> tuple[Path, Path]:
    for first, second in _PAIR_FOLDERS[wanted]:
        if (data / first).is_dir() and (data / second).is_dir():
            return data / first, data / second
    if wanted == "test":
        raise _no_test_split(data)
    missing = {"A": "B", "B": "A", "trainA": "trainB", "trainB": "trainA"}[present[0].name]
    raise DataError(f"{data} has a folder {present[0].name} but no folder {missing}; add it.")


def match_folders(first: Path, second: Path) -> list[PairFiles]:
    a, b = _by_stem(first), _by_stem(second)
    names = sorted(a.keys() & b.keys(), key=natural_key)
    if not names:
        raise DataError(
            f"No image in {first} has the name of one in {second}; name the two images of a "
            "pair alike, or train an unpaired method."
        )
    lonely = [a[name] for name in a.keys() - b.keys()] + [b[name] for name in b.keys() - a.keys()]
    if lonely:
        listed = name_some(sorted(map(str, lonely), key=natural_key))
        raise DataError(
            f"{len(lonely)} images under {first.parent} have no partner of the same name in the "
            f"other folder; add the partners or remove them:\n{listed}"
        )
    return [PairFiles(name, a[name], b[name]) for name in names]


def _by_stem(folder: Path) -> dict[str, Path]:
    files = list_images(folder)
    counts = Counter(_stem(file, folder) for file in files)
    double = [str(file) for file in files if counts[_stem(file, folder)] > 1]
    if double:
        raise DataError(
            f"Files in {folder} differ in nothing but the suffix, so pairs are ambiguous; "
            f"rename or remove:\n{name_some(double)}"
        )
    return {_stem(file, folder): file for file in files}


def _stem(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def choose_split(
    pairs: list[PairFiles], holdout: float, split: Split, seed: int
) -> list[PairFiles]:
    if split == "all" or holdout == 0:
        return pairs
    held = held_out_names([pair.name for pair in pairs], holdout, seed)
    return [pair for pair in pairs if (pair.name in held) == (split == "test")]


def held_out_names(names: Sequence[str], holdout: float, seed: int) -> set[str]:
    """Which of ``names`` are held out: a share of ``holdout``, by name and seed alone."""
    places = {name: name_place(name, seed) for name in names}
    first, last = min(places, key=places.__getitem__), max(places, key=places.__getitem__)
    # Of a few names chance might hold out none or all; each split gets one if there are two.
    held = {name for name, place in places.items() if place < holdout} | {first}
    return held - {last}


def name_place(name: str, seed: int) -> float:
    """Where a name falls in [0, 1): the same on every machine, with every set of other names."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def open_pair(
    pair: PairFiles, layout: Layout, ranges: tuple[ValueRange | None, ValueRange | None]
) -> list[Array]:
    """The images of a pair as samples ``[H, W, C]``: [A, B], or [photo] of sketched photos.

    Samples are uint8, or float32 in [0, 1] (``to_sample``). Sketched photos are RGB and rid of
    white margins (``trim_margins``).

    Args:
        pair: The pair.
        layout: How its images lie.
        ranges: Which values are black and white in A and in B.

    Raises:
        BadImageError: If a file is broken, its values are outside of what is expected, or its
            halves are not equally wide.
    """
    if pair.a is not None:
        return [
            to_sample(open_file(file), values, str(file))
            for file, values in zip((pair.a, pair.b), ranges, strict=True)
        ]
    image = open_file(pair.b)
    if layout == "sketched photos":
        return [trim_margins(to_rgb(to_sample(image, ranges[1], str(pair.b))))]
    width = image.shape[1]
    if width < 2 or width % 2:
        reason = (
            f"its width is {width}, so it does not fall into equal halves A|B; "
            "fix or remove it, or say sketch if it is a photo."
        )
        raise BadImageError(str(pair.b), reason)
    halves = image[:, : width // 2], image[:, width // 2 :]
    return [
        to_sample(half, values, str(pair.b)) for half, values in zip(halves, ranges, strict=True)
    ]


def name_some(lines: Sequence[str]) -> str:
    shown = [f"  {line}" for line in lines[:NAMED_IN_ERRORS]]
    if len(lines) > NAMED_IN_ERRORS:
        shown.append(f"  and {len(lines) - NAMED_IN_ERRORS} more")
    return "\n".join(shown)
