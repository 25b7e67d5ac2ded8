"""Timing contestants fairly: warmed up, taking turns, median and quartiles.

Contestants that are timed one after the other each meet a different machine (clock, caches, other
processes). Here they take turns, in an order that rotates, so that a disturbance hits all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median and quartiles over ``repeats`` measurements."""

    ms: float
    ms_low: float
    ms_high: float
    repeats: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Timing:
        """The summary of measurements, in milliseconds."""
        if not milliseconds:
            raise ValueError("no measurements")
        ordered = sorted(milliseconds)
        low, median, high = (_quantile(ordered, share) for share in (0.25, 0.5, 0.75))
        return cls(median, low, high, len(ordered))


def time_interleaved(
    contestants: Mapping[str, Callable[[], object]],
    *,
    device: str | torch.device = "cpu",
    seconds: float = 2.0,
    min_repeats: int = 5,
    max_repeats: int = 1000,
    inner_ms: float = 5.0,
) -> dict[str, Timing]:
    """Time functions that do the same work, in turns.

    ``seconds`` is roughly the whole time, warm-up apart; rounds go on until it is spent or
    ``max_repeats`` is reached, and never end before ``min_repeats``. A measurement repeats a fast
    function until it takes about ``inner_ms``, so that neither the clock nor the launch of a GPU
    kernel is what is measured; the repetitions of a measurement are averaged.
    """
    device = torch.device(device)
    inner = {name: _warm_up(call, device, inner_ms) for name, call in contestants.items()}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    end = time.perf_counter() + seconds
    for repeat in range(max_repeats):
        if repeat >= min_repeats and time.perf_counter() >= end:
            break
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name].append(_measure(contestants[name], inner[name], device))
    return {name: Timing.of(milliseconds) for name, milliseconds in taken.items()}


def _warm_up(call: Callable[[], object], device: torch.device, inner_ms: float) -> int:
    """Call until caches, clocks and compilations have settled; return calls a measurement."""
    _measure(call, 1, device)
    once = min(_measure(call, 1, device) for _ in range(2))
    return max(1, math.ceil(inner_ms / max(once, 1e-4)))


def _measure(call: Callable[[], object], times: int, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    _synchronize(device)
    return (time.perf_counter() - start) * 1e3 / times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _quantile(ordered: list[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
