"""Timing: medians and quartiles, taking turns."""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np
import pytest

from pix2gan.ops.timing import Timing, time_interleaved


def test_a_timing_is_median_and_quartiles():
    values = [5.0, 1.0, 4.0, 2.0, 9.0, 7.0]
    timing = Timing.of(values)
    expected = np.quantile(values, [0.25, 0.5, 0.75])
    assert [timing.ms_low, timing.ms, timing.ms_high] == pytest.approx(expected.tolist())
    assert timing.repeats == 6
    assert Timing.of([3.0]) == Timing(3.0, 3.0, 3.0, 1)
    with pytest.raises(ValueError, match="no measurements"):
        Timing.of([])


def test_contestants_take_turns_and_each_begins_in_turn():
    calls: list[str] = []

    def contestant(name: str):
        def call() -> None:
            calls.append(name)
            time.sleep(0.002)

        return call

    timings = time_interleaved(
        {name: contestant(name) for name in "abc"}, seconds=0, min_repeats=3, inner_ms=0.001
    )
    warm_up, rounds = calls[:6], calls[6:]
    assert warm_up == [*"aabbcc"]
    assert rounds == [*"abcbcacab"]
    assert {timing.repeats for timing in timings.values()} == {3}
    assert all(timing.ms >= 2 for timing in timings.values())


def test_fast_functions_are_repeated_within_a_measurement():
    calls = 0

    def fast() -> None:
        nonlocal calls
        calls += 1

    timing = time_interleaved({"fast": fast}, seconds=0, min_repeats=5, inner_ms=1.0)["fast"]
    assert calls > 5 * 20
    assert 0 < timing.ms < 0.05


def test_how_often_a_function_is_repeated_does_not_depend_on_its_first_calls():
    calls = 0

    def slow_at_first() -> None:
        nonlocal calls
        calls += 1
        if calls <= 5:
            time.sleep(0.001)

    time_interleaved({"a": slow_at_first}, seconds=0, min_repeats=1, inner_ms=20.0)
    assert calls > 200


def test_a_function_that_takes_next_to_no_time_is_timed(monkeypatch):
    calls = 0

    def fast() -> None:
        nonlocal calls
        calls += 1

    # A machine on which a call takes 20 ns.
    monkeypatch.setattr(time, "perf_counter", lambda: calls * 20e-9)
    timing = time_interleaved({"a": fast}, seconds=0, min_repeats=1, inner_ms=0.1)["a"]
    assert timing.ms == pytest.approx(20e-6)
    assert calls > 0.05 / 20e-6


def test_time_and_repeats_are_bounded():
    start = time.perf_counter()
    timing = time_interleaved({"a": lambda: time.sleep(0.001)}, seconds=0.05, inner_ms=0.001)["a"]
    assert 5 <= timing.repeats <= 60
    assert time.perf_counter() - start < 5
    most = time_interleaved({"a": lambda: None}, seconds=9, max_repeats=3, inner_ms=0.001)["a"]
    assert most.repeats == 3


def test_what_is_entered_around_a_measurement():
    entered: list[str] = []

    @contextmanager
    def around():
        entered.append("in")
        yield
        entered.append("out")

    def call() -> None:
        assert entered[-1] == "in"

    contestants = {"a": call, "b": lambda: None}
    time_interleaved(contestants, seconds=0, min_repeats=2, inner_ms=0, within={"a": around})
    assert entered == ["in", "out"] * 4  # two to warm up


def test_cold_caches_are_for_gpus():
    with pytest.raises(ValueError, match="only CUDA devices"):
        time_interleaved({"a": lambda: None}, cold=True)
