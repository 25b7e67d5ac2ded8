"""What a backend must satisfy, on any device: ``check("mine", "cuda")``.

Each primitive runs on every case of ``pix2gan.ops.cases``, in every dtype and memory format, and is
compared with the reference backend in float64:

- float32 (and what is float32 in a half-precision call, as statistics) within the defaults of
  ``torch.testing`` or twice the float32 reference's own largest error, whichever is larger, with
  tf32 switched off;
- float16 and bfloat16 within twice the largest error of the reference in the same precision;
- float64, where a backend has it, within the defaults of ``torch.testing``.

The outputs lie between sentinels, which must survive, aligned and unaligned, and are poisoned
before: two runs over two poisons must agree bit for bit, so that nothing is left unwritten, nothing
is read from an output before it is written, and nothing depends on the order of threads. Inputs
must come out as they went in.

Then the public ops run forward, backward and twice backward, against the same bars, except that an
op is composed of several primitives with a rounded result each. Which way these are rounded is
luck, a small tensor may have much of it, and where terms cancel (the two ways in which a
demodulated convolution depends on its styles) nothing but roundings is left. So the reference's own
error is the largest of ``ROUNDINGS`` runs in which each result of a primitive is off by up to one
unit in the last place, at random (Monte Carlo arithmetic: Parker, UCLA CSD-970002, 1997).
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pix2gan.ops as public
from pix2gan.errors import BackendError
from pix2gan.ops import dispatch
from pix2gan.ops.cases import DATA_ARGUMENTS, Case, OpCase, cases, op_cases
from pix2gan.ops.layout import memory_format
from pix2gan.ops.primitive_calls import PrimitiveCalls

__all__ = ["SUBJECTS", "Result", "cases", "check", "failures", "line", "op_cases", "table"]

SUBJECTS = (
    *DATA_ARGUMENTS,
    "op bias_act",
    "op upfirdn2d",
    "op instance_norm_act",
    "op modulated_conv2d",
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# A result that is rounded to nearest is off by 0.29 units in the root mean square, one that is
# rounded at random, too, by 0.65: twice the largest of eight such errors covers three deviations of
# the former with a probability above 99 %.
ROUNDINGS = 8

Status = Literal["passed", "failed", "unsupported"]


@dataclass(frozen=True)
class Result:
    """One check. ``unsupported``: the backend does not take this, and forcing it raises; or it has
    none of the primitives that an op comes to."""

    subject: str  # one of SUBJECTS: a primitive, or "op " and a public op
    case: str
    dtype: torch.dtype
    layout: str
    status: Status
    message: str = ""


def failures(results: Sequence[Result]) -> list[Result]:
    """The results that are failures."""
    return [r for r in results if r.status == "failed"]


def line(result: Result) -> str:
    """A failure in one line: of an exception, its last."""
    dtype = str(result.dtype).removeprefix("torch.")
    what = (result.message.splitlines() or [""])[-1]
    return f"{result.subject} [{result.case}] {dtype} {result.layout}: {what}"


def table(results: Sequence[Result]) -> str:
    """A row for each subject and dtype: how many passed, failed, and are not supported."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for r in results:
        row = counts.setdefault((r.subject, str(r.dtype).removeprefix("torch.")), {})
        row[r.status] = row.get(r.status, 0) + 1
    lines = [f"{'':24}{'dtype':10}{'passed':>8}{'failed':>8}{'unsupported':>13}"]
    for (subject, dtype), row in counts.items():
        passed, failed, unsupported = (row.get(s, 0) for s in ("passed", "failed", "unsupported"))
        lines.append(f"{subject:24}{dtype:10}{passed:8}{failed:8}{unsupported:13}")
    return "\n".join(lines)


def check(
    backend: str,
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] = DTYPES,
    *,
    subjects: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Checks a registered backend.

    ``subjects``, out of ``SUBJECTS``, are what to check, by default everything. A backend need not
    implement every primitive nor take every dtype; what it does not is reported as unsupported.
    ``progress`` is told how many of the calls are done. Raises ``BackendError`` where the backend
    is unknown or cannot run.
    """
    module = dispatch.load_backend(backend)
    calls: list[tuple[torch.dtype, Case | OpCase]] = []
    for subject in SUBJECTS if subjects is None else subjects:
        if subject not in SUBJECTS:
            raise ValueError(f"there is no {subject!r} to check, only {', '.join(SUBJECTS)}")
        samples: Sequence[Case | OpCase] = (
            cases(subject) if subject in DATA_ARGUMENTS else op_cases(subject.removeprefix("op "))
        )
        calls += [(dtype, sample) for dtype in dtypes for sample in samples]
    results: list[Result] = []
    with _without_tf32():
        for done, (dtype, sample) in enumerate(calls):
            progress(done, len(calls))
            if isinstance(sample, Case):
                results.extend(_check_primitive(backend, module, sample, dtype, device))
            else:
                results.extend(_check_op(backend, sample, dtype, device))
    progress(len(calls), len(calls))
    return results


@contextmanager
def _without_tf32() -> Iterator[None]:
    """The bars of float32 are for float32: PyTorch lets convolutions use tf32 by default."""
    settings: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


# --------------------------------------------------------------------------------------- primitives


class _Wrong(Exception):
    """A check that is not met; the message says which."""


def _check_primitive(
    backend: str, module: Any, case: Case, dtype: torch.dtype, device: torch.device | str
) -> Iterator[Result]:
    baseline: list[Tensor] | None = None  # the errors allowed to the plainest layout
    for layout, arrange in _LAYOUTS.items():
        args = arrange(case, case.cast(dtype, device))
        if args is None:
            continue
        plain = tuple(a.to("cpu") if isinstance(a, Tensor) else a for a in args)
        doubles = tuple(a.double() if isinstance(a, Tensor) else a for a in plain)
        exact = _reference(case, doubles)
        allowed = [_tolerance(*pair) for pair in zip(_reference(case, plain), exact, strict=True)]
        baseline = allowed if baseline is None else baseline
        allowed = [torch.maximum(*pair) for pair in zip(allowed, baseline, strict=True)]
        status: Status = "passed"
        message = ""
        try:
            if dispatch.takes(backend, case.primitive, args):
                _run(getattr(module, case.primitive), case, args, exact, allowed)
            else:
                status = "unsupported"
                _refuses(backend, case, args)
        except _Wrong as wrong:
            status, message = "failed", str(wrong)
        except Exception:  # a backend may fail in any way: that is a result
            status, message = "failed", traceback.format_exc(limit=-3).strip()
        yield Result(case.primitive, case.label, dtype, layout, status, message)


def _refuses(backend: str, case: Case, args: tuple[Any, ...]) -> None:
    """The op, with the backend forced, must raise rather than compute by other means."""
    with public.use_backend(backend):
        try:
            getattr(torch.ops.pix2gan, case.primitive)(*args)
        except BackendError:
            return
    raise _Wrong("it is not supported, but forcing the backend raised no BackendError")


def _run(
    function: Callable[..., None],
    case: Case,
    args: tuple[Any, ...],
    exact: list[Tensor],
    allowed: list[Tensor],
) -> None:
    before = [a.clone() if isinstance(a, Tensor) else a for a in args]
    first = None
    for offset, poison in ((64, math.nan), (64, -7.0), (61, math.nan)):
        buffers = [
            _Guarded(out, offset, poison) for out in dispatch.allocate(case.primitive, *args)
        ]
        function(*args, *(g.view for g in buffers))
        for index, guarded in enumerate(buffers):
            guarded.check(f"output {index}")
        outs = [g.view for g in buffers]
        if first is not None and offset == 64:
            for index, (a, b) in enumerate(zip(first, outs, strict=True)):
                if not torch.equal(a, b):
                    raise _Wrong(
                        f"output {index}: a second run differs in {int((a != b).sum())} elements "
                        "(not all are written, or the result depends on what was there)"
                    )
            continue
        first = outs if first is None else first
        for index, (out, want, tolerance) in enumerate(zip(outs, exact, allowed, strict=True)):
            _compare(out, want, tolerance, f"output {index}")
    for index, (a, b) in enumerate(zip(before, args, strict=True)):
        if isinstance(a, Tensor) and not torch.equal(a, b):
            raise _Wrong(f"argument {index} has been changed")


class _Guarded:
    """A tensor with the strides of another one in the midst of a larger buffer of sentinels."""

    def __init__(self, like: Tensor, offset: int, poison: float) -> None:
        self.offset, self.count = offset, like.numel()
        self.buffer = torch.full((offset + self.count + 64,), 12345.0).to(like.dtype)
        self.sentinel = self.buffer[0].clone()
        self.buffer[offset : offset + self.count] = poison
        self.buffer = self.buffer.to(like.device)
        self.sentinel = self.sentinel.to(like.device)
        self.view = self.buffer.as_strided(like.shape, like.stride(), offset)
        self.shape, self.strides, self.address = like.shape, like.stride(), self.view.data_ptr()

    def check(self, name: str) -> None:
        if (
            self.view.shape != self.shape
            or self.view.stride() != self.strides
            or self.view.data_ptr() != self.address
        ):
            raise _Wrong(f"{name}: its shape, strides or memory have been changed")
        margins = (self.buffer[: self.offset], self.buffer[self.offset + self.count :])
        touched = sum(int((m != self.sentinel).sum()) for m in margins)
        if touched:
            raise _Wrong(f"{name}: {touched} elements outside of it have been written")


def _within(out: Tensor, exact: Tensor, allowed: Tensor) -> bool:
    return bool(((out.cpu().double() - exact).abs() <= allowed).all())


def _compare(out: Tensor, exact: Tensor, allowed: Tensor, name: str) -> None:
    out = out.cpu()
    error = (out.double() - exact).abs()
    bad = ~(error <= allowed)  # NaN is bad as well
    if bad.any():
        excess = torch.where(bad, torch.nan_to_num(error / allowed, nan=math.inf), 0.0)
        worst = int(excess.argmax())
        raise _Wrong(
            f"{name}: {int(bad.sum())} of {bad.numel()} elements are off; the worst, number "
            f"{worst}, is {float(out.flatten()[worst])} for {float(exact.flatten()[worst])} "
            f"(allowed: {float(allowed.flatten()[worst]):.3g})"
        )


def _reference(case: Case, args: tuple[Any, ...]) -> list[Tensor]:
    """The reference's outputs, in the precision of its arguments."""
    outs = dispatch.allocate(case.primitive, *args)
    getattr(dispatch.load_backend(dispatch.LAST_RESORT), case.primitive)(*args, *outs)
    return list(outs)


def _tolerance(reference: Tensor, exact: Tensor) -> Tensor:
    """The error allowed, by element, to an output that the reference computes in the same dtype."""
    error = (reference.double() - exact).abs()
    twice = 2 * float(error.max()) if error.numel() else 0.0
    # torch.testing's absolute default is 1e-5 in half precision, too. Beyond it half a unit in the
    # last place is what rounding costs, even where the reference was lucky.
    relative = {torch.float64: 1e-7, torch.float32: 1.3e-6}.get(
        reference.dtype, 0.5 * torch.finfo(reference.dtype).eps
    )
    absolute = 1e-7 if reference.dtype == torch.float64 else 1e-5
    return (absolute + relative * exact.abs()).clamp(min=twice)


# ------------------------------------------------------------------------------------------ layouts


def _map_data(
    case: Case, args: tuple[Any, ...], change: Callable[[int, Tensor], Tensor]
) -> tuple[Any, ...]:
    """``args`` with the k-th data tensor replaced by ``change(k, tensor)``."""
    numbers = {position: k for k, position in enumerate(DATA_ARGUMENTS[case.primitive])}
    return tuple(
        change(numbers[i], a) if i in numbers and isinstance(a, Tensor) else a
        for i, a in enumerate(args)
    )


def _contiguous(case: Case, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return args


def _channels_last(case: Case, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not any(isinstance(a, Tensor) and a.dim() == 4 for a in args):
        return None
    return _map_data(case, args, lambda k, t: _to_channels_last(t))


def _to_channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def _mixed(case: Case, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Every second data tensor is channels-last, as where a gradient arrives in the other
    format."""
    data = [args[i] for i in DATA_ARGUMENTS[case.primitive] if isinstance(args[i], Tensor)]
    if len(data) < 2 or data[0].dim() != 4:
        return None
    return _map_data(
        case,
        args,
        lambda k, t: (
            t.contiguous(memory_format=torch.channels_last) if k % 2 and t.dim() == 4 else t
        ),
    )


def _strided(case: Case, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Slices of larger tensors, which are NaN everywhere else."""

    def embed(k: int, t: Tensor) -> Tensor:
        if t.dim() == 0:
            return t
        larger = t.new_full([2 * n + 3 for n in t.shape], math.nan)
        view = larger[tuple(slice(1, 1 + n) for n in t.shape)]
        if t.dim() == 4 and k % 2 == 0:
            view = larger[:, :, 1 : 1 + t.shape[2], 2 : 2 + 2 * t.shape[3] : 2]
            view = view[1 : 1 + t.shape[0], 1 : 1 + t.shape[1]]
        return view.copy_(t)

    return _map_data(case, args, embed)


def _expanded(case: Case, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The first data tensor, a gradient in the primitives that take one, has strides of 0."""
    gradients = ("bias_act_grad", "bias_act_grad2", "instance_norm_act_grad")
    if case.primitive not in gradients:
        return None
    return _map_data(case, args, lambda k, t: t.new_full((), 0.75).expand(t.shape) if k == 0 else t)


_LAYOUTS: dict[str, Callable[[Case, tuple[Any, ...]], tuple[Any, ...] | None]] = {
    "contiguous": _contiguous,
    "channels_last": _channels_last,
    "mixed": _mixed,
    "strided": _strided,
    "expanded": _expanded,
}


# ---------------------------------------------------------------------------------------------- ops


def _check_op(
    backend: str, case: OpCase, dtype: torch.dtype, device: torch.device | str
) -> Iterator[Result]:
    """Forward, first and second derivative of a public op, and the strides of what comes out."""
    for layout in ("contiguous", "channels_last"):
        tensors = case.cast(dtype)
        if layout == "channels_last":
            tensors = {name: _to_channels_last(t) for name, t in tensors.items()}
        with public.use_backend(dispatch.LAST_RESORT):
            exact = _derivatives(case, {name: t.double() for name, t in tensors.items()})
            same = _derivatives(case, tensors)
        allowed = [_tolerance(*pair) for pair in zip(same, exact, strict=True)]
        placed = {name: t.to(device) for name, t in tensors.items()}
        status: Status = "passed"
        message = ""
        try:
            # what the backend does not have the reference computes, as for a user
            with public.use_backend(f"{backend},{dispatch.LAST_RESORT}"), PrimitiveCalls() as used:
                outs = _derivatives(case, placed)
            if used.calls and not used.taken_by(backend):
                status = "unsupported"
            y = outs[0]
            if not y.is_contiguous(memory_format=memory_format(placed["x"])):
                raise _Wrong(f"the output has the strides {y.stride()} for x in {layout}")
            if not all(map(_within, outs, exact, allowed)):  # seldom: other roundings take longer
                allowed = _with_other_roundings(case, tensors, exact, allowed)
            for index, (out, want, tolerance) in enumerate(zip(outs, exact, allowed, strict=True)):
                name = "y" if index == 0 else f"derivative {index}"
                if out.dtype != same[index].dtype:
                    raise _Wrong(f"{name} is {out.dtype}, not {same[index].dtype}")
                _compare(out, want, tolerance, name)
            if hasattr(dispatch.load_backend(backend), f"new_{case.op}"):
                _check_shortcut(backend, case, placed, y, exact[0], allowed[0])
        except _Wrong as wrong:
            status, message = "failed", str(wrong)
        except Exception:
            status, message = "failed", traceback.format_exc(limit=-3).strip()
        yield Result(f"op {case.op}", case.label, dtype, layout, status, message)


def _check_shortcut(
    backend: str, case: OpCase, tensors: dict[str, Tensor], y: Tensor, want: Tensor, allowed: Tensor
) -> None:
    """The op without gradients, which ``dispatch.compute`` may take straight from the backend."""
    with public.use_backend(f"{backend},{dispatch.LAST_RESORT}"), torch.no_grad():
        leaves = {name: t.detach() for name, t in tensors.items()}
        out = getattr(public, case.op)(**leaves, **case.options)
    if (out.dtype, out.shape, out.stride()) != (y.dtype, y.shape, y.stride()):
        raise _Wrong(
            f"without gradients y is {out.dtype} {list(out.shape)} with the strides "
            f"{out.stride()}, not {y.dtype} {list(y.shape)} with {y.stride()}"
        )
    _compare(out, want, allowed, "y without gradients")


class _Rounding(TorchDispatchMode):
    """Within it each result of a primitive is off by up to a unit in the last place, at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        outs = func(*args, **(kwargs or {}))
        if func.name().startswith("pix2gan::"):
            for out in outs if isinstance(outs, tuple) else (outs,):
                noise = torch.rand(out.shape, generator=self.generator, dtype=torch.float64)
                factor = 1 + (2 * noise - 1) * torch.finfo(out.dtype).eps
                out.copy_(out.double() * factor)
        return outs


def _with_other_roundings(
    case: OpCase, tensors: dict[str, Tensor], exact: list[Tensor], allowed: list[Tensor]
) -> list[Tensor]:
    """``allowed``, and what the reference's errors in runs with other roundings allow."""
    for seed in range(ROUNDINGS):
        with public.use_backend(dispatch.LAST_RESORT), _Rounding(seed):
            same = _derivatives(case, tensors)
        found = [_tolerance(*pair) for pair in zip(same, exact, strict=True)]
        allowed = [torch.maximum(*pair) for pair in zip(allowed, found, strict=True)]
    return allowed


def _derivatives(case: OpCase, tensors: dict[str, Tensor]) -> list[Tensor]:
    """y, the gradients of <y, r> and those of <the gradients, r'>, for fixed random r and r'."""
    leaves = {name: t.detach() for name, t in tensors.items()}
    wanted = [leaves[name].requires_grad_() for name in case.differentiable]
    y = getattr(public, case.op)(**leaves, **case.options)
    generator = torch.Generator().manual_seed(0)

    def random_like(t: Tensor) -> Tensor:
        r = torch.randn(t.shape, generator=generator, dtype=torch.float64)
        return r.to(t.dtype).to(t.device)

    if not y.requires_grad:
        return [y]
    weight = random_like(y).requires_grad_()
    first = torch.autograd.grad(y, wanted, weight, create_graph=True, allow_unused=True)
    used = [g for g in first if g is not None and g.requires_grad]
    outs = [y.detach(), *(g.detach() for g in first if g is not None)]
    second = torch.autograd.grad(
        used, [*wanted, weight], [random_like(g) for g in used], allow_unused=True
    )
    return outs + [g for g in second if g is not None]
