"""What any size costs: time, memory and differences of tiled translation, from file to file.

    OMP_NUM_THREADS=2 python -m benchmarks.tiling            # ten minutes on two cores
    python -m benchmarks.tiling --only small large --out /tmp/try.json

Sheets of the demo's drawings, no two places alike, go through a model at their own resolution:

- ``small``, 2,048 x 1,536: untiled, exact and fast. In float32, in memory, exact is compared with
  untiled as well.
- ``large``, 6,000 x 4,000: the same.
- ``crop``, 8,000 x 8,000: exact and fast, which takes the statistics of as many windows as of the
  next one, so that it differs from exact about as much there.
- ``huge``, 20,000 x 20,000: fast, through libvips (the extra ``[gigapixel]``).

Each translation is a process of its own, so that its peak of memory is its own: VmHWM of Linux,
with Python, torch and libvips in it. Times are from an open file to the whole output, the model
being loaded. The opponent is the untiled translation of the same file, one forward pass, and of
``crop`` the exact one: ``ratio`` is what of its speed is reached. ``grey_max`` and ``grey_mean``
are how many grey levels of 255 the output is from the opponent's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from pix2gan.data.image_io import open_image
from pix2gan.demo.drawings import DRAWINGS, render_drawing
from pix2gan.ops.timing import Timing
from pix2gan.translation import Translator
from pix2gan.translation.tiling import AUTO_TILE

SIZES = {"small": (2048, 1536), "large": (6000, 4000), "crop": (8000, 8000), "huge": (20000,) * 2}
# The first is the opponent of the others.
MODES = {
    "small": ("untiled", "exact", "fast"),
    "large": ("untiled", "exact", "fast"),
    "crop": ("exact", "fast"),
    "huge": ("fast",),
}
REPEATS = {"small": 3}
CELL = 1000  # pixels of a drawing on a sheet


@dataclass(frozen=True)
class Run:
    """What a process took that translated one file, perhaps repeatedly."""

    milliseconds: list[float]
    processor_ms: float
    peak_mb: float


def write_sheet(path: Path, width: int, height: int) -> Path:
    """A tiled TIFF of drawings side by side, of many kinds, sizes and pens; a few are missing."""
    import pyvips

    rng = np.random.default_rng(0)
    columns, rows = -(-width // CELL), -(-height // CELL)
    paper = Image.new("L", (CELL, CELL), 255)
    drawings = [paper, paper]
    for name in DRAWINGS:
        for side in (480, 720, 960):
            cell = paper.copy()
            place = tuple(int(v) for v in rng.integers(0, CELL - side, 2))
            cell.paste(render_drawing(name, side, pen=float(rng.uniform(0.8, 2.4))), place)
            drawings += [cell, cell.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    images = [pyvips.Image.new_from_array(np.asarray(drawing)) for drawing in drawings]
    chosen = [images[i] for i in rng.integers(0, len(images), rows * columns)]
    sheet = pyvips.Image.arrayjoin(chosen, across=columns).crop(0, 0, width, height)
    sheet.cast("uchar").copy(interpretation="b-w").tiffsave(
        str(path), tile=True, tile_width=256, tile_height=256, compression="deflate"
    )
    return path


def translate(model: str, source: Path, target: Path, mode: str, repeats: int) -> Run:
    """What a child does: translate a file, and tell how long that took and how much memory."""
    translator = Translator.from_pretrained(model, device="cpu")
    tile, statistics = (None, "exact") if mode == "untiled" else (AUTO_TILE, mode)
    milliseconds = []
    began = time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        report = translator.translate_paths(
            source,
            target,
            resize="none",
            tile=tile,
            tile_statistics=statistics,
            on_exists="overwrite",
            progress=False,
        )
        milliseconds.append((time.perf_counter() - start) * 1e3)
        if report.failed:
            raise RuntimeError(str(report))
    return Run(milliseconds, (time.process_time() - began) * 1e3, _peak_mb())


def _peak_mb() -> float:
    """The most memory that this process has had at any time, in MB of 10**6 bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * 1024 / 1e6


def in_child(model: str, source: Path, target: Path, mode: str, *, repeats: int = 1) -> Run:
    """``translate`` in a process of its own."""
    words = [model, source, target, mode, repeats]
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.tiling", "--child", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    return Run(**json.loads(made.stdout.splitlines()[-1]))


def _child(words: list[str]) -> None:
    model, source, target, mode, repeats = words
    run = translate(model, Path(source), Path(target), mode, int(repeats))
    print(json.dumps(asdict(run)))


def grey_levels_apart(path: Path, other: Path) -> dict[str, float]:
    """The largest and the mean difference of two images of 8 bits."""
    apart = np.abs(open_image(path).astype(np.int16) - open_image(other))
    return {"grey_max": int(apart.max()), "grey_mean": float(apart.mean())}


def exact_error(model: str, source: Path) -> float:
    """How far exact tiles are from the untiled result at most, in float32 of [0, 1]."""
    translator = Translator.from_pretrained(model, device="cpu")
    whole, tiled = (
        translator(source, output="tensor", resize="none", tile=tile) for tile in (None, AUTO_TILE)
    )
    return float((whole - tiled).abs().max())


def run_size(model: str, name: str, folder: Path) -> list[Row]:
    """The rows of one size."""
    width, height = SIZES[name]
    source = write_sheet(folder / f"{name}.tif", width, height)
    target = {mode: folder / f"{name}-{mode}.tif" for mode in MODES[name]}
    runs = {
        mode: in_child(model, source, target[mode], mode, repeats=REPEATS.get(name, 1))
        for mode in MODES[name]
    }
    first, *others = MODES[name]
    rows = []
    for mode in others or [first]:
        columns: dict[str, Any] = {"peak_mb": runs[mode].peak_mb}
        if others:
            columns |= {
                "opponent": Timing.of(runs[first].milliseconds),
                "opponent_name": f"the same file, {first}",
                "opponent_peak_mb": runs[first].peak_mb,
                **grey_levels_apart(target[mode], target[first]),
            }
        if name == "small" and mode == "exact":
            columns["float32_max"] = exact_error(model, source)
        rows.append(
            make_row(
                "tiling",
                f"{Path(model).name} {width}x{height} {mode}",
                torch.float32,
                "cpu",
                shape=f"{width}x{height}",
                timing=Timing.of(runs[mode].milliseconds),
                **columns,
            )
        )
    return rows


def main() -> None:
    """Measure, print and keep the rows."""
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="sketch2motorbike")
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--out", type=Path, default=results_path("cpu"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            rows += run_size(options.model, name, Path(folder))
            merge_rows(options.out, rows)
    print(format_rows(rows))
    for row in rows:
        columns = ("peak_mb", "opponent_peak_mb", "grey_max", "grey_mean", "float32_max")
        print(row["name"], *(f"{key} {row[key]:.4g}" for key in columns if key in row), sep=", ")


if __name__ == "__main__":
    main()
