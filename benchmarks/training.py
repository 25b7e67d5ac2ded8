"""Milliseconds a training step: pix2gan's trainer against the same method of stock ``torch.nn``.

    python -m benchmarks.training                     # both, 10 minutes on two cores
    python -m benchmarks.training --methods pix2pix

Pix2Pix with the U-Net-256 and CycleGAN with the ResNet-9, at 256x256, batch 1, all at the defaults
of ``pix2gan train``: bfloat16, and the moving average that stock code does without. The stock step
is float32 with fused Adam and frozen discriminators, in NCHW and in channels_last; the faster one
is the opponent, and the row says which. Loading data is left out on both sides.

Before timing, both get the same weights, and the losses of their first two steps in float32 must
agree.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from benchmarks.stock_networks import copy_weights
from benchmarks.stock_training import STOCK, to_format
from pix2gan.ops.timing import time_interleaved
from pix2gan.training.config import TrainConfig
from pix2gan.training.methods import find_method
from pix2gan.training.trainer import Trainer

GENERATORS = {"pix2pix": "unet256", "cyclegan": "resnet9"}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = 2e-3


def run_method(
    method: str,
    folder: Path,
    *,
    size: int,
    width: int,
    device: str,
    precision: str,
    seconds: float,
    repeats: int,
) -> Row:
    """Check that both sides train alike, then time them in turns."""
    options: dict[str, Any] = {"size": size, "width": width, "device": device}
    batch = _batch(size, device)
    check_same_losses(method, folder, batch, options)
    contestants = {"pix2gan": our_step(method, folder, batch, precision=precision, **options)}
    for name in FORMATS:
        contestants[name] = stock_step(method, folder, batch, name, options)
    timings = time_interleaved(contestants, device=device, seconds=seconds, min_repeats=repeats)
    best = min(FORMATS, key=lambda name: timings[name].ms)
    return make_row(
        "training",
        f"{method} {GENERATORS[method]}{_width(width)} {size}x{size} batch 1",
        {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}[precision],
        device,
        shape=(1, 3, size, size),
        timing=timings["pix2gan"],
        opponent=timings[best],
        opponent_name=f"torch.nn modules, float32, fused Adam, eager, {best}",
        steps_per_second=1000 / timings["pix2gan"].ms,
    )


def our_step(
    method: str, folder: Path, batch: dict[str, Tensor], **options: Any
) -> Callable[[], Any]:
    """A call that takes one of the trainer's steps."""
    trainer = _trainer(method, folder, **options)

    def step() -> None:
        trainer.train_step([batch])

    return step


def stock_step(
    method: str, folder: Path, batch: dict[str, Tensor], format_name: str, options: dict[str, Any]
) -> Callable[[], Any]:
    """A call that takes one step of the stock method, with a trainer's first weights."""
    _, stock = _both(method, folder, options)
    to_format(stock.networks, FORMATS[format_name])
    a, b = (x.contiguous(memory_format=FORMATS[format_name]) for x in (batch["A"], batch["B"]))
    return lambda: stock.step(a, b)


def check_same_losses(
    method: str, folder: Path, batch: dict[str, Tensor], options: dict[str, Any]
) -> None:
    """SystemExit if the losses of the first two steps in float32 differ."""
    trainer, stock = _both(method, folder, {**options, "precision": "fp32"})
    for step in (1, 2):
        theirs = {name: loss.item() for name, loss in stock.step(batch["A"], batch["B"]).items()}
        trainer.train_step([batch])
        ours = trainer.metrics.take()
        for name in theirs | ours:
            mine, other = ours.get(name, np.nan), theirs.get(name, np.nan)
            if not abs(mine - other) <= TOLERANCE * max(1.0, abs(other)):
                raise SystemExit(
                    f"{method}: in step {step} {name} is {mine:.6g} in pix2gan and {other:.6g} in "
                    "the stock training; not timed"
                )


def _both(method: str, folder: Path, options: dict[str, Any]) -> tuple[Trainer, Any]:
    trainer = _trainer(method, folder, **options)
    networks = trainer.method.networks
    generator = next(iter(trainer.method.models.values()))
    stock = STOCK[method](networks[generator].config, trainer.config.lr)
    for name, network in stock.networks.items():
        source = networks[name]
        if name.startswith("discriminator"):
            source = source.discriminators[0]
        ins = source.config["in_channels"]
        example = torch.randn(1, ins, trainer.config.size, trainer.config.size)
        copy_weights(copy.deepcopy(source).cpu(), network, example)
        network.to(trainer.device)
    return trainer, stock


def _trainer(method: str, folder: Path, **options: Any) -> Trainer:
    kind: type[TrainConfig] = find_method(method).options
    return Trainer(
        kind(
            data=folder / "data",
            out=folder / "run",
            method=method,
            generator=GENERATORS[method],
            workers=0,
            **options,
        )
    )


def _batch(size: int, device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        side: (torch.rand(1, 3, size, size, generator=generator) * 2 - 1)
        .to(device)
        .contiguous(memory_format=torch.channels_last)
        for side in "AB"
    }


def _make_data(folder: Path, size: int) -> None:
    """What a trainer wants to see before it starts; it is timed on another batch."""
    for side in "AB":
        (folder / side).mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / side / f"{i}.png")


def _width(width: int) -> str:
    return "" if width == 64 else f" width {width}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--methods", nargs="+", choices=list(STOCK), default=list(STOCK))
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--width", type=int, default=64, help="base width of the generators")
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--seconds", type=float, default=60.0, help="a method's time (default: 60)")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each side at the least")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/...)")
    given = parser.parse_args(arguments)

    if given.threads:
        torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = True  # as a user would who cares for speed; both sides
    path = given.out or results_path(given.device)
    rows = []
    for method in given.methods:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            _make_data(folder / "data", given.size)
            row = run_method(
                method,
                folder,
                size=given.size,
                width=given.width,
                device=given.device,
                precision=given.precision,
                seconds=given.seconds,
                repeats=given.repeats,
            )
        merge_rows(path, [row])
        rows.append(row)
        print(f"{row['name']}: {row['ms']:.4g} ms, {row['ratio']:.2f}x", flush=True)
    print(f"\n{format_rows(rows)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
