"""One run over a list of images: decode ahead, translate in batches, encode behind.

Decoding ahead of the network, the network, encoding and writing behind it overlap, with bounded
queues between them. On a CPU a thread a share of the cores does whatever comes next, images or
batches (`lanes`): further threads would only displace it. Beside a GPU, and where `jobs` says so,
coding has threads of its own. Writing, which waits for the disk, always has.

Which images share a batch may change the last bits of a result. So that a killed and repeated run
writes exactly the bytes that an undisturbed one would have written, batches are planned over chunks
of the sorted list, done or not: a chunk that is only partly done runs its unfinished batches with
the very companions they had before, and writes what is missing.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pix2gan.data.image_io import (
    ImageInfo,
    open_image_with_info,
)
from pix2gan.errors import (
    BackendError,
    BadImageError,
    ConfigError,
    ImageTooLargeError,
    Pix2ganError,
)
from pix2gan.file_io import atomic_write, check_writable, sync_folder
from pix2gan.freed_memory import FreedMemory
from pix2gan.translation.engine import Engine
from pix2gan.translation.folder_report import FAILED, LEFT, SKIPPED, TRANSLATED, Outcome
from pix2gan.translation.inputs import as_unit_range
from pix2gan.translation.lanes import Lanes
from pix2gan.translation.outputs import encode_output
from pix2gan.translation.processing import FloatArray, Prepared
from pix2gan.translation.provenance import xmp_packet
from pix2gan.translation.sources import is_within
from pix2gan.translation.targets import Job

if TYPE_CHECKING:
    pass

# Images of one chunk that wait for others of their size, and images decoded ahead of the network:
# at most this many pixels of them (12 bytes each).
_WAITING_PIXELS = 64 * 2**20
_AHEAD_PIXELS = 32 * 2**20
# A batch of images larger than this together gains nothing and costs memory.
_BATCH_PIXELS = 8 * 2**20
# Not the fault of one image: going on would only list all the others as failed, too.
_FATAL_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT}


@dataclass(frozen=True)
class _Task:
    """An image to decode, by its place in the list; not wanted if only its companions' batch needs
    it."""

    index: int
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


class _TooLarge:
    """What decoding finds of an image with too many pixels for it."""


_Result: TypeAlias = "FloatArray | Exception"


class _Stopped(Exception):
    """An image has failed, and `on_error` says that this ends the run."""


class _Changed(Exception):
    """An image is not what it was when it was found."""


class FolderRun(Engine):
    """Translates a list of jobs on this machine.

    Attributes:
        stopped: Whether an image that failed has ended the run.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        options = self.options
        self.xmp = xmp_packet(self.translator.config) if options.provenance else None
        self.signer = options.signer(self.translator.config)
        self.most_ahead = 2 * options.batch + options.threads
        self.ahead = options.threads
        self.running: deque[tuple[list[_Decoded], Future[list[_Result]]]] = deque()
        self.encoding: deque[tuple[_Task, Future[bytes]]] = deque()
        self.writing: deque[tuple[_Task, Future[None]]] = deque()
        self.real_out = os.path.realpath(self.out)
        self.checked_folders: set[Path] = set()
        self.stopped = False

    def run(self) -> None:
        self.lanes = Lanes(self.translator.device)
        self.memory = FreedMemory()
        self.writers = ThreadPoolExecutor(self.options.threads, thread_name_prefix="write")
        self.coders: Executor = self.lanes.pool
        if self.options.jobs or self.lanes.count == 1:
            self.coders = ThreadPoolExecutor(self.options.threads, thread_name_prefix="code")
        try:
            for batch in self._batches():
                self._translate(batch)
            self._collect_results(down_to=0)
            self._collect_written(down_to=0)
        except _Stopped:
            self.stopped = True
            self._finish_writing()
        finally:
            # Also after Ctrl-C: what is being written is finished, what waits is dropped.
            for pool in (self.lanes.pool, self.coders, self.writers):
                pool.shutdown(wait=True, cancel_futures=True)
            for task, future in self.writing:
                if not future.cancelled() and future.exception() is None:
                    self._settle(task, TRANSLATED)
            for folder in self.checked_folders:
                sync_folder(folder)

    # What to decode

    def _tasks(self) -> Iterator[_Task | None]:
        """What there is to decode, chunk by chunk; None ends a chunk."""
        length = self.options.chunk
        for start in range(0, len(self.jobs), length):
            chunk = [
                _Task(index, self.jobs[index], self._is_wanted(self.jobs[index]))
                for index in range(start, min(start + length, len(self.jobs)))
            ]
            missing = [task for task in chunk if task.wanted]
            there = len(chunk) - len(missing)
            for task in chunk if there else []:
                if not task.wanted:
                    self._settle(task, SKIPPED)
            if there:
                self.progress.advance(there, skipped=True)
            # Companions are worth decoding only if there is an image for them to accompany.
            if self.options.batch == 1:
                chunk = missing
            elif there and not self._any_decodes(missing):
                continue
            yield from chunk
            yield None

    def _is_wanted(self, job: Job) -> bool:
        return self.options.on_exists == "overwrite" or not os.path.lexists(job.target)

    def _any_decodes(self, tasks: Sequence[_Task]) -> bool:
        """Whether one of them is a sound image; if not, all are reported as failed."""
        failures = []
        for task in tasks:
            try:
                self._decode(task)
                return True
            except Exception as error:
                failures.append((task, error))
        for task, failure in failures:
            self._fail(task, failure)
        return False

    def _images(self) -> Iterator[_Decoded | None]:
        """The sound images in order, decoded ahead by other threads; None ends a chunk."""
        window: deque[tuple[_Task, Future[_Decoded | _TooLarge]] | None] = deque()
        for task in self._tasks():
            window.append((task, self.coders.submit(self._decode, task)) if task else None)
            while len(window) > self.ahead:
                yield from self._take(window)
        while window:
            yield from self._take(window)

    def _take(
        self, window: deque[tuple[_Task, Future[_Decoded | _TooLarge]] | None]
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
                self._fail(task, error)
            return
        if isinstance(decoded, _TooLarge):
            if task.wanted:
                self._translate_in_parts(task)
            return
        self.ahead = max(1, min(self.most_ahead, _AHEAD_PIXELS // decoded.pixels))
        yield decoded

    def _decode(self, task: _Task) -> _Decoded | _TooLarge:
        try:
            pixels, info = open_image_with_info(task.job.source)
        except ImageTooLargeError:
            return _TooLarge()
        finally:
            if task.job.has_changed():
                raise _Changed
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
            most = min(self.options.batch, max(1, _BATCH_PIXELS // decoded.pixels))
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
        self.memory.give_back()
        if batch[0].pixels <= Lanes.MOST_PIXELS:
            self.running.append((batch, self.lanes.submit(self._results, batch)))
            self._collect_results(down_to=self.lanes.count)
        else:
            self._collect_results(down_to=0)
            self._encode(batch, self._results(batch))

    def _results(self, batch: list[_Decoded]) -> list[_Result]:
        """What the network makes of each image, or why it makes nothing."""
        try:
            prepared = [image.prepared for image in batch]
            return [*self.translator.run(prepared, self.options.seed, self.options.tiling)]
        except BackendError:
            raise  # a forced backend that cannot run is the fault of no image
        except Exception as error:
            if len(batch) == 1:
                return [error]
            # One of them may be to blame; the others shall not suffer.
            return [result for image in batch for result in self._results([image])]

    def _collect_results(self, down_to: int) -> None:
        """Wait until no more than `down_to` batches are with the network, or wait for it."""
        while len(self.running) > down_to:
            batch, future = self.running.popleft()
            self._encode(batch, future.result())

    def _encode(self, batch: list[_Decoded], results: list[_Result]) -> None:
        for image, result in zip(batch, results, strict=True):
            if not image.task.wanted:
                continue
            if isinstance(result, Exception):
                self._fail(image.task, result)
            else:
                future = self.coders.submit(self._encoded, image, result)
                self.encoding.append((image.task, future))
        self._collect_written(down_to=self.ahead)

    def _translate_in_parts(self, task: _Task) -> None:
        from pix2gan.translation.gigapixel import translate_gigapixel

        target = task.job.target
        try:
            self._prepare_place(target)
            translate_gigapixel(
                self.translator,
                task.job.source,
                target,
                tiling=self.options.tiling,
                resize=self.options.resize,
                seed=self.options.seed,
                quality=self.options.quality,
                xmp=self.xmp,
                signer=self.signer,
                progress=self.progress.within,
            )
        except BackendError:
            raise
        except Exception as error:
            self._not_written(task, error)
        else:
            self._settle(task, TRANSLATED)
            self.progress.advance()

    # Outputs

    def _encoded(self, image: _Decoded, result: FloatArray) -> bytes:
        return encode_output(
            self.translator.processing,
            result,
            image.prepared,
            image.info,
            image.task.job.target,
            quality=self.options.quality,
            xmp=self.xmp,
            signer=self.signer,
        )

    def _write(self, target: Path, data: bytes) -> None:
        self._prepare_place(target)
        with atomic_write(target, sync_name=False) as file:
            file.write(data)

    def _prepare_place(self, target: Path) -> None:
        self._make_folder(target.parent)
        if target.is_symlink():
            raise ConfigError(
                f"its output {target} is a link that leads elsewhere: remove that link"
            )

    def _make_folder(self, folder: Path) -> None:
        """Make a folder in `out`, and refuse one that a link leads out of it."""
        if folder in self.checked_folders:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not is_within(os.path.realpath(folder), self.real_out):
            raise ConfigError(
                f"its output would go through {folder}, a link that leads out of {self.out}: "
                "remove that link"
            )
        self.checked_folders.add(folder)

    def _collect_written(self, down_to: int) -> None:
        """Wait until no more than `down_to` outputs are being encoded, and being written."""
        while len(self.encoding) > down_to or (self.encoding and self.encoding[0][1].done()):
            task, encoded = self.encoding.popleft()
            try:
                data = encoded.result()
            except Exception as error:
                self._not_written(task, error)
            else:
                writing = self.writers.submit(self._write, task.job.target, data)
                self.writing.append((task, writing))
        while len(self.writing) > down_to or (self.writing and self.writing[0][1].done()):
            task, future = self.writing.popleft()
            try:
                future.result()
            except Exception as error:
                self._not_written(task, error)
            else:
                self._settle(task, TRANSLATED)
                self.progress.advance()

    def _not_written(self, task: _Task, error: Exception) -> None:
        """One image has failed, or, with Pix2ganError, all that would follow."""
        if isinstance(error, OSError) and (error.errno in _FATAL_ERRNOS or self._takes_nothing()):
            done = sum(outcome.status == TRANSLATED for outcome in self.outcomes)
            raise Pix2ganError(
                f"{task.job.target} cannot be written ({error.strerror}): put that right "
                f"and run the same again; the {done} images that are done will be skipped"
            ) from None
        self._fail(task, error)

    def _finish_writing(self) -> None:
        """After an image that has failed: what the network has made already is kept."""
        while self.encoding or self.writing:
            with suppress(_Stopped):
                self._collect_written(down_to=0)

    def _takes_nothing(self) -> bool:
        try:
            check_writable(self.out)
        except OSError:
            return True
        return False

    # What became of them

    def _settle(self, task: _Task, status: str, error: str | None = None) -> None:
        self.outcomes[task.index] = Outcome(task.job.source, task.job.target, status, error)

    def _fail(self, task: _Task, error: Exception) -> None:
        if isinstance(error, _Changed):
            self._settle(task, LEFT)
            return
        self._settle(task, FAILED, failure_reason(error))
        self.progress.advance(failed=True)
        if self.options.on_error == "stop":
            raise _Stopped


def failure_reason(error: Exception) -> str:
    """What to tell about an image that has failed, in one sentence without its name."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fspath(error.filename)}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, Pix2ganError) else f"{type(error).__name__}: {text}"[:300]
