"""What every discriminator promises."""

from __future__ import annotations

import copy

import pytest
import torch

from pix2gan.errors import ConfigError
from pix2gan.models import create_discriminator, list_discriminators


def parameter_count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_are_those_of_the_papers():
    with torch.device("meta"):
        assert parameter_count(create_discriminator("patch", in_channels=6, norm="batch")) == (
            2_768_705
        )
        assert parameter_count(create_discriminator("patch", in_channels=3)) == 2_764_737
    assert list_discriminators() == ["patch", "pixel"]


@pytest.mark.parametrize(
    ("n_layers", "size", "expected"), [(1, 64, 30), (3, 70, 6), (3, 256, 30), (4, 64, 2)]
)
def test_patch_map(n_layers, size, expected):
    network = create_discriminator("patch", in_channels=1, width=2, n_layers=n_layers)
    assert network(torch.rand(2, 1, size, size)).shape == (2, 1, expected, expected)


def test_three_layers_see_seventy_pixels():
    network = create_discriminator("patch", in_channels=1, width=2, norm="none")
    x = torch.rand(1, 1, 256, 256, requires_grad=True)
    network(x)[0, 0, 15, 15].backward()
    seen = x.grad[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_pixel_sees_one_pixel():
    network = create_discriminator("pixel", in_channels=1, width=2, norm="none")
    x = torch.rand(1, 1, 9, 9, requires_grad=True)
    network(x)[0, 0, 4, 5].backward()
    assert x.grad[0, 0].nonzero().tolist() == [[4, 5]]


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("options", [{"name": "patch", "n_layers": 2}, {"name": "pixel"}])
def test_features_config_and_gradients(options, norm, spectral_norm):
    network = create_discriminator(
        **options, in_channels=3, width=4, norm=norm, spectral_norm=spectral_norm
    )
    again = create_discriminator(**network.config)
    again.load_state_dict(network.state_dict())
    copy.deepcopy(network)  # as an EMA or a test would
    network.eval(), again.eval()
    x = torch.rand(2, 3, 32, 32)
    features = network.features(x)
    assert len(features) == len(network.layers)
    assert torch.equal(features[-1], network(x))
    assert torch.equal(again(x), network(x))
    assert features[-1].shape[1] == 1
    assert all((f < 0).any() and (f > 0).any() for f in features[:-1]), "after lrelu"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network.train()(x)
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_spectral_norm_bounds_every_convolution():
    torch.manual_seed(0)
    network = create_discriminator("patch", in_channels=3, width=8, spectral_norm=True)
    for layer in network.layers:
        layer.conv.parametrizations.weight.original.data.mul_(100)
    for _ in range(30):
        network(torch.rand(1, 3, 32, 32))
    network.eval()
    for layer in network.layers:
        largest = torch.linalg.matrix_norm(layer.conv.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.03)


def test_penalties_can_differentiate_twice():
    network = create_discriminator("patch", in_channels=1, width=2, n_layers=1).double()
    x = torch.rand(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert network.layers[1].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pach", {}, r"no discriminator called 'pach' \(did you mean 'patch'\?\)"),
        ("pixel", {"n_layers": 3}, "pixel has no option 'n_layers'; its options are"),
        ("patch", {"n_layers": 0}, "n_layers must be a whole number of at least 1"),
        ("patch", {"norm": "layer"}, "norm cannot be 'layer'"),
        ("patch", {"spectral_norm": "yes"}, "spectral_norm must be true or false"),
    ],
)
def test_wrong_options_are_one_sentence(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create_discriminator(name, in_channels=3, **options)
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_one_sentence():
    network = create_discriminator("patch", in_channels=3, width=2)
    assert network(torch.rand(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ConfigError, match="at least 24 x 24 pixels, not 32 x 23"):
        network(torch.rand(1, 3, 32, 23))
    with pytest.raises(ConfigError, match=r"\[N, 3, H, W\], not \[1, 1, 32, 32\]"):
        network(torch.rand(1, 1, 32, 32))
