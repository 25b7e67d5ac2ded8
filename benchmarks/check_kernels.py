"""Compiles every GPU kernel in the configurations that it runs in, on a machine without a GPU, and
reports registers, shared memory and spills.

    python -m benchmarks.check_kernels                     # all kernels, all targets
    python -m benchmarks.check_kernels --target gfx942 --only upfirdn2d

Triton kernels are planned on meta tensors exactly as the primitives plan them and compiled for each
target: hand-picked samples, and every call that the modulated generators make in a step of
training. CUDA files (csrc/cuda/*.cu) go through nvcc where that is installed. A line for each
kernel, then a table. It fails (exit code 1) where a kernel does not compile, spills registers to
memory, or asks for more shared memory than a block may have.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
# Multiprocessors or compute units of the boards: A100, H200, B200, MI300X, RX 7900 XTX. The number
# decides where planes are split among programs.
CUDA_TARGETS = {80: 108, 90: 132, 100: 148}
HIP_TARGETS = {"gfx942": 304, "gfx1100": 48}
TARGETS = (*(f"sm_{capability}" for capability in CUDA_TARGETS), *HIP_TARGETS)

# ------------------------------------------------------------------------------------------ samples


@dataclass(frozen=True)
class Sample:
    """A call of a primitive, on meta tensors."""

    name: str
    plan: Callable[..., Any]
    arguments: tuple[Any, ...]


HALF, SINGLE = torch.bfloat16, torch.float32


def _tensor(shape: Sequence[int], dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype, device="meta", memory_format=layout)


def _vector(*shape: int) -> Tensor:
    return _tensor(shape, torch.float32)


def _bias_act() -> Iterator[Sample]:
    from pix2gan.ops.backends.triton.bias_act import (
        plan_bias_act,
        plan_bias_act_grad,
        plan_bias_act_grad2,
    )

    shapes = {
        "64x64": (8, 256, 64, 64),
        "odd": (3, 33, 67, 67),
        "vectors": (64, 512),
        "past 2^31": (8, 512, 1024, 1024),
    }
    for (label, shape), dtype, last in itertools.product(
        shapes.items(), (HALF, SINGLE, torch.float16), (False, True)
    ):
        if (last and len(shape) != 4) or (dtype == torch.float16 and label != "64x64"):
            continue
        x = _tensor(shape, dtype, last)
        b = _vector(shape[1])
        acts = ("lrelu", "swish", "softplus") if label == "64x64" else ("lrelu",)
        for act in acts:
            name = f"{act} {label}{' channels-last' if last else ''}"
            options = (1, act, 0.2, 1.4, 256.0)
            yield Sample(name, plan_bias_act, (x, b, *options, x))
            if act == "lrelu":
                yield Sample(name, plan_bias_act_grad, (x, None, None, x, *options, x))
            else:
                yield Sample(name, plan_bias_act_grad, (x, x, b, None, *options, x))
                yield Sample(name, plan_bias_act_grad2, (x, x, x, b, *options, x))
    x = _tensor((8, 256, 64, 64), HALF)
    for act in ("linear", "relu", "tanh", "sigmoid", "elu", "selu"):
        options = (1, act, 1.0, 1.0, -1.0)
        yield Sample(f"{act} without bias", plan_bias_act, (x, None, *options, x))
        if act not in ("linear", "relu"):
            arguments = (x, x, x, None, *options, x)
            yield Sample(f"{act} without bias", plan_bias_act_grad2, arguments)


def _upfirdn2d() -> Iterator[Sample]:
    from pix2gan.ops.backends.triton.upfirdn2d import plan_upfirdn2d

    # name: filter's shape, up, down, padding before, padding behind
    modes = {
        "up 2, 4x4": ((4, 4), 2, 1, 2, 1),
        "up 2, 4": ((4,), 2, 1, 2, 1),
        "down 2, 4x4": ((4, 4), 1, 2, 1, 1),
        "down 2, 4": ((4,), 1, 2, 1, 1),
        "down 2, 3x3": ((3, 3), 1, 2, 1, 1),
        "plain 4x4": ((4, 4), 1, 1, 2, 1),
        "plain 4": ((4,), 1, 1, 2, 1),
        "plain 3x3": ((3, 3), 1, 1, 1, 1),
        "up 2, 12": ((12,), 2, 1, 6, 5),
        "down 2, 12": ((12,), 1, 2, 5, 5),
        "general up 3": ((5, 5), 3, 1, 2, 2),
    }
    for (label, (taps, up, down, pad0, pad1)), dtype, last in itertools.product(
        modes.items(), (HALF, SINGLE), (False, True)
    ):
        for size in (64, 67) if label == "plain 4x4" else (64,):
            x = _tensor((8, 128, size, size), dtype, last)
            out_size = (size * up + pad0 + pad1 - taps[0]) // down + 1
            out = _tensor((8, 128, out_size, out_size), dtype, last)
            options = (up, up, down, down, pad0, pad1, pad0, pad1, False, 1.0)
            name = f"{label}, {size}x{size}{' channels-last' if last else ''}"
            yield Sample(name, plan_upfirdn2d, (x, _vector(*taps), *options, out))


def _instance_norm() -> Iterator[Sample]:
    from pix2gan.ops.backends.triton.instance_norm import (
        plan_instance_norm_act,
        plan_instance_norm_act_grad,
        plan_instance_norm_stats,
    )

    cases = {
        "64x64 pad 1": ((8, 256, 64, 64), "relu", 1, "reflect"),
        "64x64": ((8, 256, 64, 64), "lrelu", 0, "reflect"),
        "128x128 pad 1": ((4, 128, 128, 128), "relu", 1, "reflect"),
        "256x256 pad 3": ((1, 64, 256, 256), "relu", 3, "reflect"),
        "256x256": ((8, 64, 256, 256), "swish", 0, "reflect"),
        "4x4 zeros": ((8, 512, 4, 4), "linear", 1, "zeros"),
        "50x50 replicate": ((2, 32, 50, 50), "elu", 2, "replicate"),
        # one image through ResNet-9 and U-Net-256, whose few planes are split among programs
        "128x128, one image": ((1, 128, 128, 128), "relu", 0, "reflect"),
        "64x64 pad 1, one image": ((1, 256, 64, 64), "relu", 1, "reflect"),
        "2x2, one image": ((1, 512, 2, 2), "relu", 0, "reflect"),
    }
    for (label, (shape, act, pad, mode)), dtype, last in itertools.product(
        cases.items(), (HALF, SINGLE), (False, True)
    ):
        n, c, height, width = shape
        x = _tensor(shape, dtype, last)
        y = _tensor((n, c, height + 2 * pad, width + 2 * pad), dtype, last)
        residual = x if act == "linear" or "128" in label else None
        affine = _vector(n, c) if act in ("linear", "swish") else None
        stats = (_vector(n, c), _vector(n, c))
        name = f"{label}{' channels-last' if last else ''}"
        options = (act, 0.2, residual, pad, mode, 1e-5)
        arguments = (x, affine, affine, *options, None, None, y, *stats)
        yield Sample(name, plan_instance_norm_act, arguments)
        if label == "64x64 pad 1":
            arguments = (x, None, None, *options, *stats, y, *stats)
            yield Sample(f"{name}, frozen", plan_instance_norm_act, arguments)
        yield Sample(name, plan_instance_norm_stats, (x, *stats))
        arguments = (y, x, affine, affine, *stats, act, 0.2, pad, mode, 1e-5, False, x, *stats)
        yield Sample(name, plan_instance_norm_act_grad, arguments)


def _scaled_conv2d() -> Iterator[Sample]:
    from pix2gan.ops.backends.triton.scaled_conv2d import (
        plan_scaled_conv2d,
        plan_scaled_conv2d_wgrad,
    )

    # name: N, I, O, size, k, stride, transposed
    cases = {
        "3x3 64x64": (8, 256, 256, 64, 3, 1, False),
        "3x3 8x8": (8, 512, 512, 8, 3, 1, False),
        "3x3 256x256, few channels": (4, 32, 64, 256, 3, 1, False),
        "3x3 stride 2": (8, 128, 256, 64, 3, 2, False),
        "3x3 transposed 2": (8, 256, 128, 32, 3, 2, True),
        "3x3 transposed": (8, 256, 256, 64, 3, 1, True),
        "1x1": (8, 256, 256, 64, 1, 1, False),
        "1x1 to RGB": (8, 128, 3, 128, 1, 1, False),
        "3x3 from RGB": (8, 3, 64, 128, 3, 1, False),
    }
    for (label, (n, i, o, size, k, stride, transposed)), dtype, last in itertools.product(
        cases.items(), (HALF, SINGLE), (False, True)
    ):
        padding = 0 if transposed and stride == 2 else k // 2
        if transposed:
            out_size = (size - 1) * stride - 2 * padding + k
        else:
            out_size = (size + 2 * padding - k) // stride + 1
        x, y = (
            _tensor((n, i, size, size), dtype, last),
            _tensor((n, o, out_size, out_size), dtype, last),
        )
        w = _tensor((i, o, k, k) if transposed else (o, i, k, k), dtype)
        s, d, noise = _vector(n, i), _vector(n, o), _tensor((n, 1, out_size, out_size), dtype)
        name = f"{label}{' channels-last' if last else ''}"
        geometry = (stride, padding, transposed)
        epilogue = (noise, _vector(o), "lrelu", 0.2, 1.4, 256.0)
        arguments: tuple[Any, ...] = (x, w, s, d, *geometry, out_size, out_size, *epilogue, y)
        yield Sample(name, plan_scaled_conv2d, arguments)
        if label in ("3x3 64x64", "3x3 transposed 2"):
            plain = (None, None, "linear", 0.0, 1.0, -1.0)
            arguments = (x, w, None, None, *geometry, out_size, out_size, *plain, y)
            yield Sample(f"{name}, plain", plan_scaled_conv2d, arguments)
        arguments = (x, y, s, d, *geometry, k, k, w)
        yield Sample(name, plan_scaled_conv2d_wgrad, arguments)
    x, w = _tensor((8, 256, 64, 64), SINGLE, True), _tensor((256, 256, 3, 3), SINGLE)
    s = _vector(8, 256)
    geometry = (1, 1, False)
    epilogue = (None, None, "lrelu", 0.2, 1.4, 256.0)
    arguments = (x, w, s, s, *geometry, 64, 64, *epilogue, x)
    yield Sample("3x3 without tf32", _without_tf32(plan_scaled_conv2d), arguments)
    arguments = (x, x, s, s, *geometry, 3, 3, w)
    yield Sample("3x3 without tf32", _without_tf32(plan_scaled_conv2d_wgrad), arguments)


def _without_tf32(plan: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plan)
    def planned(*arguments: Any) -> list[Any]:
        convolutions = torch.backends.cudnn.conv
        before = convolutions.fp32_precision
        convolutions.fp32_precision = "ieee"
        try:
            return list(plan(*arguments))
        finally:
            convolutions.fp32_precision = before

    return planned


def _modulated_generators() -> Iterator[Sample]:
    """What a step of training calls at 256 x 256, as the generators call it on meta tensors."""
    from pix2gan.models import create_generator
    from pix2gan.ops import dispatch
    from pix2gan.ops.backends import triton
    from pix2gan.ops.primitive_calls import PrimitiveCalls

    for name, last in itertools.product(("modulated_unet", "modulated_resnet"), (False, True)):
        network = create_generator(name).to("meta", HALF)
        x = _tensor((8, 3, 256, 256), HALF, last)
        with PrimitiveCalls() as used:
            network(x).sum().backward()
        for primitive, arguments in used.calls:
            label = f"{name}{' channels-last' if last else ''} {list(arguments[0].shape)}"
            outs = dispatch.allocate(primitive, *arguments)
            plan = getattr(triton, primitive).__wrapped__
            yield Sample(label, plan, (*arguments, *outs))


SAMPLES = (_bias_act, _upfirdn2d, _instance_norm, _scaled_conv2d, _modulated_generators)


@functools.cache
def samples(only: str = "") -> tuple[Sample, ...]:
    """The calls whose kernels are compiled; ``only``: of primitives with that in their names."""
    found = itertools.chain.from_iterable(family() for family in SAMPLES)
    return tuple(sample for sample in found if only in sample.plan.__name__)


# -------------------------------------------------------------------------------------- compilation


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes of the GPU."""

    registers: int  # a thread
    shared: int  # bytes a block
    spilled: int  # NVIDIA: bytes of stack a thread; AMD: vector registers and bytes of scratch


_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
}


def architecture(target: str) -> Any:
    from pix2gan.ops.backends.triton import launch

    if target in HIP_TARGETS:
        return launch.hip_architecture(target, HIP_TARGETS[target])
    capability = int(target.removeprefix("sm_"))
    return launch.cuda_architecture(capability, CUDA_TARGETS[capability])


def specialize(launch: Any, hip: bool) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """(signature, constants, attributes) as Triton's JIT makes them of the arguments."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[Any, Any] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        aligned = False
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            constants[parameter.name] = value
            signature[parameter.name] = "constexpr"
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = _TYPES[value.dtype]
            aligned = value.data_ptr() % 16 == 0
        elif isinstance(value, int):
            fits = -(2**31) <= value < 2**31
            signature[parameter.name] = "i32" if fits else "i64"
            aligned = value % 16 == 0
        else:
            signature[parameter.name] = "fp32"
        hints = [["tt.divisibility", 16]] if aligned else []
        if hip and isinstance(value, Tensor) and value.numel() * value.element_size() < 2**31:
            hints.append(["tt.pointer_range", 32])
        if hints:
            attributes[(index,)] = hints
    return signature, constants, attributes


def compile_launch(launch: Any, target: str) -> Usage:
    """Compiles one kernel and reads what it uses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    hip = target in HIP_TARGETS
    arch = architecture(target)
    gpu = GPUTarget(arch.kind, arch.name, arch.warp)
    source = ASTSource(launch.kernel, *specialize(launch, hip))
    compiled = triton.compile(source, target=gpu, options=launch.options)
    if hip:
        return _hip_usage(compiled.asm["amdgcn"], compiled.metadata.shared)
    return _cuda_usage(compiled.asm["cubin"], compiled.metadata.shared)


def _hip_usage(assembly: str, shared: int) -> Usage:
    def number(key: str) -> int:
        return max((int(v) for v in re.findall(rf"\.{key}:\s*(\d+)", assembly)), default=0)

    spilled = sum(
        number(key)
        for key in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
    )
    return Usage(number("vgpr_count"), max(shared, number("group_segment_fixed_size")), spilled)


def _cuda_usage(cubin: bytes, shared: int) -> Usage:
    import triton

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return _parse_cuobjdump(text, shared)


def _parse_cuobjdump(text: str, shared: int = 0) -> Usage:
    def number(key: str) -> int:
        return max((int(v) for v in re.findall(rf"{key}:(\d+)", text)), default=0)

    if "REG:" not in text:
        raise RuntimeError(f"cuobjdump reports no registers: {text!r}")
    return Usage(number("REG"), max(shared, number("SHARED")), number("STACK") + number("LOCAL"))


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    target: str
    kernel: str
    sample: str
    threads: int
    usage: Usage | None
    problem: str  # or empty

    def line(self) -> str:
        used = "-" * 3
        if self.usage is not None:
            used = (
                f"{self.usage.registers:4d} regs {self.usage.shared:7d} B shared "
                f"{self.usage.spilled:4d} spilled"
            )
        mark = f"  FAILED: {self.problem}" if self.problem else ""
        return f"{self.target:8} {self.kernel:28} {self.threads:4d} thr {used}  {self.sample}{mark}"


def check(target: str, sample: Sample, seen: set[Any]) -> Iterator[Row]:
    """Compiles the kernels of a sample that ``seen`` has not got yet."""
    arch = architecture(target)
    for launch in sample.plan(*sample.arguments, arch):
        signature, constants, attributes = specialize(launch, target in HIP_TARGETS)
        name = launch.kernel.fn.__name__
        key = (target, name, *map(str, (signature, constants, attributes)), launch.num_warps)
        if key in seen:
            continue
        seen.add(key)
        dtype = next(v for v in signature.values() if v.startswith("*")).removeprefix("*")
        label = f"{sample.plan.__name__.removeprefix('plan_')} {dtype} {sample.name}"
        threads = launch.num_warps * arch.warp
        try:
            usage = compile_launch(launch, target)
        except Exception as error:  # the compilers raise all sorts of things
            reason = str(error).strip().splitlines() or [type(error).__name__]
            yield Row(target, name, label, threads, None, reason[-1][:200])
            continue
        problem = ""
        if usage.spilled:
            problem = "it spills registers"
        elif usage.shared > arch.shared:
            problem = f"a block may have {arch.shared} B of shared memory"
        yield Row(target, name, label, threads, usage, problem)


_seen: set[Any] = set()  # of this process


def _check(job: tuple[str, str, int | Path]) -> list[Row]:
    target, only, what = job
    if isinstance(what, Path):
        return [check_cuda_file(what, int(target.removeprefix("sm_")))]
    return list(check(target, samples(only)[what], _seen))


# --------------------------------------------------------------------------------------------- CUDA


def check_cuda_file(file: Path, capability: int) -> Row:
    """Compiles one CUDA file for one architecture and reports its hungriest kernel.

    The assembler itself says what it has used: cuobjdump is not in every toolkit.
    """
    from pix2gan.ops.backends import _native

    target = f"sm_{capability}"
    command = [_native.find_nvcc(), _native.STANDARD, *_native.NVCC_FLAGS, "-Xptxas=-v", "-cubin"]
    command += [f"-arch={target}", "-o", os.devnull, str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["nvcc failed"])[-1]
        return Row(target, file.name, "nvcc", 0, None, reason[:200])
    usage, count = parse_ptxas(done.stderr)
    kernels = f"{count} kernels, the largest figures"
    return Row(target, file.name, kernels, 0, usage, "it spills registers" if usage.spilled else "")


def parse_ptxas(text: str) -> tuple[Usage, int]:
    """The largest figures and the number of kernels in what ``ptxas -v`` prints."""

    def largest(pattern: str) -> int:
        return max((int(v) for v in re.findall(pattern, text)), default=0)

    count = text.count("Compiling entry function")
    if count == 0:
        raise RuntimeError(f"ptxas reports no kernel: {text!r}")
    spilled = largest(r"(\d+) bytes stack frame") + largest(r"(\d+) bytes spill stores")
    return Usage(largest(r"Used (\d+) registers"), largest(r"(\d+) bytes smem"), spilled), count


# --------------------------------------------------------------------------------------------- main


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all")
    parser.add_argument("--only", default="", help="primitives with this in their names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        parser.error("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
    targets = options.target or TARGETS
    started = time.monotonic()
    files = sorted((REPOSITORY / "csrc" / "cuda").glob("*.cu")) if not options.only else []
    if files and shutil.which("nvcc") is None:
        print("nvcc is not installed: the CUDA files are not checked")
        files = []
    count = len(samples(options.only))
    jobs: list[tuple[str, str, int | Path]] = []
    for target in targets:
        jobs += [(target, options.only, file) for file in files if target not in HIP_TARGETS]
        jobs += [(target, options.only, i) for i in range(count)]
    rows: list[Row] = []
    with multiprocessing.get_context("spawn").Pool(max(options.jobs, 1)) as pool:
        for done, found in enumerate(pool.imap(_check, jobs), 1):
            rows += found
            for row in found:
                print(f"{100 * done // len(jobs):3d} %  {row.line()}", flush=True)
    print(f"\n{table(rows)}\n")
    failed = [row for row in rows if row.problem]
    seconds = time.monotonic() - started
    print(f"{len(rows)} kernels compiled in {seconds:.0f} s, {len(failed)} failed")
    for row in failed:
        print(row.line())
    return 1 if failed else 0


def table(rows: Sequence[Row]) -> str:
    """A row for each target and kernel: how often it was compiled, its largest figures."""
    heads = ("target", "kernel", "compiled", "failed", "registers", "shared, B", "spilled")
    lines = ["{:8} {:30}{:>9}{:>8}{:>11}{:>11}{:>9}".format(*heads)]
    for (target, kernel), group in itertools.groupby(
        sorted(rows, key=lambda r: (TARGETS.index(r.target), r.kernel)),
        lambda r: (r.target, r.kernel),
    ):
        of_kernel = list(group)
        used = [row.usage for row in of_kernel if row.usage is not None]
        failed = sum(bool(row.problem) for row in of_kernel)
        registers, shared, spilled = (
            max((getattr(usage, name) for usage in used), default=0)
            for name in ("registers", "shared", "spilled")
        )
        lines.append(
            f"{target:8} {kernel:30}{len(of_kernel):9}{failed:8}{registers:11}{shared:11}"
            f"{spilled:9}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
