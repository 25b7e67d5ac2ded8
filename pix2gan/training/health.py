"""What goes wrong in adversarial training, noticed: divergence, flat outputs, collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pix2gan.errors import Pix2ganError
from pix2gan.training.methods import Translation

ROLLBACKS = 3  # then the run stops
SLOWER = 0.5  # what each rollback multiplies the learning rates by

_FLAT = 0.02  # standard deviation of an image's pixels, of a value range of 2
_ALIKE = 0.05  # distance between outputs, relative to that between their inputs
_BEATEN = 0.02  # a discriminator's loss below which it tells every image


class Diverged(Exception):
    """Losses or weights are no longer finite; ``what`` names them."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Recovery:
    """How often the run was rolled back, and how much slower it learns since."""

    def __init__(self) -> None:
        self.rollbacks = 0

    @property
    def factor(self) -> float:
        """On the learning rates."""
        return SLOWER**self.rollbacks

    def count(self, what: str, step: int, run: Any) -> None:
        """Another rollback, if there may be one.

        Raises:
            Pix2ganError: If there were enough.
        """
        if self.rollbacks == ROLLBACKS:
            raise Pix2ganError(
                f"Training diverged by step {step} ({what} not finite), also at "
                f"{self.factor:g} of the learning rate; the checkpoints in {run} are from before: "
                "train again with a lower --lr, with --clip-gradient 1 or with --precision fp32."
            )
        self.rollbacks += 1


def check_finite(losses: Mapping[str, float], networks: nn.Module | None = None) -> None:
    """Raise ``Diverged`` if a loss, or a weight of ``networks``, is NaN or infinite."""
    bad = [name for name, value in losses.items() if not _finite(value)]
    if bad:
        raise Diverged(", ".join(bad))
    if networks is not None:
        for name, network in networks.named_children():
            parameters = [p.detach() for p in network.parameters()]
            # A norm is finite if all weights are: one pass over memory, one number a tensor.
            norms = torch._foreach_norm(parameters) if parameters else ()
            if not all(torch.stack(norms).isfinite().tolist() if norms else ()):
                raise Diverged(f"the weights of the {name}")


class OutputWatch:
    """Warns once when outputs turn flat or all alike, and again only after they recovered."""

    def __init__(self) -> None:
        self._warned: dict[str, bool] = {}

    def look(self, name: str, made: Translation, losses: Mapping[str, float]) -> str | None:
        """A warning about what the model ``name`` made, with the likely cause; None if all is well.

        ``losses``, the newest averages, tell whether a discriminator has won.
        """
        trouble = _flat(made.output, made.real) or _alike(made.output, made.real, made.given)
        warned, self._warned[name] = self._warned.get(name, False), trouble is not None
        if trouble is None or warned:
            return None
        return f"{name}: {trouble[0]} Likely cause: {trouble[1] or _cause(losses)}"

    def state_dict(self) -> dict[str, bool]:
        return dict(self._warned)

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        self._warned = dict(state)


def _flat(output: Tensor, real: Tensor) -> tuple[str, str] | None:
    flat = int((_deviation(output) < _FLAT).sum())
    if 2 * flat <= len(output):
        return None
    what = f"{flat} of {len(output)} sample outputs are one flat colour."
    if 2 * int((_deviation(real) < _FLAT).sum()) > len(real):
        return what, "the real images are flat, too: look at the data."
    return what, ""


def _alike(output: Tensor, real: Tensor, given: Tensor) -> tuple[str, str] | None:
    if len(output) < 2:
        return None
    between = _distance(output)
    if between >= _ALIKE * min(_distance(real), _distance(given)):
        return None
    return (
        f"the {len(output)} sample outputs are all alike (mean distance {between:.2g}, of the real "
        f"images {_distance(real):.2g}): the generator has collapsed.",
        "",
    )


def _cause(losses: Mapping[str, float]) -> str:
    judged = [value for name, value in losses.items() if name.startswith("d_")]
    if judged and max(judged) < _BEATEN:
        return (
            "the discriminator tells every image (its losses are near 0): start again with a lower "
            "--lr-discriminator."
        )
    return "the learning rate is too high, or the training is young: look again, then lower --lr."


def _deviation(images: Tensor) -> Tensor:
    """The standard deviation of each image's pixels, averaged over channels: [N]."""
    return images.detach().float().flatten(2).std(2, correction=0).mean(1)


def _distance(images: Tensor) -> float:
    """The mean absolute difference between two of the images."""
    flat = images.detach().float().flatten(1)
    return (torch.cdist(flat, flat, p=1) / flat.shape[1]).sum().item() / (
        len(flat) * (len(flat) - 1)
    )


def _finite(value: float) -> bool:
    return value - value == 0.0
