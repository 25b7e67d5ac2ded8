"""How fast the ops run, and how fast they could; ``pix2gan ops bench`` prints and draws it.

    rates = device_rates("cuda", [torch.bfloat16])
    for workload in workloads(["bias_act"], torch.bfloat16, device="cuda"):
        measured = measure(workload, "forward", ["triton"], rates)
        print(measured.speed("triton"), measured.share("triton"), measured.timings["stock"].ms)

An op is timed forward (without autograd) and backward (the gradients of all its inputs, from a
graph that is kept), on each backend, beside

- ``stock``: the same mathematics in PyTorch operators, eager,
- ``compiled``: that through ``torch.compile``,
- ``vendor``: the plain convolution of that shape in the vendor's library, where there is one, and
- ``copy``: a copy of as many bytes as the op has to move.

All of them take turns. Where memory is what limits an op its speed is bytes that have to be moved
(inputs read once, outputs written once) over time, in GB/s, to be compared with a copy's: of that
size, or of a buffer beyond all caches, whichever is faster. Convolutions are in TFLOP/s, to be
compared with a large product of matrices in the same dtype. On CUDA devices, caches are cold and
the time is the device's own; on a CPU, an op finds its input where the call before it left it.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch import Tensor

import pix2gan
import pix2gan.ops as public
from pix2gan.ops import dispatch
from pix2gan.ops.device_name import device_name
from pix2gan.ops.primitive_calls import PrimitiveCalls
from pix2gan.ops.timing import Timing, time_interleaved
from pix2gan.ops.workloads import OPS, Workload, workloads

DIRECTIONS = ("forward", "backward")
STOCK, COMPILED, VENDOR, COPY = "stock", "compiled", "vendor", "copy"

# The norm of the difference from the reference, over the reference's, of a result that is timed.
_AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


# -------------------------------------------------------------------------- what a device can do


@dataclass(frozen=True)
class DeviceRates:
    """What a device does when it does nothing else, measured."""

    copy_gb_s: float  # bytes read plus bytes written, in a copy beyond all caches
    matrix_tflop_s: Mapping[torch.dtype, float]  # of a large product of matrices


def device_rates(
    device: torch.device | str, dtypes: Sequence[torch.dtype], *, seconds: float = 1.0
) -> DeviceRates:
    """Measures a device, for ``seconds`` a rate."""
    return DeviceRates(
        copy_bandwidth(device, seconds=seconds),
        {dtype: matrix_rate(device, dtype, seconds=seconds) for dtype in dtypes},
    )


def copy_bandwidth(device: torch.device | str, *, seconds: float = 1.0) -> float:
    """GB/s, read and written together, of a copy of 1 GiB (CPU: 64 MiB)."""
    device = torch.device(device)
    size = 2**26 if device.type == "cpu" else 2**30
    copy = _copy(2 * size, device)
    timing = time_interleaved({COPY: copy}, device=device, seconds=seconds)[COPY]
    return 2 * size / timing.ms / 1e6


def matrix_rate(
    device: torch.device | str, dtype: torch.dtype, *, seconds: float = 1.0, size: int | None = None
) -> float:
    """TFLOP/s of a square ``torch.matmul``, 8192 (CPU: 1024) on a side if not given.

    In float32 it uses tf32 where ``torch.backends.cuda.matmul.allow_tf32`` is set.
    """
    device = torch.device(device)
    size = size or (1024 if device.type == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    call = {"product": lambda: torch.matmul(a, b, out=out)}
    timing = time_interleaved(call, device=device, seconds=seconds)["product"]
    return 2 * size**3 / timing.ms / 1e9


def _copy(size: int, device: torch.device) -> Callable[[], object]:
    """A copy that reads and writes ``size`` bytes together."""
    source = torch.ones(max(1, size // 8), device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


# ------------------------------------------------------------------------------------ measurements


@dataclass(frozen=True)
class Measurement:
    """A workload in one direction, by contestant."""

    workload: str  # op and case
    op: str
    case: str
    direction: str
    dtype: str
    layout: str
    shape: list[int]
    unit: str  # GB/s or TFLOP/s
    work: float  # of one call: bytes or floating-point operations
    rate: float  # what the device can do, in ``unit``
    timings: Mapping[str, Timing]  # by contestant: backends, stock, compiled, vendor, copy
    left_out: Mapping[str, str]  # the contestants that were not timed, and why
    fallen_through: Mapping[str, list[str]]  # what a backend left to the reference, if anything

    def speed(self, contestant: str) -> float:
        """In ``unit``."""
        scale = 1e6 if self.unit == "GB/s" else 1e9
        return self.work / self.timings[contestant].ms / scale

    def share(self, contestant: str) -> float:
        """Of what the device can do: 1 is all of it."""
        return self.speed(contestant) / self.rate

    def as_json(self) -> dict[str, Any]:
        """For a file; times in milliseconds, four significant digits."""
        results = {
            name: {
                "ms": _rounded(timing.ms),
                "ms_low": _rounded(timing.ms_low),
                "ms_high": _rounded(timing.ms_high),
                "repeats": timing.repeats,
                **(
                    {"speed": _rounded(self.speed(name)), "share": _rounded(self.share(name))}
                    if name != COPY or self.unit == "GB/s"
                    else {}
                ),
            }
            for name, timing in self.timings.items()
        }
        return {
            "op": self.op,
            "case": self.case,
            "direction": self.direction,
            "dtype": self.dtype,
            "layout": self.layout,
            "shape": self.shape,
            "unit": self.unit,
            "work": self.work,
            "device_rate": _rounded(self.rate),
            "results": results,
            "left_out": dict(self.left_out),
            "fallen_through": dict(self.fallen_through),
        }


def measure(
    workload: Workload,
    direction: str,
    backends: Sequence[str],
    rates: DeviceRates,
    *,
    layout: str = "contiguous",
    compiled: bool = True,
    seconds: float = 1.0,
) -> Measurement:
    """Times a workload on some backends, by name, and what it is compared with.

    The reference is always among them. Each contestant's result is compared with the reference's
    first; one that fails or is wrong, and a backend that computes none of the primitives that the
    workload comes to, is left out, with the reason.
    """
    device = workload.inputs["x"].device
    contestants = _contestants(workload, backends, compiled)
    left_out: dict[str, str] = {}
    fallen_through: dict[str, list[str]] = {}
    calls: dict[str, Callable[[], object]] = {}
    within: dict[str, Callable[[], AbstractContextManager[object]]] = {}
    expected: list[Tensor] = []
    y: Tensor | None = None
    for name, (function, around) in contestants.items():
        try:
            with around():
                call, output = _prepared(function, workload, direction)
                # Nothing is compiled under a dispatch mode, so that backends alone are looked at.
                primitives = PrimitiveCalls()
                with primitives if name in backends else nullcontext():
                    found = list(call())
        except Exception as error:  # whatever keeps a contestant from running
            left_out[name] = f"{type(error).__name__}: {_first_line(error)}"
            continue
        if name == dispatch.LAST_RESORT:
            expected, y = found, output
        elif name != VENDOR:  # a plain convolution is something else
            # The stock gradients of a modulation have few digits in half precision; x's is enough.
            compared = 1 if name in (STOCK, COMPILED) else len(expected)
            difference = _difference(found[:compared], expected[:compared])
            if not difference <= _AGREEMENT[workload.dtype]:
                left_out[name] = f"its result differs from the reference's by {difference:.2g}"
                continue
            others = primitives.left_by(name) if name in backends else []
            if others and not primitives.taken_by(name):
                left_out[name] = f"it does not compute {', '.join(others)} of this"
                continue
            if others:
                fallen_through[name] = others
        calls[name], within[name] = call, around
    if y is None:
        raise RuntimeError(f"the reference fails on {workload.op}: {left_out}")
    traffic = workload.traffic(y, direction)
    calls[COPY] = _copy(traffic, device)
    cold = device.type == "cuda"
    with torch.no_grad() if direction == "forward" else nullcontext():
        timings = time_interleaved(calls, device=device, seconds=seconds, within=within, cold=cold)
    operations = workload.operations(direction)
    copied = traffic / timings[COPY].ms / 1e6
    return Measurement(
        f"{workload.op} {workload.case}",
        workload.op,
        workload.case,
        direction,
        str(workload.dtype).removeprefix("torch."),
        layout,
        workload.shape,
        "TFLOP/s" if operations else "GB/s",
        operations or traffic,
        rates.matrix_tflop_s[workload.dtype] if operations else max(copied, rates.copy_gb_s),
        timings,
        left_out,
        fallen_through,
    )


_Around = Callable[[], AbstractContextManager[object]]


def _contestants(
    workload: Workload, backends: Sequence[str], compiled: bool
) -> dict[str, tuple[Callable[..., Tensor], _Around]]:
    """By name what to call and what to enter around it; the reference first."""

    def forcing(names: str) -> _Around:
        return lambda: public.use_backend(names)

    last = dispatch.LAST_RESORT
    found: dict[str, tuple[Callable[..., Tensor], _Around]] = {last: (workload.ours, forcing(last))}
    for name in backends:
        if name != last:
            # What a backend does not have the reference computes, as for a user.
            found[name] = (workload.ours, forcing(f"{name},{last}"))
    found[STOCK] = (workload.stock, nullcontext)
    if compiled:
        torch._dynamo.reset()  # else the shapes of other workloads count as recompilations
        found[COMPILED] = (
            torch.compile(workload.stock, fullgraph=True, dynamic=False),
            nullcontext,
        )
    if workload.vendor is not None:
        found[VENDOR] = (workload.vendor, nullcontext)
    return found


def _prepared(
    function: Callable[..., Tensor], workload: Workload, direction: str
) -> tuple[Callable[[], Sequence[Tensor]], Tensor]:
    """What to time, and the output of forward."""
    if direction == "forward":
        inputs = workload.inputs
        with torch.no_grad():
            y = function(**inputs)

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return (function(**inputs),)

        return forward, y
    inputs = {name: t.detach().requires_grad_() for name, t in workload.inputs.items()}
    # A compiled backward may otherwise reuse what it has been given, and run once only.
    with functorch_config.patch(donated_buffer=False):
        y = function(**inputs)
    generator = torch.Generator().manual_seed(1)
    dy = torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator))
    leaves = list(inputs.values())

    def backward() -> Sequence[Tensor]:
        gradients = torch.autograd.grad(y, leaves, dy, retain_graph=True, allow_unused=True)
        return [g for g in gradients if g is not None]

    return backward, y.detach()


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest norm of a tensor's difference, over the norm of the tensor.

    Not the largest element: where a rounding turns the sign of a pre-activation, one gradient of a
    right result jumps.
    """
    norms = [
        float((a.float() - b.float()).norm()) / max(float(b.float().norm()), 1e-12)
        for a, b in zip(found, expected, strict=True)
    ]
    return max(norms)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


# ---------------------------------------------------------------------------------- many of them


def bench(
    backends: Sequence[str],
    device: torch.device | str,
    rates: DeviceRates,
    *,
    ops: Sequence[str] = OPS,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    layouts: Sequence[str] = ("contiguous",),
    compiled: bool = True,
    seconds: float = 1.0,
    shrink: int = 1,
) -> Iterator[Measurement]:
    """Measures every workload, forward and backward; yields as it goes.

    ``shrink`` divides the workloads' channels and sizes, for tests. Raises ``BackendError`` where a
    backend is unknown or cannot run.
    """
    for op in ops:
        for dtype in dtypes:
            for layout in layouts:
                for workload in workloads([op], dtype, layout, device, shrink=shrink):
                    for direction in DIRECTIONS:
                        yield measure(
                            workload,
                            direction,
                            backends,
                            rates,
                            layout=layout,
                            compiled=compiled,
                            seconds=seconds,
                        )


def count(ops: Sequence[str], dtypes: Sequence[torch.dtype], layouts: Sequence[str]) -> int:
    """How many measurements ``bench`` makes."""
    each = sum(1 for _ in workloads(ops, shrink=16))
    return each * len(dtypes) * len(layouts) * len(DIRECTIONS)


def table(
    measurements: Sequence[Measurement], device: torch.device | str, rates: DeviceRates
) -> str:
    """A row for each measurement: milliseconds, and shares of what the device can do."""
    names = list(dict.fromkeys(name for m in measurements for name in m.timings if name != COPY))
    first = [STOCK, COMPILED, VENDOR, dispatch.LAST_RESORT]
    names.sort(key=lambda name: (name in first, first.index(name) if name in first else 0))
    products = ", ".join(
        f"{rate:.3g} TFLOP/s in {str(dtype).removeprefix('torch.')}"
        for dtype, rate in rates.matrix_tflop_s.items()
    )
    lines = [
        f"{device_name(device)}: copies {rates.copy_gb_s:.3g} GB/s, multiplies matrices at "
        f"{products}",
        "",
        f"{'milliseconds, share of that':60}" + "".join(f"{name:>18}" for name in names),
    ]
    for m in measurements:
        label = f"{m.workload}, {m.direction}, {m.dtype}"
        label += "" if m.layout == "contiguous" else f", {m.layout}"
        cells = [
            f"{m.timings[name].ms:.3g} ({m.share(name):.0%})" if name in m.timings else "-"
            for name in names
        ]
        lines.append(f"{label:60}" + "".join(f"{cell:>18}" for cell in cells))
    reasons = {f"{name}: {why}" for m in measurements for name, why in m.left_out.items()}
    return "\n".join([*lines, *(f"not timed: {reason}" for reason in sorted(reasons))])


def report(
    measurements: Sequence[Measurement], device: torch.device | str, rates: DeviceRates
) -> dict[str, Any]:
    """Everything in one object for a JSON file, with the device and the versions."""
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "pix2gan": pix2gan.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "copy_gb_s": _rounded(rates.copy_gb_s),
        "matrix_tflop_s": {
            str(dtype).removeprefix("torch."): _rounded(rate)
            for dtype, rate in rates.matrix_tflop_s.items()
        },
        "measurements": [m.as_json() for m in measurements],
    }
