"""What holds for every method: it resumes exactly, and takes every generator of the package."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch

from pix2gan.models import list_models
from pix2gan.training import train
from pix2gan.training.methods import find_method, list_methods
from tests.training.run_state import assert_same, final_state

METHODS = list_methods()
# So small that all of them with all methods take seconds.
SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"num_blocks": 1},
    "unet": {"num_downs": 3},
    "modulated_resnet": {"num_blocks": 1},
    "modulated_unet": {"num_downs": 3},
    "pix2pixhd": {"num_blocks": 1, "num_downs": 2},
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_resuming_is_exact(
    tiny, monkeypatch: pytest.MonkeyPatch, method: str, workers: int
) -> None:
    whole = train(tiny("whole", method=method, workers=0))
    kind = find_method(method)
    original, calls = kind.step, iter(range(1, 100))

    def step(self: Any, batch: Any) -> Any:
        updates = original(self, batch)
        yield next(updates)
        if next(calls) == 7:
            signal.raise_signal(signal.SIGTERM)
        yield from updates

    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", step)
        with pytest.raises(SystemExit):
            train(tiny(method=method, workers=workers))
    run = tiny(method=method).out
    assert final_state(run)["step"] == 7
    train(tiny(method=method, workers=workers, resume=True))
    assert_same(final_state(run), final_state(whole))


@pytest.mark.parametrize("generator", list_models())
@pytest.mark.parametrize("method", METHODS)
def test_every_generator_with_every_method(tiny, method: str, generator: str) -> None:
    name = next(name for name in sorted(SMALL, reverse=True) if generator.startswith(name))
    options = {"num_blocks": None, "dropout": False, **SMALL[name]}
    config = tiny(method=method, generator=generator, **options)
    made = find_method(method)(config)
    batch = {side: torch.rand(2, 3, 16, 16) * 2 - 1 for side in "AB"}
    weights = dict(made.networks.named_parameters())
    updates = made.step(batch)
    for _ in made.players:
        with torch.autocast("cpu", torch.bfloat16):
            update = next(updates)
        networks = [made.networks[network] for network in made.players[update.player]]
        trained = [p for network in networks for p in network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(update.loss, trained, retain_graph=True, allow_unused=True)
        found = {
            id(p) for p, gradient in zip(trained, gradients, strict=True) if gradient is not None
        }
        missing = {name for name, p in weights.items() if id(p) in {*map(id, trained)} - found}
        assert torch.isfinite(update.loss)
        assert missing == set()
    generators = {name: made.networks[name].eval() for name in made.models.values()}
    for column in made.sample(batch, generators):
        assert column.shape == (2, 3, 16, 16)
