"""One image from a stream or to one, as in a pipe: the same bytes as from file to file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pix2gan.data.image_io import open_image_with_info
from pix2gan.errors import BackendError, ConfigError, DataError
from pix2gan.file_io import atomic_write
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import (
    FAILED,
    SKIPPED,
    TRANSLATED,
    FolderReport,
    Outcome,
    write_report,
)
from pix2gan.translation.folder_run import failure_reason
from pix2gan.translation.inputs import as_unit_range
from pix2gan.translation.lanes import Lanes
from pix2gan.translation.outputs import encode_output
from pix2gan.translation.planning import check_target, only_tiff
from pix2gan.translation.provenance import xmp_packet
from pix2gan.translation.targets import output_suffix
from pix2gan.translation.video import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator


def translate_stream(
    translator: Translator, source: Path | IO[bytes], out: Path | IO[bytes], options: FolderOptions
) -> FolderReport:
    """Translate one image, of which a file or a binary stream is the source, or the end.

    Without a format asked for, a stream gets that of the source where it is JPEG or WebP, and
    otherwise PNG (or TIFF, where PNG cannot hold it).

    Raises:
        ConfigError: If an option is for files only.
        DataError: If the source is neither a file nor a stream.
    """
    _check(options, out)
    if isinstance(source, Path) and source.suffix.lower() in VIDEO_SUFFIXES:
        raise ConfigError(f"A stream takes one image, and {source} is a video: name a file for it")
    if isinstance(source, Path) and not source.is_file():
        raise DataError(f"A stream takes one image, and {source} is no file: name an image")
    started = time.monotonic()
    report = FolderReport(out=_named(out))
    try:
        if isinstance(out, Path) and options.on_exists == "skip" and os.path.lexists(out):
            status, error = SKIPPED, None
        else:
            data = _translated(translator, source, out, options)
            status, error = TRANSLATED, None
    except BackendError:
        raise  # a forced backend that cannot run is not the fault of the image
    except Exception as failure:
        status, error = FAILED, failure_reason(failure)
    if status == TRANSLATED:
        _deliver(data, out)
    report.images = [Outcome(_named(source), _named(out), status, error)]
    write_report(options.report, report.images, translator)
    report.seconds = time.monotonic() - started
    return report


def _translated(
    translator: Translator, source: Path | IO[bytes], out: Path | IO[bytes], options: FolderOptions
) -> bytes:
    """The bytes of the output."""
    pixels, info = open_image_with_info(source)
    processing = translator.processing
    prepared = processing.prepare(
        as_unit_range(pixels, processing.input_range), os.fspath(_named(source)), options.resize
    )
    _, height, width = prepared.values.shape
    if height * width <= Lanes.MOST_PIXELS:  # as in a folder, for the same bytes
        with Lanes(translator.device) as lanes:
            run = lanes.submit(translator.run, [prepared], options.seed, options.tiling)
            (result,) = run.result()
    else:
        (result,) = translator.run([prepared], options.seed, options.tiling)
    name = out
    if not isinstance(name, Path):
        original = source if isinstance(source, Path) else Path("_" + _suffix_of(info.format))
        name = Path("_" + output_suffix(original, options.format, only_tiff(translator)))
    return encode_output(
        processing,
        result,
        prepared,
        info,
        name,
        quality=options.quality,
        xmp=xmp_packet(translator.config) if options.provenance else None,
        signer=options.signer(translator.config),
    )


def _deliver(data: bytes, out: Path | IO[bytes]) -> None:
    if isinstance(out, Path):
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as file:
            file.write(data)
    else:
        out.write(data)
        out.flush()


def _check(options: FolderOptions, out: Path | IO[bytes]) -> None:
    """ConfigError for what makes no sense with a stream."""
    given = {
        "glob": options.glob is not None,
        "shard": options.shard is not None,
        "engine=ray": options.engine != "local",
        "dry_run": options.dry_run,
        "watch": options.watch,
        "on_exists=rename": options.on_exists == "rename",
    }
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(f"{option} is for files and folders, not for a stream: leave it out")
    if isinstance(out, Path):
        check_target(out, options)
        if out.is_symlink():
            raise ConfigError(f"The output {out} is a link that leads elsewhere: remove that link")


def _suffix_of(format: str) -> str:
    """A suffix for `ImageInfo.format`; all that become PNG are alike."""
    return {"JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "NPY": ".npy"}.get(format, ".png")


def _named(end: Path | IO[bytes]) -> Path:
    """What to call it in reports."""
    if isinstance(end, Path):
        return end
    name = getattr(end, "name", None)
    return Path(name if isinstance(name, str) else "<stream>")
