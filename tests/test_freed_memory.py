"""Freed memory goes back to the system."""

from __future__ import annotations

import sys

import pytest
import torch

from pix2gan import freed_memory as memory
from pix2gan.freed_memory import FreedMemory

MEGABYTE = 2**20


@pytest.mark.skipif(memory._malloc_trim() is None, reason="the C library is not glibc")
def test_what_the_c_library_keeps_goes_back_to_the_system() -> None:
    freed = FreedMemory()
    freed.give_back()
    before = memory._resident()
    # Blocks of the heap, not mappings of their own; the last of them holds the heap's end.
    blocks = [torch.ones(16_000) for _ in range(5_000)]
    kept = blocks.pop()
    del blocks
    if memory._resident() < before + 280 * MEGABYTE:
        pytest.skip("this C library keeps nothing")
    freed.give_back()
    assert memory._resident() < before + 60 * MEGABYTE
    assert kept.sum() == len(kept)


def test_it_acts_only_when_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, trims = [500 * MEGABYTE], []
    monkeypatch.setattr(memory, "_resident", lambda: resident[0])
    monkeypatch.setattr(memory, "_malloc_trim", lambda: trims.append)
    freed = FreedMemory()
    for now, acted in [(500, 1), (600, 1), (756, 1), (757, 2), (757, 2), (1013, 2), (1014, 3)]:
        resident[0] = now * MEGABYTE
        freed.give_back()
        assert len(trims) == acted


def test_what_is_taken_again_at_once_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, trims = [0], []

    def trim(_: int) -> None:
        trims.append(resident[0] // MEGABYTE)
        resident[0] = 100 * MEGABYTE

    monkeypatch.setattr(memory, "_resident", lambda: resident[0])
    monkeypatch.setattr(memory, "_malloc_trim", lambda: trim)
    freed = FreedMemory(settling=2)
    for now in (700, 300, 700, 800, 956, 957, 700, 700, 956):
        resident[0] = now * MEGABYTE
        freed.give_back()
    assert trims == [700, 957]


def test_other_systems_have_nothing_to_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    FreedMemory().give_back()
