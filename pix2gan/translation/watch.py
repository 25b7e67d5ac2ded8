"""Watching a folder: new images are translated as soon as they are complete.

Folders are looked through at intervals, which works on every file system, network mounts included.
An image is complete when two looks in a row found the same file of the same size and time of
change, and the file is still that when it has been decoded. One that fails all the same, because
whoever wrote it paused for longer, is tried again as soon as it has changed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pix2gan.folder_lock import only_run_in
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import (
    LEFT,
    TRANSLATED,
    FolderReport,
    Outcome,
    append_report,
    write_report,
)
from pix2gan.translation.folder_run import FolderRun
from pix2gan.translation.out_folder import make_out, refuse_beside_others, remove_left_behind
from pix2gan.translation.planning import closed_folders, plan_images
from pix2gan.translation.progress import FolderProgress
from pix2gan.translation.sources import Found, images_of_folder
from pix2gan.translation.targets import Stamp, stamp_of

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator

SECONDS_BETWEEN_LOOKS = 2.0


def watch_folder(
    translator: Translator,
    source: Path,
    out: Path,
    options: FolderOptions,
    *,
    wait: Callable[[], None] = lambda: time.sleep(SECONDS_BETWEEN_LOOKS),
) -> FolderReport:
    """Translate what is in a folder and what comes into it, until KeyboardInterrupt (Ctrl-C).

    Args:
        translator: What to translate with.
        source: The folder; it may be empty.
        out: Where outputs go.
        options: Those of `translate_folder`.
        wait: Called between two looks.

    Returns:
        The last word about each image that was dealt with.
    """
    started = time.monotonic()
    images_of_folder(source, out, recursive=False, pattern=None)  # before `out` is made
    make_out(out, writable=True)
    write_report(options.report, [], translator)
    watch = _Watch(translator, source, out, options)
    with only_run_in(out, shared=True) as admitted:
        if admitted is False:
            refuse_beside_others(out)
        try:
            while not watch.stopped:
                watch.look()
                wait()
        except KeyboardInterrupt:
            pass  # what is being written has been finished
    return FolderReport(list(watch.outcomes.values()), out, time.monotonic() - started)


class _Watch:
    def __init__(
        self, translator: Translator, source: Path, out: Path, options: FolderOptions
    ) -> None:
        self.translator = translator
        self.source = source
        self.out = out
        self.options = options
        self.outcomes: dict[Path, Outcome] = {}
        self.stopped = False
        self._closed: set[Path] = set()  # folders that could not be read in the last look
        self._seen: dict[Path, Stamp] = {}  # by the last look
        self._settled: dict[Path, Stamp] = {}  # as they were when they were dealt with

    def look(self) -> None:
        """Deal with the images that are complete and have not been dealt with."""
        found = images_of_folder(
            self.source, self.out, recursive=self.options.recursive, pattern=self.options.glob
        )
        self._note_closed(found)
        stamps = {path: stamp for path in found.images if (stamp := stamp_of(path)) is not None}
        ready = [
            path
            for path, stamp in stamps.items()
            if self._seen.get(path) == stamp and self._settled.get(path) != stamp
        ]
        self._seen = stamps
        self._settled = {path: s for path, s in self._settled.items() if path in stamps}
        if ready:
            self._translate(ready)

    def _translate(self, ready: list[Path]) -> None:
        plan = plan_images(self.translator, Found(ready), self.source, self.out, self.options)
        remove_left_behind(job.target for job in plan.jobs)
        jobs = [job.as_found(self._seen[job.source]) for job in plan.jobs]
        run = FolderRun(
            self.translator, jobs, self.out, self.options, FolderProgress(len(jobs), show=False)
        )
        try:
            run.run()
        finally:
            dealt_with = [outcome for outcome in run.outcomes if outcome.status != LEFT]
            self._settled |= {o.source: self._seen[o.source] for o in dealt_with}
            self._note(dealt_with)

    def _note_closed(self, found: Found) -> None:
        """Tell once of folders that cannot be read; they may be open at the next look."""
        for folder in self._closed - found.closed.keys():
            del self.outcomes[folder]
        new = found.closed.keys() - self._closed
        self._closed = set(found.closed)
        told = Found([], {folder: found.closed[folder] for folder in new})
        self._note(closed_folders(told, self.source, self.out))

    def _note(self, new: list[Outcome]) -> None:
        """Keep, tell and report what became of images."""
        self.outcomes |= {outcome.source: outcome for outcome in new}
        found = FolderReport(new, self.out)
        self.stopped |= bool(found.failed) and self.options.on_error == "stop"
        if self.options.progress is not False and (found.done or found.failed):
            lines = [f"translated {i.source} -> {i.target}" for i in new if i.status == TRANSLATED]
            lines += [f"failed {path}: {reason}" for path, reason in found.failed]
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()
        if self.options.report is not None and new:
            append_report(self.options.report, new, self.translator)
