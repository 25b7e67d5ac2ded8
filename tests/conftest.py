"""What every test can count on: one thread, fixed seeds, no network."""

from __future__ import annotations

import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

# Before torch is imported: its threads and those of the workers it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.pop("PIX2GAN_BACKEND", None)

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails; sockets on this machine are fine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        local = not isinstance(address, tuple) or address[0] in {"127.0.0.1", "::1", "localhost"}
        if not local:
            raise OSError(f"a test tried to reach {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def tmp_run(tmp_path: Path) -> Path:
    """Where a training run may go: a path that does not exist yet."""
    return tmp_path / "run"
