"""How kernels are launched: as data, so that a tool can compile them for a GPU that is not there.

A primitive plans a few ``Launch`` records from its arguments and an ``Architecture``. ``run``
carries them out. ``benchmarks/check_kernels.py`` compiles the same records, planned on meta
tensors, for any architecture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

# TRITON_INTERPRET=1: kernels run in numpy, on the CPU. Decided at import, as @triton.jit does.
INTERPRETED: bool = bool(triton.knobs.runtime.interpret)


def inlined(function: Any) -> Any:
    """``triton.jit`` for a function that kernels call.

    At each call of a jitted function the interpreter searches all of triton.language for what it
    has to replace, although it did so when the kernel was launched. That takes a millisecond,
    longer than most functions, so its rewritten form is called itself.
    """
    jitted = triton.jit(function)
    return jitted.rewrite() if INTERPRETED else jitted


def _hurry_interpreter() -> None:
    """Spares the interpreter a test of every integer sum and product for overflow, of which it
    makes nothing and which takes half of its time."""
    from triton.runtime import interpreter

    with contextlib.suppress(AttributeError, TypeError):  # an interpreter without that
        builder = interpreter.interpreter_builder
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


if INTERPRETED:
    _hurry_interpreter()


@dataclass(frozen=True)
class Architecture:
    """What configurations are chosen by."""

    kind: str  # "cuda", "hip" or "interpreter"
    name: int | str  # 90; "gfx942"
    warp: int  # threads
    shared: int  # bytes of shared memory that a block may use
    processors: int  # multiprocessors, compute units

    def at_least(self, capability: int) -> bool:
        """Whether this is an NVIDIA GPU of that compute capability or a later one."""
        return self.kind == "cuda" and int(self.name) >= capability


INTERPRETER = Architecture("interpreter", 0, 32, 1 << 30, 1)

# Bytes of shared memory a block may use, by compute capability (CUDA programming guide, table of
# technical specifications); the others have 99 KiB, older ones 64 KiB.
_CUDA_SHARED = {80: 163, 87: 163, 90: 227, 100: 227, 103: 227, 110: 227}
_HIP_SHARED = {"gfx950": 160}  # KiB of LDS; 64 elsewhere


def cuda_architecture(capability: int, processors: int) -> Architecture:
    shared = _CUDA_SHARED.get(capability, 99 if capability >= 86 else 64)
    return Architecture("cuda", capability, 32, shared * 1024, processors)


def hip_architecture(name: str, processors: int) -> Architecture:
    warp = 64 if name.startswith("gfx9") else 32
    return Architecture("hip", name, warp, _HIP_SHARED.get(name, 64) * 1024, processors)


@functools.cache
def _architecture(index: int) -> Architecture:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        name = properties.gcnArchName.split(":")[0]
        return hip_architecture(name, properties.multi_processor_count)
    capability = properties.major * 10 + properties.minor
    return cuda_architecture(capability, properties.multi_processor_count)


def architecture_of(device: torch.device) -> Architecture:
    if INTERPRETED:
        return INTERPRETER
    return _architecture(torch.cuda.current_device() if device.index is None else device.index)


@dataclass(frozen=True)
class Launch:
    """One kernel with all its arguments, the compile-time ones included."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    registers: int | None = None  # that a thread may have; NVIDIA's assembler decides where None

    @property
    def options(self) -> dict[str, Any]:
        """What goes to the compiler, beside the arguments."""
        chosen = {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,
        }
        return chosen if self.registers is None else {**chosen, "maxnreg": self.registers}


def registers(arch: Architecture, warps: int) -> int | None:
    """As many registers as a thread can have, so that one block fits. Left alone, ptxas gives up a
    few for one block more, and puts what it lacks then on the stack."""
    return min(65536 // (32 * warps), 255) if arch.kind == "cuda" else None


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """Carries out launches in order, on ``device`` and its current stream."""
    if INTERPRETED:
        for launch in launches:
            launch.kernel[launch.grid](**launch.arguments)
    elif device.index is None or device.index == torch.cuda.current_device():
        _run(launches)
    else:
        with torch.cuda.device(device):
            _run(launches)


def _run(launches: Iterable[Launch]) -> None:
    for launch in launches:
        launch.kernel[launch.grid](**launch.arguments, **launch.options)


def primitive(plan: Callable[..., Iterable[Launch]]) -> Callable[..., None]:
    """The primitive that carries out what ``plan(*arguments, architecture)`` yields. Its first
    argument is a tensor, its last ones are the outputs."""

    @functools.wraps(plan)
    def function(*arguments: Any) -> None:
        device = arguments[0].device
        run(plan(*arguments, architecture_of(device)), device)

    function.__name__ = function.__qualname__ = plan.__name__.removeprefix("plan_")
    return function


# ------------------------------------------------------------------------------- sizes and layouts


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def block_for(size: int, largest: int, smallest: int = 16) -> int:
    """The block, a power of two, in which ``size`` is covered: the largest that leaves no more than
    an eighth of the lanes without work, else the one that leaves the fewest."""
    best, least = smallest, None
    block = min(largest, max(power_of_2(size), smallest))
    while block >= smallest:
        idle = ceil_div(size, block) * block - size
        if idle * 8 <= size:
            return block
        if least is None or idle < least:
            best, least = block, idle
        block //= 2
    return best


def index_type(*tensors: torch.Tensor | None) -> Any:
    """int64 for offsets where a tensor may need them, else int32, which costs half as much."""
    reach = max((_reach(t) for t in tensors if t is not None), default=0)
    return tl.int64 if reach >= 2**31 else tl.int32


def _reach(t: torch.Tensor) -> int:
    """The largest offset within t, in elements, with room for a block that overhangs it."""
    last = sum((n - 1) * abs(s) for n, s in zip(t.shape, t.stride(), strict=True))
    return max(last, t.numel()) + (1 << 20)


def planes_grid(blocks: int, planes: int) -> tuple[int, int, int]:
    """A grid of (blocks of a plane, planes): the second axis holds only 65535, the third goes on
    from there."""
    rows = min(planes, 32768)
    return blocks, max(rows, 1) if planes else 0, ceil_div(planes, 32768)
