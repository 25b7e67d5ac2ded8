"""Does a training step wait for its data? The loader's images a second against the step's.

    python -m benchmarks.loading                        # 3 minutes on two cores
    python -m benchmarks.loading --methods cyclegan --workers 1 --steps 20

Pix2Pix with the U-Net-256 and CycleGAN with the ResNet-9 at the defaults of ``pix2gan train``:
256x256, batch 1, bfloat16, all of the usual augmentation. The images are JPEG files of 286x286
pixels made for this, and none is kept in memory, so each is decoded anew for each sample. Three
numbers make a row:

- ``ms``: a sample from the loader when nobody trains, so what it can deliver at most, over
  ``repeats`` samples;
- ``opponent_ms``: a training step while the loader runs beside it, over ``opponent_repeats`` steps;
- ``wait_ms``: what each of these steps waited for its batch, median and, as ``wait_ms_high``, upper
  decile. The step never waits where this is next to nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from pix2gan.data.image_io import save_image
from pix2gan.ops.timing import Timing
from pix2gan.training.dataset import load_batches
from pix2gan.training.methods import find_method
from pix2gan.training.trainer import Trainer

GENERATORS = {"pix2pix": "unet256", "cyclegan": "resnet9"}
IMAGES = 64
SIDE = 286


def write_images(folder: Path) -> None:
    """``IMAGES`` pairs ``A/``, ``B/`` with the detail of photos."""
    for side in "AB":
        (folder / side).mkdir(parents=True)
        for number in range(IMAGES):
            rng = np.random.default_rng([number, ord(side)])
            coarse = rng.random((24, 24, 3)).astype(np.float32)
            smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            grain = rng.normal(0, 0.05, (SIDE, SIDE, 3))
            pixels = np.clip((smooth + grain) * 255, 0, 255).astype(np.uint8)
            save_image(folder / side / f"{number}.jpg", pixels)


def run_method(
    method: str, folder: Path, *, workers: int, width: int, seconds: float, steps: int
) -> Row:
    """Time the loader alone for ``seconds``, and ``steps`` steps with it."""
    options = find_method(method).options
    trainer = Trainer(
        options(
            data=folder / "data",
            out=folder / "run",
            method=method,
            generator=GENERATORS[method],
            workers=workers,
            width=width,
            device="cpu",
        )
    )
    trainer.data.train._cache.capacity = 0  # type: ignore[attr-defined]
    batches = load_batches(trainer.data, trainer.config, trainer.device, 0, trainer.world)
    ready = next(batches)
    _drain(batches)
    loader = _time(lambda: next(batches), seconds)
    trainer.train_step([ready])  # the first one prepares much, and meanwhile the loader gets ahead
    waits, trained = _train(trainer, batches, steps)
    batches.close()  # type: ignore[attr-defined]
    return make_row(
        "loading",
        f"{method} {GENERATORS[method]}{'' if width == 64 else f' width {width}'} 256x256 "
        f"batch 1, {workers} workers",
        "bfloat16",
        "cpu",
        shape=f"{SIDE}x{SIDE} JPEG to 256x256, {'pairs' if method == 'pix2pix' else 'unpaired'}",
        timing=Timing.of(loader),
        opponent=Timing.of(trained),
        opponent_name="the training step beside the loader",
        opponent_repeats=len(trained),
        images_per_second=2000 / float(np.mean(loader)),  # two a sample; samples come in bursts
        wait_ms=float(np.median(waits)),
        wait_ms_high=float(np.quantile(waits, 0.9)),
    )


def _time(call: Any, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def _drain(batches: Iterator[Any]) -> None:
    """Take what was loaded ahead, which would look faster than the loader is."""
    for _ in range(16):
        next(batches)


def _train(trainer: Trainer, batches: Iterator[Any], steps: int) -> tuple[list[float], list[float]]:
    """Milliseconds that each step waited for its batch, and those that it took with it."""
    waits, trained = [], []
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        began = time.perf_counter()
        trainer.train_step([batch])
        waits.append((began - asked) * 1e3)
        trained.append((time.perf_counter() - began) * 1e3)
    return waits, trained


def main() -> None:
    """Measure, print and keep the rows."""
    parser = argparse.ArgumentParser(description="Time the loader against the training step.")
    parser.add_argument("--methods", nargs="+", choices=GENERATORS, default=list(GENERATORS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64, help="of the generators' first layer")
    parser.add_argument("--seconds", type=float, default=5.0, help="for the loader alone")
    parser.add_argument("--steps", type=int, default=30, help="with the loader, of each method")
    parser.add_argument("--out", type=Path, default=results_path("cpu"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name) / "data")
        for method in options.methods:
            rows.append(
                run_method(
                    method,
                    Path(name),
                    workers=options.workers,
                    width=options.width,
                    seconds=options.seconds,
                    steps=options.steps,
                )
            )
    merge_rows(options.out, rows)
    print(format_rows(rows))
    for row in rows:
        print(
            f"{row['name']}: waits {row['wait_ms']} ms (upper decile {row['wait_ms_high']} ms) in "
            f"{row['opponent_repeats']} steps"
        )


if __name__ == "__main__":
    main()
