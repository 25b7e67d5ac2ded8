"""The feature maps of LPIPS, of AlexNet or VGG-16 from the public files of their weights.

What is here is the order of the layers; numbers of channels and sizes of kernels are the tensors'.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan.checkpoints.native import one_line
from pix2gan.errors import CheckpointError
from pix2gan.evaluation.weights_file import Tensors, check_chain, check_names, read_weights

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONVOLUTION = re.compile(r"features\.(\d+)\.weight")
_LAYER_WEIGHT = re.compile(r"lins?\.?(\d)\.model\.1\.weight")
# What a file may hold besides the convolutions: the classifier, and what is LPIPS's own.
_BESIDES = re.compile(r"classifier\.|lins?\.?\d\.|scaling_layer\.")


@dataclass(frozen=True)
class _Convolution:
    """A convolution and its relu.

    Attributes:
        number: In ``features``.
        pool: Side of the maxima, taken with stride 2, before it.
        seen: Whether what it makes is one of the layers of LPIPS.
        stride: Its stride.
        padding: Zeros around its input; None keeps the size.
    """

    number: int
    pool: int | None = None
    seen: bool = True
    stride: int = 1
    padding: int | None = None


@dataclass(frozen=True)
class _Network:
    name: str
    short: str
    convolutions: tuple[_Convolution, ...]


_ALEXNET = (
    _Convolution(0, stride=4, padding=2),
    _Convolution(3, pool=3),
    _Convolution(6, pool=3),
    _Convolution(8),
    _Convolution(10),
)


def _vgg16() -> Iterator[_Convolution]:
    for stage in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        for number in stage:
            first = number == stage[0] and number > 0
            yield _Convolution(number, 2 if first else None, seen=number == stage[-1])


_NETWORKS = (_Network("AlexNet", "alex", _ALEXNET), _Network("VGG-16", "vgg", tuple(_vgg16())))


class PerceptualMaps:
    """The feature maps that LPIPS compares (Zhang et al. 2018), of AlexNet or VGG-16.

    Args:
        path: The network's state dict, as of torchvision's `alexnet-owt-7be5be79.pth` and
            `vgg16-397923af.pth`; or that of the whole metric, with the weights of its layers.
        layers: The weights of the layers, `lin0.model.1.weight` to `lin4`, LPIPS's version 0.1; by
            default those that torchmetrics brings for this network.

    Raises:
        CheckpointError: If a file is damaged, could execute code or holds something else.
    """

    def __init__(self, path: Path, layers: Path | None = None) -> None:
        self.path = path
        tensors, self.sha256 = read_weights(path)
        tensors = {re.sub(r"^net\.slice\d\.", "features.", k): v for k, v in tensors.items()}
        numbers = {int(m[1]) for m in map(_CONVOLUTION.fullmatch, tensors) if m}
        found = [n for n in _NETWORKS if {c.number for c in n.convolutions} == numbers]
        if not found:
            names = " nor ".join(n.name for n in _NETWORKS)
            raise CheckpointError(f"{path} has the layers of neither {names}: give one of these")
        self.network = found[0]
        known = [c.number for c in self.network.convolutions]
        wanted = {f"features.{n}.{kind}" for n in known for kind in ("weight", "bias")}
        rest = {k: v for k, v in tensors.items() if not _BESIDES.match(k)}
        check_names(rest, wanted, path, self.network.name)
        self.tensors = {name: tensors[name] for name in wanted}
        own = {k: v for k, v in tensors.items() if _LAYER_WEIGHT.fullmatch(k)}
        self.layers = path
        if layers is not None or not own:
            self.layers = layers or _torchmetrics_layers(self.network)
            own, _ = read_weights(self.layers)
        self.roots = [weight.clamp(min=0).sqrt() for weight in _layer_weights(own, self.layers)]
        check_chain(lambda x, t: self._maps(x, t)[-1], self.tensors, path)
        check_chain(lambda x, t: self._weighted(x, t)[-1], self.tensors, self.layers)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [0, 1] -> the maps [N, C, h, w], of unit length times their weights."""
        with torch.inference_mode():
            try:
                made = [self._weighted(x, self.tensors) for x in images.split(1)]
            except RuntimeError as error:
                height, width = images.shape[-2:]
                raise CheckpointError(
                    f"{self.path} cannot take an image of {width} x {height} pixels "
                    f"({one_line(error)})"
                ) from None
            return [torch.cat(parts) for parts in zip(*made, strict=True)]

    def protocol(self) -> dict[str, Any]:
        """What a report says about it."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "network": self.network.name,
            "layers": self.layers.name,
            "layers_sha256": hashlib.sha256(self.layers.read_bytes()).hexdigest(),
            "size": "of the image",
        }

    def _weighted(self, images: Tensor, tensors: Tensors) -> list[Tensor]:
        return [
            F.normalize(x, dim=1, eps=1e-10) * root.to(x.device)
            for x, root in zip(self._maps(images, tensors), self.roots, strict=True)
        ]

    def _maps(self, images: Tensor, tensors: Tensors) -> list[Tensor]:
        mean, deviation = (
            images.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION)
        )
        x, maps = (images - mean) / deviation, []
        for conv in self.network.convolutions:
            x = F.max_pool2d(x, conv.pool, 2) if conv.pool else x
            weight, bias = (tensors[f"features.{conv.number}.{k}"] for k in ("weight", "bias"))
            padding = conv.padding if conv.padding is not None else weight.shape[-1] // 2
            x = F.conv2d(x, weight, bias, conv.stride, padding).relu()
            if conv.seen:
                maps.append(x)
        return maps


def _torchmetrics_layers(network: _Network) -> Path:
    folder = resources.files("torchmetrics").joinpath("functional", "image", "lpips_models")
    path = Path(str(folder)) / f"{network.short}.pth"
    if not path.is_file():
        raise CheckpointError(
            f"The weights of LPIPS's layers for {network.name} are not among the files of this "
            "torchmetrics: give them with --lpips-layers"
        )
    return path


def _layer_weights(tensors: Tensors, path: Path) -> list[Tensor]:
    """The weights of the five layers, each [C, 1, 1]."""
    found = {int(m[1]): tensors[m[0]] for m in map(_LAYER_WEIGHT.fullmatch, tensors) if m}
    if sorted(found) != list(range(5)) or any(w.dim() != 4 or len(w) != 1 for w in found.values()):
        raise CheckpointError(
            f"{path} does not hold the weights of LPIPS's layers, lin0.model.1.weight to "
            "lin4.model.1.weight of shape [1, C, 1, 1]"
        )
    return [found[i][0] for i in range(5)]
