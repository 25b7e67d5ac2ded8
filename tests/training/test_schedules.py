"""Learning rates over the course of a run."""

from __future__ import annotations

import pytest

from pix2gan.training.method_options import Pix2PixConfig
from pix2gan.training.schedules import (
    Plateau,
    constant_then_cosine,
    constant_then_linear,
    in_steps,
    learning_rate_factor,
)


def test_constant_then_cosine() -> None:
    assert [constant_then_cosine(done, 4) for done in range(5)] == pytest.approx(
        [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0]
    )
    assert [constant_then_cosine(done, 4, 0.5) for done in range(5)] == pytest.approx(
        [1, 1, 1, 0.5, 0]
    )
    assert constant_then_cosine(3, 3, decay_start=1.0) == 1


def test_in_steps() -> None:
    assert [in_steps(done, 8, 0.25, 0.1) for done in range(8)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    # 3 of 10 steps are 0.3 of them, though 0.3 * 10 is not quite 3 in binary
    assert [in_steps(done, 10, 0.3, 0.5) for done in (2, 3, 5, 6, 9)] == [1, 0.5, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("schedule", "expected"), [("linear", 0.5), ("cosine", 0.5), ("step", 0.01), ("plateau", 1.0)]
)
def test_each_schedule_is_found(schedule: str, expected: float) -> None:
    config = Pix2PixConfig("data", out="run", schedule=schedule, holdout=0.1)  # type: ignore[arg-type]
    assert learning_rate_factor(config, 6, 8) == pytest.approx(
        0.001 if schedule == "step" else expected
    )
    assert learning_rate_factor(config, 0, 8) == 1
    assert constant_then_linear(6, 8) == 0.5


def test_plateau_waits_and_its_state_goes_on() -> None:
    scores = [5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0]
    expected = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    plateau, factors = Plateau(0.5, patience=2), []
    for score in scores:
        resumed = Plateau(0.5, patience=2)
        resumed.load_state_dict(plateau.state_dict())
        plateau = resumed
        plateau.update(score)
        factors.append(plateau.factor)
    assert factors == expected
