"""Which outputs a run writes, by its options and by what its model makes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pix2gan.data.image_io import unreadable
from pix2gan.errors import ConfigError
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import FAILED, Outcome
from pix2gan.translation.sources import Found
from pix2gan.translation.targets import FORMATS, Job, Plan, plan_jobs

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator


def plan_images(
    translator: Translator, found: Found, root: Path, out: Path, options: FolderOptions
) -> Plan:
    """What is to be done with the images below `root`, or with this run's share of them.

    Raises:
        DataError: If a folder could not be looked into, and failures are to stop the run.
    """
    closed = closed_folders(found, root, out)
    if closed and (options.on_error == "stop" or not found.images):
        raise unreadable(*next(iter(found.closed.items())))
    plan = plan_jobs(
        found.images,
        root,
        out,
        suffix=options.suffix,
        format=options.format,
        only_tiff=only_tiff(translator),
        by_own_name=options.watch,
    )
    i, n = options.part
    return replace(plan, jobs=shard_of(plan.jobs, options.chunk, i, n), closed=closed)


def closed_folders(found: Found, root: Path, out: Path) -> list[Outcome]:
    """The folders that could not be looked into, as failures."""
    return [
        Outcome(folder, out / os.path.relpath(folder, root), FAILED, f"cannot be read ({reason})")
        for folder, reason in found.closed.items()
    ]


def shard_of(jobs: list[Job], chunk: int, i: int, n: int) -> list[Job]:
    """The i-th of n parts: every n-th chunk, so that no batch is another than in the whole."""
    starts = range((i - 1) * chunk, len(jobs), n * chunk)
    return [job for start in starts for job in jobs[start : start + chunk]]


def only_tiff(translator: Translator) -> bool:
    """Whether PNG cannot hold the outputs: more channels than four, or values of a range."""
    config = translator.config
    return config.out_channels > 4 or config.preprocessing.output_range is not None


def check_target(target: Path, options: FolderOptions) -> None:
    """ConfigError if the name of a single output does not go with the options."""
    if options.suffix:
        raise ConfigError(
            f"The suffix {options.suffix!r} is for names that are made, and {target} is the whole "
            "name of the output: leave one of them out"
        )
    formats = FORMATS if options.format is None else {options.format: FORMATS[options.format]}
    suffixes = sorted({suffix for group in formats.values() for suffix in group})
    if target.suffix.lower() not in suffixes:
        raise ConfigError(
            f"The output {target} cannot be written: let its name end in {', '.join(suffixes)}, or "
            "make the folder first if it is to be one"
        )
