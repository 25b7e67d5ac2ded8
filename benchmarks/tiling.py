"""What any size costs: time, memory and differences of tiled translation, from file to file.

    OMP_NUM_THREADS=2 python -m benchmarks.tiling            # ten minutes on two cores
    python -m benchmarks.tiling --only small large --out /tmp/try.json

Sheets of the demo's drawings, no two places alike, go through a model at their own resolution:

- ``small``, 2,048 x 1,536: untiled, exact and fast. In float32, in memory, exact is compared with
  untiled as well.
- ``large``, 6,000 x 4,000: the same, and fast by a sample as small as that of the next one.
- ``huge``, 20,000 x 20,000: fast, through libvips (the extra ``[gigapixel]``).

Each translation is a process of its own, so that its peak of memory is its own: VmHWM of Linux,
with Python, torch and libvips in it. Times are from an open file to the whole output, the model
being loaded. The opponent is the untiled translation of the same file, one forward pass: ``ratio``
is what of its speed tiles reach. ``grey_max`` and ``grey_mean`` are how many grey levels of 255 an
output is from the untiled one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from pix2gan.data.image_io import open_image
from pix2gan.demo.drawings import DRAWINGS, render_drawing
from pix2gan.ops.timing import Timing
from pix2gan.translation import Translator, fast_tiles
from pix2gan.translation.tiling import AUTO_TILE

SIZES = {"small": (2048, 1536), "large": (6000, 4000), "huge": (20000, 20000)}
REPEATS = {"small": 5, "large": 1, "huge": 1}
CELL = 1000  # pixels of a drawing on a sheet
MODES = ("untiled", "exact", "fast")


@dataclass(frozen=True)
class Run:
    """What a process that translated one file, perhaps repeatedly, took."""

    milliseconds: list[float]
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
    return Run(milliseconds, _peak_mb())


def _peak_mb() -> float:
    """The most memory that this process has had at any time, in MB of 10**6 bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * 1024 / 1e6


def in_child(
    model: str,
    source: Path,
    target: Path,
    mode: str,
    *,
    repeats: int = 1,
    sample: int | None = None,
) -> Run:
    """``translate`` in a process of its own; ``sample``: pixels that fast statistics come from."""
    words = [model, source, target, mode, repeats, sample or fast_tiles.SAMPLE_PIXELS]
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.tiling", "--child", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    return Run(**json.loads(made.stdout.splitlines()[-1]))


def _child(words: list[str]) -> None:
    model, source, target, mode, repeats, sample = words
    fast_tiles.SAMPLE_PIXELS = int(sample)
    run = translate(model, Path(source), Path(target), mode, int(repeats))
    print(json.dumps({"milliseconds": run.milliseconds, "peak_mb": run.peak_mb}))


def grey_levels_apart(path: Path, other: Path) -> dict[str, float]:
    """The largest and the mean difference of two images of 8 bits."""
    apart = np.abs(open_image(path).astype(np.int16) - open_image(other))
    return {"grey_max": int(apart.max()), "grey_mean": float(apart.mean())}


def exact_error(model: str, source: Path) -> float:
    """How far exact tiles are from the untiled result at most, in float32 of [-1, 1]."""
    translator = Translator.from_pretrained(model, device="cpu")
    whole, tiled = (
        translator(source, output="tensor", resize="none", tile=tile) for tile in (None, AUTO_TILE)
    )
    return float((whole - tiled).abs().max()) * 2  # translators deliver [0, 1]


def run_size(model: str, name: str, folder: Path) -> list[Row]:
    """The rows of one size."""
    width, height = SIZES[name]
    repeats = REPEATS[name]
    source = write_sheet(folder / f"{name}.tif", width, height)
    runs: dict[str, Run] = {}
    apart: dict[str, dict[str, Any]] = {}
    target = {mode: folder / f"{name}-{mode}.tif" for mode in (*MODES, "fast, sparse sample")}
    for mode in MODES if name != "huge" else ("fast",):
        runs[mode] = in_child(model, source, target[mode], mode, repeats=repeats)
        if mode != "untiled" and "untiled" in runs:
            apart[mode] = grey_levels_apart(target[mode], target["untiled"])
    if name == "small":
        apart["exact"]["float32_max"] = exact_error(model, source)
    if name == "large":
        # As large a share of this image as the sample of the huge one is of that.
        share = fast_tiles.SAMPLE_PIXELS / (SIZES["huge"][0] * SIZES["huge"][1])
        mode, sample = "fast, sparse sample", int(share * width * height)
        runs[mode] = in_child(model, source, target[mode], "fast", sample=sample)
        apart[mode] = grey_levels_apart(target[mode], target["untiled"])
    untiled = runs.pop("untiled", None)
    return [
        make_row(
            "tiling",
            f"{Path(model).name} {width}x{height} {mode}",
            torch.float32,
            "cpu",
            shape=f"{width}x{height}",
            timing=Timing.of(run.milliseconds),
            opponent=None if untiled is None else Timing.of(untiled.milliseconds),
            opponent_name=None if untiled is None else "the same file untiled",
            peak_mb=run.peak_mb,
            **({} if untiled is None else {"opponent_peak_mb": untiled.peak_mb}),
            **apart.get(mode, {}),
        )
        for mode, run in runs.items()
    ]


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
