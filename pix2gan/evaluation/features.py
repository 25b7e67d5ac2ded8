"""Feature networks from a local file, for FID, KID and LPIPS: data and not code.

Either the public weights of the networks of the papers (`inception`, `lpips`), or any network as
ONNX. That has one input of images, float32 [N, 3, H, W] in [0, 1]; what its network needs (size,
mean, deviation) is inside of the graph. H and W may be fixed; images are brought to that size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2gan.checkpoints.onnx_file import open_session, read_onnx
from pix2gan.errors import CheckpointError
from pix2gan.evaluation.inception import InceptionFeatures
from pix2gan.evaluation.lpips import PerceptualMaps
from pix2gan.evaluation.weights_file import SUFFIXES


class FeatureNetwork(Protocol):
    """What makes features of images, [N, D] or feature maps."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [0, 1] -> the outputs; images go through one by one."""

    def protocol(self) -> dict[str, Any]:
        """What a report says about it."""


def open_features(path: Path) -> FeatureNetwork:
    """The network of FID and KID in a file, ``.onnx`` or Inception's weights.

    Raises:
        CheckpointError: If it is no such file, or holds more than data.
    """
    if path.suffix in SUFFIXES:
        return InceptionFeatures(path)
    return OnnxNetwork(path, maps=False)


def open_maps(path: Path, layers: Path | None = None) -> FeatureNetwork:
    """The network of LPIPS in a file, ``.onnx`` or the weights of AlexNet or VGG-16.

    Args:
        path: The file.
        layers: The weights of the layers, see `PerceptualMaps`.

    Raises:
        CheckpointError: If it is no such file, or holds more than data.
    """
    if path.suffix in SUFFIXES:
        return PerceptualMaps(path, layers)
    if layers is not None:
        raise CheckpointError(f"{path} holds the weights of its layers itself: leave {layers} out")
    return OnnxNetwork(path, maps=True)


class OnnxNetwork:
    """The network in an ONNX file; of FID and KID if it makes [N, D], of LPIPS if feature maps.

    Args:
        path: The `.onnx` file.
        maps: Whether its outputs are to be feature maps [N, C, h, w], any number of them, or one
            vector of features [N, D].

    Raises:
        CheckpointError: If it is no such file, or holds more than data.
    """

    def __init__(self, path: Path, *, maps: bool) -> None:
        self.path, self.maps = path, maps
        _, data = read_onnx(path)
        self.session = open_session(data, path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        takes_rgb = len(shape) == 4 and (shape[1] == 3 or not isinstance(shape[1], int))
        if not takes_rgb or inputs[0].type != "tensor(float)":
            raise CheckpointError(
                f"{path} is no feature network: it must take images [N, 3, H, W] in float32, and "
                "nothing else"
            )
        axes = [len(output.shape) for output in outputs]
        if maps and set(axes) != {4}:
            raise CheckpointError(f"{path} must make feature maps [N, C, h, w] for LPIPS")
        if not maps and axes != [2]:
            raise CheckpointError(f"{path} must make one vector [N, D] an image for FID and KID")
        self.name = inputs[0].name
        self.size = tuple(n if isinstance(n, int) else None for n in shape[2:])

    def __call__(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [0, 1] -> the outputs; images go through one by one."""
        found = [self._one(image) for image in images.split(1)]
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _one(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        size = (self.size[0] or height, self.size[1] or width)
        if size != (height, width):
            image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        try:
            made = self.session.run(None, {self.name: image.contiguous().numpy()})
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{self.path} cannot take an image of {width} x {height} pixels ({text})"
            ) from None
        return [torch.from_numpy(output) for output in made]

    def protocol(self) -> dict[str, Any]:
        """What a report says about it."""
        height, width = self.size
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "size": [height, width] if height and width else "of the image",
            "resampling": "bilinear, antialiased",
        }
