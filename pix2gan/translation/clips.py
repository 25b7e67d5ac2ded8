"""One video among the things that are translated from file to file."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pix2gan.errors import ConfigError, DataError
from pix2gan.folder_lock import only_run_in
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import (
    FAILED,
    LEFT,
    PLANNED,
    SKIPPED,
    TRANSLATED,
    FolderReport,
    Outcome,
    write_report,
)
from pix2gan.translation.out_folder import make_out, remove_left_behind
from pix2gan.translation.progress import FolderProgress
from pix2gan.translation.sources import is_named_like_a_file
from pix2gan.translation.video import (
    CONTAINERS,
    check_container,
    check_source_survives,
    translate_video,
)

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator


def translate_clip(
    translator: Translator,
    source: Path,
    named: str,
    options: FolderOptions,
    codec: str | None = None,
) -> FolderReport:
    """Translate a video as `translate_paths` does an image; ``named`` is its name or a folder."""
    if options.on_exists == "rename" or options.format is not None:
        raise ConfigError(
            "on_exists=rename and format are for images: name the video that is to be written"
        )
    if options.signer(translator.config) is not None:
        raise ConfigError(
            "Only images are signed, and this is a video: leave c2pa_certificate and c2pa_key out"
        )
    out = Path(named)
    if is_named_like_a_file(named):
        check_container(out)
    else:
        suffix = source.suffix if source.suffix.lower() in CONTAINERS else ".mp4"
        out = out / f"{source.stem}{options.suffix}{suffix}"
    check_source_survives(source, out)
    started = time.monotonic()
    report = FolderReport([Outcome(source, out, LEFT)], out, dry_run=options.dry_run)
    try:
        report.images = [_translate(translator, source, out, options, codec)]
    except BaseException:
        with suppress(OSError):  # the disk may be full, and that is being said already
            write_report(options.report, report.images, translator)
        raise
    write_report(options.report, report.images, translator)
    report.seconds = time.monotonic() - started
    return report


def _translate(
    translator: Translator, source: Path, out: Path, options: FolderOptions, codec: str | None
) -> Outcome:
    if options.on_exists == "skip" and os.path.lexists(out):
        return Outcome(source, out, SKIPPED)
    if options.dry_run:
        return Outcome(source, out, PLANNED)
    make_out(out.parent, writable=True)
    try:
        with (
            only_run_in(out.parent, shared=True),  # nobody is to choose names meanwhile
            FolderProgress(1, options.progress) as progress,
        ):
            remove_left_behind([out])
            translate_video(
                translator,
                source,
                out,
                batch_size=options.batch_size,
                codec=codec,
                quality=options.quality,
                resize=options.resize,
                seed=options.seed,
                tile=options.tile,
                tile_statistics=options.tile_statistics,
                provenance=options.provenance,
                progress=progress.within,
            )
    except DataError as error:
        return Outcome(source, out, FAILED, str(error).removeprefix(f"{source} "))
    return Outcome(source, out, TRANSLATED)
