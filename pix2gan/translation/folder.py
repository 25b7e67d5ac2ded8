"""Translating folders: every image once, none lost, however often the run is killed.

An output is written under a temporary name and renamed when it is whole, so what exists is done and
a later run skips it. One thread runs the network while others decode ahead of it and encode behind
it, with bounded queues between them.

Which images share a batch may change the last bits of a result. So that a killed and repeated run
writes exactly the bytes that an undisturbed one would have written, batches are planned over chunks
of the sorted list, done or not: a chunk that is only partly done runs its unfinished batches with
the very companions they had before, and writes what is missing.
"""

from __future__ import annotations

import errno
import glob
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2gan.data.image_io import (
    IMAGE_SUFFIXES,
    ImageInfo,
    list_images,
    open_image_with_info,
    save_image,
    to_grey,
    to_rgb,
)
from pix2gan.errors import BackendError, BadImageError, ConfigError, DataError, Pix2ganError
from pix2gan.file_io import check_writable, is_temporary
from pix2gan.folder_lock import only_run_in
from pix2gan.translation.inputs import as_unit_range
from pix2gan.translation.processing import Array, FloatArray, Prepared
from pix2gan.translation.progress import FolderProgress
from pix2gan.translation.provenance import xmp_packet
from pix2gan.translation.targets import (
    FORMATS,
    Job,
    check_sources_survive,
    plan_jobs,
)
from pix2gan.translation.tiling import Tiling

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator

ON_EXISTS = ("skip", "overwrite")

# Images of one chunk that wait for others of their size, and images decoded ahead of the network:
# at most this many pixels of them (12 bytes each).
_WAITING_PIXELS = 64 * 2**20
_AHEAD_PIXELS = 32 * 2**20
# A batch of images larger than this together gains nothing and costs memory.
_BATCH_PIXELS = 8 * 2**20
_BATCHES_PER_CHUNK = 16
# Not the fault of one image: going on would only list all the others as failed, too.
_FATAL_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT}


@dataclass
class FolderReport:
    """What became of the images.

    Attributes:
        done: How many were translated by this run.
        skipped: How many were there already.
        failed: Path and reason of each that could not be translated, in the order of the folder.
        seconds: How long it took.
        out: Where the outputs are.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    seconds: float = 0.0
    out: Path = Path()

    @property
    def exit_code(self) -> int:
        """0, or 1 if some images failed."""
        return 1 if self.failed else 0

    def __str__(self) -> str:
        parts = [f"{self.done} translated"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped (already there)")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        lines = [f"{', '.join(parts)} in {self.seconds:.1f} s: {self.out}"]
        lines += [f"  {path}: {reason}" for path, reason in self.failed]
        return "\n".join(lines)


@dataclass(frozen=True)
class FolderOptions:
    """The options of `translate_folder`, which documents them."""

    recursive: bool = True
    batch_size: int = 4
    suffix: str = ""
    format: str | None = None
    quality: int = 95
    on_exists: str = "skip"
    resize: str | None = None
    seed: int | None = None
    workers: int | None = None
    progress: bool | None = None
    provenance: bool = True
    tile: int | str | None = "auto"
    tile_statistics: str = "exact"

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.tile, self.tile_statistics)

    def check(self, translator: Translator) -> None:
        """ConfigError if a value makes no sense for this model."""
        from pix2gan.translation.translator import RESIZES, check_batch_size

        channels = translator.config.out_channels
        check_batch_size(self.batch_size)
        translator.check_seed(self.seed)
        self.tiling.check(translator.generator)
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(f"format must be one of {', '.join(FORMATS)}, not {self.format!r}")
        if channels > 4 and self.format not in (None, "tiff", "npy"):
            raise ConfigError(
                f"{self.format} cannot hold the {channels} channels of this model's output: use "
                "the format tiff or npy"
            )
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be between 1 and 100, not {self.quality}")
        if self.on_exists not in ON_EXISTS:
            raise ConfigError(
                f"on_exists must be one of {', '.join(ON_EXISTS)}, not {self.on_exists!r}"
            )
        if self.resize not in (None, *RESIZES):
            raise ConfigError(f"resize must be one of {', '.join(RESIZES)}, not {self.resize!r}")
        if any(sign in self.suffix for sign in ("/", "\\", "\0")):
            raise ConfigError(f"suffix is part of a file name, so {self.suffix!r} cannot be one")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, not {self.workers}")


def translate_folder(
    translator: Translator,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recursive: bool = True,
    batch_size: int = 4,
    suffix: str = "",
    format: str | None = None,
    quality: int = 95,
    on_exists: str = "skip",
    resize: str | None = None,
    seed: int | None = None,
    workers: int | None = None,
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
        batch_size: How many images of equal (padded) size go through the network at once.
        suffix: Put behind the stem of every output's name: "_photo" makes a.png a_photo.png.
        format: "png", "jpg", "webp", "tiff" or "npy"; by default JPEG and WebP stay what they are,
            and everything else becomes PNG. Of a model with an output range or more than four
            channels TIFF and .npy stay what they are, and everything else becomes TIFF.
        quality: Of JPEG and WebP, 1 to 100.
        on_exists: "skip" leaves outputs alone that are there already (and so continues a run that
            was interrupted), "overwrite" makes them again.
        resize: "none" or "fit", by default as the model's config says.
        seed: The style, for a generator that takes a style code; the same one for every image.
        workers: Threads that decode, and as many that encode.
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
        batch_size=batch_size,
        suffix=suffix,
        format=format,
        quality=quality,
        on_exists=on_exists,
        resize=resize,
        seed=seed,
        workers=workers,
        progress=progress,
        provenance=provenance,
        tile=tile,
        tile_statistics=tile_statistics,
    )
    options.check(translator)
    source, out = _paths(source, out)
    images = _leave_out(out, list_images(source, recursive), source)
    if not images:
        where = "" if recursive else " itself (sub-folders were left out)"
        raise DataError(f"There is no image in {source}{where}: looked for {_SUFFIXES_SHOWN}")
    jobs = plan_jobs(
        images,
        source,
        out,
        suffix=suffix,
        format=format,
        only_tiff=_only_tiff(translator),
    )
    return _FolderRun(translator, jobs, out, options).run()


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
    if path.exists():
        is_name = out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir()
        if is_name:
            return _translate_file(translator, path, out, settings)
        images, root = [path], path.parent
    elif glob.has_magic(os.fspath(source)):
        root = _fixed_part(path)
        # Not Path.glob: the pattern may be absolute or begin with "..".
        names = glob.iglob(os.fspath(source), recursive=True)  # noqa: PTH207
        matches = (Path(name) for name in names)
        images = sorted(
            match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES and match.is_file()
        )
        images = _leave_out(out, images, root)
        if not images:
            raise DataError(f"No image matches {source}: looked for {_SUFFIXES_SHOWN}")
    else:
        raise DataError(f"There is no file or folder {source}: check the path")
    jobs = plan_jobs(
        images,
        root,
        out,
        suffix=settings.suffix,
        format=settings.format,
        only_tiff=_only_tiff(translator),
    )
    return _FolderRun(translator, jobs, out, settings).run()


def _only_tiff(translator: Translator) -> bool:
    """Whether PNG cannot hold the outputs: more channels than four, or values of a range."""
    config = translator.config
    return config.out_channels > 4 or config.preprocessing.output_range is not None


def _translate_file(
    translator: Translator, source: Path, target: Path, options: FolderOptions
) -> FolderReport:
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
    jobs = [Job(source, target)]
    check_sources_survive(jobs)
    report = _FolderRun(translator, jobs, target.parent, options).run()
    report.out = target
    return report


def _paths(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Both as paths; ConfigError for an empty name, which `Path` takes for the current folder."""
    for what, path in (("source", source), ("out", out)):
        if not os.fspath(path):
            raise ConfigError(f'{what} is empty: name a path, "." for the current folder')
    return Path(source), Path(out)


_SUFFIXES_SHOWN = ", ".join(sorted(IMAGE_SUFFIXES))


def _leave_out(out: Path, images: list[Path], root: Path) -> list[Path]:
    """The images below `root` without those in `out`, which are outputs of an earlier run.

    Raises:
        ConfigError: If `out` is named like an image, or outputs and inputs would lie side by side,
            where the next run could not tell them apart.
    """
    if out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir():
        raise ConfigError(
            f"The outputs need a folder, and {out} is named like an image: name a folder instead"
        )
    real_out, real_root = os.path.realpath(out), os.path.realpath(root)
    folders = {image.parent: os.path.realpath(image.parent) for image in images}
    is_below_root = real_out != real_root and _is_within(real_out, real_root)
    inside = {f for f, real in folders.items() if is_below_root and _is_within(real, real_out)}
    if any(real == real_out for folder, real in folders.items() if folder not in inside):
        raise ConfigError(
            f"The outputs cannot go to {out}, where the inputs are: choose another folder for them"
        )
    return [image for image in images if image.parent not in inside]


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part of a glob that has a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) :]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


@dataclass(frozen=True)
class _Task:
    """An image to decode; not wanted if only its companions' batch needs it."""

    job: Job
    wanted: bool


@dataclass
class _Decoded:
    task: _Task
    prepared: Prepared
    info: ImageInfo

    @property
    def pixels(self) -> int:
        return self.prepared.values.shape[1] * self.prepared.values.shape[2]


class _FolderRun:
    """One run over a list of jobs: decode ahead, translate in batches, encode behind."""

    def __init__(
        self, translator: Translator, jobs: Sequence[Job], out: Path, options: FolderOptions
    ) -> None:
        self.translator = translator
        self.jobs = jobs
        self.out = out
        self.options = options
        self.report = FolderReport(out=out)
        self.xmp = xmp_packet(translator.config) if options.provenance else None
        self.workers = options.workers or min(4, os.cpu_count() or 1)
        # With a seed an output depends on its image and the seed alone.
        self.batch_size = options.batch_size if options.seed is None else 1
        self.most_ahead = 2 * self.batch_size + self.workers
        self.ahead = self.workers
        self.writing: deque[tuple[Job, Future[None]]] = deque()
        self.real_out = ""
        self.checked_folders: set[Path] = set()

    def run(self) -> FolderReport:
        started = time.monotonic()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The folder {self.out} for the outputs cannot be made ({error.strerror}): choose "
                "another"
            ) from None
        refused = self._out_error() if any(map(self._is_wanted, self.jobs)) else None
        if refused is not None:
            raise ConfigError(
                f"The folder {self.out} for the outputs cannot be written to ({refused.strerror}): "
                "choose another"
            )
        self.real_out = os.path.realpath(self.out)
        self.decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        self.encoders = ThreadPoolExecutor(self.workers, thread_name_prefix="encode")
        try:
            with (
                only_run_in(self.out) as alone,
                FolderProgress(len(self.jobs), self.options.progress) as self.progress,
            ):
                if alone:
                    _remove_left_behind(self.jobs)
                for batch in self._batches():
                    self._translate(batch)
                self._collect_written(down_to=0)
        finally:
            # Also after Ctrl-C: what is being written is finished, what waits is dropped.
            self.decoders.shutdown(wait=True, cancel_futures=True)
            self.encoders.shutdown(wait=True, cancel_futures=True)
        order = {job.source: index for index, job in enumerate(self.jobs)}
        self.report.failed.sort(key=lambda failure: order[failure[0]])
        self.report.seconds = time.monotonic() - started
        return self.report

    def _out_error(self) -> OSError | None:
        """Why nothing can be written to `out`, if so."""
        try:
            check_writable(self.out)
        except OSError as error:
            return error
        return None

    # What to decode

    def _tasks(self) -> Iterator[_Task | None]:
        """What there is to decode, chunk by chunk; None ends a chunk."""
        length = _BATCHES_PER_CHUNK * self.batch_size
        for start in range(0, len(self.jobs), length):
            chunk = self.jobs[start : start + length]
            wanted = [self._is_wanted(job) for job in chunk]
            there = wanted.count(False)
            self.report.skipped += there
            if there:
                self.progress.advance(there, skipped=True)
            # Companions are worth decoding only if there is an image for them to accompany.
            missing = [job for job, is_wanted in zip(chunk, wanted, strict=True) if is_wanted]
            if there and not self._any_decodes(missing):
                continue
            for job, is_wanted in zip(chunk, wanted, strict=True):
                yield _Task(job, is_wanted)
            yield None

    def _is_wanted(self, job: Job) -> bool:
        return self.options.on_exists == "overwrite" or not os.path.lexists(job.target)

    def _any_decodes(self, jobs: Sequence[Job]) -> bool:
        """Whether one of the jobs has a sound image; if not, all are reported as failed."""
        failures = []
        for job in jobs:
            try:
                self._decode(_Task(job, wanted=True))
                return True
            except Exception as error:
                failures.append((job, error))
        for job, failure in failures:
            self._fail(job, failure)
        return False

    def _images(self) -> Iterator[_Decoded | None]:
        """The sound images in order, decoded ahead by other threads; None ends a chunk."""
        window: deque[tuple[_Task, Future[_Decoded]] | None] = deque()
        for task in self._tasks():
            window.append((task, self.decoders.submit(self._decode, task)) if task else None)
            while len(window) > self.ahead:
                yield from self._take(window)
        while window:
            yield from self._take(window)

    def _take(
        self, window: deque[tuple[_Task, Future[_Decoded]] | None]
    ) -> Iterator[_Decoded | None]:
        entry = window.popleft()
        if entry is None:
            yield None
            return
        task, future = entry
        try:
            decoded = future.result()
        except Exception as error:
            if task.wanted:
                self._fail(task.job, error)
            return
        self.ahead = max(1, min(self.most_ahead, _AHEAD_PIXELS // decoded.pixels))
        yield decoded

    def _decode(self, task: _Task) -> _Decoded:
        pixels, info = open_image_with_info(task.job.source)
        processing = self.translator.processing
        prepared = processing.prepare(
            as_unit_range(pixels, processing.input_range),
            os.fspath(task.job.source),
            self.options.resize,
        )
        return _Decoded(task, prepared, info)

    # Batches

    def _batches(self) -> Iterator[list[_Decoded]]:
        """Images of equal shape, as many as make a batch; chunks do not mix."""
        waiting: dict[tuple[int, ...], list[_Decoded]] = {}
        pixels = 0
        for decoded in self._images():
            if decoded is None:
                yield from waiting.values()
                waiting, pixels = {}, 0
                continue
            shape = decoded.prepared.values.shape
            waiting.setdefault(shape, []).append(decoded)
            pixels += decoded.pixels
            most = min(self.batch_size, max(1, _BATCH_PIXELS // decoded.pixels))
            if len(waiting[shape]) < most:
                if pixels <= _WAITING_PIXELS:
                    continue
                shape = next(iter(waiting))  # the one that has waited longest
            batch = waiting.pop(shape)
            pixels -= sum(image.pixels for image in batch)
            yield batch

    def _translate(self, batch: list[_Decoded]) -> None:
        if not any(image.task.wanted for image in batch):
            return
        try:
            prepared = [image.prepared for image in batch]
            results = self.translator.run(prepared, self.options.seed, self.options.tiling)
        except BackendError:
            raise  # a forced backend that cannot run is the fault of no image
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0].task.job, error)
                return
            for image in batch:  # one of them may be to blame; the others shall not suffer
                self._translate([image])
            return
        for image, result in zip(batch, results, strict=True):
            if image.task.wanted:
                future = self.encoders.submit(self._write, image, result)
                self.writing.append((image.task.job, future))
        self._collect_written(down_to=self.ahead)

    # Outputs

    def _write(self, image: _Decoded, result: FloatArray) -> None:
        target, prepared = image.task.job.target, image.prepared
        processing = self.translator.processing
        has_range = processing.output_range is not None
        output = processing.finish(
            result, prepared, _output_dtype(target, "float32" if has_range else prepared.dtype)
        )
        self._make_folder(target.parent)
        if target.is_symlink():
            raise ConfigError(
                f"its output {target} is a link that leads elsewhere: remove that link"
            )
        sketch = processing.sketch
        save_image(
            target,
            _without_alpha(output) if target.suffix.lower() in FORMATS["jpg"] else output,
            quality=self.options.quality,
            # The colours of a drawing's profile mean nothing for the photo made of it.
            icc_profile=None if sketch else image.info.icc_profile,
            dpi=image.info.dpi,
            xmp=self.xmp,
        )

    def _make_folder(self, folder: Path) -> None:
        """Make a folder in `out`, and refuse one that a link leads out of it."""
        if folder in self.checked_folders:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_within(os.path.realpath(folder), self.real_out):
            raise ConfigError(
                f"its output would go through {folder}, a link that leads out of {self.out}: "
                "remove that link"
            )
        self.checked_folders.add(folder)

    def _collect_written(self, down_to: int) -> None:
        """Wait until no more than `down_to` outputs are being written."""
        while len(self.writing) > down_to or (self.writing and self.writing[0][1].done()):
            job, future = self.writing.popleft()
            try:
                future.result()
            except OSError as error:
                if error.errno in _FATAL_ERRNOS or self._out_error():
                    raise Pix2ganError(
                        f"{job.target} cannot be written ({error.strerror}): put that right and "
                        f"run the same again; the {self.report.done} images that are done will "
                        "be skipped"
                    ) from None
                self._fail(job, error)
            except Exception as error:
                self._fail(job, error)
            else:
                self.report.done += 1
                self.progress.advance()

    def _fail(self, job: Job, error: Exception) -> None:
        self.report.failed.append((job.source, _reason(error)))
        self.progress.advance(failed=True)


def _reason(error: Exception) -> str:
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fspath(error.filename)}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, Pix2ganError) else f"{type(error).__name__}: {text}"[:300]


def _output_dtype(target: Path, dtype: str) -> str:
    """The depth of an output: as the image's, as far as the format has it."""
    suffix = target.suffix.lower()
    if suffix in (*FORMATS["tiff"], *FORMATS["npy"]):
        return dtype
    if suffix in FORMATS["png"]:
        return "uint16" if dtype == "float32" else dtype
    return "uint8"


def _without_alpha(image: Array) -> Array:
    channels = image.shape[2]
    if channels == 2:
        return to_grey(image)
    return to_rgb(image) if channels == 4 else image


def _remove_left_behind(jobs: Sequence[Job]) -> None:
    """Remove the temporary files that a killed run left of these outputs, and no others."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        names.setdefault(job.target.parent, set()).add(job.target.name)
    for folder, targets in names.items():
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                # Named .TARGET.8 digits.tmp, TARGET possibly cut.
                of = entry.name[1:-13]
                if is_temporary(entry.name) and (of in targets or len(of) > 100):
                    Path(entry.path).unlink()
