"""Making a data set out of another: joining two folders, drawing sketches, packing shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pix2gan.data.image_io import (
    Array,
    list_images,
    open_image,
    save_image,
    to_rgb,
    to_uint8,
)
from pix2gan.data.manifest import is_manifest, write_manifest
from pix2gan.data.pair_layouts import PairFiles, find_pairs, match_folders
from pix2gan.data.shards import names_shards, open_shards, write_index, write_shard
from pix2gan.data.sketch import draw_sketch
from pix2gan.errors import BadImageError, ConfigError, DataError

Progress = Callable[[int, int], None]
Sketcher = Callable[[Array], Array]
"""Makes a drawing of a photo, both uint8 ``[H, W, C]``."""


def join_folders(first: Path, second: Path, out: Path, progress: Progress | None = None) -> int:
    """Join folders of A and of B whose files have the same names.

    Args:
        first: Images of A.
        second: Images of B.
        out: A manifest to write (.csv, .jsonl), which names the files where they are; or a folder,
            new or empty, that gets PNG files with A|B side by side.
        progress: Called with (pairs done, pairs in all).

    Returns:
        How many pairs there are.

    Raises:
        DataError: If files lack partners or, side by side, a pair's sizes differ; it names them.
        ConfigError: If ``out`` is in use.
    """
    pairs = match_folders(first, second)
    _check_new(out)
    if is_manifest(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"A": _from(out.parent, pair.a), "B": _from(out.parent, pair.b)} for pair in pairs]
        write_manifest(out, rows)
        return len(pairs)
    for done, pair in enumerate(pairs, 1):
        target = out / f"{pair.name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(target, _side_by_side(pair))
        if progress is not None:
            progress(done, len(pairs))
    return len(pairs)


def _side_by_side(pair: PairFiles) -> Array:
    a, b = (open_image(file) for file in (pair.a, pair.b))  # type: ignore[arg-type]
    if a.shape[:2] != b.shape[:2]:
        (ha, wa), (hb, wb) = a.shape[:2], b.shape[:2]
        reason = f"it is {wa} x {ha} pixels and its partner {wb} x {hb}; make them alike, or write a manifest."  # noqa: E501
        raise BadImageError(str(pair.a), reason)
    if a.dtype.kind == "f" or b.dtype.kind == "f" or max(a.shape[2], b.shape[2]) > 4:
        raise BadImageError(str(pair.a), "PNG cannot hold such pixels; write a manifest instead.")
    if a.dtype != b.dtype:  # 8 and 16 bits
        a, b = (x if x.dtype == np.uint16 else x.astype(np.uint16) * 257 for x in (a, b))
    if a.shape[2] != b.shape[2]:
        a, b = to_rgb(a), to_rgb(b)
    return np.concatenate([a, b], axis=1)


class Drawn(NamedTuple):
    """What became of a folder of photos."""

    drawn: int
    kept: int
    """Drawings that were there already."""
    failed: list[tuple[Path, str]]
    """Photos that cannot be used, with the reason."""


def sketch_folder(
    photos: Path,
    out: Path,
    sketcher: str | Sketcher,
    *,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Drawn:
    """Draw the photos of a folder as PNG files of the same names; what is there already stays.

    Args:
        photos: The photos; sub-folders are mirrored.
        out: Where the sketches go, outside of ``photos``.
        sketcher: A method of ``pix2gan.data.sketch``, or a function, such as a translator.
        seed: Vary the drawings, each by this and its name; None draws all with middle settings.
        progress: Called with (photos done, photos in all).

    Returns:
        How many were drawn, and which could not be.

    Raises:
        DataError: If there are no photos.
        ConfigError: If two photos would get the same sketch, ``out`` lies in ``photos``, or the
            seed is negative.
    """
    if seed is not None and seed < 0:
        raise ConfigError(f"seed must be a whole number from 0, not {seed}; try 0.")
    files = list_images(photos)
    if not files:
        raise DataError(f"There are no images in {photos}; name a folder of photos.")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(photos)):
        raise ConfigError(f"The sketches cannot go to {out}, which lies in {photos}.")
    targets: dict[Path, Path] = {}
    for file in files:
        target = out / file.relative_to(photos).with_suffix(".png")
        if targets.setdefault(target, file) != file:
            raise ConfigError(f"{file} and {targets[target]} would both be drawn as {target}.")
    drawn, failed = 0, []
    for done, (target, file) in enumerate(targets.items(), 1):
        if not target.exists():
            try:
                photo = to_rgb(to_uint8(open_image(file)))
                drawing = _draw(photo, sketcher, seed, target.relative_to(out).as_posix())
            except BadImageError as error:
                failed.append((file, error.reason))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                save_image(target, drawing)
                drawn += 1
        if progress is not None:
            progress(done, len(targets))
    return Drawn(drawn, len(targets) - drawn - len(failed), failed)


def _draw(photo: Array, sketcher: str | Sketcher, seed: int | None, name: str) -> Array:
    if not isinstance(sketcher, str):
        return sketcher(photo)
    rng = None if seed is None else np.random.default_rng([seed, *name.encode()])
    return draw_sketch(photo, sketcher, rng)


def pack_shards(data: Path, out: Path, samples: int, progress: Progress | None = None) -> int:
    """Pack the pairs, or the images, of a data set into shards with their indexes.

    Args:
        data: Pairs (two folders, a manifest, images side by side) or a folder of images. If it is
            shards on this machine already, only their indexes are written.
        out: A folder, new or empty, for ``pairs-000000.tar`` and so on.
        samples: How many samples each shard gets.
        progress: Called with (samples done, samples in all).

    Returns:
        How many shards there are.

    Raises:
        DataError: If there is nothing to pack, or files do not match up.
        ConfigError: If ``out`` is in use, or ``samples`` is below 1.
    """
    if samples < 1:
        raise ConfigError(f"A shard holds at least 1 sample, not {samples}.")
    if names_shards(data):
        urls = dict.fromkeys(shard[0].b.shard.url for shard in open_shards(data))
        for url in urls:
            write_index(Path(url))
        return len(urls)
    _check_new(out)
    pairs = find_pairs(data, sketched=False).pairs
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(pairs), samples)
    for number, start in enumerate(starts):
        chosen = pairs[start : start + samples]
        content = [
            (f"{start + place:08}", {"a": pair.a, "b": pair.b} if pair.a else {"": pair.b})
            for place, pair in enumerate(chosen)
        ]
        write_shard(out / f"pairs-{number:06}.tar", content)  # type: ignore[arg-type]
        if progress is not None:
            progress(start + len(chosen), len(pairs))
    return len(starts)


def _check_new(out: Path) -> None:
    if out.exists() and (is_manifest(out) or not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already: choose another place.")


def _from(folder: Path, file: object) -> str:
    return Path(os.path.relpath(str(file), folder)).as_posix()
