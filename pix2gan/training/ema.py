"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn


class MovingAverage:
    """A copy of ``network`` whose parameters trail behind it; what is sampled from and saved.

    After update number t its parameters are ``d * own + (1 - d) * network's`` with
    d = min(decay, (1 + t) / (10 + t)), so that a short run does not average in its random start.
    Buffers (running statistics) are copied. The copy is in eval mode and takes no gradient.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    def update(self, network: nn.Module) -> None:
        """Move towards ``network``, which has just been trained for a step."""
        self.settle(network, self.advance())

    def advance(self) -> float:
        """Count an update; returns how far the parameters move towards the network's in it."""
        self.updates += 1
        return 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def settle(self, network: nn.Module, share: float, moved: Collection[Tensor] = ()) -> None:
        """The rest of an update in which those of the network's parameters that are in ``moved``
        have had their averages moved already."""
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(self.network.parameters(), network.parameters(), strict=True):
            if value not in moved:
                averages.append(average)
                values.append(value)
        if averages:
            torch._foreach_lerp_(averages, values, share)
        for buffer, newest in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(newest)

    def state_dict(self) -> dict[str, object]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.network.load_state_dict(state["network"])  # type: ignore[arg-type]
        self.updates = int(state["updates"])  # type: ignore[call-overload]
