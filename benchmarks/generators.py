"""Milliseconds an image: each generator against the same network of stock ``torch.nn`` modules.

    python -m benchmarks.generators                     # all, about 4 minutes on two cores
    python -m benchmarks.generators --models resnet9 --dtypes float32 --compile

Networks: U-Nets and ResNets, by name, at their default options, and the architecture of every
bundled model. Batch 1, inference mode, 256x256 (or the smallest size that a network takes, if that
is larger). bfloat16 is autocast, for both sides.

Each side runs in both memory formats, NCHW and channels_last, all four taking turns; the faster
format of each side is what its row holds, and the row says which. Before timing, both sides get the
same weights; in float32 their outputs must agree to 1e-4, in bfloat16 pix2gan's mean error against
float32 may be at most twice the stock network's.

pix2gan's ops run on whatever backend it chooses; ``PIX2GAN_BACKEND=reference`` forces one, and the
row's name then says so.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from benchmarks.stock_networks import copy_weights, has_stock, stock_generator
from pix2gan import ops
from pix2gan.checkpoints.resolve import list_pretrained, pretrained_folder
from pix2gan.models import create_generator, list_models
from pix2gan.ops.timing import Timing, time_interleaved

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """A network to be timed: its name, what its row is called, the config that builds it."""

    name: str
    label: str
    config: Mapping[str, Any]


def list_cases(models: list[str] | None = None, width: int | None = None) -> list[Case]:
    """Every generator and bundled model, or those named. ``width`` overrides the generators'."""
    options, label = ({}, "") if width is None else ({"width": width}, f" width {width}")
    cases = [
        Case(name, name + label, {"name": name, **options})
        for name in list_models()
        if has_stock(name)
    ]
    for name in list_pretrained():
        config = json.loads((pretrained_folder() / name / "config.json").read_text("utf-8"))
        cases.append(Case(name, name, config["architecture"]))
    if models is None:
        return cases
    unknown = sorted(set(models) - {case.name for case in cases})
    if unknown:
        known = ", ".join(case.name for case in cases)
        raise SystemExit(f"There is no model {', '.join(unknown)}; choose from {known}")
    return [case for case in cases if case.name in models]


def run_case(
    case: Case,
    *,
    device: torch.device,
    dtypes: list[str],
    size: int,
    seconds: float,
    compiled: bool,
) -> Iterator[Row]:
    """Check a network, then time it; a row for each dtype."""
    torch.manual_seed(0)
    ours = create_generator(**case.config).eval()
    size = max(size, ours.minimum_size)
    example = torch.randn(1, ours.in_channels, size, size).clamp(-1, 1)
    stock = stock_generator(ours.config).eval()
    copy_weights(ours, stock, example)
    example, ours, stock = example.to(device), ours.to(device), stock.to(device)
    exact = check_same_outputs(case.name, ours, stock, example)
    for dtype in dtypes:
        if dtype != "float32":
            check_rounding(case.name, ours, stock, example, exact, DTYPES[dtype])
        timings = time_networks({"pix2gan": ours, "stock": stock}, example, dtype, seconds)
        mine, stock_best = fastest(timings, "pix2gan"), fastest(timings, "stock")
        columns: dict[str, Any] = {"memory_format": mine, "backends": usable_backends(device)}
        if device.type == "cuda":
            columns["tf32"] = torch.backends.cudnn.allow_tf32
        if compiled:
            timing = time_compiled(stock, example, dtype, stock_best, seconds)
            columns |= {"compiled_stock_ms": timing.ms, "compiled_stock_format": stock_best}
        yield make_row(
            "generators",
            f"{case.label} {size}x{size}{forced_backend()}",
            dtype,
            device,
            shape=example.shape,
            timing=timings["pix2gan", mine],
            opponent=timings["stock", stock_best],
            opponent_name=f"torch.nn modules, eager, {stock_best}",
            **columns,
        )


def usable_backends(device: torch.device) -> str:
    """The backends that the ops may run on, or the one that is forced."""
    return os.environ.get("PIX2GAN_BACKEND") or ", ".join(
        status.name for status in ops.list_backends() if status.runs_on(device.type)
    )


def forced_backend() -> str:
    forced = os.environ.get("PIX2GAN_BACKEND")
    return f" on {forced}" if forced else ""


def check_same_outputs(name: str, ours: nn.Module, stock: nn.Module, example: Tensor) -> Tensor:
    """The output in float32 without tf32, after it was compared in both memory formats."""
    with torch.inference_mode(), _without_tf32():
        expected = stock(example)
        if not expected.std() > 1e-3:
            raise SystemExit(f"{name}: the output is constant, so that comparing it means nothing")
        for format_name, memory_format in FORMATS.items():
            moved = ours.to(memory_format=memory_format)  # type: ignore[call-overload]
            found = moved(example.contiguous(memory_format=memory_format))
            difference = (found - expected).abs().max().item()
            if not difference <= TOLERANCE:
                raise SystemExit(
                    f"{name} in {format_name} differs from the stock network by {difference:.2g}, "
                    f"more than {TOLERANCE:g}; not timed"
                )
    return expected


def check_rounding(
    name: str, ours: nn.Module, stock: nn.Module, example: Tensor, exact: Tensor, dtype: torch.dtype
) -> None:
    """Refuse to time a network that is fast because it is wrong."""
    errors = {}
    with torch.inference_mode(), torch.autocast(example.device.type, dtype):
        for side, network in (("pix2gan", ours), ("stock", stock)):
            errors[side] = (network(example).float() - exact).abs().mean().item()
    if not errors["pix2gan"] <= 2 * errors["stock"]:
        raise SystemExit(
            f"{name} in {dtype} is off by {errors['pix2gan']:.2g} on average, more than twice the "
            f"stock network's {errors['stock']:.2g}; not timed"
        )


def time_networks(
    networks: Mapping[str, nn.Module], example: Tensor, dtype: str, seconds: float
) -> dict[tuple[str, str], Timing]:
    """Timings by (network, memory format), all of them taking turns."""
    contestants = {}
    for side, network in networks.items():
        for format_name, memory_format in FORMATS.items():
            contestants[side, format_name] = _in_format(network, example, memory_format)
    by_text = {" ".join(key): call for key, call in contestants.items()}
    with _inference(example.device, dtype):
        timings = time_interleaved(by_text, device=example.device, seconds=seconds)
    return {key: timings[" ".join(key)] for key in contestants}


def time_compiled(
    network: nn.Module, example: Tensor, dtype: str, format_name: str, seconds: float
) -> Timing:
    """The stock network through ``torch.compile``, in the format that was faster without it."""
    call = _in_format(network, example, FORMATS[format_name], torch.compile)
    with _inference(example.device, dtype):
        call()  # compiles
        return time_interleaved({"it": call}, device=example.device, seconds=seconds / 4)["it"]


def fastest(timings: Mapping[tuple[str, str], Timing], side: str) -> str:
    """The memory format with the lowest median."""
    return min((key for key in timings if key[0] == side), key=lambda key: timings[key].ms)[1]


def _in_format(
    network: nn.Module,
    example: Tensor,
    memory_format: torch.memory_format,
    wrap: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda network: network,
) -> Callable[[], Tensor]:
    """A call on a copy of the network and of the example in a memory format."""
    network = copy.deepcopy(network).to(memory_format=memory_format)  # type: ignore[call-overload]
    example = example.contiguous(memory_format=memory_format)
    run = wrap(network)
    return lambda: run(example)


@contextmanager
def _inference(device: torch.device, dtype: str) -> Iterator[None]:
    autocast = torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")
    with torch.inference_mode(), autocast:
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def _in_short(row: Row) -> str:
    text = f"{row['name']} {row['dtype']}: {row['ms']:.4g} ms, stock {row['opponent_ms']:.4g} ms"
    if "compiled_stock_ms" in row:
        text += f", stock compiled {row['compiled_stock_ms']:.4g} ms"
    return f"{text}, {row['ratio']:.2f}x"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generators", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", help="only these (default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--width", type=int, help="base width of the generators (default: theirs)")
    parser.add_argument("--seconds", type=float, default=8.0, help="a row's time (default: 8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the stock")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/...)")
    given = parser.parse_args(arguments)

    device = torch.device(given.device)
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = True  # as a user would who cares for speed; both sides
    path = given.out or results_path(device)
    rows: list[Row] = []
    for case in list_cases(given.models, given.width):
        for row in run_case(
            case,
            device=device,
            dtypes=given.dtypes,
            size=given.size,
            seconds=given.seconds,
            compiled=given.compile,
        ):
            merge_rows(path, [row])
            rows.append(row)
            print(
                f"{row['name']} {row['dtype']}: {row['ms']:.4g} ms, {row['ratio']:.2f}x", flush=True
            )
    print(f"\n{format_rows(rows)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
