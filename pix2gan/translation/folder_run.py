"""One run over a list of images: decode ahead, translate in batches, encode behind.

Decoding ahead of the network, the network, encoding and writing behind it overlap, with bounded
queues between them. On a CPU a thread a share of the cores does whatever comes next (`lanes`):
decodes a few images, or puts a batch through the network and encodes what comes out. Further
threads would only displace it, and the fewer things are handed over, the less waits. Beside a GPU,
and where `jobs` says so, coding has threads of its own. Writing, which waits for the disk, always
has.

Which images share a batch may change the last bits of a result. So that a killed and repeated run
writes exactly the bytes that an undisturbed one would have written, batches are planned over chunks
of the sorted list, done or not: a chunk that is only partly done runs its unfinished batches with
the very companions they had before, and writes what is missing.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

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
from pix2gan.file_io import check_writable, sync_folder, write_together
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

Done = TypeVar("Done")

# Images of one chunk that wait for others of their size, and images decoded ahead of the network:
# at most this many pixels of them (12 bytes each).
_WAITING_PIXELS = 64 * 2**20
_AHEAD_PIXELS = 32 * 2**20
# A batch of images larger than this together gains nothing and costs memory.
_BATCH_PIXELS = 8 * 2**20
# Outputs of which the disk is told at the same time, and bytes that may wait for it beyond those of
# the images ahead: it stops now and then.
_FLUSHED_TOGETHER = 16
_UNWRITTEN_BYTES = 32 * 2**20
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


_Found: TypeAlias = "_Decoded | _TooLarge | Exception"


@dataclass
class _Writing:
    """Outputs on their way to the disk, and what goes wrong with each of them."""

    tasks: list[_Task]
    bytes: int
    failures: Future[list[Exception | None]]


_Result: TypeAlias = "FloatArray | Exception"
# What has become of an image so far: what the network made of it, or already the bytes of its file.
_Made: TypeAlias = "FloatArray | bytes | Exception"


class _Stopped(Exception):
    """An image has failed, and `on_error` says that this ends the run."""


class _Changed(Exception):
    """An image is not what it was when it was found."""


class FolderRun(Engine):
    """Translates a list of jobs on this machine.

    Attributes:
        failed: Whether an image has failed.
        stopped: Whether that has ended the run.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        options = self.options
        self.xmp = xmp_packet(self.translator.config) if options.provenance else None
        self.signer = options.signer(self.translator.config)
        self.most_ahead = 2 * options.batch + options.threads
        self.ahead = options.threads
        self.running: deque[tuple[list[_Decoded], Future[Sequence[_Made]]]] = deque()
        self.encoding: deque[tuple[_Task, Future[bytes]]] = deque()
        self.writing: deque[_Writing] = deque()
        self.real_out = os.path.realpath(self.out)
        self.checked_folders: set[Path] = set()
        self.failed = self.stopped = False

    def run(self) -> None:
        self.lanes = Lanes(self.translator.device)
        self.memory = FreedMemory(settling=8)
        self.writers = ThreadPoolExecutor(self.options.threads, thread_name_prefix="write")
        self.coders: Executor = self.lanes.pool
        if self.options.jobs or self.lanes.count == 1:
            self.coders = ThreadPoolExecutor(self.options.threads, thread_name_prefix="code")
        try:
            for batch in self._batches():
                self._translate(batch)
            self._collect_results(down_to=0)
            self._collect_written(down_to=0)
        except _Stopped:  # what is with the network already is kept
            self._collect_results(down_to=0)
            self._collect_written(down_to=0)
        finally:
            # Also after Ctrl-C: what is being written is finished, what waits is dropped.
            for pool in (self.lanes.pool, self.coders, self.writers):
                pool.shutdown(wait=True, cancel_futures=True)
            for writing in self.writing:
                if not writing.failures.cancelled() and writing.failures.exception() is None:
                    self._settle_written(writing)
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
        self._stop_if_failed()
        return False

    def _images(self) -> Iterator[_Decoded | None]:
        """The sound images in order, decoded ahead by other threads; None ends a chunk."""
        window: deque[tuple[list[_Task], Future[list[_Found]]] | None]
        window, group, ahead = deque(), [], 0
        for task in self._tasks():
            if task is not None:
                group.append(task)
            if group and (task is None or len(group) >= self._handed_over()):
                window.append((group, self.coders.submit(self._decode_all, group)))
                group, ahead = [], ahead + len(group)
            if task is None:
                window.append(None)
            while window and (ahead > self.ahead or window[0] is None):
                entry = window.popleft()
                ahead -= len(entry[0]) if entry else 0
                yield from self._take(entry)
        while window:
            yield from self._take(window.popleft())

    def _handed_over(self) -> int:
        """How many images a thread decodes in one go."""
        return min(self.options.batch, self.ahead) if self.coders is self.lanes.pool else 1

    def _take(
        self, entry: tuple[list[_Task], Future[list[_Found]]] | None
    ) -> Iterator[_Decoded | None]:
        if entry is None:
            yield None
            return
        tasks, future = entry
        for task, decoded in zip(tasks, future.result(), strict=True):
            if isinstance(decoded, _Decoded):
                self.ahead = max(1, min(self.most_ahead, _AHEAD_PIXELS // decoded.pixels))
                yield decoded
            elif not task.wanted:
                continue
            elif isinstance(decoded, _TooLarge):
                self._translate_in_parts(task)
            else:
                self._fail(task, decoded)
            self._stop_if_failed()

    def _decode_all(self, tasks: Sequence[_Task]) -> list[_Found]:
        return [_attempted(self._decode, task) for task in tasks]

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
            self.running.append((batch, self.lanes.submit(self._made, batch)))
            self._collect_results(down_to=self.lanes.count)
        else:
            self._collect_results(down_to=0)
            self._pass_on(batch, self._results(batch))

    def _made(self, batch: list[_Decoded]) -> Sequence[_Made]:
        """What a lane makes of a batch: encoded outputs, if it has to do that, too."""
        results = self._results(batch)
        if self.coders is not self.lanes.pool:
            return results
        return [
            _attempted(self._encoded, image, result)
            if image.task.wanted and not isinstance(result, Exception)
            else result
            for image, result in zip(batch, results, strict=True)
        ]

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
            self._pass_on(batch, future.result())

    def _pass_on(self, batch: Sequence[_Decoded], made: Sequence[_Made]) -> None:
        """Have encoded what the network made, and written what is encoded already."""
        wanted = [(i.task, i, m) for i, m in zip(batch, made, strict=True) if i.task.wanted]
        for task, image, each in wanted:
            if isinstance(each, np.ndarray):
                self.encoding.append((task, self.coders.submit(self._encoded, image, each)))
        self._write([(task, each) for task, _, each in wanted if not isinstance(each, np.ndarray)])
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

    def _write(self, encoded: Sequence[tuple[_Task, bytes | Exception]]) -> None:
        """Let the writers have outputs, and tell of those that there will not be."""
        sound = [(task, data) for task, data in encoded if isinstance(data, bytes)]
        for start in range(0, len(sound), _FLUSHED_TOGETHER):
            part = sound[start : start + _FLUSHED_TOGETHER]
            tasks, size = [task for task, _ in part], sum(len(data) for _, data in part)
            self.writing.append(_Writing(tasks, size, self.writers.submit(self._written, part)))
        for task, failure in encoded:
            if isinstance(failure, Exception):
                self._fail(task, failure)
        self._stop_if_failed()

    def _written(self, encoded: Sequence[tuple[_Task, bytes]]) -> list[Exception | None]:
        """Write outputs; what goes wrong with each of them."""
        failures = [_attempted(self._prepare_place, task.job.target) for task, _ in encoded]
        placed = [i for i, failure in enumerate(failures) if failure is None]
        files = [(encoded[i][0].job.target, encoded[i][1]) for i in placed]
        for i, failure in zip(placed, write_together(files), strict=True):
            failures[i] = failure
        return failures

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
        encoded = []
        while len(self.encoding) > down_to or (self.encoding and self.encoding[0][1].done()):
            task, future = self.encoding.popleft()
            encoded.append((task, _attempted(future.result)))
        self._write(encoded)
        while self.writing and (self.writing[0].failures.done() or self._waits_for_disk(down_to)):
            writing = self.writing.popleft()
            self._settle_written(writing)
            for task, failure in zip(writing.tasks, writing.failures.result(), strict=True):
                if failure is None:
                    self.progress.advance()
                else:
                    self._not_written(task, failure)
        self._stop_if_failed()

    def _waits_for_disk(self, down_to: int) -> bool:
        """Whether more outputs are on their way to the disk than may be."""
        images = sum(len(writing.tasks) for writing in self.writing)
        size = sum(writing.bytes for writing in self.writing)
        return images > down_to and (down_to == 0 or size > _UNWRITTEN_BYTES)

    def _settle_written(self, writing: _Writing) -> None:
        for task, failure in zip(writing.tasks, writing.failures.result(), strict=True):
            if failure is None:
                self._settle(task, TRANSLATED)

    def _not_written(self, task: _Task, error: Exception) -> None:
        """One image has failed, or, with Pix2ganError, all that would follow."""
        if isinstance(error, OSError) and (error.errno in _FATAL_ERRNOS or self._takes_nothing()):
            done = sum(outcome.status == TRANSLATED for outcome in self.outcomes)
            raise Pix2ganError(
                f"{task.job.target} cannot be written ({error.strerror}): put that right "
                f"and run the same again; the {done} images that are done will be skipped"
            ) from None
        self._fail(task, error)

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
        self.failed = True

    def _stop_if_failed(self) -> None:
        """_Stopped, once, if an image has failed and that is to end the run."""
        if self.failed and not self.stopped and self.options.on_error == "stop":
            self.stopped = True
            raise _Stopped


def _attempted(do: Callable[..., Done], *arguments: object) -> Done | Exception:
    """What comes of it, or what goes wrong."""
    try:
        return do(*arguments)
    except Exception as error:
        return error


def failure_reason(error: Exception) -> str:
    """What to tell about an image that has failed, in one sentence without its name."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fspath(error.filename)}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, Pix2ganError) else f"{type(error).__name__}: {text}"[:300]
