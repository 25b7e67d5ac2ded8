"""Inception v3 from the public file of its weights, for FID and KID.

What is here is the order of its layers; numbers of channels and sizes of kernels are the tensors'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan.errors import CheckpointError
from pix2gan.evaluation.weights_file import Tensors, check_chain, check_names, read_weights

_SIDE = 299
_EPS = 1e-3
_OF_A_LAYER = (
    "conv.weight",
    "bn.weight",
    "bn.bias",
    "bn.running_mean",
    "bn.running_var",
)
# Name, stride, whether zeros keep the size.
_STEM = (
    (("Conv2d_1a_3x3", 2, False), ("Conv2d_2a_3x3", 1, False), ("Conv2d_2b_3x3", 1, True)),
    (("Conv2d_3b_1x1", 1, False), ("Conv2d_4a_3x3", 1, False)),
)
_POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")

Names: TypeAlias = Sequence["str | Sequence[str]"]


@dataclass(frozen=True)
class _Branch:
    """Convolutions one after the other; a tuple of names are several, side by side.

    Attributes:
        names: Within the block.
        pool: "average" or "maximum", of 3 x 3 pixels, before them.
        halves: Whether the last, or the pool where there is none, has stride 2 and no zeros around.
    """

    names: Names = ()
    pool: str | None = None
    halves: bool = False

    def __call__(self, x: Tensor, block: str, tensors: Tensors) -> Tensor:
        if self.pool == "average":
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        elif self.pool == "maximum":
            x = F.max_pool2d(x, 3, 2) if self.halves else F.max_pool2d(x, 3, 1, 1)
        for number, names in enumerate(self.names):
            halved = self.halves and number == len(self.names) - 1
            stride = 2 if halved else 1
            parts = (names,) if isinstance(names, str) else names
            made = [
                _conv_bn_relu(x, f"{block}.{name}", tensors, stride, not halved) for name in parts
            ]
            x = made[0] if len(made) == 1 else torch.cat(made, 1)
        return x


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{i + 1}" for i in range(count))


_A = (
    _Branch(("branch1x1",)),
    _Branch(_numbered("branch5x5", 2)),
    _Branch(_numbered("branch3x3dbl", 3)),
    _Branch(("branch_pool",), "average"),
)
_B = (
    _Branch(("branch3x3",), halves=True),
    _Branch(_numbered("branch3x3dbl", 3), halves=True),
    _Branch(pool="maximum", halves=True),
)
_C = (
    _Branch(("branch1x1",)),
    _Branch(_numbered("branch7x7", 3)),
    _Branch(_numbered("branch7x7dbl", 5)),
    _Branch(("branch_pool",), "average"),
)
_D = (
    _Branch(_numbered("branch3x3", 2), halves=True),
    _Branch(_numbered("branch7x7x3", 4), halves=True),
    _Branch(pool="maximum", halves=True),
)


def _e(pool: str) -> tuple[_Branch, ...]:
    thrice = ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))
    return (
        _Branch(("branch1x1",)),
        _Branch(("branch3x3_1", ("branch3x3_2a", "branch3x3_2b"))),
        _Branch(thrice),
        _Branch(("branch_pool",), pool),
    )


_BLOCKS = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _A),
    "Mixed_6a": _B,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _C),
    "Mixed_7a": _D,
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("maximum"),  # as in the graph of 2015-12-05; later ones average here, too
}


def _convolutions() -> Iterator[str]:
    """The names of all convolutions."""
    for stage in _STEM:
        yield from (name for name, _, _ in stage)
    for block, branches in _BLOCKS.items():
        for branch in branches:
            for names in branch.names:
                for name in (names,) if isinstance(names, str) else names:
                    yield f"{block}.{name}"


def _conv_bn_relu(x: Tensor, name: str, tensors: Tensors, stride: int, padded: bool) -> Tensor:
    weight, scale, shift, mean, var = (tensors[f"{name}.{part}"] for part in _OF_A_LAYER)
    padding = tuple(k // 2 for k in weight.shape[2:]) if padded else 0
    x = F.conv2d(x, weight, stride=stride, padding=padding)
    return F.batch_norm(x, mean, var, scale, shift, eps=_EPS).relu()


class InceptionFeatures:
    """The pool3 features of Inception v3 (Szegedy et al. 2016), [N, 2048], as FID takes them.

    Args:
        path: A state dict of the network of 2015-12-05 that TensorFlow published and that FID was
            defined with: `pt_inception-2015-12-05-6726825d.pth` and whatever has its names.

    Raises:
        CheckpointError: If the file is damaged, could execute code or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        tensors, self.sha256 = read_weights(path)
        if any(name.startswith("AuxLogits.") for name in tensors):
            raise CheckpointError(
                f"{path} is torchvision's Inception v3, whose features are not those of FID: give "
                "pt_inception-2015-12-05-6726825d.pth"
            )
        wanted = {f"{conv}.{name}" for conv in _convolutions() for name in _OF_A_LAYER}
        check_names(tensors, wanted | {"fc.weight", "fc.bias"}, path, "an Inception v3")
        self.tensors = {name: tensors[name] for name in wanted}
        check_chain(self._features, self.tensors, path)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [0, 1] -> [features [N, D]]; images go through one by one."""
        with torch.inference_mode():
            return [torch.cat([self._features(x, self.tensors) for x in images.split(1)])]

    def protocol(self) -> dict[str, Any]:
        """What a report says about it."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "network": "Inception v3, pool3; its last pooling is of maxima",
            "size": [_SIDE, _SIDE],
            "resampling": "bilinear, not antialiased",
        }

    @staticmethod
    def _features(images: Tensor, tensors: Tensors) -> Tensor:
        size = (_SIDE, _SIDE)
        x = F.interpolate(images, size, mode="bilinear", align_corners=False) * 2 - 1
        for names in _STEM:
            for name, stride, padding in names:
                x = _conv_bn_relu(x, name, tensors, stride, padding)
            x = F.max_pool2d(x, 3, 2) if names[-1][0] in _POOLED else x
        for block, branches in _BLOCKS.items():
            x = torch.cat([branch(x, block, tensors) for branch in branches], 1)
        return x.mean((2, 3))
