"""Modulated generators against textbook compositions of torch.nn, and what a style code does."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan.checkpoints import ModelConfig, load_model, save_model
from pix2gan.errors import ConfigError
from pix2gan.models import create_generator, list_models, model_options
from pix2gan.models.modulated import ModulatedConv2d
from pix2gan.training.ema import MovingAverage

TINY = {"width": 4, "in_channels": 2, "out_channels": 5, "style_channels": 6, "code_channels": 8}
DEPTH = {"modulated_unet": {"num_downs": 3}, "modulated_resnet": {"num_blocks": 2}}
NAMES = list(DEPTH)
SEED = 3


def tiny(name: str, **options):
    """A small network whose biases show."""
    network = create_generator(name, **{**TINY, **DEPTH[name], **options})
    for key, parameter in network.named_parameters():
        if key.endswith("bias") and "affine" not in key:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def image(n: int = 2, size: tuple[int, int] = (16, 24), **options) -> Tensor:
    return torch.rand(n, 2, *size, **options) * 2 - 1


# ------------------------------------------------------------------ the textbook, in torch.nn alone


def textbook_styles(network, z: Tensor) -> list[Tensor]:
    """Noise of unit size through leaky dense layers, averaged if it is not the batch's own."""
    w = z / z.square().mean(1, keepdim=True).add(1e-8).sqrt()
    for layer in network.mapping.layers:
        w = math.sqrt(2) * F.leaky_relu(F.linear(w, layer.weight, layer.bias), 0.2)
    return list(
        F.linear(w, network.affine.weight, network.affine.bias).split(network.style_sizes, 1)
    )


def textbook_conv(layer, x: Tensor, styles: Tensor, activate) -> Tensor:
    """A weight for every sample, a convolution of as many groups, and the blur written out."""
    n, _, height, width = x.shape
    weight = layer.weight[None] * styles[:, None, :, None, None]  # [N, O, I, k, k]
    if layer.demodulate:
        norm = weight.square().sum((2, 3, 4), keepdim=True).add(1e-8).sqrt()
        weight = weight / norm
    else:
        weight = weight / (0.1 * math.sqrt(weight[0, 0].numel()))
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    blur = (taps[:, None] * taps / 64).expand(layer.weight.shape[0], 1, 4, 4)
    border = (layer.kernel // 2,) * 4
    if layer.up == 2:
        spread = x.new_zeros(n, x.shape[1], height, 2, width, 2)
        spread[:, :, :, 0, :, 0] = x
        x, border = spread.flatten(4, 5).flatten(2, 3), (3, 2, 3, 2)
    elif layer.down == 2:
        border = (2, 2, 2, 2)
    x = F.pad(x, border)
    y = F.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), groups=n)[0].unflatten(0, (n, -1))
    if layer.up == 2:
        y = 4 * F.conv2d(y, blur, groups=len(blur))
    elif layer.down == 2:
        y = F.conv2d(y, blur, groups=len(blur), stride=2)
    return activate(y + layer.bias[:, None, None])


def lrelu(v: Tensor) -> Tensor:
    return math.sqrt(2) * F.leaky_relu(v, 0.2)


def textbook_unet(network, x: Tensor, z: Tensor) -> Tensor:
    styles = iter(textbook_styles(network, z))
    planes = [textbook_conv(network.stem, x, next(styles), lrelu)]
    for down in network.downs:
        planes.append(textbook_conv(down, planes[-1], next(styles), lrelu))
    y = planes.pop()
    for up in network.ups:
        y = textbook_conv(up.up, y, next(styles), lrelu)
        y = textbook_conv(up.merge, torch.cat((planes.pop(), y), 1), next(styles), lrelu)
    return textbook_conv(network.head, y, next(styles), torch.tanh)


def textbook_resnet(network, x: Tensor, z: Tensor) -> Tensor:
    styles = iter(textbook_styles(network, z))
    for layer in (network.stem, *network.downs):
        x = textbook_conv(layer, x, next(styles), lrelu)
    for block in network.blocks:
        y = textbook_conv(block.first, x, next(styles), lrelu)
        x = (x + textbook_conv(block.second, y, next(styles), lambda v: v)) / math.sqrt(2)
    for up in network.ups:
        x = textbook_conv(up, x, next(styles), lrelu)
    return textbook_conv(network.head, x, next(styles), torch.tanh)


TEXTBOOK = {"modulated_unet": textbook_unet, "modulated_resnet": textbook_resnet}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_the_textbook(name):
    network = tiny(name)
    x, z = image(3), torch.randn(3, 6)
    torch.testing.assert_close(network(x, z), TEXTBOOK[name](network, x, z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_textbook(name):
    network = tiny(name).double()
    x = image(2, dtype=torch.float64).requires_grad_()
    z = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 5, 16, 24, dtype=torch.float64)
    inputs = {"x": x, "z": z, **dict(network.named_parameters())}
    grads = [
        torch.autograd.grad((run(x, z) * direction).sum(), list(inputs.values()))
        for run in (network, lambda x, z: TEXTBOOK[name](network, x, z))
    ]
    for key, mine, expected in zip(inputs, *grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-7, atol=1e-9, msg=lambda m, k=key: k + m)
        assert mine.abs().max() > 0, key


# ----------------------------------------------------------------------------------------- the code


@pytest.mark.parametrize("name", NAMES)
def test_eval_mode_is_fixed_at_the_mean_code(name):
    network = tiny(name).eval()
    x = image(1).expand(2, -1, -1, -1)
    y = network(x)
    torch.testing.assert_close(y[0], y[1], rtol=0, atol=0)
    assert torch.equal(network(x), y)
    many = torch.randn(20_000, 6)
    mean = network.mapping(many).mean(0, keepdim=True)
    deviation = network.mapping(many).std(0)
    fixed = network.mapping(network.fixed_draws).mean(0, keepdim=True)
    assert ((fixed - mean).abs() < 5 / 16 * deviation).all()
    styles = network.affine(fixed).split(network.style_sizes, dim=1)
    last = len(network.stage_channels) - 1
    assert torch.equal(network.run_stages(x, (last,), styles)[last], y)
    assert torch.equal(network.run_stages(x, (last,))[last], y)
    # Built again, also after other numbers were drawn, it has the same fixed code.
    again = create_generator(**network.config).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), y)


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_draws_a_code_for_each_image(name):
    network = tiny(name)
    x = image(1).expand(2, -1, -1, -1)
    torch.manual_seed(5)
    y = network(x)
    assert (y[0] - y[1]).abs().mean() > 0.01
    assert not torch.equal(network(x), y)
    torch.manual_seed(5)
    assert torch.equal(network(x), y)
    torch.manual_seed(5)
    assert torch.equal(network.eval()(x, torch.randn(2, 6)), y)


@pytest.mark.parametrize("name", NAMES)
def test_codes_change_the_output_and_rows_of_a_batch_do_not_mix(name):
    network = tiny(name).eval()
    x, z = image(3), torch.randn(3, 6)
    y = network(x, z)
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], z[i : i + 1]), y[i : i + 1])
    alike = network(x, z[:1])
    torch.testing.assert_close(alike, network(x, z[:1].expand(3, -1)))
    torch.testing.assert_close(network(x, 7 * z[:1]), alike)
    outputs = [network(x[:1], network.style_code(seed)) for seed in range(4)]
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).abs().mean() > 0.01


def test_a_seed_stands_for_a_code():
    network = tiny("modulated_unet")
    before = torch.random.get_rng_state()
    code = network.style_code(SEED)
    assert code.shape == (1, 6)
    assert torch.equal(code, network.style_code(SEED))
    assert not torch.equal(code, network.style_code(SEED + 1))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(3, 6), (2, 5), (6,), (2, 6, 1)])
def test_codes_of_another_shape_are_one_sentence(shape):
    with pytest.raises(
        ConfigError, match=r"style codes of shape \[2, 6\] or \[1, 6\], not \["
    ) as e:
        tiny("modulated_unet")(image(2), torch.zeros(shape))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    network = tiny(name)
    network(image(2)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, key


def test_the_mapping_network_starts_with_codes_of_unit_size():
    network = create_generator("modulated_unet", width=2)
    z = torch.randn(4000, 64)
    for layers in (1, 3):
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True))
        for layer in network.mapping.layers[:layers]:
            w = layer(w)
        assert w.square().mean().item() == pytest.approx(1, abs=0.25)
    torch.testing.assert_close(network.mapping(3 * z), network.mapping(z), rtol=1e-4, atol=1e-4)
    styles = network.affine(w)
    assert styles.mean().item() == pytest.approx(1, abs=0.1)
    assert styles.std(0).mean().item() == pytest.approx(0.25, abs=0.08)


# -------------------------------------------------------------------- what every generator promises


def test_listed():
    assert list_models("modulated*") == ["modulated_resnet", "modulated_unet"]
    assert model_options("modulated_unet")["num_downs"] == 6
    assert model_options("modulated_resnet")["num_blocks"] == 9
    unet = create_generator("modulated_unet", width=4, num_downs=4)
    resnet = create_generator("modulated_resnet", width=4, num_blocks=1)
    assert unet.stage_channels == (3, 2, 4, 8, 16, 16, 16, 8, 4, 2, 3)
    assert resnet.stage_channels == (3, 4, 8, 16, 16, 8, 4, 3)


@pytest.mark.parametrize("name", NAMES)
def test_stages(name):
    network = tiny(name)
    x = image(2, (16, 32))
    count = len(network.stage_channels)
    features = network.features(x, range(count))
    assert [f.shape[1] for f in features] == network.feature_channels(range(count))
    sizes = {
        "modulated_unet": [16, 16, 8, 4, 2, 4, 8, 16, 16],
        "modulated_resnet": [16, 16, 8, 4, 4, 4, 8, 16, 16],
    }[name]
    assert [f.shape[-2] for f in features] == sizes
    assert torch.equal(features[0], x)
    assert torch.equal(features[-1], network.eval()(x)), "in training mode, too, in the fixed style"
    for stage in range(count):
        (alone,) = network.features(x, [stage])
        assert torch.equal(alone, features[stage])
    image_, first = network.features(x, [-1, 1], network.style_code(SEED))
    assert torch.equal(image_, network(x, network.style_code(SEED)))
    assert not torch.equal(first, features[1])
    assert network.features(x, []) == []


@pytest.mark.parametrize("name", NAMES)
def test_features_leave_out_what_comes_later(name):
    network = tiny(name)
    for layer in (*network.ups, network.head):
        layer.forward = None  # would raise if it were called
    assert len(network.features(image(), [0, 3])) == 2


@pytest.mark.parametrize("name", NAMES)
def test_contrastive_features_reach_the_encoder(name):
    # As CUT takes them: of the image and of its translation, in one graph with the translation.
    network = tiny(name)
    x = image(1)
    y = network(x)[:, :2]
    ours, theirs = network.features(y, [1, 3]), network.features(x, [1, 3])
    sum((a - b).square().mean() for a, b in zip(ours, theirs, strict=True)).backward()
    assert network.stem.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_config_weights_and_averages_round_trip(name, tmp_path):
    network = tiny(name).eval().requires_grad_(False)
    assert create_generator(**network.config).config == network.config
    config = ModelConfig(architecture=network.config, in_channels=2, out_channels=5)
    loaded, read = load_model(save_model(tmp_path / "model", network, config))
    assert read.architecture == network.config
    x, z = image(), network.style_code(SEED)
    assert torch.equal(loaded(x), network(x))
    assert torch.equal(loaded(x, z), network(x, z))
    average = MovingAverage(network.train(), 0.0)
    average.update(network)
    assert torch.equal(average.network(x), loaded(x))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("modulated_unet", {"style_channels": 0}, "style_channels must be a whole number"),
        ("modulated_unet", {"width": 1}, "width must be a whole number of at least 2"),
        ("modulated_unet", {"norm": "batch"}, "modulated_unet has no option 'norm'"),
        ("modulated_resnet", {"mapping_layers": 1.5}, "mapping_layers must be a whole number"),
        ("modulated_resnet", {"num_downs": 3}, "modulated_resnet has no option 'num_downs'"),
    ],
)
def test_wrong_options_are_one_sentence(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create_generator(name, **options)
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_one_sentence():
    with pytest.raises(ConfigError, match=r"modulated_unet .* multiples of 8, not 20 x 16: pad"):
        tiny("modulated_unet")(torch.rand(1, 2, 20, 16))
    with pytest.raises(ConfigError, match=r"\[N, 2, H, W\], not \[1, 3, 8, 8\]"):
        tiny("modulated_resnet")(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("name", NAMES)
def test_smallest_image(name):
    network = tiny(name)
    x = image(1, (network.minimum_size,) * 2).requires_grad_()
    network(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_channels_last(name):
    network = tiny(name)
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x, z = image(), torch.randn(2, 6)
    results = other.features(x.contiguous(memory_format=torch.channels_last), [1, -1], z)
    for result, expected in zip(results, network.features(x, [1, -1], z), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    network = tiny(name)
    x, z = image(), torch.randn(2, 6)
    expected = network(x, z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x, z)
        styles = network.styles(x, z)
    assert y.dtype == torch.bfloat16
    for found, wanted in zip(styles, network.styles(x, z), strict=True):
        assert torch.equal(found, wanted), "styles stay float32 under autocast"
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad.dtype == torch.float32, key
        assert torch.isfinite(parameter.grad).all(), key
    half = network.to(torch.bfloat16).eval()
    y = half(x.to(torch.bfloat16), z)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)


def test_large_activations_stay_finite_in_half_precision():
    network = tiny("modulated_unet").eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, ModulatedConv2d):
                layer.weight.mul_(1000)  # the demodulation divides it out, before sums overflow
        network.head.weight.div_(1000)
    x = image()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            y = network(100 * x)
        assert torch.isfinite(y).all(), dtype
        assert (y.float() - network(100 * x)).abs().mean() < 0.05, dtype
