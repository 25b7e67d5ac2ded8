"""Which backend computes a primitive, and how an op is registered with PyTorch.

An *op* is a function of ``torch.ops.pix2gan``, opaque to ``torch.compile``. Each one has a
*primitive* of the same name that a *backend* implements: the op allocates its outputs, ``select``
picks the backend, the backend fills the outputs. Because the choice is made while the op runs, and
not while it is traced, switching backends takes effect in code that is compiled already.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import logging
import os
import pkgutil
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch._C import (
    _get_tracing_state,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._autograd import _profiler_enabled
from torch._C._functorch import peek_interpreter_stack as _peek_interpreter_stack
from torch.compiler import is_dynamo_compiling

from pix2gan.errors import BackendError

ENTRY_POINT_GROUP = "pix2gan.backends"
ENVIRONMENT_VARIABLE = "PIX2GAN_BACKEND"

# The order in which backends are tried, by measured speed: (device type, primitive or "*" for all).
# Backends that are not named here (third parties') follow in the order of their registration, and
# the reference comes last.
PREFERENCE: dict[tuple[str, str], tuple[str, ...]] = {
    ("cpu", "*"): ("cpu",),
    ("cuda", "*"): ("triton", "cuda"),
}
LAST_RESORT = "reference"
ANY_DEVICE = "*"  # in a backend's DEVICES
_BUILT_IN = {"triton": ("cuda",), "cuda": ("cuda",), "cpu": ("cpu",), LAST_RESORT: None}

# FRAGMENT, so that a native library may define ops of its own in the namespace before or after us.
LIBRARY = torch.library.Library("pix2gan", "FRAGMENT")

logger = logging.getLogger("pix2gan.ops")


# ------------------------------------------------------------------------------ registration of ops

Allocate = Callable[..., "torch.Tensor | tuple[torch.Tensor, ...]"]
_allocators: dict[str, Allocate] = {}  # by primitive


def define(
    name: str,
    schema: str,
    allocate: Allocate,
    *,
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """Registers the op ``pix2gan::name`` and returns a function that calls it.

    ``schema`` is the part behind the name, as ``"(Tensor x, float gain) -> Tensor"``. ``allocate``
    takes the op's arguments and returns uninitialised outputs; it serves as the fake too, so that
    what is promised to the compiler and what a backend fills cannot differ. ``setup_context`` and
    ``backward`` are those of ``torch.library.register_autograd``; they call registered ops or ATen
    only, never a backend.

    What is returned calls the op, or straight what the op comes to where PyTorch has nothing to do
    in between.
    """

    def implementation(*args: Any) -> Any:
        outs = allocate(*args)
        filled = outs if isinstance(outs, tuple) else (outs,)
        device = args[0].device.type
        function = select(name, args, device)
        if torch.is_autocast_enabled(device):
            # The op has decided on dtypes already; autocast must not reach into a backend's ATen
            # calls.
            with torch.autocast(device, enabled=False):
                function(*args, *filled)
        else:
            function(*args, *filled)
        return outs

    qualified = f"pix2gan::{name}"
    LIBRARY.define(name + schema)
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, allocate, lib=LIBRARY)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=LIBRARY)
    _allocators[name] = allocate
    op: Callable[..., Any] = getattr(torch.ops.pix2gan, name).default

    def forward(ctx: Any, *args: Any) -> Any:
        outs = implementation(*args)
        setup_context(ctx, args, outs)
        return outs

    # What register_autograd makes of the same functions, without the dispatcher in between.
    eager: type[torch.autograd.Function] = type(
        f"pix2gan_{name}",
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )

    def call(*args: Any) -> Any:
        # PyTorch's dispatcher and what it calls take 10 µs, or 100 where a gradient is recorded, to
        # come to the same end where nobody but the implementation has anything to do.
        if not _is_plain(args):
            return op(*args)
        if torch.is_grad_enabled() and any(
            type(arg) in _PLAIN_TENSORS and arg.requires_grad for arg in args
        ):
            return eager.apply(*args)
        return implementation(*args)

    return call


def compute(primitive: str, args: Sequence[Any]) -> torch.Tensor | None:
    """The first output of a primitive on the CPU, straight from the backend, where nobody but it
    has anything to do; None where that is not so or where it refuses the arguments, which need not
    have been checked: whoever then goes on step by step finds what is wrong with them.

    The backend has a function ``new_<primitive>`` for it, which takes what the primitive takes,
    raises where it cannot compute that, allocates its output and returns it. It is an operator of
    PyTorch's: what a tensor's kind asks for, its dispatcher sees to.
    """
    # Behind a kernel that has emptied the caches each call of a Python function costs about a
    # microsecond, which is why there are so few.
    if (
        is_dynamo_compiling()  # first, as in _is_plain; who else compiles has a mode on a stack
        or torch.is_grad_enabled()
        or type(args[0]) not in _PLAIN_TENSORS
        or args[0].dtype == torch.float64  # which kernels leave to the reference
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or _peek_interpreter_stack() is not None
        or _get_tracing_state() is not None
        or _profiler_enabled()
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    try:
        forced = None
        if _forced or _environment_key in _environment:
            forced = forced_backend()
        candidates = _candidates.get((primitive, "cpu", forced))
        if candidates is None:
            candidates = _candidates_for(primitive, "cpu", forced)
        shortcut = candidates[0].shortcut
        return None if shortcut is None else shortcut(*args)
    except Exception:
        return None


def _is_plain(args: Sequence[Any]) -> bool:
    """Whether a call of an op does nothing but compute and record a gradient: nothing traces,
    transforms, profiles or intercepts it, and every tensor is a plain one."""
    if (
        torch.compiler.is_compiling()  # first: a compiler sees this function as well
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or _peek_interpreter_stack() is not None
        or _get_tracing_state() is not None
        or _profiler_enabled()
    ):
        return False
    for arg in args:
        if arg is None:
            continue
        kind = type(arg)
        if kind in _PLAIN_TENSORS:
            if arg.is_meta or arg.is_neg():
                return False
        elif kind not in _NO_TENSORS:
            return False
    return True


_NO_TENSORS = frozenset({bool, int, float, str})
_PLAIN_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})


def primitives() -> tuple[str, ...]:
    """The names of all primitives, in the order of their definition."""
    return tuple(_allocators)


def allocate(primitive: str, *args: Any) -> tuple[torch.Tensor, ...]:
    """Uninitialised outputs of a primitive for its inputs: their shapes, dtypes and strides."""
    outs = _allocators[primitive](*args)
    return outs if isinstance(outs, tuple) else (outs,)


# ------------------------------------------------------------------------- registration of backends


@dataclass
class _Backend:
    """One registered backend; its module is imported when it is first asked for."""

    name: str
    target: Any  # a module (or anything with the attributes of one) or its import path
    devices_hint: tuple[str, ...] | None  # lets automatic selection skip it without importing it
    module: Any = None
    unavailable: str | None = None  # the reason, once known
    loaded: bool = False
    announced: set[str] = field(default_factory=set)

    def load(self) -> None:
        """Imports the module and asks whether it can run; never raises."""
        if self.loaded:
            return
        try:
            module = (
                pkgutil.resolve_name(self.target) if isinstance(self.target, str) else self.target
            )
            available, reason = module.is_available()
            self.module = module
            self.unavailable = None if available else (reason or "it gave no reason")
        except Exception as error:  # a backend that fails in any way is one that is not there
            self.unavailable = f"{type(error).__name__}: {error}"
        self.loaded = True

    def devices(self) -> tuple[str, ...]:
        if self.module is not None:
            return tuple(self.module.DEVICES)
        return self.devices_hint or ()

    def runs_on(self, device: str) -> bool:
        return bool({device, ANY_DEVICE}.intersection(self.devices()))

    def announce(self, topic: str, level: int, message: str) -> None:
        if topic not in self.announced:
            self.announced.add(topic)
            logger.log(level, message)


@dataclass(frozen=True)
class _Candidate:
    backend: _Backend
    function: Callable[..., None]
    shortcut: Callable[..., torch.Tensor] | None
    supports: Callable[..., bool] | None


_registered: dict[str, _Backend] = {}
_candidates: dict[tuple[str, str, str | None], tuple[_Candidate, ...]] = {}
_entry_points_read = False


def register_backend(
    name: str, target: Any, *, devices: Sequence[str] | None = None, replace: bool = False
) -> None:
    """Makes a backend known under ``name``.

    ``target`` is a module or its import path (``"package.module"``, imported at first use). The
    module has ``DEVICES`` (a tuple of device types, or ``("*",)`` for any), ``is_available() ->
    (bool, reason)``, optionally ``supports(primitive, *args) -> bool``, and functions named after
    primitives. ``devices`` tells the device types without an import. A name that is taken is a
    ``ValueError`` unless ``replace`` is set.
    """
    if name in _registered and not replace:
        raise ValueError(
            f"a backend named {name!r} is registered already; pass replace=True to replace it"
        )
    if not name or "," in name:
        raise ValueError(f"a backend's name is not empty and has no comma: {name!r}")
    _registered[name] = _Backend(name, target, tuple(devices) if devices is not None else None)
    _candidates.clear()


def unregister_backend(name: str) -> None:
    """Forgets a backend; an unknown name is a ``KeyError``."""
    del _registered[name]
    _candidates.clear()


def _read_entry_points() -> None:
    """Registers the backends that installed packages declare; once, at the first selection."""
    global _entry_points_read
    if _entry_points_read:
        return
    _entry_points_read = True
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in _registered:
            logger.warning(
                "pix2gan: the entry point %s = %s is ignored, a backend has that name already.",
                entry.name,
                entry.value,
            )
        else:
            register_backend(entry.name, entry.value)


def _backend(name: str) -> _Backend:
    """The backend of that name, loaded; ``BackendError`` where there is none."""
    _read_entry_points()
    if name not in _registered:
        close = difflib.get_close_matches(name, _registered, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise BackendError(
            f"There is no backend named {name!r}: {hint}known are {', '.join(sorted(_registered))}."
        )
    backend = _registered[name]
    backend.load()
    return backend


def load_backend(name: str) -> Any:
    """The module of the backend of that name; ``BackendError`` with the reason where it cannot
    run."""
    backend = _backend(name)
    if backend.unavailable is not None:
        raise BackendError(f"The backend {name!r} is not available: {backend.unavailable}")
    return backend.module


def takes(backend: str, primitive: str, args: Sequence[Any]) -> bool:
    """Whether a backend computes a primitive on these arguments itself; ``BackendError`` where it
    is unknown or cannot run."""
    module = load_backend(backend)
    if not hasattr(module, primitive):
        return False
    supports = getattr(module, "supports", None)
    return supports is None or bool(supports(primitive, *args))


# ---------------------------------------------------------------------------------------- selection

# A plain global: the threads in which autograd runs backward see no ContextVar.
_forced: str | None = None

# os.environ tells by an exception that a variable is not set, which costs more than all the rest of
# a selection; the dictionary in it (where Python has one) does not.
_environment: Container[Any] = getattr(os.environ, "_data", os.environ)
_environment_key: Any = (
    ENVIRONMENT_VARIABLE
    if _environment is os.environ
    else os.environ.encodekey(ENVIRONMENT_VARIABLE)
)


def forced_backend() -> str | None:
    """What ``use_backend`` or ``PIX2GAN_BACKEND`` forces; None where the choice is automatic."""
    if _forced or _environment_key not in _environment:
        return _forced or None
    return os.environ.get(ENVIRONMENT_VARIABLE) or None


class use_backend:
    """Forces one backend, from now on or, as a context manager, for a block.

    ``use_backend("reference")``; a list such as ``"mine,reference"`` is tried in that order;
    ``None`` returns to the automatic choice (or to ``PIX2GAN_BACKEND``). A backend that is unknown
    or cannot run raises ``BackendError`` at once; one that lacks a primitive or a dtype raises it
    when that is called.
    """

    def __init__(self, name: str | None) -> None:
        global _forced
        for part in _split(name):
            load_backend(part)
        self._previous = _forced
        _forced = name

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _forced
        _forced = self._previous


def _split(names: str | None) -> list[str]:
    return [part.strip() for part in names.split(",")] if names else []


def select(primitive: str, args: Sequence[Any], device: str | None = None) -> Callable[..., None]:
    """The function that is to compute ``primitive`` on ``args`` (``args[0]`` is a tensor, on that
    type of device).

    Raises ``BackendError`` where a forced backend cannot do it, with the reason.
    """
    device = device or args[0].device.type
    forced = forced_backend()
    candidates = _candidates_for(primitive, device, forced)
    for candidate in candidates:
        if candidate.supports is None or candidate.supports(primitive, *args):
            return candidate.function
        if forced is None:
            candidate.backend.announce(
                f"{primitive} {args[0].dtype}",
                logging.INFO,
                f"pix2gan: the backend {candidate.backend.name!r} does not take this {primitive} "
                f"({args[0].dtype} on {device}); the next one does it.",
            )
    by = f"The backend {forced!r} does" if forced else "No backend does"
    dtypes = sorted(
        {str(a.dtype).removeprefix("torch.") for a in args if isinstance(a, torch.Tensor)}
    )
    settings = [a for a in args if not isinstance(a, torch.Tensor)]
    raise BackendError(
        f"{by} not support {primitive} of {', '.join(dtypes)} on {device} with {settings}; "
        f"choose another one by use_backend() or {ENVIRONMENT_VARIABLE}."
        if forced
        else f"{by} {primitive} of {', '.join(dtypes)} on {device} with {settings}."
    )


def _candidates_for(primitive: str, device: str, forced: str | None) -> tuple[_Candidate, ...]:
    """What ``_resolve`` has found, the first time that it was asked for."""
    key = (primitive, device, forced)
    candidates = _candidates.get(key)
    if candidates is None:
        candidates = _candidates[key] = _resolve(primitive, device, forced)
    return candidates


def _resolve(primitive: str, device: str, forced: str | None) -> tuple[_Candidate, ...]:
    """The backends that may compute a primitive on a device type, best first."""
    found = []
    for name in _split(forced) if forced else _order(primitive, device):
        backend = _backend(name)
        problem = backend.unavailable
        if problem is None and not backend.runs_on(device):
            problem = f"it runs on {', '.join(backend.devices())}, the tensors are on {device}"
            if forced is None:
                continue
        if problem is None:
            function = getattr(backend.module, primitive, None)
            if function is not None:
                shortcut = getattr(backend.module, f"new_{primitive}", None)
                supports = getattr(backend.module, "supports", None)
                found.append(_Candidate(backend, function, shortcut, supports))
                continue
            problem = f"it does not implement {primitive}"
            level = logging.INFO
        else:
            level = logging.WARNING
        if forced and "," not in forced:
            raise BackendError(
                f"The backend {name!r} cannot be used: {problem}; "
                f"'{name},{LAST_RESORT}' goes on with the reference where it must."
            )
        backend.announce(problem, level, f"pix2gan: the backend {name!r} is passed over: {problem}")
    if not found:
        raise BackendError(
            f"No backend computes {primitive} on {device} (asked for: {forced or 'any'})."
        )
    return tuple(found)


def _order(primitive: str, device: str) -> list[str]:
    _read_entry_points()
    preferred = PREFERENCE.get((device, primitive)) or PREFERENCE.get((device, "*"), ())
    names = [name for name in preferred if name in _registered]
    names += [name for name in _registered if name not in {*names, *_BUILT_IN}]
    if LAST_RESORT in _registered:
        names.append(LAST_RESORT)
    return [
        name
        for name in dict.fromkeys(names)
        if _registered[name].devices_hint is None
        or device in (_registered[name].devices_hint or ())
    ]


# ---------------------------------------------------------------------------------------- reporting


@dataclass(frozen=True)
class BackendStatus:
    """What is known of a backend on this machine."""

    name: str
    devices: tuple[str, ...]  # "*" is any
    available: bool
    reason: str  # why not, or empty
    primitives: tuple[str, ...]

    def runs_on(self, device: str) -> bool:
        """Whether it is available for that type of device."""
        return self.available and bool({device, ANY_DEVICE}.intersection(self.devices))


def list_backends() -> list[BackendStatus]:
    """Every registered backend, imported and asked whether it can run here."""
    _read_entry_points()
    statuses = []
    for name in list(_registered):
        backend = _backend(name)
        statuses.append(
            BackendStatus(
                name,
                backend.devices(),
                backend.unavailable is None,
                backend.unavailable or "",
                tuple(p for p in _allocators if hasattr(backend.module, p)),
            )
        )
    return statuses


@dataclass(frozen=True)
class Verdict:
    """What a backend is to a primitive on a device."""

    primitive: str
    device: str
    backend: str
    available: bool
    chosen: bool  # it is the one that computes, as things stand
    reason: str  # why it is not available, or empty


def explain(primitive: str, device: str, args: Sequence[Any] | None) -> list[Verdict]:
    """Of every registered backend, in the order in which they are asked, whether it computes a
    primitive on ``args``, which are on that type of device, and if not, why.

    ``args`` is None for a device that is not there: then nothing is chosen. A backend that is
    forced, by ``use_backend`` or the environment, is the only one that can be chosen.
    """
    taken = _chosen(primitive, args) if args is not None else None
    names = dict.fromkeys([*_order(primitive, device), *_registered])
    verdicts = []
    for name in names:
        reason = _why_not(_backend(name), primitive, device, args)
        verdicts.append(Verdict(primitive, device, name, not reason, name == taken, reason))
    return verdicts


def _chosen(primitive: str, args: Sequence[Any]) -> str | None:
    """The name of the backend whose function ``select`` returns; None where it raises."""
    try:
        for candidate in _resolve(primitive, args[0].device.type, forced_backend()):
            if takes(candidate.backend.name, primitive, args):
                return candidate.backend.name
    except BackendError:
        pass
    return None


def _why_not(backend: _Backend, primitive: str, device: str, args: Sequence[Any] | None) -> str:
    if backend.unavailable is not None:
        return backend.unavailable
    if not backend.runs_on(device):
        return f"it runs on {', '.join(backend.devices())}"
    if not hasattr(backend.module, primitive):
        return "it does not implement this"
    if args is None:
        return f"there is no device {device} here"
    if not takes(backend.name, primitive, args):
        return f"it does not take {str(args[0].dtype).removeprefix('torch.')} for this"
    return ""


def _register_built_in() -> None:
    """The package's own backends, in so far as their modules are there."""
    package = f"{__package__}.backends"
    for name, devices in _BUILT_IN.items():
        path = f"{package}.{name}"
        if importlib.util.find_spec(path) is not None:
            register_backend(name, path, devices=devices)


_register_built_in()
