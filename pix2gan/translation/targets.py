"""Which output file belongs to which image of a folder.

An output keeps its image's sub-folder and name. It keeps the suffix, too, where the format stays
the same; otherwise the suffix is replaced, `scan.bmp` -> `scan.png`. Where that name belongs to
another image of the same folder, the old suffix stays in front of the new: `scan.bmp.png`.

The names depend on what lies in the image's folder and on nothing else: neither on which of the
images a run was asked for, nor on which outputs an earlier run has written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from pix2gan.data.image_io import IMAGE_SUFFIXES, is_image_name
from pix2gan.errors import ConfigError
from pix2gan.translation.folder_report import Outcome

FORMATS: dict[str, tuple[str, ...]] = {
    "png": (".png",),
    "jpg": (".jpg", ".jpeg"),
    "jpeg": (".jpg", ".jpeg"),
    "webp": (".webp",),
    "tiff": (".tif", ".tiff"),
    "npy": (".npy",),
}
"""Formats that can be asked for, each with its suffixes, the usual one first."""

# Without a format asked for. Everything else becomes PNG, which loses nothing.
_DEFAULT_SUFFIX = {
    ".jpg": ".jpg",
    ".jpeg": ".jpeg",
    ".jpe": ".jpg",
    ".jfif": ".jpg",
    ".webp": ".webp",
}


Stamp: TypeAlias = "tuple[int, int, int]"
"""Tells a file from what it was before: its number, size and time of change."""


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file that is there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Job:
    """One image to translate: where it lies and where its output goes, and, if it counts only as
    long as it stays what it was, what that is."""

    source: Path
    target: Path
    stamp: Stamp | None = None

    def as_found(self, stamp: Stamp) -> Job:
        return replace(self, stamp=stamp)

    def has_changed(self) -> bool:
        return self.stamp is not None and stamp_of(self.source) != self.stamp


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        root: The folder, or the one image, that it is about.
        jobs: Its images, in order.
        reserved: Of each output folder, the names that belong to images below `root`, whether the
            run does them or not.
        closed: The folders that could not be looked into, as failures.
    """

    root: Path
    jobs: list[Job]
    reserved: dict[Path, set[str]] = field(default_factory=dict)
    closed: list[Outcome] = field(default_factory=list)


def plan_jobs(
    images: Sequence[Path],
    root: Path,
    out: Path,
    *,
    suffix: str,
    format: str | None,
    only_tiff: bool,
    by_own_name: bool = False,
) -> Plan:
    """Give every image its output.

    Args:
        images: Files below `root`.
        root: The folder whose structure is mirrored.
        out: The folder it is mirrored in.
        suffix: Put behind the stem of every name.
        format: A key of `FORMATS`, or None to choose by the image's own.
        only_tiff: Whether PNG, JPEG and WebP cannot hold the outputs.
        by_own_name: Whether images that are not there yet must not change a name: then the old
            suffix stays wherever the format changes.

    Raises:
        ConfigError: If an output would overwrite an image of the list.
    """
    by_folder: dict[Path, list[Path]] = {}
    for image in images:
        by_folder.setdefault(image.parent, []).append(image)
    targets: dict[Path, Path] = {}
    reserved: dict[Path, set[str]] = {}
    for folder, members in by_folder.items():
        siblings = {image.name for image in members}.union(_image_names(folder))
        if by_own_name:
            names = {name: _own_name(Path(name), suffix, format, only_tiff) for name in siblings}
        else:
            names = _output_names(siblings, suffix, format, only_tiff)
        mirrored = out / folder.relative_to(root)
        reserved[mirrored] = set(names.values())
        for image in members:
            targets[image] = mirrored / names[image.name]
    jobs = [Job(image, targets[image]) for image in images]
    check_sources_survive(jobs)
    return Plan(root, jobs, reserved)


def check_sources_survive(jobs: Sequence[Job]) -> None:
    """ConfigError if the output of one job is the source of another or its own."""
    real = cache(os.path.realpath)  # of each folder once
    sources = {(real(job.source.parent), job.source.name) for job in jobs}
    for job in jobs:
        if (real(job.target.parent), job.target.name) in sources:
            raise ConfigError(
                f"The output {job.target} would overwrite an input: choose another folder for the "
                "outputs, or a suffix for their names"
            )


def output_suffix(source: Path, format: str | None, only_tiff: bool = False) -> str:
    """The suffix of the output for `source`, e.g. ".png"."""
    lower = source.suffix.lower()
    if format is None:
        if only_tiff:
            holds = (*FORMATS["tiff"], *FORMATS["npy"])
            return source.suffix if lower in holds else ".tif"
        default = _DEFAULT_SUFFIX.get(lower, ".png")
        return source.suffix if default == lower else default
    suffixes = FORMATS[format]
    return source.suffix if lower in suffixes else suffixes[0]


def _output_names(
    names: Iterable[str], suffix: str, format: str | None, only_tiff: bool
) -> dict[str, str]:
    """Image name -> output name, for all the images of one folder; no two are alike."""
    wished: dict[str, str] = {}
    for name in sorted(names):
        path = Path(name)
        wished[name] = path.stem + suffix + output_suffix(path, format, only_tiff)
    keeps_suffix = {n: w for n, w in wished.items() if Path(n).suffix == Path(w).suffix}
    taken = set(keeps_suffix.values())
    how_often = Counter(wished.values())
    result = dict(keeps_suffix)
    for name, wish in wished.items():
        if name not in result and how_often[wish] == 1:
            result[name] = wish
            taken.add(wish)
    for name, wish in wished.items():
        if name in result:
            continue
        extension = Path(wish).suffix
        long, number = f"{name}{suffix}{extension}", 1
        while long in taken:
            number += 1
            long = f"{name}{suffix}-{number}{extension}"
        result[name] = long
        taken.add(long)
    return result


def _own_name(name: Path, suffix: str, format: str | None, only_tiff: bool) -> str:
    """An output's name that no other image of the folder can have, whatever comes into it.

    `scan.bmp` -> `scan.bmp.png`; so that this is not the name of a `scan.bmp.png`, that one becomes
    `scan.bmp.png.png`.
    """
    extension = output_suffix(name, format, only_tiff)
    keeps = extension == name.suffix and Path(name.stem).suffix.lower() not in IMAGE_SUFFIXES
    return (name.stem if keeps else name.name) + suffix + extension


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if is_image_name(entry.name)]
