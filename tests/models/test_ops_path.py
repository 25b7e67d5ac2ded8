"""The networks' bias, activation, norm, padding and resampling run through pix2gan.ops."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pix2gan import ops
from pix2gan.models import create_discriminator, create_generator
from pix2gan.ops import dispatch

PRIMITIVES = ("bias_act", "instance_norm_act", "upfirdn2d")

# What stock networks would show, and the ops are there to replace
STOCK = (
    *["native_batch_norm", "batch_norm", "instance_norm", "native_layer_norm", "var_mean"],
    *["relu", "leaky_relu", "tanh", "reflection_pad2d", "replication_pad2d", "pad"],
    *["add", "add_", "mul", "rsqrt", "clamp", "where", "clone", "copy_", "upsample_bilinear2d"],
)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the primitives that run, while a backend that delegates to the reference is forced."""
    reference = dispatch.load_backend("reference")
    calls: Counter[str] = Counter()
    backend = types.ModuleType("recording")
    backend.DEVICES = ("cpu",)
    backend.is_available = lambda: (True, "")
    for primitive in PRIMITIVES:

        def run(*args, primitive=primitive, **kwargs):
            calls[primitive] += 1
            getattr(reference, primitive)(*args, **kwargs)

        setattr(backend, primitive, run)
    ops.register_backend("recording", backend)
    try:
        with ops.use_backend("recording"):
            yield calls
    finally:
        dispatch.unregister_backend("recording")


class Trace(TorchDispatchMode):
    """Counts the operators that a forward pass calls; what runs inside an op does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def stock(self) -> dict[str, int]:
        return {name: count for name, count in self.calls.items() if name in STOCK}


def trace(network, x) -> Trace:
    with torch.no_grad(), Trace() as traced:
        network(x)
    return traced


X = torch.zeros(1, 3, 64, 64)


def test_resnet_is_convolutions_and_fused_norms(recorded):
    network = create_generator("resnet9", width=2)
    traced = trace(network, X)
    # stem, 2 halvings, 2 in each of 9 blocks, 2 doublings; then tanh with the bias of the head
    assert recorded == {"instance_norm_act": 23, "bias_act": 1}
    assert traced.calls["convolution"] == 24
    # Only the input image itself is padded by a pass of its own: residuals, activations and all
    # other borders are inside the ops.
    assert traced.stock() == {"reflection_pad2d": 1}


def test_unet_is_convolutions_and_fused_norms(recorded):
    network = create_generator("unet128", width=2, num_downs=5)
    traced = trace(network, X)
    # 3 norms down, 4 up; lrelu and relu of outermost and innermost, 4 skips, tanh
    assert recorded == {"instance_norm_act": 7, "bias_act": 7}
    assert traced.calls["convolution"] == 10
    assert traced.calls["cat"] == 4
    assert traced.stock() == {}


def test_nearest_unet_fuses_its_borders(recorded):
    network = create_generator("unet128", width=2, num_downs=5, upsampling="nearest")
    traced = trace(network, X)
    assert recorded == {"instance_norm_act": 7, "bias_act": 7}
    # 4 skips and the bottleneck; everything normalised is written with its border
    assert traced.calls["replication_pad2d"] == 5
    folding = traced.calls["add"]  # of weights, for the planes that are large enough
    assert traced.stock() == {"replication_pad2d": 5, "add": folding}
    assert folding == 2 * 2 * 2, "two axes, two sums, on planes of 16x16 and 32x32"


def test_blur_is_upfirdn2d(recorded):
    network = create_generator("resnet9", width=2, downsampling="blur", upsampling="blur")
    traced = trace(network, X)
    assert recorded == {"instance_norm_act": 23, "bias_act": 1, "upfirdn2d": 4}
    # the input; behind the last halving, for the first block; behind the first up, nothing
    assert traced.stock() == {"reflection_pad2d": 2}
    recorded.clear()
    network = create_generator(
        "unet128", width=2, num_downs=4, downsampling="blur", upsampling="blur"
    )
    trace(network, X)
    assert recorded == {"instance_norm_act": 5, "bias_act": 6, "upfirdn2d": 8}


@pytest.mark.parametrize("name", ["resnet6", "unet128"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_other_norms_leave_activations_to_bias_act(recorded, name, norm):
    options = {"num_downs": 4} if name == "unet128" else {"num_blocks": 2}
    network = create_generator(name, width=2, norm=norm, **options)
    traced = trace(network, X)
    assert not {"relu", "leaky_relu", "tanh"} & set(traced.calls)
    assert recorded["instance_norm_act"] == 0
    # U-Net: 4 down, 3 up, 3 skips, tanh. ResNet: 9 convolutions, of which with batch norm the
    # last of each block have neither bias nor activation.
    expected = {"unet128": 11, "resnet6": 10 if norm == "none" else 8}[name]
    assert recorded["bias_act"] == expected


@pytest.mark.parametrize("name", ["patch", "pixel"])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_discriminators(recorded, name, norm):
    network = create_discriminator(name, in_channels=3, width=2, norm=norm)
    traced = trace(network, X)
    norms = {"patch": 3, "pixel": 1}[name]
    assert recorded["instance_norm_act"] == (norms if norm == "instance" else 0)
    assert sum(recorded.values()) == len(network.layers)
    assert not {"relu", "leaky_relu", "add", "rsqrt"} & set(traced.calls)
