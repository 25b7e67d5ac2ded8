"""``pix2gan ops``: what computes the ops on this machine, whether it is right, how fast it is."""

from __future__ import annotations

import difflib
import json as json_format
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from cyclopts import App, Parameter

from pix2gan.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import torch

    from pix2gan.ops.bench import Measurement
    from pix2gan.ops.dispatch import Verdict

ALL_PASSED, SOME_FAILED = 0, 1

Dtype = Literal["float32", "float16", "bfloat16", "float64"]
Layout = Literal["contiguous", "channels_last"]
_Repeated = Parameter(negative=(), consume_multiple=False, show_default=False)

ops_app = App(
    name="ops", help="Show, check and time what computes the ops on this machine.", sort_key=4
)


# --------------------------------------------------------------------------------------------- list


@ops_app.command(name="list")
def list_ops(
    *,
    dtype: Dtype = "float32",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List which backend computes what on which device, and why the others do not.

    Parameters
    ----------
    dtype
        Of the data, as backends need not take every one.
    json
        Print JSON instead of tables.
    """
    from pix2gan.ops import dispatch

    devices = _devices()
    verdicts = [
        verdict
        for device, present in devices.items()
        for primitive in dispatch.primitives()
        for verdict in dispatch.explain(
            primitive, device, _sample(primitive, dtype, device) if present else None
        )
    ]
    forced = dispatch.forced_backend()
    if json:
        rows = [vars(verdict) for verdict in verdicts]
        print(json_format.dumps({"forced": forced, "dtype": dtype, "verdicts": rows}, indent=1))
        return
    if forced:
        print(f"Forced by {dispatch.ENVIRONMENT_VARIABLE}: {forced}")
    meant_for = {status.name: status.devices for status in dispatch.list_backends()}
    for device, present in devices.items():
        of_device = [
            v
            for v in verdicts
            if v.device == device and (present or device in meant_for[v.backend])
        ]
        _print_verdicts(device, present, dtype, of_device)


def _devices() -> dict[str, bool]:
    """The types of device that a backend runs on, and whether this machine has one."""
    from pix2gan import ops
    from pix2gan.ops.dispatch import ANY_DEVICE

    declared = [device for status in ops.list_backends() for device in status.devices]
    return {d: _present(d) for d in dict.fromkeys(["cpu", *declared]) if d != ANY_DEVICE}


def _present(device: str) -> bool:
    import torch

    try:
        torch.empty(1, device=device)
    except Exception:  # each type of device says in its own way that it is not there
        return False
    return True


def _sample(primitive: str, dtype: str, device: str) -> tuple[Any, ...]:
    from pix2gan.ops.cases import cases

    try:
        return cases(primitive)[0].cast(_torch_dtype(dtype), device)
    except Exception as error:
        raise ConfigError(f"The device {device} has no {dtype}: {error}") from None


def _print_verdicts(device: str, present: bool, dtype: str, verdicts: Sequence[Verdict]) -> None:
    """A table of primitives by backends; why not, below it."""
    from rich.console import Console
    from rich.table import Table

    rows: dict[str, dict[str, Verdict]] = {}
    reasons: dict[tuple[str, str], list[str]] = {}  # the primitives, by backend and reason
    for verdict in verdicts:
        rows.setdefault(verdict.primitive, {})[verdict.backend] = verdict
        if verdict.reason:
            reasons.setdefault((verdict.backend, verdict.reason), []).append(verdict.primitive)
    backends = dict.fromkeys(verdict.backend for verdict in verdicts)
    columns = [name for name in backends if any(row[name].available for row in rows.values())]
    if present:
        table = Table(f"{device}, {dtype}", *columns, box=None, pad_edge=False)
        for primitive, row in rows.items():
            table.add_row(primitive, *(_mark(row[name]) for name in columns))
        console = Console()
        if not console.is_terminal:
            console.width = 32 + sum(len(name) + 12 for name in columns)
        console.print(table)
    else:
        print(f"{device}: there is none on this machine")
    for (name, reason), primitives in reasons.items():
        which = "" if len(primitives) == len(rows) else f" ({', '.join(primitives)})"
        print(f"  {name}: {reason}{which}")
    print()


def _mark(verdict: Verdict) -> str:
    return "chosen" if verdict.chosen else "available" if verdict.available else "-"


# -------------------------------------------------------------------------------------------- check


@ops_app.command
def check(
    *,
    backend: Annotated[tuple[str, ...], _Repeated] = (),
    device: str = "cpu",
    subject: Annotated[tuple[str, ...], _Repeated, Parameter(alias="--primitive")] = (),
    dtype: Annotated[tuple[Dtype, ...], _Repeated] = ("float32", "float16", "bfloat16"),
) -> int:
    """Find out whether backends are right: every sample of every primitive and op.

    Each one is compared with a float64 reference in every dtype and memory format, with poisoned
    outputs between sentinels, twice, and the ops with their first and second gradients. Exit code 0
    if all of it passed, 1 if not, 2 if nothing could be checked.

    Parameters
    ----------
    backend
        Which one; may be repeated. Every backend that runs on the device if not given.
    device
        cpu, cuda, cuda:1, ...
    subject
        A primitive, as bias_act_grad, or an op with its gradients, as "op bias_act"; may be
        repeated. All of them if not given.
    dtype
        Of the data; may be repeated.
    """
    from pix2gan.ops import conformance

    dtypes = [_torch_dtype(name) for name in dict.fromkeys(dtype)]
    subjects = [_known(s, conformance.SUBJECTS, "--subject") for s in dict.fromkeys(subject)]
    failed = checked = False
    for name in _backends(backend, device):
        with _progress(f"Checking {name} on {device}") as progress:
            results = conformance.check(
                name, device, dtypes, subjects=subjects or None, progress=progress
            )
        failures = conformance.failures(results)
        failed = failed or bool(failures)
        checked = checked or any(r.status != "unsupported" for r in results)
        print(f"{name} on {device}\n{conformance.table(results)}")
        for failure in failures:
            print(f"FAILED {name} {conformance.line(failure)}")
        passed = sum(r.status == "passed" for r in results)
        print(f"{name} on {device}: {passed} passed, {len(failures)} failed\n", flush=True)
    if not checked:
        raise BackendError("Nothing was checked: no such backend supports what was asked for.")
    return SOME_FAILED if failed else ALL_PASSED


# -------------------------------------------------------------------------------------------- bench


@ops_app.command
def bench(
    *,
    backend: Annotated[tuple[str, ...], _Repeated] = (),
    device: str | None = None,
    op: Annotated[tuple[str, ...], _Repeated] = (),
    dtype: Annotated[tuple[Dtype, ...], _Repeated] = ("float32", "bfloat16"),
    layout: Annotated[tuple[Layout, ...], _Repeated] = ("contiguous",),
    compile: bool = True,
    seconds: float = 1.0,
    out: Path = Path("pix2gan-bench"),
) -> None:
    """Find out how fast backends are, beside stock PyTorch and what the device can do.

    Each op is timed forward and backward on shapes from generators, in turns with the reference,
    with the same mathematics in PyTorch operators, eager (stock) and through torch.compile
    (compiled), and with the vendor's plain convolution where there is one. Percentages are shares
    of the device's copy bandwidth, or of its matrix rate for convolutions. The machine should do
    nothing else meanwhile.

    Parameters
    ----------
    backend
        Which one; may be repeated. Every backend that runs on the device if not given.
    device
        cpu, cuda, cuda:1, ...; the GPU where there is one if not given.
    op
        bias_act, upfirdn2d, instance_norm_act or modulated_conv2d; may be repeated. All if not
        given.
    dtype
        Of the data; may be repeated.
    layout
        Memory format of the images; may be repeated.
    compile
        Time torch.compile too, which takes some seconds for each case to compile.
    seconds
        For each case, warm-up apart.
    out
        Folder for ops.json and ops.png.
    """
    from pix2gan.file_io import atomic_write
    from pix2gan.ops import bench as measuring
    from pix2gan.ops.bench_plot import draw
    from pix2gan.ops.workloads import OPS

    device = device or _fastest_device()
    ops = [_known(name, OPS, "--op") for name in dict.fromkeys(op)] or list(OPS)
    dtypes = [_torch_dtype(name) for name in dict.fromkeys(dtype)]
    backends = _backends(backend, device)
    out.mkdir(parents=True, exist_ok=True)
    measured: list[Measurement] = []
    cases = measuring.count(ops, dtypes, layout)
    with _progress(f"Timing on {device}") as progress:
        rates = measuring.device_rates(device, dtypes, seconds=seconds)
        for measurement in measuring.bench(
            backends,
            device,
            rates,
            ops=ops,
            dtypes=dtypes,
            layouts=layout,
            compiled=compile,
            seconds=seconds,
        ):
            measured.append(measurement)
            progress(len(measured), cases)
    result = measuring.report(measured, device, rates)
    with atomic_write(out / "ops.json", "w") as file:
        file.write(json_format.dumps(result, indent=1) + "\n")
    with atomic_write(out / "ops.png") as file:
        draw(result).save(file, "PNG")
    print(measuring.table(measured, device, rates))
    print(f"\n{out / 'ops.json'} has all the numbers, {out / 'ops.png'} draws them.")


def _fastest_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# ------------------------------------------------------------------------- what they have in common


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def _backends(names: Sequence[str], device: str) -> list[str]:
    """The backends named, or all that run on a device; an error where the device is not there."""
    import torch

    from pix2gan import ops

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from None
    if not _present(device):
        raise ConfigError(f"There is no device {device} here.")
    return list(dict.fromkeys(names)) or [s.name for s in ops.list_backends() if s.runs_on(kind)]


def _known(name: str, names: Sequence[str], option: str) -> str:
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"{option} {name!r} is unknown: {hint}known are {', '.join(names)}.")


class _Report(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def _progress(title: str) -> Iterator[_Report]:
    """A bar on a terminal; elsewhere a line on standard error for each tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    said = 0

    def report(done: int, total: int) -> None:
        nonlocal said
        if total and done * 10 // total > said:
            said = done * 10 // total
            print(f"{title}: {done} of {total}", file=sys.stderr, flush=True)

    yield report
