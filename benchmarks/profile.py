"""Where the time of the modulated generators goes: a forward pass and a training step, by op.

    python -m benchmarks.profile                          # both, on each backend that runs here
    python -m benchmarks.profile --models modulated_unet --backends reference --dtype float32

A forward pass is batch 1 in inference mode; a training step is the whole step of pix2pix, batch 1,
at its default options: two translations of the image, the discriminator's and the generator's loss
and gradients, and Adam. Data loading and logging are left out. bfloat16 is autocast.

Milliseconds are measured without the profiler. The shares are those of ``torch.profiler``: the time
within an op of pix2gan counts for that op, whatever it calls; on a GPU, the time of its kernels.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.rows import Row, make_row, merge_rows, results_path
from pix2gan import ops
from pix2gan.models import create_generator, list_models
from pix2gan.ops.timing import time_interleaved
from pix2gan.training.method_options import Pix2PixConfig
from pix2gan.training.methods.pix2pix import Pix2Pix

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# The ops whose time is told, in the order of the table, and what is outside of them.
PARTS = {
    "modulated_conv2d: convolutions (`scaled_conv2d`)": ("scaled_conv2d",),
    "modulated_conv2d: gradients of weights (`scaled_conv2d_wgrad`)": ("scaled_conv2d_wgrad",),
    "`upfirdn2d`": ("upfirdn2d",),
    "`bias_act` and its gradients": ("bias_act", "bias_act_grad", "bias_act_grad2"),
    "`instance_norm_act` and its gradient": ("instance_norm_act", "instance_norm_act_grad"),
}
CONVOLUTION, ADAM, REST = "the discriminator's convolutions", "Adam", "everything else"


def usable_backends(device: torch.device) -> list[str]:
    """The reference and every other backend that runs on the device."""
    found = [b for b in ops.list_backends() if b.available]
    return [b.name for b in found if {device.type, "*"} & set(b.devices)]


def forward_pass(
    name: str, device: torch.device, dtype: str, size: int, options: Mapping[str, Any]
) -> Callable[[], object]:
    """A call that translates one image."""
    torch.manual_seed(0)
    generator = create_generator(name, **options).eval().requires_grad_(False).to(device)
    generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = _image(generator.in_channels, size, device)

    def call() -> Tensor:
        with torch.inference_mode(), _autocast(device, dtype):
            return generator(x)

    return call


def training_step(
    name: str, device: torch.device, dtype: str, size: int, options: Mapping[str, Any]
) -> Callable[[], object]:
    """A call that trains pix2pix for one step, as the trainer does it."""
    torch.manual_seed(0)
    config = Pix2PixConfig("no data", out="nowhere", generator=name, size=size, **options)
    method = Pix2Pix(config)
    method.networks.train().to(device)
    method.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = {
        player: [p for n in names for p in method.networks[n].parameters() if p.requires_grad]
        for player, names in method.players.items()
    }
    optimizers = {
        player: torch.optim.Adam(of, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
        for player, of in parameters.items()
    }
    batch = {side: _image(3, size, device) for side in "AB"}

    def call() -> None:
        updates = method.step(batch)
        while True:
            with _autocast(device, dtype):
                update = next(updates, None)
            if update is None:
                return
            optimizers[update.player].zero_grad(set_to_none=True)
            update.loss.backward(inputs=parameters[update.player])
            optimizers[update.player].step()

    return call


WORK = {"forward": forward_pass, "training step": training_step}


def shares(call: Callable[[], object], device: torch.device, repeats: int = 2) -> dict[str, float]:
    """The share of each part in the time of ``call``; they add up to 1."""
    call()
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(repeats):
            call()
        if cuda:
            torch.cuda.synchronize(device)
    spent: Counter[str] = Counter()
    for event in profiler.events():
        time = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[_part(event)] += time
    total = sum(spent.values())
    order = [*PARTS, CONVOLUTION, ADAM, REST]
    return {part: spent[part] / total for part in order if spent[part] > 0}


def _part(event: Any) -> str:
    """What an event counts for: the outermost op of pix2gan around it, or what it is itself."""
    found = CONVOLUTION if "convolution" in event.name else REST
    found = ADAM if "adam" in event.name.lower() else found
    while event is not None:
        op = event.name.removeprefix("pix2gan::")
        if op != event.name:
            found = next((part for part, names in PARTS.items() if op in names), REST)
        event = event.cpu_parent
    return found


def run(
    name: str,
    work: str,
    *,
    device: torch.device,
    backends: list[str],
    dtype: str,
    size: int,
    seconds: float,
    options: Mapping[str, Any],
) -> list[Row]:
    """A row for each backend, which take turns while they are timed."""
    calls = {b: _forced(b, WORK[work](name, device, dtype, size, options)) for b in backends}
    timings = time_interleaved(calls, device=device, seconds=seconds, min_repeats=3)
    return [
        make_row(
            "profile",
            f"{name} {work} {size}x{size} on {backend}",
            dtype,
            device,
            shape=(1, 3, size, size),
            timing=timings[backend],
            shares={part: round(share, 4) for part, share in shares(call, device).items()},
            **options,
        )
        for backend, call in calls.items()
    ]


def table(rows: list[Row]) -> str:
    """Markdown: a line for each part, a column for each row, shares in percent."""
    parts = [p for p in (*PARTS, CONVOLUTION, ADAM, REST) if any(p in r["shares"] for r in rows)]
    lines = [
        "| | " + " | ".join(row["name"] for row in rows) + " |",
        "|---|" + "---:|" * len(rows),
        "| milliseconds | " + " | ".join(f"{row['ms']:.0f}" for row in rows) + " |",
    ]
    for part in parts:
        cells = (f"{100 * row['shares'].get(part, 0):.1f} %" for row in rows)
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _forced(backend: str, call: Callable[[], object]) -> Callable[[], object]:
    # What a backend does not compute falls to the reference, as it does for users.
    names = backend if backend == "reference" else f"{backend},reference"

    def forced() -> object:
        with ops.use_backend(names):
            return call()

    return forced


def _image(channels: int, size: int, device: torch.device) -> Tensor:
    x = torch.randn(1, channels, size, size, device=device).clamp(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def _autocast(device: torch.device, dtype: str) -> torch.autocast:
    return torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", choices=list_models(), metavar="NAME")
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--backends", nargs="+", help="only these (default: all that run here)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--width", type=int, help="base width of the generators (default: theirs)")
    parser.add_argument("--seconds", type=float, default=8.0, help="timing, a table's column pair")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/...)")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    path = given.out or results_path(device)
    for name in given.models or list_models("modulated*"):
        rows: list[Row] = []
        for work in given.work:
            rows += run(
                name,
                work,
                device=device,
                backends=given.backends or usable_backends(device),
                dtype=given.dtype,
                size=given.size,
                seconds=given.seconds,
                options={} if given.width is None else {"width": given.width},
            )
        merge_rows(path, rows)
        print(f"\n{name}, {given.dtype}\n\n{table(rows)}", flush=True)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
