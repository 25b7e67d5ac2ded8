"""Backends for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pix2gan import ops
from pix2gan.ops import dispatch


@pytest.fixture
def reference() -> Iterator[None]:
    """The reference backend, whatever else this machine has: the mathematics is tested on it."""
    with ops.use_backend("reference"):
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
