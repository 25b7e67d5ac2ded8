"""Learning-rate schedules: factors on the learning rate.

All but ``plateau`` are pure functions of the step, so that a resumed run needs no state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pix2gan.training.config import TrainConfig


def learning_rate_factor(config: TrainConfig, done: int, total: int) -> float:
    """The factor after ``done`` of ``total`` steps, without that of a plateau."""
    if config.schedule == "linear":
        return constant_then_linear(done, total, config.decay_start)
    if config.schedule == "cosine":
        return constant_then_cosine(done, total, config.decay_start)
    if config.schedule == "step":
        return in_steps(done, total, config.decay_every, config.decay_factor)
    return 1.0


def constant_then_linear(done: int, total: int, decay_start: float = 0.5) -> float:
    """1, then on a straight line to 0 (pix2pix, Isola et al. 2017).

    1 for the first ``decay_start`` of the steps, then on a straight line to 0, which it reaches at
    ``total``, one step after the last.
    """
    return 1.0 - _fallen(done, total, decay_start)


def constant_then_cosine(done: int, total: int, decay_start: float = 0.0) -> float:
    """The same on half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * _fallen(done, total, decay_start)))


def in_steps(done: int, total: int, every: float, factor: float) -> float:
    """``factor`` once for each ``every`` (a fraction of the training) that is over."""
    # Rounded, or the step at which 0.3 of 10 steps are over would depend on the last bit of 0.3.
    return factor ** math.floor(round(done / (every * total), 9))


class Plateau:
    """A factor that drops when ``patience`` evaluations in a row brought no improvement."""

    def __init__(self, factor: float, patience: int) -> None:
        self.drop = factor
        self.patience = patience
        self.factor = 1.0
        self.best = math.inf
        self.waited = 0

    def update(self, score: float) -> None:
        """An evaluation gave ``score``; lower is better."""
        if score < self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.factor, self.waited = self.factor * self.drop, 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.factor, self.best, self.waited = state["factor"], state["best"], state["waited"]


def _fallen(done: int, total: int, start: float) -> float:
    """How much of the part after ``start`` (a fraction of the training) is over: 0 to 1."""
    first = start * total
    return 0.0 if done <= first else min(1.0, (done - first) / (total - first))
