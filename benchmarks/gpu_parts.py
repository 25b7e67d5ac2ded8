"""The parts of ``benchmarks.gpu``, each a function that yields records as it finds them.

    python -m benchmarks.gpu_parts PART DEVICE FILE

A record is a JSON object. ``ok`` is False in those that say that something is wrong, and absent
from measurements. On "cpu", where the Triton kernels are interpreted, sizes are tiny and nothing
that is measured means anything: that is for the tests of this file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pix2gan.ops as ops
from pix2gan.ops import bench, conformance
from pix2gan.ops.cases import DATA_ARGUMENTS
from pix2gan.ops.device_name import device_name
from pix2gan.ops.timing import time_interleaved

Record = dict[str, Any]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BACKENDS = ("triton", "cuda")


def available(device: str) -> list[str]:
    """The kernels' backends that can run on a device."""
    names = [s.name for s in ops.list_backends() if s.available and device in s.devices]
    return [name for name in BACKENDS if name in names]


def _tiny(device: str) -> bool:
    return device == "cpu"


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _guarded(name: Record, work: Callable[[], Record]) -> Record:
    """What ``work`` returns, or the error that it raises, as a record."""
    started = time.monotonic()
    try:
        found = {**name, **work()}
    except Exception as error:  # a part goes on with what is next
        where = traceback.format_exc(limit=-2).strip()[-600:]
        found = {**name, "ok": False, "error": f"{type(error).__name__}: {error}"[:600]}
        found["where"] = where
    return {**found, "seconds": round(time.monotonic() - started, 2)}


# ---------------------------------------------------------------------------------------- the parts


def build(device: str) -> Iterator[Record]:
    """Versions, and whether the backends can run: the CUDA one is compiled here."""
    yield {
        "device": device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "nvcc": shutil.which("nvcc"),
    }
    for name in BACKENDS:

        def load(name: str = name) -> Record:
            status = {s.name: s for s in ops.list_backends()}.get(name)
            if status is None:
                return {"skipped": "it is not registered"}
            if device not in status.devices:
                return {"skipped": f"it runs on {', '.join(status.devices)}"}
            return {
                "ok": status.available,
                "reason": status.reason,
                "primitives": status.primitives,
            }

        yield _guarded({"backend": name}, load)


def conform(device: str) -> Iterator[Record]:
    """The conformance suite, all of it; dry, a few cases."""
    dtypes = (torch.bfloat16,) if _tiny(device) else conformance.DTYPES
    for backend in available(device):
        for subject in conformance.SUBJECTS:
            for dtype in dtypes:

                def check(
                    backend: str = backend, subject: str = subject, dtype: torch.dtype = dtype
                ) -> Record:
                    with _every(12 if _tiny(device) else 1):
                        results = conformance.check(backend, device, (dtype,), subjects=[subject])
                    wrong = conformance.failures(results)
                    return {
                        "ok": not wrong,
                        "passed": sum(r.status == "passed" for r in results),
                        "unsupported": sum(r.status == "unsupported" for r in results),
                        "failed": [f"{r.case} {r.layout}: {r.message}"[:300] for r in wrong],
                    }

                name = {"backend": backend, "subject": subject, "dtype": str(dtype)}
                yield _guarded(name, check)


class _every:
    """Within it the conformance suite takes each ``step``-th case only."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __enter__(self) -> None:
        self.before = (conformance.cases, conformance.op_cases)
        cases, op_cases = self.before
        conformance.cases = lambda subject: cases(subject)[:: self.step]
        conformance.op_cases = lambda op: op_cases(op)[:: self.step]

    def __exit__(self, *_: object) -> None:
        conformance.cases, conformance.op_cases = self.before


def race(device: str) -> Iterator[Record]:
    """Each op's results and gradients, over and over beside another stream's work: every bit must
    stay."""
    runs = 1 if _tiny(device) else 1000
    dtypes = (torch.bfloat16, torch.float32)
    for backend in available(device):
        for dtype in dtypes[:1] if _tiny(device) else dtypes:
            for layout, memory_format in list(FORMATS.items())[1 if _tiny(device) else 0 :]:
                for op, call in _calls(device, dtype, memory_format).items():

                    def repeat(call: Callable[[], Sequence[Tensor]] = call) -> Record:
                        with ops.use_backend(f"{backend},reference"):  # noqa: B023
                            differing = _count_differing(call, runs, device)
                        return {"ok": differing == 0, "runs": runs, "differing": differing}

                    name = {"backend": backend, "op": op, "dtype": str(dtype), "layout": layout}
                    yield _guarded(name, repeat)


def _calls(
    device: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> dict[str, Callable[[], Sequence[Tensor]]]:
    """By name a function that returns an op's output and gradients, from new memory each time."""
    channels, size = (4, 6) if _tiny(device) else (64, 96)
    generator = torch.Generator().manual_seed(0)

    def new(*shape: int) -> Tensor:
        t = torch.randn(shape, generator=generator).to(device, dtype)
        return t.contiguous(memory_format=memory_format) if t.dim() == 4 else t

    x, few = new(3, channels, size, size), new(1, channels, 2 * size, 2 * size)
    b, styles, weight = new(channels), new(3, channels), new(channels, channels, 3, 3)
    f = ops.setup_filter([1, 3, 3, 1], device=device)

    def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], list[Tensor]]:
        def call() -> list[Tensor]:
            leaves = [t.detach().requires_grad_() for t in inputs]
            y = function(*leaves)
            return [y.detach(), *torch.autograd.grad(y, leaves, y.detach())]

        return call

    def modulated(x: Tensor, w: Tensor, s: Tensor, b: Tensor, **options: Any) -> Tensor:
        return ops.modulated_conv2d(x, w, s, b=b, act="lrelu", padding=1, **options)

    return {
        "bias_act": gradients(lambda x, b: ops.bias_act(x, b, act="swish"), x, b),
        "upfirdn2d up": gradients(lambda x: ops.upsample2d(x, f), x),
        "upfirdn2d down": gradients(lambda x: ops.downsample2d(x, f), x),
        "instance_norm_act": gradients(lambda x: ops.instance_norm_act(x, act="relu", pad=1), x),
        # few planes, which are split among programs
        "instance_norm_act, split": gradients(
            lambda x: ops.instance_norm_act(x, act="relu", pad=3), few
        ),
        "modulated_conv2d": gradients(modulated, x, weight, styles, b),
        "modulated_conv2d up 2": gradients(
            lambda x, w, s, b: modulated(x, w, s, b, up=2, resample_filter=f), x, weight, styles, b
        ),
    }


def _count_differing(call: Callable[[], Sequence[Tensor]], runs: int, device: str) -> int:
    """How many of the runs differ in a bit from the first one."""
    first = [t.clone() for t in call()]
    differing = torch.zeros((), dtype=torch.int64, device=device)
    load = _Load(device)
    for _ in range(runs):
        load.add()
        same = torch.ones((), dtype=torch.bool, device=device)
        for a, b in zip(first, call(), strict=True):
            same &= (_bits(a) == _bits(b)).all()
        differing += ~same
    return int(differing)


def _bits(t: Tensor) -> Tensor:
    return t.view(torch.int32 if t.element_size() == 4 else torch.int16)


class _Load:
    """Other work, on a stream of its own, so that blocks run in an order that changes."""

    def __init__(self, device: str) -> None:
        self.stream = torch.cuda.Stream() if device == "cuda" else None
        if self.stream is not None:
            with torch.cuda.stream(self.stream):
                self.a = torch.randn(512, 512, device=device)

    def add(self) -> None:
        if self.stream is not None:
            with torch.cuda.stream(self.stream):
                self.a = torch.tanh(self.a @ self.a)


def large(device: str) -> Iterator[Record]:
    """Tensors past 2^31 elements: many images, and one image, each compared with the reference
    where offsets are largest."""
    size = 16 if _tiny(device) else 256
    wide = 48 if _tiny(device) else 5824
    channels = 4 if _tiny(device) else 64
    many = 3 if _tiny(device) else 2**31 // (channels * size * size) + 8
    shapes = {"many images": (many, channels, size, size), "one image": (1, channels, wide, wide)}
    for backend in available(device):
        for layout, memory_format in FORMATS.items():
            for kind, shape in shapes.items():
                for op in ("bias_act", "upfirdn2d", "instance_norm_act", "modulated_conv2d"):

                    def compare(
                        op: str = op,
                        shape: tuple[int, ...] = shape,
                        memory_format: torch.memory_format = memory_format,
                        backend: str = backend,
                    ) -> Record:
                        x = torch.empty(
                            shape, dtype=torch.bfloat16, device=device, memory_format=memory_format
                        )
                        x.normal_(generator=torch.Generator(device).manual_seed(0))
                        return _compare_windows(op, x, backend)

                    name = {"backend": backend, "op": op, "kind": kind, "layout": layout}
                    yield _guarded({**name, "elements": torch.Size(shape).numel()}, compare)
                    if device == "cuda":
                        torch.cuda.empty_cache()


# Rows and columns of an image's lower right corner, and how many of them do not see its rim.
_WINDOW, _INNER = 40, 32


def _compare_windows(op: str, x: Tensor, backend: str) -> Record:
    """Runs an op on x, and the reference on what its last images, channels and pixels depend on."""
    channels = x.shape[1]
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(x.device)

    b, weight = random(channels), random(channels, channels, 3, 3).to(x.dtype)
    styles = random(x.shape[0], channels).to(x.dtype)
    f = ops.setup_filter([1, 3, 3, 1], device=x.device)

    def run(x: Tensor, images: slice) -> Tensor:
        if op == "bias_act":
            return ops.bias_act(x, b[: x.shape[1]], act="lrelu")
        if op == "upfirdn2d":
            return ops.filter2d(x, f)
        if op == "instance_norm_act":
            return ops.instance_norm_act(x, act="relu")
        return ops.modulated_conv2d(x, weight, styles[images], padding=1, act="lrelu")

    with torch.no_grad():
        with ops.use_backend(f"{backend},reference"):
            y = run(x, slice(None))
        worst = 0.0
        for n in sorted({0, x.shape[0] // 2, x.shape[0] - 1}):
            one = slice(n, n + 1)
            image, got = x[one], y[one]
            if op == "instance_norm_act":  # whole planes, but not all of them
                part = image[:, -2:].float()
                got = got[:, -2:]
            else:
                part = image[:, :, -_WINDOW:, -_WINDOW:].float()
            with ops.use_backend("reference"):
                want = run(part, one)
            if op != "instance_norm_act":
                got, want = got[:, :, -_INNER:, -_INNER:], want[:, :, -_INNER:, -_INNER:]
            scale = float(want.abs().max())
            worst = max(worst, float((got.float() - want).abs().max()) / max(scale, 1e-6))
    return {"ok": worst < 0.03, "error": worst}


def capture(device: str) -> Iterator[Record]:
    """torch.compile(fullgraph=True) over each generator, and its capture as a CUDA graph."""
    names, size, batch = _generators(device)
    for backend in available(device):
        for name in names:

            def compiled(name: str = name, backend: str = backend) -> Record:
                network, x = _network(name, device, size, batch)
                torch._dynamo.reset()
                how = "aot_eager" if _tiny(device) else "inductor"
                with torch.no_grad(), ops.use_backend(f"{backend},reference"):
                    want = network(x)
                    got = torch.compile(network, fullgraph=True, backend=how)(x)
                return _close(got, want)

            yield _guarded({"backend": backend, "generator": name, "what": "compile"}, compiled)
            if device != "cuda":
                continue

            def graph(name: str = name, backend: str = backend) -> Record:
                network, x = _network(name, device, size, batch)
                with torch.no_grad(), ops.use_backend(f"{backend},reference"):
                    stream = torch.cuda.Stream()
                    with torch.cuda.stream(stream):
                        for _ in range(3):  # compiles kernels, which may not happen in a capture
                            network(x)
                    torch.cuda.synchronize()
                    captured = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(captured):
                        got = network(x)
                    x.copy_(torch.randn_like(x))
                    captured.replay()
                    return _close(got, network(x))

            yield _guarded({"backend": backend, "generator": name, "what": "CUDA graph"}, graph)


def _close(got: Tensor, want: Tensor) -> Record:
    error = float((got.float() - want.float()).abs().max())
    return {"ok": error < 0.05, "error": error}


def _generators(device: str) -> tuple[list[str], int, int]:
    """(names, size, batch)"""
    from pix2gan.models import list_models

    if _tiny(device):
        return ["resnet6"], 8, 1
    wanted = ("resnet9", "unet256", "modulated_resnet", "modulated_unet")
    return [name for name in wanted if name in list_models()], 256, 8


def _network(name: str, device: str, size: int, batch: int) -> tuple[torch.nn.Module, Tensor]:
    from pix2gan.models import create_generator

    torch.manual_seed(0)
    options = {"width": 2, "num_blocks": 1} if _tiny(device) else {}
    network = create_generator(name, **options).to(device, torch.bfloat16)
    network = network.to(memory_format=torch.channels_last).eval()
    x = torch.randn(batch, 3, size, size, device=device, dtype=torch.bfloat16)
    return network, x.contiguous(memory_format=torch.channels_last)


def measure_ops(device: str) -> Iterator[Record]:
    """What ``pix2gan ops bench`` measures, in both memory formats; the vendor's convolution with
    its best algorithm."""
    torch.backends.cudnn.benchmark = True
    seconds = 0.01 if _tiny(device) else 0.5
    dtypes = (torch.bfloat16,) if _tiny(device) else (torch.bfloat16, torch.float32)
    rates = bench.device_rates(device, dtypes, seconds=seconds)
    yield {"copy_gb_s": rates.copy_gb_s, "torch": torch.__version__, "device": device_name(device)}
    for measured in bench.bench(
        available(device),
        device,
        rates,
        dtypes=dtypes,
        layouts=("channels_last",) if _tiny(device) else tuple(FORMATS),
        compiled=not _tiny(device),
        seconds=seconds,
        shrink=32 if _tiny(device) else 1,
    ):
        yield measured.as_json()


def measure_generators(device: str) -> Iterator[Record]:
    """Generators forward, and a step of training them alone (a loss, its gradients, Adam)."""
    torch.backends.cudnn.benchmark = True
    names, size, batch = _generators(device)
    seconds = 0.01 if _tiny(device) else 5.0
    for name in names:

        def measure(name: str = name) -> Record:
            network, x = _network(name, device, size, batch)
            optimizer = torch.optim.Adam(network.parameters(), fused=not _tiny(device))

            def forward() -> None:
                with torch.no_grad():
                    network(x)

            def step() -> None:
                optimizer.zero_grad(set_to_none=True)
                network(x).float().abs().mean().backward()
                optimizer.step()

            found: Record = {"size": size, "batch": batch, "dtype": "bfloat16"}
            for what, call in (("forward", forward), ("step", step)):
                backends = [f"{backend},reference" for backend in available(device)]
                contestants = dict.fromkeys([*backends, "reference"], call)
                within = {b: (lambda b=b: ops.use_backend(b)) for b in contestants}
                timings = time_interleaved(
                    contestants, device=device, seconds=seconds, min_repeats=2, within=within
                )
                found[what] = {
                    b: {"ms": t.ms, "ms_low": t.ms_low, "ms_high": t.ms_high, "repeats": t.repeats}
                    for b, t in timings.items()
                }
            return found

        yield _guarded({"generator": name}, measure)


def sanitize(device: str) -> Iterator[Record]:
    """compute-sanitizer over a small part of the conformance suite."""
    program = shutil.which("compute-sanitizer")
    for backend in available(device):
        for tool in ("memcheck", "racecheck"):
            # Without a caching allocator, which hides what lies between two tensors.
            environment = dict(os.environ, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
            command = [sys.executable, "-m", "benchmarks.gpu_parts", "sanitized", device, backend]
            if program is not None and device == "cuda":
                command = [program, "--tool", tool, "--error-exitcode", "9", *command]
            elif not _tiny(device):
                yield {"backend": backend, "tool": tool, "skipped": "no compute-sanitizer"}
                continue
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            yield {
                "backend": backend,
                "tool": tool,
                "ok": done.returncode == 0,
                "end": (done.stdout + done.stderr)[-1500:],
            }


def sanitized(device: str, backend: str) -> int:
    """What runs under compute-sanitizer: each primitive, every thirtieth case (dry: one)."""
    with _every(100 if _tiny(device) else 30):
        results = conformance.check(
            backend, device, (torch.bfloat16,), subjects=tuple(DATA_ARGUMENTS)
        )
    print(conformance.table(results))
    return 1 if conformance.failures(results) else 0


PARTS: dict[str, Callable[[str], Iterator[Record]]] = {
    "build": build,
    "conformance": conform,
    "ops": measure_ops,
    "capture": capture,
    "large": large,
    "race": race,
    "generators": measure_generators,
    "sanitizer": sanitize,
}


def main() -> int:
    part, device, target = sys.argv[1:]
    if part == "sanitized":
        return sanitized(device, target)
    failed = False
    with Path(target).open("a") as file:
        for record in PARTS[part](device):
            failed |= record.get("ok") is False
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
    _synchronize(device)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
