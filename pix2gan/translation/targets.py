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
from dataclasses import dataclass, field
from pathlib import Path

from pix2gan.data.image_io import IMAGE_SUFFIXES
from pix2gan.errors import ConfigError

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


@dataclass(frozen=True)
class Job:
    """One image to translate: where it lies and where its output goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        root: The folder, or the one image, that it is about.
        jobs: Its images, in order.
        reserved: Of each output folder, the names that belong to images below `root`, whether the
            run does them or not.
    """

    root: Path
    jobs: list[Job]
    reserved: dict[Path, set[str]] = field(default_factory=dict)


def plan_jobs(
    images: Sequence[Path],
    root: Path,
    out: Path,
    *,
    suffix: str,
    format: str | None,
    only_tiff: bool,
) -> Plan:
    """Give every image its output.

    Args:
        images: Files below `root`.
        root: The folder whose structure is mirrored.
        out: The folder it is mirrored in.
        suffix: Put behind the stem of every name.
        format: A key of `FORMATS`, or None to choose by the image's own.
        only_tiff: Whether PNG, JPEG and WebP cannot hold the outputs.

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
    sources = {os.path.realpath(job.source.parent) + os.sep + job.source.name for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target.parent) + os.sep + job.target.name in sources:
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


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
        ]
