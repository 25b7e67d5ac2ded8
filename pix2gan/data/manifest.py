"""Manifests: tables that name the images of a data set, wherever they lie.

CSV with a header line, or JSON lines, with the columns (keys)

- ``A`` and ``B``: paths, relative to the manifest's own folder or absolute;
- ``split``, which may be left out: train, test or val.

Other columns are left alone. A row with both images is a pair. A row with B alone is an image that
holds A|B side by side, or a photo to be sketched; to unpaired methods each row brings whatever
images it names.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pix2gan.errors import DataError
from pix2gan.file_io import atomic_write

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".ndjson"})
SPLITS = ("train", "test", "val")


@dataclass(frozen=True)
class ManifestRow:
    """One row: the images that it names, and the split that they belong to."""

    a: Path | None
    b: Path | None
    name: str
    """B's path as the manifest has it (A's where there is no B), without its suffix."""
    split: str = "train"


def is_manifest(path: Path) -> bool:
    """Whether ``path`` is named like a manifest and is not a folder."""
    return path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir()


def read_manifest(path: Path) -> list[ManifestRow]:
    """The rows of a manifest in its order; whether the images exist is not looked at.

    Raises:
        DataError: If it cannot be read, has neither column A nor B, or a row makes no sense; it
            names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"The manifest {path} cannot be read: {reason}.") from None
    parse = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    rows = [_make_row(values, path, line) for line, values in parse(text, path)]
    if not rows:
        raise DataError(f"The manifest {path} has no rows; add one for each pair.")
    return rows


def write_manifest(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows with the keys A, B and split (any of them) as CSV or JSON lines.

    Raises:
        DataError: If the name of the file is not a manifest's.
        OSError: If it cannot be written.
    """
    if not is_manifest(path):
        suffixes = " or ".join(sorted(MANIFEST_SUFFIXES))
        raise DataError(f"A manifest's name ends in {suffixes}, and {path} does not.")
    rows = list(rows)
    with atomic_write(path, "w") as file:
        if path.suffix.lower() == ".csv":
            columns = [c for c in ("A", "B", "split") if any(c in row for row in rows)]
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = {name.strip() for name in reader.fieldnames or () if name}
        if not columns & {"A", "B"}:
            raise DataError(f"The first line of {path} must name its columns: A,B or A,B,split.")
        for values in reader:
            yield (
                reader.line_num,
                {k.strip(): v for k, v in values.items() if isinstance(k, str)},
            )
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: this is not CSV ({error}).") from None


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: this is not JSON ({error}).") from None
        if not isinstance(values, dict):
            raise DataError(f'{path}, line {number}: write an object, {{"A": ..., "B": ...}}.')
        yield number, values


def _make_row(values: dict[str, Any], path: Path, line: int) -> ManifestRow:
    cells: dict[str, str] = {}
    for column in ("A", "B", "split"):
        value = values.get(column)
        if value is not None and not isinstance(value, str):
            raise DataError(f"{path}, line {line}: {column} must be a text, not {value!r}.")
        if "\0" in (value or ""):
            raise DataError(f"{path}, line {line}: {column} is no path.")
        cells[column] = (value or "").strip()
    if not cells["A"] and not cells["B"]:
        raise DataError(f"{path}, line {line}: it names no image; give A, B or both.")
    split = cells["split"] or "train"
    if split not in SPLITS:
        raise DataError(
            f"{path}, line {line}: split must be one of {', '.join(SPLITS)}, not {split!r}."
        )
    a, b = (path.parent / cells[c] if cells[c] else None for c in ("A", "B"))
    name = Path(cells["B"] or cells["A"]).with_suffix("").as_posix()
    return ManifestRow(a, b, name, split)
