"""FID and LPIPS from state dicts: random weights against the networks as textbooks compose them."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2gan.cli import main
from pix2gan.data.image_io import save_image
from pix2gan.errors import CheckpointError
from pix2gan.evaluation.features import open_features, open_maps
from pix2gan.evaluation.set_distances import frechet_distance, perceptual_distance

NARROW = 16  # times fewer channels than the networks have


class Conv(nn.Module):
    """Convolution without bias, batch norm, relu."""

    def __init__(self, channels: int, made: int, kernel, stride: int = 1, padding=0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, made, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(made, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class Mixed(nn.Module):
    """Branches side by side; the modules lie under the names that they have in PyTorch."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def through(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x


def mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class A(Mixed):
    def __init__(self, n: int, pool: int) -> None:
        super().__init__(
            branch1x1=Conv(n, 4, 1),
            branch5x5_1=Conv(n, 3, 1),
            branch5x5_2=Conv(3, 4, 5, padding=2),
            branch3x3dbl_1=Conv(n, 4, 1),
            branch3x3dbl_2=Conv(4, 6, 3, padding=1),
            branch3x3dbl_3=Conv(6, 6, 3, padding=1),
            branch_pool=Conv(n, pool, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            self.branch1x1(x),
            self.through(x, "branch5x5_1", "branch5x5_2"),
            self.through(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            self.branch_pool(mean3(x)),
        )
        return torch.cat(parts, 1)


class B(Mixed):
    def __init__(self, n: int) -> None:
        super().__init__(
            branch3x3=Conv(n, 24, 3, stride=2),
            branch3x3dbl_1=Conv(n, 4, 1),
            branch3x3dbl_2=Conv(4, 6, 3, padding=1),
            branch3x3dbl_3=Conv(6, 6, 3, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        twice = self.through(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat((self.branch3x3(x), twice, F.max_pool2d(x, 3, 2)), 1)


class C(Mixed):
    def __init__(self, n: int, c: int) -> None:
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        super().__init__(
            branch1x1=Conv(n, 12, 1),
            branch7x7_1=Conv(n, c, 1),
            branch7x7_2=Conv(c, c, **row),
            branch7x7_3=Conv(c, 12, **column),
            branch7x7dbl_1=Conv(n, c, 1),
            branch7x7dbl_2=Conv(c, c, **column),
            branch7x7dbl_3=Conv(c, c, **row),
            branch7x7dbl_4=Conv(c, c, **column),
            branch7x7dbl_5=Conv(c, 12, **row),
            branch_pool=Conv(n, 12, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            self.branch1x1(x),
            self.through(x, *(f"branch7x7_{i}" for i in (1, 2, 3))),
            self.through(x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
            self.branch_pool(mean3(x)),
        )
        return torch.cat(parts, 1)


class D(Mixed):
    def __init__(self, n: int) -> None:
        super().__init__(
            branch3x3_1=Conv(n, 12, 1),
            branch3x3_2=Conv(12, 20, 3, stride=2),
            branch7x7x3_1=Conv(n, 12, 1),
            branch7x7x3_2=Conv(12, 12, (1, 7), padding=(0, 3)),
            branch7x7x3_3=Conv(12, 12, (7, 1), padding=(3, 0)),
            branch7x7x3_4=Conv(12, 12, 3, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        small = self.through(x, "branch3x3_1", "branch3x3_2")
        large = self.through(x, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
        return torch.cat((small, large, F.max_pool2d(x, 3, 2)), 1)


class E(Mixed):
    def __init__(self, n: int, pool) -> None:
        super().__init__(
            branch1x1=Conv(n, 20, 1),
            branch3x3_1=Conv(n, 24, 1),
            branch3x3_2a=Conv(24, 24, (1, 3), padding=(0, 1)),
            branch3x3_2b=Conv(24, 24, (3, 1), padding=(1, 0)),
            branch3x3dbl_1=Conv(n, 28, 1),
            branch3x3dbl_2=Conv(28, 24, 3, padding=1),
            branch3x3dbl_3a=Conv(24, 24, (1, 3), padding=(0, 1)),
            branch3x3dbl_3b=Conv(24, 24, (3, 1), padding=(1, 0)),
            branch_pool=Conv(n, 12, 1),
        )
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.through(x, "branch3x3dbl_1", "branch3x3dbl_2")
        parts = (
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(self.pool(x)),
        )
        return torch.cat(parts, 1)


class Inception(nn.Module):
    """Inception v3 with a sixteenth of its channels, pooled as in the network that FID takes."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 2, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(2, 2, 3)
        self.Conv2d_2b_3x3 = Conv(2, 4, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(4, 5, 1)
        self.Conv2d_4a_3x3 = Conv(5, 12, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(12, 2), A(16, 4), A(18, 4)
        self.Mixed_6a = B(18)
        self.Mixed_6b, self.Mixed_6c = C(48, 8), C(48, 10)
        self.Mixed_6d, self.Mixed_6e = C(48, 10), C(48, 12)
        self.Mixed_7a = D(48)
        self.Mixed_7b = E(80, mean3)
        self.Mixed_7c = E(128, lambda x: F.max_pool2d(x, 3, stride=1, padding=1))
        self.fc = nn.Linear(2048 // NARROW, 1008)

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate(images, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            x = block(x) if name.startswith("Mixed") else x
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def randomised(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval().requires_grad_(False)


def alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 12, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


def vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for made, count in ((4, 2), (6, 2), (8, 3), (10, 3), (10, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, made, 3, padding=1), nn.ReLU()]
            channels = made
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


# After which modules LPIPS looks.
SEEN = {"alexnet": (1, 4, 7, 9, 11), "vgg16": (3, 8, 15, 22, 29)}


def textbook_lpips(
    network: nn.Sequential, seen, lins: list[Tensor], a: Tensor, b: Tensor
) -> Tensor:
    """Zhang et al. 2018, equation 1, one pair after the other."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    distances = []
    for pair in zip(a, b, strict=True):
        maps = []
        for image in pair:
            x, found = ((image * 2 - 1 - shift) / scale)[None], []
            for number, module in enumerate(network):
                x = module(x)
                if number in seen:
                    found.append(x[0] / (x[0].square().sum(0).sqrt() + 1e-10))
            maps.append(found)
        layers = [
            ((x - y).square() * lin[0]).sum(0).mean() for x, y, lin in zip(*maps, lins, strict=True)
        ]
        distances.append(torch.stack(layers).sum())
    return torch.stack(distances)


def saved(path, state):
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(state, path) if path.suffix == ".safetensors" else torch.save(
        state, path
    )
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_inceptions_features_are_the_textbooks(tmp_path, suffix):
    network = randomised(Inception())
    features = open_features(saved(tmp_path / f"inception{suffix}", network.state_dict()))
    images = torch.rand(2, 3, 60, 90)
    (found,) = features(images)
    assert found.shape == (2, 128)
    torch.testing.assert_close(found, network(images), rtol=1e-4, atol=1e-5)
    assert features.protocol()["size"] == [299, 299]


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("kind", ["layers beside", "all in one"])
def test_lpips_is_the_papers(tmp_path, name, kind):
    network = {"alexnet": alexnet, "vgg16": vgg16}[name]().requires_grad_(False)
    lins = [torch.rand(1, network[i - 1].out_channels, 1, 1) for i in SEEN[name]]
    weights = {f"lin{i}.model.1.weight": lin for i, lin in enumerate(lins)}
    state = {f"features.{k}": v for k, v in network.state_dict().items()}
    if kind == "all in one":  # as the metric itself is saved
        state = {
            f"net.slice1.{k.removeprefix('features.')}": v for k, v in state.items()
        } | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)} | weights  # fmt: skip
        maps = open_maps(saved(tmp_path / "lpips.safetensors", state))
    else:
        state["classifier.1.weight"] = torch.rand(4, 4)
        layers = saved(tmp_path / "lins.pth", weights)
        maps = open_maps(saved(tmp_path / f"{name}.pth", state), layers)
    a, b = torch.rand(2, 3, 70, 96), torch.rand(2, 3, 70, 96)
    found = perceptual_distance(maps(a), maps(b))
    wanted = textbook_lpips(network, SEEN[name], lins, a, b)
    # the paper's shift and scale are ImageNet's to three digits
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=0)
    if name == "alexnet":
        with pytest.raises(CheckpointError, match="cannot take an image of 12 x 12 pixels"):
            maps(torch.rand(1, 3, 12, 12))


@pytest.mark.parametrize(
    ("name", "channels"),
    [("alexnet", (64, 192, 384, 256, 256)), ("vgg16", (64, 128, 256, 512, 512))],
)
def test_the_layers_weights_are_there_already(tmp_path, name, channels):
    """torchmetrics brings them; networks of the real widths, of weights that are views of one."""
    network = {"alexnet": alexnet, "vgg16": vgg16}[name]()
    widths = dict(zip(SEEN[name], channels, strict=True))
    state, before, made = {}, 3, channels[0]
    for number, module in enumerate(network):
        if isinstance(module, nn.Conv2d):
            made = next(width for i, width in widths.items() if i > number)
            state[f"features.{number}.weight"] = torch.full(
                (made, before, *module.kernel_size), 0.1
            )
            state[f"features.{number}.bias"] = torch.zeros(made)
            before = made
    maps = open_maps(saved(tmp_path / f"{name}.pth", state))
    assert maps.protocol()["layers"] == {"alexnet": "alex.pth", "vgg16": "vgg.pth"}[name]
    assert [x.shape[1] for x in maps(torch.rand(1, 3, 64, 64))] == list(channels)


def test_a_report_by_state_dicts(tmp_path):
    images = torch.randint(0, 256, (2, 4, 3, 64, 64), dtype=torch.uint8)
    for folder, pictures in zip(("out", "real"), images, strict=True):
        for i, picture in enumerate(pictures):
            (tmp_path / folder).mkdir(exist_ok=True)
            save_image(tmp_path / folder / f"{i}.png", picture.permute(1, 2, 0).numpy())
    inception, alex = randomised(Inception()), alexnet().requires_grad_(False)
    lins = [torch.rand(1, alex[i - 1].out_channels, 1, 1) for i in SEEN["alexnet"]]
    features = saved(tmp_path / "inception.pth", inception.state_dict())
    network = saved(
        tmp_path / "alexnet.pth", {f"features.{k}": v for k, v in alex.state_dict().items()}
    )
    layers = saved(
        tmp_path / "lins.pth", {f"lin{i}.model.1.weight": lin for i, lin in enumerate(lins)}
    )
    arguments = ["evaluate", str(tmp_path / "out"), "--against", str(tmp_path / "real")]
    arguments += ["--features", str(features), "--lpips", str(network)]
    arguments += ["--lpips-layers", str(layers), "--report", str(tmp_path / "r.json")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    ours, theirs = (images.float() / 255).unbind()
    assert found["fid"] == pytest.approx(
        frechet_distance(inception(ours), inception(theirs)), rel=1e-3, abs=1e-6
    )
    wanted = textbook_lpips(alex, SEEN["alexnet"], lins, ours, theirs)
    assert np.allclose([image["lpips"] for image in found["images"]], wanted, rtol=2e-3)
    assert found["protocol"]["lpips"]["layers"] == "lins.pth"


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_are_something_else(tmp_path, capsys):
    state = randomised(Inception()).state_dict()
    lins = {f"lin{i}.model.1.weight": torch.rand(1, 8, 1, 1) for i in range(5)}
    alex = {f"features.{k}": v for k, v in alexnet().state_dict().items()}
    first = "Conv2d_1a_3x3.conv.weight"
    for content, reason in (
        (state | {"AuxLogits.fc.weight": torch.ones(1)}, "torchvision's Inception v3"),
        ({k: v for k, v in state.items() if k != first}, f"it lacks {first}"),
        (state | {"more": torch.ones(1)}, "it also holds more"),
        (state | {first: torch.ones(2, 4, 3, 3)}, "do not fit together"),
        (state | {first: state[first] * float("nan")}, "not finite"),
        (alex, "it lacks Conv2d_1a_3x3.bn.bias"),
        ({"a": Evil()}, "is refused"),
        ([1], "not the tensors of a network"),
    ):
        torch.save(content, tmp_path / "f.pth")
        with pytest.raises(CheckpointError, match=reason):
            open_features(tmp_path / "f.pth")
    for content, layers, reason in (
        (state, None, "the layers of neither AlexNet nor VGG-16"),
        (alex | {"more": torch.ones(1)}, None, "it also holds more"),
        (alex, lins, "do not fit together"),
        (alex, {"lin0.model.1.weight": torch.ones(1, 8, 1, 1)}, "does not hold the weights"),
    ):
        torch.save(content, tmp_path / "n.pth")
        torch.save(layers, tmp_path / "l.pth")
        with pytest.raises(CheckpointError, match=reason):
            open_maps(tmp_path / "n.pth", tmp_path / "l.pth" if layers else None)
    with zipfile.ZipFile(tmp_path / "t.pt", "w") as archive:
        archive.writestr("t/data.pkl", b"")
        archive.writestr("t/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript is code"):
        open_features(tmp_path / "t.pt")
    for name in ("absent.pth", "absent.safetensors", "absent.onnx"):
        with pytest.raises(CheckpointError, match="absent"):
            open_features(tmp_path / name)
    with pytest.raises(CheckpointError, match="leave"):
        open_maps(tmp_path / "maps.onnx", tmp_path / "l.pth")
    assert "executed" not in capsys.readouterr().out
