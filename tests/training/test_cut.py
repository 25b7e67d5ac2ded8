"""CUT and FastCUT against the same algorithm written out by hand, pass by pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pix2gan.errors import ConfigError
from pix2gan.models import create_generator
from pix2gan.training import CUTConfig, FastCUTConfig, Trainer, train
from pix2gan.training.methods.cut import CUT
from pix2gan.training.metrics import read_metrics
from pix2gan.training.patch_nce import PatchProjections, draw_places, patch_nce_loss

SHAPE = (2, 3, 16, 16)


def batch(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {side: torch.rand(SHAPE, generator=random) * 2 - 1 for side in "AB"}


def contrast(query: torch.Tensor, keys: torch.Tensor, own: int, temperature: float) -> float:
    """Equation 3: the cross entropy of one patch [D] among those of its image [P, D]."""
    similarities = [float(query @ key) / temperature for key in keys]
    return torch.logsumexp(torch.tensor(similarities), 0).item() - similarities[own]


class Textbook:
    """Park et al. 2020, section 3, with a pass for every image that the text names."""

    def __init__(self, method: CUT, lr: float) -> None:
        self.networks, self.config = copy.deepcopy(method.networks), method.config
        self.g, self.d = self.networks["generator"], self.networks["discriminator"]
        self.heads, self.stages = self.networks["projections"].stages, method.stages
        self.g_optimizer = torch.optim.SGD([*self.g.parameters(), *self.heads.parameters()], lr)
        self.d_optimizer = torch.optim.SGD(self.d.parameters(), lr)
        self.random = torch.Generator().manual_seed(self.config.seed)  # of the mirroring

    def step(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        config = self.config
        mirror = config.flip_equivariance and torch.rand((), generator=self.random).item() < 0.5
        shown = [x.flip(3) for x in (a, b)] if mirror else [a, b]
        fake, same = self.g(shown[0]), self.g(shown[1])
        (real,), (made,) = self.d(b), self.d(fake.detach())
        d_real, d_fake = ((real - 1) ** 2).mean(), (made**2).mean()
        self.d_optimizer.zero_grad()
        ((d_real + d_fake) / 2).backward()
        self.d_optimizer.step()

        g_gan = ((self.d(fake)[0] - 1) ** 2).mean()
        losses = {"d_real": d_real, "d_fake": d_fake, "g_gan": g_gan}
        losses["nce"] = nce = self.nce(a, fake, mirror)
        if config.nce_identity:
            losses["nce_identity"] = self.nce(b, same, mirror)
            nce = (nce + losses["nce_identity"]) / 2
        self.g_optimizer.zero_grad()
        (g_gan + config.lambda_nce * nce).backward()
        self.g_optimizer.step()
        return {name: value.item() for name, value in losses.items()}

    def nce(self, source: torch.Tensor, output: torch.Tensor, mirrored: bool) -> torch.Tensor:
        total = torch.zeros(())
        places = [torch.randperm(f[0, 0].numel()) for f in self.g.features(source, self.stages)]
        for stage, head, order in zip(self.stages, self.heads, places, strict=True):
            (q,), (k,) = self.g.features(output, [stage]), self.g.features(source, [stage])
            q = q.flip(3) if mirrored else q
            order = order[: self.config.nce_patches]
            for one, other in zip(q, k, strict=True):  # image by image
                ours = F.normalize(head(one.flatten(1).T[order]), dim=1)
                theirs = F.normalize(head(other.flatten(1).T[order]), dim=1).detach()
                positive = (ours * theirs).sum(1, keepdim=True)
                negative = ours @ theirs.T
                negative.fill_diagonal_(-torch.inf)
                logits = torch.cat([positive, negative], 1) / self.config.nce_temperature
                total = total + F.cross_entropy(logits, torch.zeros(len(order), dtype=torch.long))
        return total / (len(self.stages) * len(source))


@pytest.mark.parametrize(
    "options",
    [
        {"method": "cut", "nce_patches": 10},
        {"method": "cut", "nce_identity": False, "nce_layers": "1,2", "lambda_nce": 3.0},
        {"method": "fastcut"},
        {"method": "cut", "norm": "batch", "flip_equivariance": True, "nce_temperature": 0.3},
    ],
    ids=["cut", "other options", "fastcut", "batch norm, mirrored"],
)
def test_steps_are_the_papers(tiny, options: dict[str, Any]) -> None:
    trainer = Trainer(tiny(dropout=False, precision="fp32", **options))
    textbook = Textbook(trainer.method, lr=1e-3)
    for player in trainer.players.values():
        # Adam's first steps have the size of the learning rate even where a gradient is noise.
        player.optimizer = torch.optim.SGD(player.parameters, 1e-3)
        player.lr = 1e-3
    for step in range(3):  # of these seeds the second mirrors
        torch.manual_seed(step + 2)
        expected = textbook.step(**{k.lower(): v for k, v in batch(step).items()})
        torch.manual_seed(step + 2)
        trainer.train_step([batch(step)])
        assert trainer.metrics.take() == pytest.approx(expected, rel=1e-4)
    ours = dict(trainer.method.networks.named_parameters())
    for name, value in textbook.networks.named_parameters():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_defaults_are_the_papers(tiny) -> None:
    cut, fast = CUTConfig("heaps", out="run"), FastCUTConfig("heaps", out="run")
    assert (cut.generator, cut.lr, cut.batch, cut.gan_loss) == ("resnet9", 2e-4, 1, "lsgan")
    assert (cut.lambda_nce, cut.nce_identity, cut.flip_equivariance) == (1.0, True, False)
    assert (fast.lambda_nce, fast.nce_identity, fast.flip_equivariance) == (10.0, False, True)
    assert (cut.nce_patches, cut.nce_temperature) == (256, 0.07)
    assert (cut.total_steps(10), fast.total_steps(10)) == (4000, 2000)
    nine = create_generator("resnet9", width=2, downsampling="blur", upsampling="blur")
    assert nine.contrastive_stages == (0, 2, 3, 4, 8)
    heads = CUT(tiny(method="cut")).networks["projections"].stages
    assert [tuple(heads[1][i].weight.shape) for i in (0, 2)] == [(256, 8), (256, 256)]


@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [
        ("resnet9", {}, (0, 2, 3, 4, 8)),
        ("resnet6", {"num_blocks": 2}, (0, 2, 3, 4, 5)),
        ("resnet6", {"num_blocks": 0}, (0, 2, 3)),
        ("unet256", {}, (0, 1, 2, 3, 4)),
        ("unet256", {"num_downs": 3}, (0, 1, 2)),  # not the innermost, which may be one pixel
    ],
)
def test_generators_know_which_stages_to_compare(name, options, stages) -> None:
    assert create_generator(name, width=2, **options).contrastive_stages == stages


def test_projections_exist_before_any_data(tiny) -> None:
    method = CUT(tiny(method="cut", nce_layers="0,7,2"))
    channels = [sequence[0].in_features for sequence in method.networks["projections"].stages]
    assert channels == [3, 3, 8]


def test_patch_nce_is_equation_3() -> None:
    queries, keys = (F.normalize(torch.randn(2, 5, 7), dim=2) for _ in range(2))
    expected = [
        contrast(queries[n, p], keys[n], p, temperature=0.1) for n in range(2) for p in range(5)
    ]
    loss = patch_nce_loss(queries, keys, 0.1)
    torch.testing.assert_close(loss, torch.tensor(expected).mean())
    with torch.autocast("cpu", torch.bfloat16):  # similarities stay exact
        torch.testing.assert_close(patch_nce_loss(queries, keys, 0.1), loss)


def test_keys_get_no_gradient() -> None:
    queries, keys = (torch.randn(1, 4, 3).requires_grad_() for _ in range(2))
    patch_nce_loss(queries, keys, 1.0).backward()
    assert queries.grad is not None
    assert keys.grad is None


def test_vectors_are_those_of_the_places_and_of_length_one() -> None:
    project = PatchProjections([3], width=4)
    stage = torch.randn(2, 3, 5, 6).to(memory_format=torch.channels_last)
    (vectors,) = project([stage], [torch.tensor([0, 7, 29])])
    assert vectors.shape == (2, 3, 4)
    torch.testing.assert_close(vectors.norm(dim=2), torch.ones(2, 3))
    own = F.normalize(project.stages[0](stage[1, :, 1, 1]), dim=0)  # 7 = 1 * 6 + 1
    torch.testing.assert_close(vectors[1, 1], own)


def test_places_are_different_and_at_most_all() -> None:
    small, large = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 30, 40)
    few, many = draw_places([small, large], 256)
    assert sorted(few.tolist()) == list(range(12))
    assert len(set(many.tolist())) == 256
    assert not torch.equal(draw_places([large], 256)[0], many)


def test_features_come_with_the_translation(tiny) -> None:
    """One whole pass and one to the last stage compared, for both images together."""
    method = CUT(tiny(method="cut", dropout=False))
    generator, asked = method.networks["generator"], []
    run_stages = generator.run_stages

    def counted(x: torch.Tensor, wanted: Any) -> Any:
        asked.append((len(x), max(wanted)))
        return run_stages(x, wanted)

    generator.run_stages = counted
    list(method.step(batch(0)))
    last = len(generator.stage_channels) - 1
    assert asked == [(4, last), (4, max(method.stages))]


def test_outputs_have_styles_of_their_own(tiny) -> None:
    """And the features that are compared do not, or styles would be told from each other."""
    options = {"generator": "modulated_unet", "num_blocks": None, "num_downs": 3, "dropout": False}
    method = CUT(tiny(method="cut", **options))
    generator, given = method.networks["generator"], []
    run_stages = generator.run_stages

    def watched(x: torch.Tensor, wanted: Any, styles: Any) -> Any:
        given.append((max(wanted), len(styles[0])))
        return run_stages(x, wanted, styles)

    generator.run_stages = watched
    list(method.step(batch(0)))
    last, compared = len(generator.stage_channels) - 1, max(method.stages)
    assert given == [(last, 4), (compared, 1), (compared, 1)]


@pytest.mark.parametrize("method", ["cut", "fastcut"])
@pytest.mark.parametrize("seed", range(4))  # mirrored and not
def test_all_weights_learn_under_autocast(tiny, method: str, seed: int) -> None:
    """Autocast keeps the weights that it has cast: without gradient, if cast so first."""
    trainer = Trainer(tiny(method=method, precision="bf16"))
    trainer.method.networks["generator"].requires_grad_(True)
    before = copy.deepcopy(trainer.method.networks.state_dict())
    torch.manual_seed(seed)
    trainer.train_step([batch(0)])
    frozen = {  # a bias in front of an instance norm, which cancels it
        name
        for name, value in trainer.method.networks.named_parameters()
        if torch.equal(value, before[name])
    }
    assert all(name.endswith("conv.bias") for name in frozen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nce_layers": "0,two"}, "--nce-layers must be numbers as in 0,2,3,4,8, got '0,two'."),
        ({"nce_layers": "-1"}, "--nce-layers must be numbers from 0 on, each once, got '-1'."),
        ({"nce_layers": "0,2,0"}, "--nce-layers must be numbers from 0 on, each once"),
        ({"nce_patches": 0}, "--nce-patches must be at least 1"),
        ({"nce_temperature": 0}, "--nce-temperature must be above 0"),
        ({"lambda_nce": -1}, "--lambda-nce must not be negative"),
        ({"nce_layers": "0,77"}, "has no stage 77"),
        ({"in_channels": 1}, "--in-channels and --out-channels must be the same"),
    ],
)
def test_bad_options_are_named(tiny, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CUT(tiny(method="cut", **options))


def test_a_run_learns_one_direction(tiny) -> None:
    run = train(tiny(method="cut", direction="BtoA"))
    entry = read_metrics(run / "metrics.jsonl")[0]
    assert {"d_real", "d_fake", "g_gan", "nce", "nce_identity"} <= set(entry)
    assert '"direction": "BtoA"' in (run / "model" / "config.json").read_text()
