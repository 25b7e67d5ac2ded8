"""A player of the game: its optimizer, and the gradients that it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from pix2gan.models.blocks import keep_rounded_weights
from pix2gan.ops.adam import adam_step
from pix2gan.training.config import TrainConfig
from pix2gan.training.distributed import SharedGradients, World
from pix2gan.training.ema import MovingAverage


class Player:
    """Adam on the parameters of one player's networks, whose moving averages follow each step.

    On a CPU in bfloat16, convolutions compute with rounded copies of their weights
    (``keep_rounded_weights``). A weight then takes its step in the midst of the backward pass, as
    soon as its gradient is known and while that is in the cache, and the gradient's memory is free
    for the next one.

    Args:
        networks: What the player owns.
        lr: The learning rate at a factor of 1.
        config: Of the run.
        world: The processes that train together.
        device: Where the networks are.
        averages: Some of the networks, each with its moving average.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        lr: float,
        config: TrainConfig,
        world: World,
        device: torch.device,
        averages: Sequence[tuple[nn.Module, MovingAverage]] = (),
    ) -> None:
        self.lr = lr
        self.betas, self.eps = (config.beta1, config.beta2), 1e-8
        self.averages = averages
        self.clip = config.clip_gradient
        self.accumulate = config.accumulate
        self.parameters = [p for network in networks for p in network.parameters()]
        self.parameters = [p for p in self.parameters if p.requires_grad]
        # As rows: of channels-last weights the fused Adam would copy each tensor there and back.
        self._rows = [_as_row(p.detach()) for p in self.parameters]
        self.optimizer = torch.optim.Adam(
            self._rows, lr=lr, betas=self.betas, eps=self.eps, fused=True
        )
        # Each player's own: one may overflow where another does not.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.shared = SharedGradients(networks, world, device)
        # Gradients of several batches or processes are summed up, which takes float32.
        self.rounds = (
            device.type == "cpu"
            and config.precision == "bf16"
            and config.accumulate == world.size == 1
            and not config.compile
        )
        copies: dict[nn.Parameter, Tensor] = {}
        if self.rounds:
            for network in networks:
                copies |= keep_rounded_weights(network)
        # What gradients are left in.
        self._leaves: list[Tensor] = [copies.get(p, p) for p in self.parameters]
        self._copies = [
            _as_row(copies[p].detach()) if p in copies else None for p in self.parameters
        ]
        trailing = {
            value: (_as_row(average), number)
            for number, (network, moving) in enumerate(averages)
            for value, average in zip(
                network.parameters(), moving.network.parameters(), strict=True
            )
        }
        self._trailing = [trailing.get(p, (None, -1)) for p in self.parameters]
        self._steps = [0] * len(self.parameters)  # of each, where its copy is rounded
        self._shares: list[float] = []  # how far each average moves in the step that is being taken
        self._stepped: set[Tensor] = set()  # the parameters that have taken it
        self._rate: float | None = None  # the learning rate in a backward pass that takes steps
        if self.rounds:
            for i, leaf in enumerate(self._leaves):
                leaf.register_post_accumulate_grad_hook(partial(_take_step, ref(self), i))

    def learn(self, loss: Tensor, factor: float, *, last: bool = True) -> None:
        """Add the gradient of one of ``accumulate`` batches; after the last of them take a step.

        Args:
            loss: A scalar.
            factor: On the learning rate of this step.
            last: Whether this is the last of the batches.
        """
        if self.rounds and self.clip == 0:
            self._begin()
            self._rate = self.lr * factor
        try:
            self.add_gradient(loss, last=last)
        finally:
            self._rate = None
        if last:
            self.update(factor)

    def add_gradient(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a batch, and take no step."""
        with nullcontext() if last else self.shared.not_yet():
            loss = self.shared.prepare(self.scaler.scale(loss / self.accumulate))
            # `inputs` keeps the gradient, and the work for it, out of the other players' networks.
            loss.backward(inputs=self._leaves)

    def update(self, factor: float) -> None:
        """Take a step at ``factor`` times the learning rate with the gradients that there are."""
        lr = self.lr * factor
        if self.rounds:
            self._begin()
            scale = self._clipping_scale() if self.clip > 0 else 1.0
            for i in range(len(self._leaves)):
                self._step(i, lr, scale)
            for (network, average), share in zip(self.averages, self._shares, strict=True):
                average.settle(network, share, self._stepped)
            self._shares, self._stepped = [], set()
            return
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for row, parameter in zip(self._rows, self.parameters, strict=True):
            if parameter.grad is not None:
                row.grad = _as_row(_in_layout_of(parameter, parameter.grad))
        if self.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._rows, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for row, parameter in zip(self._rows, self.parameters, strict=True):
            row.grad = parameter.grad = None
        for network, average in self.averages:
            average.update(network)

    def _begin(self) -> None:
        """The averages' part, once a step."""
        if not self._shares:
            self._shares = [average.advance() for _, average in self.averages]

    def _clipping_scale(self) -> float:
        """What brings the gradients' norm down to the largest that is allowed."""
        gradients = [leaf.grad for leaf in self._leaves if leaf.grad is not None]
        norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients]
        return min(1.0, self.clip / (float(torch.stack(norms).norm()) + 1e-6))

    def _step(self, i: int, lr: float, scale: float = 1.0) -> None:
        """Adam on one of the parameters, its rounded copy and average, if there is a gradient."""
        row, leaf = self._rows[i], self._leaves[i]
        gradient = leaf.grad
        if gradient is None:
            return
        leaf.grad = None
        state = self.optimizer.state[row]
        if not state:  # as in Adam's own first step
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(row)
            state["exp_avg_sq"] = torch.zeros_like(row)
        self._steps[i] += 1  # a tensor is counted up in 30 µs: `state_dict` writes it there
        average, number = self._trailing[i]
        adam_step(
            row,
            _as_row(_in_layout_of(leaf, gradient)),
            state["exp_avg"],
            state["exp_avg_sq"],
            self._copies[i],
            average,
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            step=self._steps[i],
            scale=scale,
            share=0.0 if average is None else self._shares[number],
        )
        self._stepped.add(self.parameters[i])

    def state_dict(self) -> dict[str, Any]:
        for row, steps in zip(self._rows, self._steps, strict=True):
            if steps:
                self.optimizer.state[row]["step"].fill_(steps)
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up ``state``, once the networks have taken up their weights."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.rounds:
            states = (self.optimizer.state.get(row, {}) for row in self._rows)
            self._steps = [int(of.get("step", 0)) for of in states]
        with torch.no_grad():
            for row, copy in zip(self._rows, self._copies, strict=True):
                if copy is not None:
                    copy.copy_(row)


def _take_step(player: ref[Player], i: int, leaf: Tensor) -> None:
    """What happens once the gradient of parameter ``i`` is complete."""
    self = player()
    if self is not None and self._rate is not None:
        self._step(i, self._rate)


def _in_layout_of(tensor: Tensor, gradient: Tensor) -> Tensor:
    if gradient.stride() == tensor.stride():
        return gradient
    return torch.empty_like(tensor).copy_(gradient)


def _as_row(tensor: Tensor) -> Tensor:
    """[numel], the elements in the order in which they lie in memory, which is shared."""
    return tensor.as_strided((tensor.numel(),), (1,))
