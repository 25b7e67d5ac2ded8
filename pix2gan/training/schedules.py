"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no state."""

from __future__ import annotations


def constant_then_linear(done: int, total: int, decay_start: float = 0.5) -> float:
    """Factor on the learning rate after ``done`` of ``total`` steps (pix2pix, Isola et al. 2017).

    1 for the first ``decay_start`` of the steps, then on a straight line to 0, which it reaches at
    ``total``, one step after the last.
    """
    start = decay_start * total
    if done <= start:
        return 1.0
    return max(0.0, (total - done) / (total - start))
