"""Timing contestants fairly: warmed up, taking turns, median and quartiles.

Contestants that are timed one after the other each meet a different machine (clock, caches, other
processes). Here they take turns, in an order that rotates, so that a disturbance hits all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

Call = Callable[[], object]


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
    contestants: Mapping[str, Call],
    *,
    device: str | torch.device = "cpu",
    seconds: float = 2.0,
    min_repeats: int = 5,
    max_repeats: int = 1000,
    inner_ms: float = 5.0,
    within: Mapping[str, Callable[[], AbstractContextManager[object]]] | None = None,
    cold: bool = False,
) -> dict[str, Timing]:
    """Time functions that do the same work, in turns.

    ``seconds`` is roughly the whole time, warm-up apart; rounds go on until it is spent or
    ``max_repeats`` is reached, and never end before ``min_repeats``. A measurement repeats a fast
    function until it takes about ``inner_ms``, so that neither the clock nor the launch of a GPU
    kernel is what is measured; the repetitions of a measurement are averaged. ``within`` makes, by
    contestant, what is entered around each of its measurements, outside of what is timed.

    ``cold``, for CUDA devices only: each call finds the second-level cache full of other data, and
    the time is the device's own, between two events. The device is kept busy until a call is
    queued, so that the time Python takes to launch it is not in it.
    """
    device = torch.device(device)
    if cold and device.type != "cuda":
        raise ValueError(f"only CUDA devices are timed with cold caches, not {device}")
    clocks = {
        name: (_ColdClock if cold else _WallClock)(
            call, device, inner_ms, (within or {}).get(name, nullcontext)
        )
        for name, call in contestants.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    end = time.perf_counter() + seconds
    for repeat in range(max_repeats):
        if repeat >= min_repeats and time.perf_counter() >= end:
            break
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name].append(clocks[name].measure())
    return {name: Timing.of(milliseconds) for name, milliseconds in taken.items()}


class _WallClock:
    """Milliseconds of a call on the wall clock, the device idle before and behind."""

    def __init__(
        self,
        call: Call,
        device: torch.device,
        inner_ms: float,
        within: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.call, self.device, self.within = call, device, within
        self.times = 1
        self.measure()  # until caches, clocks and compilations have settled
        # The first calls of a fast function are slow ones: how often it fits into a measurement
        # shows when it has been called nearly as often.
        while (once := self.measure()) * self.times < inner_ms / 2:
            self.times = min(10 * self.times, math.ceil(inner_ms / max(once, 1e-6)))

    def measure(self) -> float:
        with self.within():
            _synchronize(self.device)
            start = time.perf_counter()
            for _ in range(self.times):
                self.call()
            _synchronize(self.device)
            return (time.perf_counter() - start) * 1e3 / self.times


class _ColdClock:
    """Milliseconds of a call on a CUDA device, its second-level cache overwritten before each."""

    def __init__(
        self,
        call: Call,
        device: torch.device,
        inner_ms: float,
        within: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.call, self.device, self.within = call, device, within
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.other_data = torch.empty(max(2**28, 2 * cache), dtype=torch.int8, device=device)
        self.times = self.fills = 1
        self.measure()
        launch = min(self._queueing() for _ in range(3))
        with torch.cuda.device(device):
            fill = min(self._between_events(self.other_data.zero_) for _ in range(3))
        self.fills = 1 + math.ceil(launch / max(fill, 1e-3))
        once = min(self.measure() for _ in range(2))
        self.times = min(16, max(1, math.ceil(inner_ms / max(once, 1e-3))))

    def measure(self) -> float:
        with self.within(), torch.cuda.device(self.device):
            return sum(self._between_events(self.call) for _ in range(self.times)) / self.times

    def _between_events(self, call: Call) -> float:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        for _ in range(self.fills):
            self.other_data.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def _queueing(self) -> float:
        """Milliseconds until a call has been queued."""
        with self.within():
            _synchronize(self.device)
            start = time.perf_counter()
            self.call()
            taken = (time.perf_counter() - start) * 1e3
            _synchronize(self.device)
        return taken


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _quantile(ordered: list[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
