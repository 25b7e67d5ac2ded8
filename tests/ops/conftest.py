"""Backends for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pix2gan import ops


@pytest.fixture
def reference() -> Iterator[None]:
    """The reference backend, whatever else this machine has: the mathematics is tested on it."""
    with ops.use_backend("reference"):
        yield
