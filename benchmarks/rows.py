"""Benchmark results as rows of JSON, one file a device.

Every speed that the README or the docs claim is a row in ``benchmarks/results/<device>.json``.
A benchmark measures, builds rows and merges them:

    from benchmarks.rows import make_row, merge_rows, results_path
    from pix2gan.ops.timing import time_interleaved

    timings = time_interleaved({"pix2gan": ours, "stock": theirs}, device="cpu", seconds=2.0)
    row = make_row(
        "ops", "bias_act lrelu forward", "float32", "cpu", shape=(1, 64, 256, 256),
        timing=timings["pix2gan"], opponent=timings["stock"], opponent_name="ATen, eager",
        backend="cpu",                                     # any further columns, JSON values
    )
    merge_rows(results_path("cpu"), [row])

The columns of a row:

``benchmark, name, dtype, device``
    The key. Merging replaces the row with the same key and keeps the others, so that a benchmark
    may be run again in part. A name must therefore tell its cases apart (operation, direction, and
    the shape where several are timed). ``device`` is the name of the processor or GPU.
``shape``
    The shape of the input, or a text where one shape does not say it.
``ms, ms_low, ms_high, repeats``
    Milliseconds of one call: median, lower and upper quartile of ``repeats`` measurements.
``opponent, opponent_ms, opponent_ms_low, opponent_ms_high, ratio``
    The same for what is compared with; ``ratio = opponent_ms / ms``: above 1, pix2gan is faster.
    Absent where there is no opponent.
``torch, pix2gan, python, threads, command, date``
    Versions, the threads torch used, the command that was run, and the day in UTC.

Files are written atomically, rows sorted by their key, floats rounded to four significant digits,
so that a rerun's diff shows what changed and nothing else.
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pix2gan import __version__
from pix2gan.file_io import atomic_write
from pix2gan.ops.device_name import device_name
from pix2gan.ops.timing import Timing

KEY = ("benchmark", "name", "dtype", "device")
RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


def results_path(device: str | torch.device) -> Path:
    """``benchmarks/results/<device>.json`` for this machine's device."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return RESULTS / f"{slug}.json"


def make_row(
    benchmark: str,
    name: str,
    dtype: str | torch.dtype,
    device: str | torch.device,
    *,
    shape: Sequence[int] | str,
    timing: Timing,
    opponent: Timing | None = None,
    opponent_name: str | None = None,
    **columns: Any,
) -> Row:
    """One row as described above; ``columns`` are appended and must be JSON values."""
    row: Row = {
        "benchmark": benchmark,
        "name": name,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(device),
        "shape": shape if isinstance(shape, str) else list(shape),
        "ms": timing.ms,
        "ms_low": timing.ms_low,
        "ms_high": timing.ms_high,
        "repeats": timing.repeats,
    }
    if opponent is not None:
        if opponent_name is None:
            raise ValueError("an opponent's timing needs opponent_name, which says what it is")
        row |= {
            "opponent": opponent_name,
            "opponent_ms": opponent.ms,
            "opponent_ms_low": opponent.ms_low,
            "opponent_ms_high": opponent.ms_high,
            "ratio": opponent.ms / timing.ms,
        }
    taken = sorted(set(columns) & {*row, *_environment()})
    if taken:
        raise ValueError(f"columns {taken} have a meaning already; choose other names")
    row = row | columns | _environment()
    return {key: _rounded(value) for key, value in row.items()}


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file; none where there is no file yet."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and set(KEY) <= set(row) for row in rows
    ):
        raise ValueError(f"{path} is not a list of benchmark rows; move it away and run again")
    return rows


def merge_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Put ``rows`` into the file at ``path``, in place of rows with the same key.

    Returns all rows of the file as written. A file that cannot be read as rows is left untouched
    and raises ValueError.
    """
    merged = {_key(row): dict(row) for row in read_rows(path)}
    merged |= {_key(row): dict(row) for row in rows}
    ordered = [merged[key] for key in sorted(merged)]
    text = json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
    return ordered


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown: name, dtype, milliseconds with quartiles, the opponent's, ratio."""
    lines = [
        "| name | dtype | shape | ms (quartiles) | opponent | ms (quartiles) | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shape = row["shape"] if isinstance(row["shape"], str) else "x".join(map(str, row["shape"]))
        ours = f"{row['ms']:.4g} ({row['ms_low']:.4g} to {row['ms_high']:.4g})"
        theirs, ratio = "", ""
        if "opponent" in row:
            theirs = (
                f"{row['opponent_ms']:.4g} "
                f"({row['opponent_ms_low']:.4g} to {row['opponent_ms_high']:.4g})"
            )
            ratio = f"{row['ratio']:.2f}"
        cells = [row["name"], row["dtype"], shape, ours, row.get("opponent", ""), theirs, ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    missing = [column for column in KEY if not isinstance(row.get(column), str)]
    if missing:
        raise ValueError(f"a benchmark row lacks the text columns {missing}: {dict(row)}")
    return tuple(row[column] for column in KEY)


def _environment() -> Row:
    return {
        "torch": torch.__version__,
        "pix2gan": __version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "command": _command(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _command() -> str:
    """What was typed, without the folders of the machine it was typed on."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec is not None else f"python {Path(sys.argv[0]).name}"
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return " ".join([program, *arguments])


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
