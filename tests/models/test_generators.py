"""What every generator promises: names, options, sizes, features, precision, memory format."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys

import pytest
import torch

from pix2gan.errors import ConfigError
from pix2gan.models import create_generator, list_models, model_options

TINY = {"width": 2, "in_channels": 2, "out_channels": 5}
DEPTH = {"unet256": {"num_downs": 3}, "resnet9": {"num_blocks": 2}}
CONFIGURATIONS = [
    {"name": name, **TINY, **DEPTH[name], "norm": norm, "downsampling": down, "upsampling": up}
    for name, norm, down, up in itertools.product(
        DEPTH,
        ("instance", "batch", "none"),
        ("strided", "blur"),
        ("transposed", "nearest", "blur"),
    )
]
CONFIGURATIONS += [
    {"name": "pix2pixhd_enhancer", **TINY, "num_downs": 1, "num_blocks": 1, "norm": norm, **more}
    for norm in ("instance", "batch")
    for more in ({}, {"num_enhancers": 2, "enhancer_blocks": 1})
]


def label(config) -> str:
    return "-".join(map(str, config.values()))


def tiny(name: str, **options):
    return create_generator(name, **{**TINY, **DEPTH[name], **options})


def parameter_count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_are_those_of_the_papers():
    with torch.device("meta"):
        assert parameter_count(create_generator("resnet9")) == 11_378_179
        assert parameter_count(create_generator("resnet6")) == 7_837_699
        assert parameter_count(create_generator("unet256", norm="batch")) == 54_413_955
        assert parameter_count(create_generator("unet128", norm="batch")) == 41_828_995
        unet = create_generator("unet256", norm="batch")
    assert len(unet.state_dict()) == 82


def test_listing_models_does_not_import_torch():
    code = (
        "import sys; from pix2gan.models import list_models; list_models(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_list_models_matches_patterns():
    assert list_models("unet*") == ["unet128", "unet256", "unet512"]
    assert list_models("resnet?") == ["resnet6", "resnet9"]
    assert list_models("nothing*") == []
    assert list_models() == sorted(
        [
            *["unet128", "unet256", "unet512", "resnet6", "resnet9"],
            *["modulated_unet", "modulated_resnet", "pix2pixhd", "pix2pixhd_enhancer"],
        ]
    )


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("unet128", "num_downs", 7),
        ("unet256", "num_downs", 8),
        ("unet512", "num_downs", 9),
        ("resnet6", "num_blocks", 6),
        ("resnet9", "num_blocks", 9),
    ],
)
def test_names_stand_for_depths(name, option, value):
    assert model_options(name)[option] == value
    network = create_generator(name, width=1)
    assert network.config[option] == value
    assert network.multiple == (2**value if option == "num_downs" else 4)


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=label)
def test_config_features_and_modes(config):
    network = create_generator(**config)
    again = create_generator(**network.config)
    assert again.config == network.config
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}
    again.load_state_dict(network.state_dict())

    network.eval(), again.eval()
    x = torch.rand(2, 2, 16, 24) * 2 - 1
    y = network(x)
    assert y.shape == (2, 5, 16, 24)
    assert y.abs().max() <= 1
    torch.testing.assert_close(again(x), y, rtol=0, atol=0)

    stages = list(range(len(network.stage_channels)))
    features = network.features(x, stages)
    assert [f.shape[1] for f in features] == network.feature_channels(stages)
    assert torch.equal(features[0], x)
    torch.testing.assert_close(features[-1], y, rtol=0, atol=0)
    for stage in stages:
        (alone,) = network.features(x, [stage])
        torch.testing.assert_close(alone, features[stage], rtol=0, atol=0)
        assert alone.shape[-2] * 24 == alone.shape[-1] * 16, "no padding is left on"


def test_stages_of_the_unet():
    network = tiny("unet256", num_downs=4)
    features = network.features(torch.rand(1, 2, 32, 32), range(9))
    assert [f.shape[1] for f in features] == [2, 2, 4, 8, 16, 8, 4, 2, 5]
    assert [f.shape[-1] for f in features] == [32, 16, 8, 4, 2, 4, 8, 16, 32]
    assert features[1].min() < 0 <= features[4].min(), "lrelu on the way down, relu at the bottom"


def test_stages_of_the_resnet():
    network = tiny("resnet9", num_blocks=3)
    features = network.features(torch.rand(1, 2, 32, 32), range(10))
    assert [f.shape[1] for f in features] == [2, 2, 4, 8, 8, 8, 8, 4, 2, 5]
    assert [f.shape[-1] for f in features] == [32, 32, 16, 8, 8, 8, 8, 16, 32, 32]


def test_features_come_in_the_order_asked_for():
    network = tiny("resnet9")
    x = torch.rand(1, 2, 16, 16)
    image, first, again = network.features(x, [-1, 1, 1])
    assert torch.equal(image, network(x))
    assert torch.equal(first, again)
    assert network.feature_channels([-1, 1, 0]) == [5, 2, 2]
    assert network.features(x, []) == []


def test_features_leave_out_what_comes_later():
    network = tiny("unet256")
    for up in network.ups:
        up.forward = None  # would raise if it were called
    assert len(network.features(torch.rand(1, 2, 16, 16), [0, 3])) == 2


@pytest.mark.parametrize("layer", [9, -10, 100])
def test_unknown_stages_are_named(layer):
    network = tiny("resnet9")
    with pytest.raises(ConfigError, match=rf"resnet9 has no stage {layer}; .* to 8"):
        network.feature_channels([layer])
    with pytest.raises(ConfigError, match="no stage"):
        network.features(torch.rand(1, 2, 16, 16), [0, layer])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet8", {}, r"no generator called 'resnet8' \(did you mean 'resnet"),
        ("unet256", {"widht": 3}, r"no option 'widht' \(did you mean 'width'\?\); its options are"),
        ("unet256", {"num_blocks": 3}, "no option 'num_blocks'"),
        ("resnet9", {"max_width_factor": 3}, "no option 'max_width_factor'"),
        ("resnet9", {"name_": 3}, "no option 'name_'"),
        ("unet256", {"norm": "instanse"}, r"norm .*'instanse' \(did you mean 'instance'\?\)"),
        ("unet256", {"norm": None}, "norm cannot be None"),
        ("unet256", {"upsampling": "strided"}, "upsampling cannot be 'strided'"),
        ("unet256", {"downsampling": "nearest"}, "downsampling cannot be 'nearest'"),
        ("resnet9", {"padding": "mirror"}, "padding cannot be 'mirror'"),
        ("resnet9", {"width": 0}, "width must be a whole number of at least 1, not 0"),
        ("resnet9", {"width": 1.5}, "width must be a whole number"),
        ("resnet9", {"in_channels": True}, "in_channels must be a whole number"),
        ("unet256", {"num_downs": 1}, "num_downs must be a whole number of at least 2"),
        ("resnet9", {"dropout": 0.5}, "dropout must be true or false"),
    ],
)
def test_wrong_options_are_one_sentence(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create_generator(name, **options)
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_one_sentence():
    unet, resnet = tiny("unet256"), tiny("resnet9")
    with pytest.raises(ConfigError, match=r"unet256 .* multiples of 8, not 20 x 16: pad"):
        unet(torch.rand(1, 2, 20, 16))
    with pytest.raises(ConfigError, match="multiples of 4, not 16 x 18"):
        resnet(torch.rand(1, 2, 16, 18))
    with pytest.raises(ConfigError, match="at least 8 x 8 pixels, not 4 x 8"):
        resnet(torch.rand(1, 2, 4, 8))
    with pytest.raises(ConfigError, match=r"\[N, 2, H, W\], not \[1, 3, 8, 8\]"):
        unet(torch.rand(1, 3, 8, 8))
    with pytest.raises(ConfigError, match=r"not \[2, 8, 8\]"):
        unet(torch.rand(2, 8, 8))


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=label)
def test_smallest_image_gives_no_nan(config):
    network = create_generator(**config, padding="replicate").eval()
    size = network.minimum_size
    x = torch.rand(1, 2, size, size, requires_grad=True)
    y = network(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("up", ["transposed", "nearest", "blur"])
def test_smallest_unet_still_sees_its_input(up):
    # A norm of the innermost single pixel would leave nothing of what the bottleneck saw
    network = tiny("unet256", upsampling=up)
    x = torch.rand(1, 2, 8, 8)
    features = network.features(x, [3]), network.features(x + 0.5, [3])
    assert not torch.equal(features[0][0], features[1][0])


@pytest.mark.parametrize("num_downs", [2, 5, 6, 7])
def test_dropout_is_in_the_inner_levels(num_downs):
    network = tiny("unet256", num_downs=num_downs, dropout=True)
    dropping = [level for level, up in enumerate(network.ups) if up.dropout]
    assert dropping == list(range(4, num_downs - 1))
    assert len(dropping) == max(0, num_downs - 5)


def test_width_grows_to_its_cap():
    with torch.device("meta"):
        assert create_generator("unet256").feature_channels(range(1, 9)) == [
            *[64, 128, 256, 512, 512, 512, 512, 512],
        ]
        capped = create_generator("unet256", width=20, max_width_factor=4, num_downs=6)
    assert capped.feature_channels(range(1, 7)) == [20, 40, 80, 80, 80, 80]


def test_any_number_of_blocks():
    for num_blocks in (0, 1, 3):
        network = tiny("resnet9", num_blocks=num_blocks, padding="zeros")
        assert network(torch.rand(1, 2, 4, 8)).shape == (1, 5, 4, 8)


def test_initialisation():
    torch.manual_seed(0)
    network = create_generator("resnet6", width=16, norm="batch")
    for name, parameter in network.named_parameters():
        if parameter.dim() == 4:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(parameter.mean().item()) < 0.002, name
        elif name.endswith("batch_norm.weight"):
            assert parameter.mean().item() == pytest.approx(1, abs=0.02), name
            assert 0.005 < parameter.std().item() < 0.04, name
        else:
            assert parameter.abs().max() == 0, name


def test_only_cancelled_biases_are_frozen():
    for name, norm in itertools.product(DEPTH, ("instance", "batch", "none")):
        network = tiny(name, norm=norm, upsampling="nearest")
        network(torch.rand(2, 2, 16, 16)).square().sum().backward()
        for key, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, key
            frozen = norm == "instance" and key.endswith("bias")
            assert parameter.requires_grad or frozen, key
    heads = [tiny("unet256").ups[0], tiny("unet256").downs[0], tiny("resnet9").head]
    assert all(layer.conv.bias.requires_grad for layer in heads)


@pytest.mark.parametrize("config", CONFIGURATIONS[::2], ids=label)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_channels_last(config, training):
    network = create_generator(**config).train(training)
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x = torch.rand(2, 2, 40, 32)
    for result, expected in zip(
        other.features(x.contiguous(memory_format=torch.channels_last), [1, -1]),
        network.features(x, [1, -1]),
        strict=True,
    ):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("config", CONFIGURATIONS[::2], ids=label)
def test_bfloat16_autocast(config):
    network = create_generator(**config)
    x = torch.rand(2, 2, 40, 32)
    expected = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)
    y.float().square().sum().backward()
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.dtype == torch.float32, key
            assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", DEPTH)
def test_half_precision_weights(name):
    # .to(bfloat16) also converts the filters; theirs are exact powers and sums of powers of two
    network = tiny(name, downsampling="blur", upsampling="blur").eval()
    x = torch.rand(1, 2, 16, 16)
    expected = network(x)
    y = network.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "unet256", "upsampling": "nearest", "dropout": True},
        {"name": "unet256", "norm": "batch", "downsampling": "blur", "upsampling": "blur"},
        {"name": "resnet9", "upsampling": "nearest"},
        {"name": "resnet9", "norm": "none", "downsampling": "blur", "upsampling": "blur"},
    ],
    ids=label,
)
def test_compiles_into_one_graph(options):
    network = tiny(**options).eval()
    x = torch.rand(1, 2, 32, 32)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x))
    network.train()
    y = compiled(x)
    y.sum().backward()
    assert (
        network.downs[0]
        .get_parameter("layer.conv.weight" if "downsampling" in options else "conv.weight")
        .grad.abs()
        .sum()
    )


def test_gradcheck_through_a_whole_network():
    network = tiny("unet256", num_downs=2, upsampling="nearest", downsampling="blur").double()
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    for parameter in network.parameters():
        parameter.data.mul_(10)
    assert torch.autograd.gradcheck(network, (x,), fast_mode=True)
