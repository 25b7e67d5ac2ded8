"""Which primitives some code calls, and which of them a backend has computed itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from pix2gan.ops import dispatch


class PrimitiveCalls(TorchDispatchMode):
    """A context manager that takes down the calls of primitives within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace == "pix2gan":
            self.calls.append((name, args))
        return func(*args, **(kwargs or {}))

    def taken_by(self, backend: str) -> list[str]:
        """The primitives that a backend computes itself on the arguments of every call."""
        return [name for name in self._names() if name not in self.left_by(backend)]

    def left_by(self, backend: str) -> list[str]:
        """The primitives that a backend leaves to another one in some call."""
        left = {name for name, args in self.calls if not dispatch.takes(backend, name, args)}
        return [name for name in self._names() if name in left]

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.calls))
