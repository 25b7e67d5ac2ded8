"""Translating folders: every image once, none lost, however often the run is killed.

An output is written under a temporary name and renamed when it is whole, so what exists is done and
a later run skips it.
"""

from __future__ import annotations

import glob as globbing
import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2gan.data.image_io import IMAGE_SUFFIXES
from pix2gan.errors import ConfigError, DataError
from pix2gan.file_io import check_writable, is_temporary, temporary_stem
from pix2gan.folder_lock import only_run_in
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import PLANNED, SKIPPED, FolderReport, Outcome, write_report
from pix2gan.translation.folder_run import FolderRun
from pix2gan.translation.progress import FolderProgress
from pix2gan.translation.renaming import NameJournal, choose_names
from pix2gan.translation.sources import (
    images_of_folder,
    images_of_glob,
    nothing_found,
)
from pix2gan.translation.targets import FORMATS, Job, Plan, check_sources_survive, plan_jobs

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator


def translate_folder(
    translator: Translator,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recursive: bool = True,
    glob: str | None = None,
    batch_size: int = 4,
    suffix: str = "",
    format: str | None = None,
    quality: int = 95,
    on_exists: str = "skip",
    on_error: str = "skip",
    resize: str | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    shard: str | None = None,
    dry_run: bool = False,
    report: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    provenance: bool = True,
    tile: int | str | None = "auto",
    tile_statistics: str = "exact",
) -> FolderReport:
    """Translate every image in a folder into another folder of the same structure.

    Args:
        translator: What to translate with.
        source: The folder. Hidden files and folders in it are left out, and so is `out`.
        out: Where the outputs go; made if need be. Nothing is written outside of it.
        recursive: Sub-folders, too.
        glob: Only images whose name matches ("*.jpg"), or, with a "/" in it, whose path below
            `source` does ("2024/**/*.jpg"; "**" is any number of folders).
        batch_size: How many images of equal (padded) size go through the network at once.
        suffix: Put behind the stem of every output's name: "_photo" makes a.png a_photo.png.
        format: "png", "jpg", "webp", "tiff" or "npy"; by default JPEG and WebP stay what they are,
            and everything else becomes PNG. Of a model with an output range or more than four
            channels TIFF and .npy stay what they are, and everything else becomes TIFF.
        quality: Of JPEG and WebP, 1 to 100.
        on_exists: "skip" leaves outputs alone that are there already (and so continues a run that
            was interrupted), "overwrite" makes them again, "rename" makes new ones beside them:
            a-2.png beside a.png.
        on_error: "skip" goes on after an image that failed, "stop" ends the run.
        resize: "none" or "fit", by default as the model's config says.
        seed: The style, for a generator that takes a style code; the same one for every image.
        jobs: Threads that decode, and as many that encode.
        shard: "2/5" does the second of five parts of the work. All parts together write what one
            run without would have written, to the byte.
        dry_run: Only say what would be done, and write nothing.
        report: A file for one line of JSON an image.
        progress: False shows nothing; by default a bar on a terminal and lines elsewhere.
        provenance: Let outputs say that a trained algorithm made them, and which (XMP, see
            `pix2gan.translation.provenance`).
        tile: "auto", a side in pixels or None; see `Translator.__call__`.
        tile_statistics: "exact" or "fast"; see `Translator.__call__`.

    Returns:
        What was done, skipped and failed. A bad image is reported there and stops nothing.

    Raises:
        DataError: If `source` is no folder or holds no image.
        ConfigError: If an option makes no sense or `out` cannot be used.
        Pix2ganError: If the disk is full; what is done is kept.
    """
    options = FolderOptions(
        recursive=recursive,
        glob=glob,
        batch_size=batch_size,
        suffix=suffix,
        format=format,
        quality=quality,
        on_exists=on_exists,
        on_error=on_error,
        resize=resize,
        seed=seed,
        jobs=jobs,
        shard=shard,
        dry_run=dry_run,
        report=report,
        progress=progress,
        provenance=provenance,
        tile=tile,
        tile_statistics=tile_statistics,
    )
    options.check(translator)
    source, out = _paths(source, out)
    images = images_of_folder(source, out, recursive=recursive, pattern=glob)
    if not images:
        raise nothing_found(source, recursive=recursive, pattern=glob)
    return _run(translator, _plan(translator, images, source, out, options), out, options)


def translate_paths(
    translator: Translator,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **options: Any,
) -> FolderReport:
    """Translate a file, a folder, or the files that a glob names.

    Args:
        translator: What to translate with.
        source: A file, a folder (see `translate_folder`) or a glob such as "photos/**/*.jpg".
        out: A folder; for a single file also the name of the output, if it ends in the suffix of an
            image. A glob's matches keep their place below the glob's fixed part.
        **options: As for `translate_folder`.

    Raises:
        DataError: If there is no such file or nothing matches the glob.
        ConfigError: If an option makes no sense, or an output would overwrite an input.
    """
    settings = FolderOptions(**options)
    settings.check(translator)
    path, out = _paths(source, out)
    if path.is_dir():
        return translate_folder(translator, path, out, **options)
    if settings.glob is not None:
        raise ConfigError(f"glob chooses among the images of a folder, and {source} is none")
    if path.exists():
        if out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir():
            return _translate_file(translator, path, out, settings)
        images, root = [path], path.parent
    elif globbing.has_magic(os.fspath(source)):
        images, root = images_of_glob(source, out)
    else:
        raise DataError(f"There is no file or folder {source}: check the path")
    return _run(translator, _plan(translator, images, root, out, settings), out, settings)


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
            f"The output {target} cannot be written: let its name end in {', '.join(suffixes)}"
        )


def _translate_file(
    translator: Translator, source: Path, target: Path, options: FolderOptions
) -> FolderReport:
    check_target(target, options)
    plan = Plan(source, [Job(source, target)])
    check_sources_survive(plan.jobs)
    report = _run(translator, plan, target.parent, options)
    report.out = target
    return report


def _paths(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Both as paths; ConfigError for an empty name, which `Path` takes for the current folder."""
    for what, path in (("source", source), ("out", out)):
        if not os.fspath(path):
            raise ConfigError(f'{what} is empty: name a path, "." for the current folder')
    return Path(source), Path(out)


def _plan(
    translator: Translator, images: Sequence[Path], root: Path, out: Path, options: FolderOptions
) -> Plan:
    plan = plan_jobs(
        images,
        root,
        out,
        suffix=options.suffix,
        format=options.format,
        only_tiff=only_tiff(translator),
    )
    i, n = options.part
    return replace(plan, jobs=shard_of(plan.jobs, options.chunk, i, n))


def shard_of(jobs: list[Job], chunk: int, i: int, n: int) -> list[Job]:
    """The i-th of n parts: every n-th chunk, so that no batch is another than in the whole."""
    starts = range((i - 1) * chunk, len(jobs), n * chunk)
    return [job for start in starts for job in jobs[start : start + chunk]]


def _run(translator: Translator, plan: Plan, out: Path, options: FolderOptions) -> FolderReport:
    """Do the jobs, or say what would be done."""
    if options.dry_run:
        return _foretell(translator, plan, out, options)
    started = time.monotonic()
    _make_out(out, plan.jobs, options)
    with only_run_in(out) as alone:
        jobs, journal = plan.jobs, None
        if options.on_exists == "rename":
            if alone is False and options.shard is None:
                raise ConfigError(
                    f"Another run writes to {out}, and two would choose the same names: wait for "
                    "it, or choose another folder"
                )
            journal = _journal(translator, plan, out, options)
            jobs = journal.choose(plan)
        if alone:
            _remove_left_behind(jobs)
        report = FolderReport(out=out)
        with FolderProgress(len(jobs), options.progress) as progress:
            run = FolderRun(translator, jobs, out, options, progress)
            try:
                run.run()
            except BaseException:
                report.images = run.outcomes
                with suppress(OSError):  # the disk may be full, and that is being said already
                    _write_report(translator, report, options)
                raise
            report.images = run.outcomes
            _write_report(translator, report, options)
        if journal is not None and not report.left:
            journal.remove()
    report.seconds = time.monotonic() - started
    return report


def _foretell(
    translator: Translator, plan: Plan, out: Path, options: FolderOptions
) -> FolderReport:
    jobs = plan.jobs
    if options.on_exists == "rename":
        jobs = choose_names(plan, _journal(translator, plan, out, options).read())
    report = FolderReport(out=out, dry_run=True)
    for job in jobs:
        there = options.on_exists != "overwrite" and os.path.lexists(job.target)
        report.images.append(Outcome(job.source, job.target, SKIPPED if there else PLANNED))
    _write_report(translator, report, options)
    return report


def _write_report(translator: Translator, report: FolderReport, options: FolderOptions) -> None:
    if options.report is not None:
        write_report(options.report, report.images, translator)


def _make_out(out: Path, jobs: Sequence[Job], options: FolderOptions) -> None:
    """ConfigError if nothing can be written to `out`, and something has to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {out} for the outputs cannot be made ({error.strerror}): choose another"
        ) from None
    if options.on_exists == "skip" and all(os.path.lexists(job.target) for job in jobs):
        return
    try:
        check_writable(out)
    except OSError as error:
        raise ConfigError(
            f"The folder {out} for the outputs cannot be written to ({error.strerror}): choose "
            "another"
        ) from None


def _journal(translator: Translator, plan: Plan, out: Path, options: FolderOptions) -> NameJournal:
    """Where this very job, of these images by this model, writes down the names it chooses."""
    job = (
        os.path.realpath(plan.root),
        translator.weights_hash(),
        *(options.suffix, options.format, options.quality, options.resize, options.seed),
        *(options.provenance, options.shard, translator.dtype),
    )
    return NameJournal(out, hashlib.sha256(json.dumps(job).encode()).hexdigest())


def _remove_left_behind(jobs: Sequence[Job]) -> None:
    """Remove the temporary files that a killed run left of these outputs, and no others."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        names.setdefault(job.target.parent, set()).add(temporary_stem(job.target.name))
    for folder, stems in names.items():
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                # Named .STEM.8 digits.tmp
                if is_temporary(entry.name) and entry.name[1:-13] in stems:
                    Path(entry.path).unlink()
