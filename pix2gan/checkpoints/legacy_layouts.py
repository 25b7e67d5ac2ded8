"""How the original PyTorch repositories name the tensors of their generators.

Their networks are `nn.Sequential`s, whose keys are positions: what stands at a position, and hence
the architecture, follows from which positions have weights, and of which shapes. `infer` reads that
off; `layout_of` lists, for one of our architectures, the original's key of every tensor. Both are
used together: what was inferred is laid out, and has to be what was found, key by key.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

# CUT's antialiasing filters, one for each channel: [C, 1, 3, 3] down, [C, 1, 4, 4] up.
BLUR_DOWN_TAPS = (1.0, 2.0, 1.0)
BLUR_UP_TAPS = (1.0, 3.0, 3.0, 1.0)

_CONV = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class NoLayout(Exception):
    """The tensors are not those of a generator that is known; the message says what they lack."""


@dataclass
class Layout:
    """The original's keys of one architecture.

    Attributes:
        family: "pix2pix" (U-Net), "cyclegan" (ResNet), "cut" (with antialiasing) or "pix2pixhd".
        keys: The original's key of a tensor -> ours.
        filters: The original's key of an antialiasing filter -> its taps; ours are not stored.
    """

    family: str
    keys: dict[str, str] = field(default_factory=dict)
    filters: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def convolution(self, theirs: str, ours: str) -> None:
        self.keys |= {f"{theirs}.{name}": f"{ours}.conv.{name}" for name in _CONV}

    def norm(self, theirs: str, ours: str) -> None:
        self.keys |= {f"{theirs}.{name}": f"{ours}.batch_norm.{name}" for name in _NORM}


def layout_of(architecture: Mapping[str, Any]) -> Layout:
    """The original's keys for `generator.config`; raises `NoLayout` where no original has it.

    Biases and norms that the architecture does not have are listed all the same.
    """
    name = str(architecture["name"])
    if "unet" in name and "max_width_factor" in architecture:
        return _lay_out_unet(architecture)
    if "num_enhancers" in architecture:
        return _lay_out_pix2pixhd(architecture)
    if "num_blocks" in architecture and "downsampling" in architecture:
        return _lay_out_resnet(architecture)
    raise NoLayout(f"no original repository has a generator like {name}")


def infer(shapes: Shapes) -> dict[str, Any]:
    """The options of `create_generator` for tensors of these names and shapes.

    Raises:
        NoLayout: If they are not those of a known generator.
    """
    if any(key.startswith(("model1_1.", "model1_2.")) for key in shapes):
        return _infer_pix2pixhd(shapes)
    if any(".conv_block." in key for key in shapes):
        return _infer_resnet(shapes)
    if "model.model.0.weight" in shapes:
        return _infer_unet(shapes)
    raise NoLayout(_what_else(shapes))


def _what_else(shapes: Shapes) -> str:
    """What tensors are that belong to no generator, in words that help."""
    if any(re.match(r"scale\d+_layer\d+\.", key) for key in shapes):
        return "these are pix2pixHD's discriminators; give the generator's file, *_net_G.pth"
    if any(key.startswith("mlp_") for key in shapes):
        return "these are CUT's feature heads; give the generator's file, *_net_G.pth"
    head = next((shape for key, shape in reversed(list(shapes.items())) if len(shape) == 4), None)
    if head is not None and head[0] == 1 and any(k.startswith(("model.", "net.")) for k in shapes):
        return "this is a discriminator; give the generator's file, *_net_G.pth"
    return (
        "no generator of pix2pix, CycleGAN, CUT or pix2pixHD has these tensors "
        f"({', '.join(list(shapes)[:3]) or 'there are none'}...)"
    )


# -------------------------------------------------------------------------------------------- U-Net


def _unet_prefixes(num_downs: int) -> list[str]:
    """Where the layers of each level lie: the outermost's are the first."""
    return ["model.", *("model.model.1." + "model.3." * level for level in range(num_downs - 1))]


def _lay_out_unet(architecture: Mapping[str, Any]) -> Layout:
    _plain_only(architecture)
    layout = Layout("pix2pix")
    innermost = architecture["num_downs"] - 1
    for level, prefix in enumerate(_unet_prefixes(innermost + 1)):
        positions = (0, 3) if level == 0 else (1, 3) if level == innermost else (1, 5)
        down, up = (f"{prefix}model.{position}" for position in positions)
        layout.convolution(down, f"downs.{level}")
        layout.convolution(up, f"ups.{level}")
        if 0 < level < innermost:
            layout.norm(f"{prefix}model.2", f"downs.{level}")
            layout.norm(f"{prefix}model.6", f"ups.{level}")
        elif level == innermost:
            layout.norm(f"{prefix}model.4", f"ups.{level}")
    return layout


def _infer_unet(shapes: Shapes) -> dict[str, Any]:
    num_downs = 1 + sum(f"{p}model.1.weight" in shapes for p in _unet_prefixes(_DEEPEST)[1:])
    if num_downs < 2:
        raise NoLayout("it begins like a U-Net and has no second level")
    outer = _kernel(shapes, "model.model.0.weight")
    width = outer[0]
    widest = max(shape[0] for key, shape in shapes.items() if key.endswith("model.1.weight"))
    named = {7: "unet128", 9: "unet512"}.get(num_downs, "unet256")
    inner = _unet_prefixes(num_downs)[1] + "model."
    batch = any(f"{inner}{position}.weight" in shapes for position in (4, 6))
    return {
        "name": named,
        "in_channels": outer[1],
        "out_channels": _kernel(shapes, "model.model.3.weight")[1],
        "width": width,
        "max_width_factor": max(widest // width, 1),
        "num_downs": num_downs,
        "norm": "batch" if batch else "instance",
    }


# ------------------------------------------------------------------------------------------- ResNet


def _lay_out_resnet(architecture: Mapping[str, Any], prefix: str = "", head: bool = True) -> Layout:
    _plain_only(architecture, blur=True)
    blur = "blur" in (architecture["downsampling"], architecture["upsampling"])
    layout = Layout(
        "cut" if blur else "cyclegan" if architecture["num_downs"] == 2 else "pix2pixhd"
    )
    position = itertools.count(1)  # behind the reflection padding

    def at() -> str:
        return f"model.{next(position)}"

    layout.convolution(at(), f"{prefix}stem")
    layout.norm(at(), f"{prefix}stem")
    at()  # relu
    for level in range(architecture["num_downs"]):
        blurred = architecture["downsampling"] == "blur"
        ours = f"{prefix}downs.{level}" + (".layer" if blurred else "")
        layout.convolution(at(), ours)
        layout.norm(at(), ours)
        at()  # relu
        if blurred:
            layout.filters[f"{at()}.filt"] = BLUR_DOWN_TAPS
    for block in range(architecture["num_blocks"]):
        _lay_out_block(layout, at(), f"{prefix}blocks.{block}", bool(architecture["dropout"]))
    for level in range(architecture["num_downs"]):
        if architecture["upsampling"] == "blur":
            layout.filters[f"{at()}.filt"] = BLUR_UP_TAPS
        layout.convolution(at(), f"{prefix}ups.{level}")
        layout.norm(at(), f"{prefix}ups.{level}")
        at()  # relu
    if head:
        at()  # reflection padding
        layout.convolution(at(), f"{prefix}head")
    return layout


def _lay_out_block(layout: Layout, theirs: str, ours: str, dropout: bool) -> None:
    second = 6 if dropout else 5
    for position, name in ((1, "first"), (second, "second")):
        layout.convolution(f"{theirs}.conv_block.{position}", f"{ours}.{name}")
        layout.norm(f"{theirs}.conv_block.{position + 1}", f"{ours}.{name}")


def _infer_resnet(shapes: Shapes, head: bool = True) -> dict[str, Any]:
    blocks = sorted({int(m[1]) for m in _matches(r"model\.(\d+)\.conv_block\.", shapes)})
    if not blocks:
        raise NoLayout("it has no residual blocks")
    stem = _kernel(shapes, "model.1.weight")
    first = f"model.{blocks[0]}.conv_block"
    second = 6 if f"{first}.6.weight" in shapes and f"{first}.5.weight" not in shapes else 5
    factor = _kernel(shapes, f"{first}.1.weight")[0] / stem[0]
    num_downs = max(1, round(factor).bit_length() - 1)
    batch = "model.2.weight" in shapes
    down_filters = [k for k in _filters(shapes) if int(k.split(".")[1]) < blocks[0]]
    up_filters = [k for k in _filters(shapes) if int(k.split(".")[1]) > blocks[-1]]
    last = max(
        int(match[1])
        for match in _matches(r"model\.(\d+)\.weight$", shapes)
        if len(shapes[match[0]]) == 4
    )
    found: dict[str, Any] = {
        "in_channels": stem[1],
        "out_channels": _kernel(shapes, f"model.{last}.weight")[0] if head else 1,
        "width": stem[0],
        "norm": "batch" if batch else "instance",
        "dropout": second == 6,
        "downsampling": "blur" if down_filters else "strided",
        "upsampling": "blur" if up_filters else "transposed",
        "num_blocks": len(blocks),
        "num_downs": num_downs,
        "norm_bias": batch and "model.1.bias" in shapes,
    }
    if num_downs == 2:
        return {"name": "resnet6" if len(blocks) == 6 else "resnet9", **found}
    return {"name": "pix2pixhd", **found}


# ---------------------------------------------------------------------------------------- pix2pixHD


def _lay_out_pix2pixhd(architecture: Mapping[str, Any]) -> Layout:
    _plain_only(architecture)
    coarse = {
        **architecture,
        "downsampling": "strided",
        "upsampling": "transposed",
        "dropout": False,
    }
    layout = _lay_out_resnet(coarse, "coarse.", head=False)
    layout.family = "pix2pixhd"
    count = architecture["num_enhancers"]
    for number in range(1, count + 1):
        ours = f"enhancers.{number - 1}"
        for position, name in ((1, "stem"), (4, "down")):
            layout.convolution(f"model{number}_1.{position}", f"{ours}.{name}")
            layout.norm(f"model{number}_1.{position + 1}", f"{ours}.{name}")
        blocks = architecture["enhancer_blocks"]
        for block in range(blocks):
            _lay_out_block(layout, f"model{number}_2.{block}", f"{ours}.blocks.{block}", False)
        layout.convolution(f"model{number}_2.{blocks}", f"{ours}.up")
        layout.norm(f"model{number}_2.{blocks + 1}", f"{ours}.up")
        if number == count:  # behind relu and reflection padding
            layout.convolution(f"model{number}_2.{blocks + 4}", "head")
    return layout


def _infer_pix2pixhd(shapes: Shapes) -> dict[str, Any]:
    coarse = _infer_resnet({k: s for k, s in shapes.items() if k.startswith("model.")}, head=False)
    count = max(int(m[1]) for m in _matches(r"model(\d+)_[12]\.", shapes))
    blocks = {int(m[1]) for m in _matches(rf"model{count}_2\.(\d+)\.conv_block\.", shapes)}
    head = f"model{count}_2.{len(blocks) + 4}.weight"
    return {
        "name": "pix2pixhd_enhancer",
        "in_channels": coarse["in_channels"],
        "out_channels": _kernel(shapes, head)[0],
        "width": _kernel(shapes, f"model{count}_1.1.weight")[0],
        "norm": coarse["norm"],
        "num_downs": coarse["num_downs"],
        "num_blocks": coarse["num_blocks"],
        "num_enhancers": count,
        "enhancer_blocks": len(blocks),
        "norm_bias": coarse["norm"] != "batch" or coarse["norm_bias"],
    }


# -------------------------------------------------------------------------------------------- parts

_DEEPEST = 15


def _plain_only(architecture: Mapping[str, Any], blur: bool = False) -> None:
    """Raises `NoLayout` for what the originals do not have."""
    resampling = {"blur"} if blur else set()
    if architecture.get("downsampling", "strided") not in {"strided", *resampling}:
        raise NoLayout("the original has no antialiased downsampling")
    if architecture.get("upsampling", "transposed") not in {"transposed", *resampling}:
        raise NoLayout(f"the original has no upsampling like {architecture['upsampling']}")
    if "unet" not in str(architecture["name"]) and architecture["padding"] != "reflect":
        raise NoLayout(f"the original does not pad by {architecture['padding']}")
    if architecture["norm"] == "none":
        raise NoLayout("the original has no generator without norms")


def _kernel(shapes: Shapes, key: str) -> tuple[int, ...]:
    """The shape of a convolution's weight, which has four axes, none of them empty."""
    shape = shapes.get(key)
    if shape is None:
        raise NoLayout(f"{key} is missing")
    if len(shape) != 4 or 0 in shape:
        raise NoLayout(f"{key} is {list(shape)}, not the weight of a convolution")
    return shape


def _matches(pattern: str, shapes: Shapes) -> Iterator[re.Match[str]]:
    return (match for key in shapes if (match := re.match(pattern, key)))


def _filters(shapes: Shapes) -> list[str]:
    return [match[0] for match in _matches(r"model\.(\d+)\.filt$", shapes)]
