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
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pix2gan.data.image_io import IMAGE_SUFFIXES
from pix2gan.errors import ConfigError, DataError
from pix2gan.folder_lock import only_run_in
from pix2gan.translation.clips import translate_clip
from pix2gan.translation.engine import Engine
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import PLANNED, SKIPPED, FolderReport, Outcome, write_report
from pix2gan.translation.folder_run import FolderRun
from pix2gan.translation.out_folder import make_out, refuse_beside_others, remove_left_behind
from pix2gan.translation.planning import check_target, plan_images
from pix2gan.translation.progress import FolderProgress
from pix2gan.translation.ray_engine import RayRun
from pix2gan.translation.renaming import NameJournal, choose_names
from pix2gan.translation.sources import (
    Found,
    images_of_folder,
    images_of_glob,
    is_named_like_a_file,
    nothing_found,
    refuse_name,
)
from pix2gan.translation.streams import translate_stream
from pix2gan.translation.targets import Job, Plan, check_sources_survive
from pix2gan.translation.video import VIDEO_SUFFIXES
from pix2gan.translation.watch import watch_folder

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
    engine: str = "local",
    watch: bool = False,
    dry_run: bool = False,
    report: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    provenance: bool = True,
    c2pa_certificate: str | os.PathLike[str] | None = None,
    c2pa_key: str | os.PathLike[str] | None = None,
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
        jobs: Threads that decode and encode; by default, on a CPU, those of the network do it in
            between.
        shard: "2/5" does the second of five parts of the work. All parts together write what one
            run without would have written, to the byte.
        engine: "local", or "ray" to spread the work over a Ray cluster whose machines all see
            `source` and `out`; see `pix2gan.translation.ray_engine`.
        watch: Go on with images that come into the folder, until KeyboardInterrupt (Ctrl-C), and
            return then; see `pix2gan.translation.watch`.
        dry_run: Only say what would be done, and write nothing.
        report: A file for one line of JSON an image.
        progress: False shows nothing; by default a bar on a terminal and lines elsewhere.
        provenance: Let outputs say that a trained algorithm made them, and which (XMP, see
            `pix2gan.translation.provenance`).
        c2pa_certificate: A PEM file with the certificate to sign outputs with, followed by those
            that vouch for it; see `pix2gan.translation.signing`.
        c2pa_key: A PEM file with its private key.
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
        engine=engine,
        watch=watch,
        dry_run=dry_run,
        report=report,
        progress=progress,
        provenance=provenance,
        c2pa_certificate=c2pa_certificate,
        c2pa_key=c2pa_key,
        tile=tile,
        tile_statistics=tile_statistics,
    )
    options.check(translator)
    source, out = _paths(source, out)
    if watch:
        return watch_folder(translator, source, out, options)
    found = images_of_folder(source, out, recursive=recursive, pattern=glob)
    if not found.images and not found.closed:
        raise nothing_found(source, recursive=recursive, pattern=glob)
    return _run(translator, plan_images(translator, found, source, out, options), out, options)


def translate_paths(
    translator: Translator,
    source: str | os.PathLike[str] | IO[bytes],
    out: str | os.PathLike[str] | IO[bytes],
    *,
    codec: str | None = None,
    **options: Any,
) -> FolderReport:
    """Translate a file, a folder, the files that a glob names, or a stream.

    Args:
        translator: What to translate with.
        source: A file, a folder (see `translate_folder`) or a glob such as "photos/**/*.jpg"; a
            binary stream with one image. A video becomes a video, see `translate_video`.
        out: A folder; for a single image also the name of the output, if it ends in the suffix of
            an image, or a binary stream. A glob's matches keep their place below the glob's fixed
            part.
        codec: Of a video, see `translate_video`.
        **options: As for `translate_folder`.

    Raises:
        DataError: If there is no such file or nothing matches the glob.
        ConfigError: If an option makes no sense, or an output would overwrite an input.
    """
    settings = FolderOptions(**options)
    settings.check(translator)
    if not isinstance(source, (str, os.PathLike)) or not isinstance(out, (str, os.PathLike)):
        return translate_stream(translator, _end(source), _end(out), settings)
    named = os.fspath(out)
    path, out = _paths(source, out)
    if settings.report is not None and _is_same(settings.report, out):
        raise ConfigError(f"The report cannot be the output {out}: choose another name")
    if not path.exists() and not globbing.has_magic(os.fspath(path)):
        raise DataError(f"There is no file or folder {source}: check the path")
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        refuse_name(out, "an image", "The output is a video")
        _refuse_folders_options(path, settings)
        return translate_clip(translator, path, named, settings, codec)
    if codec is not None:
        raise ConfigError(f"codec is for videos, and {source} is none: leave it out")
    if path.is_dir():
        return translate_folder(translator, path, out, **options)
    _refuse_folders_options(path, settings)
    if path.exists():
        if out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir():
            return _translate_file(translator, path, out, settings)
        refuse_name(out, "a video", "The output is an image")
        if is_named_like_a_file(named):
            check_target(out, settings)  # or photo.jepg would become a folder
        found, root = Found([path]), path.parent
    else:
        found, root = images_of_glob(source, out)
    return _run(translator, plan_images(translator, found, root, out, settings), out, settings)


def _refuse_folders_options(source: Path, options: FolderOptions) -> None:
    """ConfigError for what makes sense for many images alone, if `source` is one file."""
    is_file = source.is_file()
    for option, given in {
        "glob": options.glob is not None,
        "watch": options.watch,
        "shard": options.shard is not None and is_file,
        "engine=ray": options.engine == "ray" and is_file,
    }.items():
        if given:
            raise ConfigError(f"{option} is for folders, and {source} is none: leave it out")


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


def _is_same(one: str | os.PathLike[str], other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _end(end: str | os.PathLike[str] | IO[bytes]) -> Path | IO[bytes]:
    return Path(end) if isinstance(end, (str, os.PathLike)) else end


def _run(translator: Translator, plan: Plan, out: Path, options: FolderOptions) -> FolderReport:
    """Do the jobs, or say what would be done."""
    if options.dry_run:
        return _foretell(translator, plan, out, options)
    started = time.monotonic()
    is_done = options.on_exists == "skip" and all(os.path.lexists(j.target) for j in plan.jobs)
    make_out(out, writable=not is_done)
    renames = options.on_exists == "rename"
    with only_run_in(out, shared=not renames or options.shard is not None) as admitted:
        if admitted is False and (renames or plan.root.is_dir()):
            refuse_beside_others(out)
        jobs, journal = plan.jobs, None
        if renames:
            journal = _journal(translator, plan, out, options)
            jobs = journal.choose(plan)
        remove_left_behind(job.target for job in jobs)
        report = FolderReport(out=out)
        with FolderProgress(len(jobs), options.progress) as progress:
            engine: type[Engine] = RayRun if options.engine == "ray" else FolderRun
            run = engine(translator, jobs, out, options, progress)
            try:
                run.run()
            except BaseException:
                report.images = [*plan.closed, *run.outcomes]
                with suppress(OSError):  # the disk may be full, and that is being said already
                    write_report(options.report, report.images, translator)
                raise
            report.images = [*plan.closed, *run.outcomes]
            write_report(options.report, report.images, translator)
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
    report = FolderReport([*plan.closed], out=out, dry_run=True)
    for job in jobs:
        there = options.on_exists != "overwrite" and os.path.lexists(job.target)
        report.images.append(Outcome(job.source, job.target, SKIPPED if there else PLANNED))
    write_report(options.report, report.images, translator)
    return report


def _journal(translator: Translator, plan: Plan, out: Path, options: FolderOptions) -> NameJournal:
    """Where this very job, of these images by this model, writes down the names it chooses."""
    job = (
        os.path.realpath(plan.root),
        translator.weights_hash(),
        *(options.suffix, options.format, options.quality, options.resize, options.seed),
        *(options.provenance, options.shard, translator.dtype),
        os.fspath(options.c2pa_certificate or ""),
    )
    return NameJournal(out, hashlib.sha256(json.dumps(job).encode()).hexdigest())
