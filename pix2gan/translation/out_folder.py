"""The folder that outputs go to: made, tried, and tidied up after a run that was killed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pix2gan.errors import ConfigError
from pix2gan.file_io import check_writable, is_temporary, remove_if_left, temporary_stem


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


def refuse_beside_others(out: Path) -> NoReturn:
    """ConfigError where a run would choose names beside others, or others beside it."""
    raise ConfigError(
        f"Another run writes to {out}, and two would choose the same names: wait for it, or choose "
        "another folder"
    )


def remove_left_behind(targets: Iterable[Path]) -> None:
    """Remove the temporary files that a killed run left of these outputs, and no others: not those
    that somebody still writes."""
    targets = list(targets)
    for folder in {target.parent for target in targets}:
        with suppress(OSError), os.scandir(folder) as entries:
            left = [entry for entry in entries if is_temporary(entry.name)]
            stems = {temporary_stem(t.name) for t in targets if t.parent == folder} if left else ()
            for entry in left:
                if entry.name[1:-13] in stems:  # named .STEM.8 digits.tmp
                    remove_if_left(Path(entry.path))
