"""The folder that outputs go to: made, tried, and tidied up after a run that was killed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pix2gan.errors import ConfigError
from pix2gan.file_io import check_writable, is_temporary, temporary_stem


def make_out(out: Path, *, writable: bool) -> None:
    """ConfigError if there can be no such folder, or, if it has to be `writable`, it is not."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {out} for the outputs cannot be made ({error.strerror}): choose another"
        ) from None
    try:
        if writable:
            check_writable(out)
    except OSError as error:
        raise ConfigError(
            f"The folder {out} for the outputs cannot be written to ({error.strerror}): choose "
            "another"
        ) from None


def remove_left_behind(targets: Iterable[Path]) -> None:
    """Remove the temporary files that a killed run left of these outputs, and no others."""
    names: dict[Path, set[str]] = {}
    for target in targets:
        names.setdefault(target.parent, set()).add(temporary_stem(target.name))
    for folder, stems in names.items():
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                # Named .STEM.8 digits.tmp
                if is_temporary(entry.name) and entry.name[1:-13] in stems:
                    Path(entry.path).unlink()
