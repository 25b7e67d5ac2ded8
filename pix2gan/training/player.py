"""A player of the game: its optimizer, and the gradients that it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pix2gan.training.config import TrainConfig
from pix2gan.training.distributed import SharedGradients, World


class Player:
    """Adam on the parameters of one player's networks."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        lr: float,
        config: TrainConfig,
        world: World,
        device: torch.device,
    ) -> None:
        self.lr = lr
        self.clip = config.clip_gradient
        self.accumulate = config.accumulate
        self.parameters = [p for network in networks for p in network.parameters()]
        self.parameters = [p for p in self.parameters if p.requires_grad]
        # As rows: of channels-last weights the fused Adam would copy each tensor there and back.
        self._rows = [_as_row(p.detach()) for p in self.parameters]
        self.optimizer = torch.optim.Adam(
            self._rows, lr=lr, betas=(config.beta1, config.beta2), fused=True
        )
        # Each player's own: one may overflow where another does not.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.shared = SharedGradients(networks, world, device)

    def add_gradient(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of one of ``accumulate`` batches, of which this is the last or not."""
        with nullcontext() if last else self.shared.not_yet():
            loss = self.shared.prepare(self.scaler.scale(loss / self.accumulate))
            # `inputs` keeps the gradient, and the work for it, out of the other players' networks.
            loss.backward(inputs=self.parameters)

    def update(self, factor: float) -> None:
        """Take a step at ``factor`` times the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        for row, parameter in zip(self._rows, self.parameters, strict=True):
            if parameter.grad is not None:
                if parameter.grad.stride() != parameter.stride():
                    parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
                row.grad = _as_row(parameter.grad)
        if self.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for row, parameter in zip(self._rows, self.parameters, strict=True):
            row.grad = parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _as_row(tensor: Tensor) -> Tensor:
    """[numel], the elements in the order in which they lie in memory, which is shared."""
    return tensor.as_strided((tensor.numel(),), (1,))
