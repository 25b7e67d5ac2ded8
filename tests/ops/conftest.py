"""Backends for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pix2gan import ops
from pix2gan.ops import dispatch
from pix2gan.ops.backends import cpu

INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2", "baseline")


@pytest.fixture
def reference() -> Iterator[None]:
    """The reference backend, whatever else this machine has: the mathematics is tested on it."""
    with ops.use_backend("reference"):
        yield


@pytest.fixture
def native() -> Iterator[None]:
    """The native CPU backend, forced; skips where it cannot be built."""
    available, reason = cpu.is_available()
    if not available:
        pytest.skip(reason)
    with ops.use_backend("cpu,reference"):
        yield


@contextmanager
def _limited_to(instruction_set: str) -> Iterator[None]:
    """The native kernels of an instruction set; skips where the processor does not have it."""
    best = torch.ops.pix2gan_native.instruction_set()
    if not torch.ops.pix2gan_native.use_instruction_set(instruction_set):
        pytest.skip(f"this processor has no {instruction_set}")
    yield
    assert torch.ops.pix2gan_native.use_instruction_set(best)


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(native: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor has."""
    with _limited_to(request.param):
        yield request.param


@pytest.fixture(params=("reference", *INSTRUCTION_SETS))
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """The reference, and the native backend with each instruction set that this processor has."""
    if request.param == "reference":
        request.getfixturevalue("reference")
        yield
        return
    request.getfixturevalue("native")
    with ops.use_backend("cpu"), _limited_to(request.param):
        yield


@pytest.fixture
def register() -> Iterator[Callable[..., Any]]:
    """``register(name, target, **options)``: a backend that is forgotten behind the test."""
    names = []

    def register(name: str, target: Any, **options: Any) -> Any:
        ops.register_backend(name, target, **options)
        names.append(name)
        return target

    yield register
    for name in names:
        ops.unregister_backend(name)


def imitation(**changes: Any) -> SimpleNamespace:
    """A backend that computes as the reference does, but for ``changes``."""
    module = dispatch.load_backend("reference")
    members = {name: getattr(module, name) for name in dispatch.primitives()}
    members |= {"DEVICES": ("cpu",), "is_available": lambda: (True, "")}
    return SimpleNamespace(**{k: v for k, v in (members | changes).items() if v is not None})


@pytest.fixture
def recorded(register: Callable[..., Any]) -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """The primitives that are called, with their arguments, while a recording backend is forced."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def recording(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            calls.append((name, args))
            function(*args)

        return call

    module = imitation()
    for name in dispatch.primitives():
        setattr(module, name, recording(name, getattr(module, name)))
    register("recording", module)
    with ops.use_backend("recording"):
        yield calls
