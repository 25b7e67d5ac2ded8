"""The native CPU ops against the best of stock PyTorch, and the bars that they have to clear.

    python -m benchmarks.ops                     # all bars, 8 minutes on two cores
    python -m benchmarks.ops --check             # exit code 1 where a bar is missed
    python -m benchmarks.ops --only upfirdn2d

Every contest is the same work on the same tensor, in inference mode or, where it says so, forward
and backward. The opponents are PyTorch's ways to do it, each one eager and through
``torch.compile``; the fastest of them is the row's opponent. All results are compared before
anything is timed: with float64, where pix2gan may be off by twice what the most exact opponent is
off, and every opponent that takes part by at most 2 % of the largest element.

A bar is a ratio: how many times as fast as the best opponent pix2gan has to be, or how many times
as long as a copy (``clone()``) it may take. ``pix2gan ops bench`` times more, without bars and on
any device.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from pix2gan import ops
from pix2gan.ops.timing import Timing, time_interleaved

FORMATS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
TAPS = (1.0, 3.0, 3.0, 1.0)
SQRT2 = math.sqrt(2)

Compute = Callable[..., Tensor]


@dataclass(frozen=True)
class Contest:
    """pix2gan against ``opponents`` on ``inputs``: both take them as arguments."""

    group: str
    name: str
    inputs: tuple[Tensor, ...]  # the image first
    ours: Compute
    opponents: Mapping[str, Compute]
    at_least: float  # times as fast as the best opponent
    copied: Tensor | None = None  # a copy of it is what ``at_most`` counts
    at_most: float = math.inf
    gradient: bool = False  # of all inputs, forward included
    compiled: bool = True  # opponents through torch.compile as well


# ----------------------------------------------------------------------------------------- contests


def image(shape: tuple[int, ...], dtype: torch.dtype, memory_format: str) -> Tensor:
    """The same numbers for every contest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    return x.contiguous(memory_format=FORMATS[memory_format])


def norm_contests() -> Iterator[Contest]:
    def stock(x: Tensor) -> Tensor:
        return F.pad(torch.relu(F.instance_norm(x)), (1, 1, 1, 1), mode="reflect")

    for shape in ((1, 256, 64, 64), (1, 64, 256, 256)):
        x = image(shape, BFLOAT16, "channels-last")
        yield Contest(
            "instance_norm_act",
            "relu, reflect pad 1, channels-last",
            (x,),
            partial(ops.instance_norm_act, act="relu", pad=1),
            {"pad(relu(instance_norm))": stock},
            at_least=3.0,
            copied=x,
            at_most=2.6,
        )


def bias_act_contests() -> Iterator[Contest]:
    stock = {
        "lrelu": lambda x, b: F.leaky_relu(x + b[:, None, None], 0.2) * SQRT2,
        "swish": lambda x, b: F.silu(x + b[:, None, None]) * SQRT2,
    }
    for act, gradient in (("lrelu", False), ("lrelu", True), ("swish", False), ("swish", True)):
        for dtype in (FLOAT32, BFLOAT16):
            for memory_format in FORMATS:
                x = image((1, 128, 128, 128), dtype, memory_format)
                b = torch.linspace(-1, 1, 128).to(dtype)
                yield Contest(
                    "bias_act",
                    f"{act}, {memory_format}{', forward and backward' if gradient else ''}",
                    (x, b),
                    lambda x, b, act=act: ops.bias_act(x, b, act=act),
                    {"stock operators": stock[act]},
                    at_least=1.0,
                    gradient=gradient,
                )


def zero_insertion(x: Tensor, taps: Tensor) -> Tensor:
    z = F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1))
    z = z.reshape(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    weight = (4 * taps.outer(taps)).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(z, (2, 1, 2, 1)), weight, groups=x.shape[1])


def transposed(x: Tensor, taps: Tensor) -> Tensor:
    weight = (4 * taps.outer(taps)).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


def up_slices(x: Tensor, taps: Tensor) -> Tensor:
    """Rows, then columns: even outputs from two neighbours, odd ones from two."""
    near, far = 2 * taps[1], 2 * taps[0]
    z = F.pad(x, (0, 0, 1, 1))
    even, odd = near * x + far * z[:, :, :-2], near * x + far * z[:, :, 2:]
    rows = torch.stack([even, odd], 3).reshape(*x.shape[:2], 2 * x.shape[2], x.shape[3])
    z = F.pad(rows, (1, 1))
    even, odd = near * rows + far * z[..., :-2], near * rows + far * z[..., 2:]
    return torch.stack([even, odd], 4).reshape(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])


def strided(x: Tensor, taps: Tensor) -> Tensor:
    weight = taps.outer(taps).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, weight, stride=2, padding=1, groups=x.shape[1])


def separable(x: Tensor, taps: Tensor) -> Tensor:
    channels = x.shape[1]
    row, column = (taps.view(shape).expand(channels, *shape) for shape in ((1, 1, 4), (1, 4, 1)))
    z = F.conv2d(x, column, stride=(2, 1), padding=(1, 0), groups=channels)
    return F.conv2d(z, row, stride=(1, 2), padding=(0, 1), groups=channels)


def down_slices(x: Tensor, taps: Tensor) -> Tensor:
    z = F.pad(x, (0, 0, 1, 1))
    outer, inner = z[:, :, :-2:2] + z[:, :, 3::2], z[:, :, 1:-2:2] + z[:, :, 2:-1:2]
    z = F.pad(taps[0] * outer + taps[1] * inner, (1, 1))
    outer, inner = z[..., :-2:2] + z[..., 3::2], z[..., 1:-2:2] + z[..., 2:-1:2]
    return taps[0] * outer + taps[1] * inner


def upfirdn2d_contests() -> Iterator[Contest]:
    taps = torch.tensor(TAPS) / sum(TAPS)
    up = {
        "zero insertion": zero_insertion,
        "transposed convolution": transposed,
        "sums of slices": up_slices,
    }
    down = {
        "strided convolution": strided,
        "two strided convolutions": separable,
        "sums of slices": down_slices,
    }
    for direction, opponents, at_least in (("up 2", up, 3.0), ("down 2", down, 2.0)):
        resample = ops.upsample2d if direction == "up 2" else ops.downsample2d
        f = ops.setup_filter(TAPS)

        def ours(x: Tensor, _: Tensor, resample: Compute = resample, f: Tensor = f) -> Tensor:
            return resample(x, f)

        for memory_format in FORMATS:
            x = image((1, 128, 128, 128), BFLOAT16, memory_format)
            name = f"{direction}, 4 taps, {memory_format}"
            yield Contest(
                "upfirdn2d", name, (x, taps.to(BFLOAT16)), ours, opponents, at_least=at_least
            )
        for memory_format in FORMATS:
            # outputs below 32 MiB, beyond which memory has to come from the system each time
            x = image((1, 128, 96, 96), FLOAT32, memory_format)
            # Copied is as much as input and output have together.
            elements = x.numel() * (5 if direction == "up 2" else 1.25)
            yield Contest(
                "upfirdn2d",
                f"{direction}, 4 taps, {memory_format}",
                (x, taps),
                ours,
                opponents,
                at_least=0.0,
                copied=torch.ones(int(elements)),
                at_most=1.5,
            )


def modulated(x: Tensor, weight: Tensor, styles: Tensor, b: Tensor, **options: int) -> Tensor:
    return ops.modulated_conv2d(x, weight, styles, b=b, act="lrelu", **options)


def by_reference(function: Compute) -> Compute:
    def call(*args: Tensor) -> Tensor:
        with ops.use_backend("reference"):
            return function(*args)

    return call


def convolution_contests() -> Iterator[Contest]:
    """The layers of modulated generators, as the reference composes them of PyTorch operators."""
    layers = (
        ((1, 64, 256, 256), 64, 3, {}),
        ((1, 256, 64, 64), 256, 3, {}),
        ((1, 512, 16, 16), 512, 3, {}),
        ((4, 128, 64, 64), 128, 3, {}),
        ((1, 128, 128, 128), 3, 1, {}),
        ((1, 128, 128, 128), 128, 3, {"down": 2}),
        ((1, 256, 64, 64), 128, 3, {"up": 2}),
    )
    for shape, outer, k, options in layers:
        for dtype in (FLOAT32, BFLOAT16):
            for memory_format in FORMATS:
                generator = torch.Generator().manual_seed(0)
                inner = shape[1]
                weight = torch.randn(outer, inner, k, k, generator=generator)
                inputs = (
                    image(shape, dtype, memory_format),
                    weight,
                    torch.rand(shape[0], inner, generator=generator) + 0.5,
                    torch.randn(outer, generator=generator),
                )

                def ours(*args: Tensor, k: int = k, options: dict[str, int] = options) -> Tensor:
                    return modulated(*args, padding=k // 2, **options)

                how = " ".join(f"{name} {number}" for name, number in options.items())
                yield Contest(
                    "modulated_conv2d",
                    f"{k}x{k} to {outer}{how and ', ' + how}, {memory_format}",
                    inputs,
                    ours,
                    {"the reference": by_reference(ours)},
                    at_least=1.0,
                    compiled=False,
                )


GROUPS = {
    "instance_norm_act": norm_contests,
    "bias_act": bias_act_contests,
    "upfirdn2d": upfirdn2d_contests,
    "modulated_conv2d": convolution_contests,
}


# ------------------------------------------------------------------------------------- measurements


def run(contest: Contest, seconds: float) -> tuple[Row, list[str]]:
    """The row of a contest, and what it misses."""
    contestants = {"pix2gan": contest.ours, **contest.opponents}
    if contest.compiled:
        torch._dynamo.reset()
        contestants |= {
            f"{name}, compiled": torch.compile(function, fullgraph=True, dynamic=False)
            for name, function in contest.opponents.items()
        }
    calls = {name: prepared(function, contest) for name, function in contestants.items()}
    with torch.inference_mode(not contest.gradient):
        calls = in_agreement(contest, calls)
        if contest.copied is not None:
            calls["a copy"] = prepared(Tensor.clone, replace(contest, inputs=(contest.copied,)))
        timings = time_interleaved(calls, seconds=seconds)
    opponents = {n: t for n, t in timings.items() if n not in ("pix2gan", "a copy")}
    best = min(opponents, key=lambda name: opponents[name].ms)
    ours, columns, missed = timings["pix2gan"], {}, []
    ratio = opponents[best].ms / ours.ms
    # Where nothing lies between the two but noise, there is no difference to speak of.
    level = contest.at_least == 1.0 and overlap(ours, opponents[best])
    if ratio < contest.at_least and not level:
        missed.append(f"{ratio:.2f}x as fast, the bar is {contest.at_least:g}x")
    if contest.copied is not None:
        copy = timings["a copy"]
        columns = {"copy_ms": copy.ms, "copies": ours.ms / copy.ms}
        if ours.ms / copy.ms > contest.at_most:
            missed.append(f"{ours.ms / copy.ms:.2f} copies, the bar is {contest.at_most:g}")
    x = contest.inputs[0]
    row = make_row(
        "ops",
        f"{contest.group} {contest.name} {'x'.join(map(str, x.shape))}",
        x.dtype,
        "cpu",
        shape=x.shape,
        timing=ours,
        opponent=opponents[best],
        opponent_name=best,
        others={n: f"{t.ms:.4g} ms" for n, t in opponents.items() if n != best},
        **columns,
    )
    return row, missed


def overlap(a: Timing, b: Timing) -> bool:
    return a.ms_low <= b.ms_high and b.ms_low <= a.ms_high


def prepared(function: Compute, contest: Contest) -> Callable[[], tuple[Tensor, ...]]:
    if not contest.gradient:
        return lambda: (function(*contest.inputs),)
    leaves = [t.detach().requires_grad_() for t in contest.inputs]
    dy = contest.inputs[0].flip(1)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*leaves), leaves, dy)

    return step


def in_agreement(
    contest: Contest, calls: Mapping[str, Callable[[], tuple[Tensor, ...]]]
) -> dict[str, Callable[[], object]]:
    """The contestants, after their results have been compared; SystemExit where pix2gan is off.

    An opponent that is wrong, or that PyTorch cannot compile, does not take part.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    for name, call in calls.items():
        try:
            found[name] = call()
        except Exception as error:  # whatever keeps an opponent from running
            if name == "pix2gan":
                raise
            print(f"  {name} is left out: {type(error).__name__}", flush=True)
    double = replace(contest, inputs=tuple(t.double() for t in contest.inputs))
    first = next(iter(contest.opponents.values()))
    exact = prepared(first, double)()
    errors = {name: largest_error(tensors, exact) for name, tensors in found.items()}
    fair = {name: error for name, error in errors.items() if error <= 0.02 or name == "pix2gan"}
    others = [error for name, error in fair.items() if name != "pix2gan"]
    if not others or not fair["pix2gan"] <= max(2 * min(others), 1e-5):
        raise SystemExit(f"{contest.group} {contest.name}: results differ, {errors}; not timed")
    return {name: calls[name] for name in fair}


def largest_error(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """As a share of the largest element, over all results."""
    return max(
        float((a.double() - b).abs().max() / b.abs().max())
        for a, b in zip(found, exact, strict=True)
    )


def keep_freed_memory() -> None:
    """What one contestant frees the next one gets, and not the system. Otherwise chance decides, by
    where blocks lie, whose outputs are fresh pages in each call, which cost more than the work."""
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # of <malloc.h>
        ctypes.CDLL(None).mallopt(trim_threshold, 2**30)
        ctypes.CDLL(None).mallopt(mmap_threshold, 2**25)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--seconds", type=float, default=2.0, help="a contest's time (default: 2)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/...)")
    given = parser.parse_args(arguments)

    keep_freed_memory()
    if given.threads:
        torch.set_num_threads(given.threads)
    path = given.out or results_path("cpu")
    rows: list[Row] = []
    missed: list[str] = []
    for group in given.only:
        for contest in GROUPS[group]():
            row, problems = run(contest, given.seconds)
            merge_rows(path, [row])
            rows.append(row)
            copies = f", {row['copies']:.2f} copies" if "copies" in row else ""
            print(
                f"{row['name']} {row['dtype']}: {row['ms']:.4g} ms, {row['ratio']:.2f}x as fast as "
                f"{row['opponent']}{copies}",
                flush=True,
            )
            missed += [f"{row['name']} {row['dtype']}: {problem}" for problem in problems]
    print(f"\n{format_rows(rows)}\n\nwritten to {path}")
    print("\n".join(["", "Bars missed:", *missed]) if missed else "\nEvery bar is cleared.")
    return 1 if given.check and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
