"""From images of any size to training samples: fitting to a square and random augmentation.

Images here are uint8 ``[H, W, C]``; ``resize`` and ``pad_to_square`` also take float32 in [0, 1],
for translation does with them what training did. Both images of a pair go through the same
geometry. Every random choice comes from a seed that the caller derives from (seed, epoch, index).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
import torch

from pix2gan.data.image_io import Array
from pix2gan.errors import ConfigError

Fit: TypeAlias = Literal["pad", "resize", "crop"]
Side: TypeAlias = Literal["top", "bottom", "left", "right"]
_SIDES: tuple[Side, ...] = get_args(Side)

JITTER = 286 / 256
"""Images are loaded this much larger than they are used, then cropped at random (pix2pix)."""

PAPER = 241
"""From this level on in all channels a pixel is white paper; JPEG's noise stays above it."""

MARGIN = 0.04
"""White left around an object, as a share of its longer side."""


# -- fitting ---------------------------------------------------------------------------------------


def fit_image(image: Array, size: int, fit: Fit = "pad") -> Array:
    """``[size, size, C]`` from an image of any size.

    Args:
        image: uint8 ``[H, W, C]``.
        size: Side of the square in pixels.
        fit: "pad" keeps everything and the aspect ratio, continuing the border where the image
            ends; "resize" stretches; "crop" keeps the aspect ratio and cuts the longer side off
            evenly.
    """
    height, width = image.shape[:2]
    if fit == "resize":
        return resize(image, size, size)
    if fit == "pad":
        scale = size / max(height, width)
        inner = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
        return pad_to_square(inner, size)
    if fit == "crop":
        scale = size / min(height, width)
        outer = resize(image, max(size, round(height * scale)), max(size, round(width * scale)))
        top, left = (outer.shape[0] - size) // 2, (outer.shape[1] - size) // 2
        return np.ascontiguousarray(outer[top : top + size, left : left + size])
    raise ConfigError(f"Unknown fit {fit!r}: choose one of {', '.join(get_args(Fit))}.")


def resize(image: Array, height: int, width: int) -> Array:
    """``[height, width, C]``: averaged when it shrinks, bicubic when it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    channels = image.shape[2]
    groups = [image[..., i : i + 4] for i in range(0, channels, 4)]  # cv2 resizes at most 4
    resized = [cv2.resize(group, (width, height), interpolation=method) for group in groups]
    return np.concatenate([group.reshape(height, width, -1) for group in resized], axis=2)


def pad_to_square(image: Array, size: int) -> Array:
    """Centre an image of at most ``size`` x ``size`` on a square, without drawing a frame.

    Where the adjoining border has one colour (a photo on white), that colour goes on; else each
    border pixel is repeated outwards, so that no edge appears that a sketch would trace.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    top, left = (size - height) // 2, (size - width) // 2
    bottom, right = size - height - top, size - width - left
    square: Array = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
    square = square.reshape(size, size, image.shape[2])
    margins: dict[Side, tuple[slice, slice]] = {
        "top": (slice(0, top), slice(None)),
        "bottom": (slice(size - bottom, size), slice(None)),
        "left": (slice(None), slice(0, left)),
        "right": (slice(None), slice(size - right, size)),
    }
    for side, margin in margins.items():
        if square[margin].size and (colour := plain_colour(image, side)) is not None:
            square[margin] = colour
    return square


def plain_colour(image: Array, side: Side, tolerance: int = 12) -> Array | None:
    """Colour ``[C]`` of one side's border if nearly all of it has one, else None.

    Args:
        image: uint8, or float32 in [0, 1].
        side: Where to look.
        tolerance: In levels of 8 bits.
    """
    strip = _border_strip(image, side)
    colour = np.median(strip, axis=0)
    levels = 255 if image.dtype.kind == "f" else 1
    near = (np.abs(strip - colour) * levels <= tolerance).all(axis=1)
    return colour.astype(image.dtype) if near.mean() >= 0.98 else None


def has_plain_background(photo: Array) -> bool:
    """Whether what lies behind the object is light, hardly coloured and even.

    Judged by the upper corners, where an object rarely reaches and no shadow falls.

    Args:
        photo: uint8 ``[H, W, 3]``, rid of its frame.
    """
    side = max(6, photo.shape[0] // 10)
    lab = cv2.cvtColor(np.ascontiguousarray(photo), cv2.COLOR_RGB2LAB).astype(np.float32)
    for corner in (lab[2:side, 2:side], lab[2:side, -side:-2]):
        pixels = corner.reshape(-1, 3)
        if not len(pixels):
            return False
        lightness, a, b = pixels.mean(axis=0)  # each 0 to 255, a and b grey at 128
        tinted = max(abs(a - 128), abs(b - 128)) >= 10
        if lightness <= 170 or tinted or pixels.std(axis=0).max() >= 12:
            return False
    return True


def trim_margins(photo: Array) -> Array:
    """Cut white margins off, and with them the rim of a picture that they frame.

    Padded to a square as it is, a catalogue photo that shows a coloured picture inside a white
    margin would get a frame drawn into its sketch. An object on white keeps a narrow margin.

    Args:
        photo: uint8 ``[H, W, 3]``.

    Returns:
        A view of the photo; the whole of it where it is all white.
    """
    height, width = photo.shape[:2]
    inked = photo.min(axis=2) < PAPER
    rows, columns = (np.flatnonzero(inked.mean(axis=axis) > 0.02) for axis in (1, 0))
    if not rows.size or not columns.size:
        return photo
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    inner = inked[top:bottom, left:right]
    rim = np.concatenate([inner[0], inner[:, 0], inner[:, -1]])
    if float(rim.mean()) > 0.8:  # a picture of its own: JPEG blends its rim with the margin
        grow = -2 if min(inner.shape) > 16 and inner.shape != inked.shape else 0
    else:
        grow = round(MARGIN * max(inner.shape))
    return photo[
        max(0, top - grow) : min(height, bottom + grow),
        max(0, left - grow) : min(width, right + grow),
    ]


def _bring_to_top(image: Array, side: Side) -> Array:
    """A view with that side uppermost; applied twice it is the image again."""
    if side in {"left", "right"}:
        image = image.swapaxes(0, 1) if side == "left" else image[::-1, ::-1].swapaxes(0, 1)
    return image[::-1] if side == "bottom" else image


def _border_strip(image: Array, side: Side) -> Array:
    """Pixels within 2 of a side, ``[count, C]``, signed."""
    strip = _bring_to_top(image, side)[:2].reshape(-1, image.shape[2])
    return strip if image.dtype.kind == "f" else strip.astype(np.int16)


def is_photo(image: Array) -> bool:
    """Whether an image has the texture or the many colours of a photo, unlike maps and drawings.

    Edges aside, where any two colours blend, a label map has one colour a label. Photos of an
    object on plain paper may be taken for drawings.
    """
    if image.shape[2] != 3:
        return False
    around = np.ones((3, 3), np.uint8)
    flat = cv2.subtract(cv2.dilate(image, around), cv2.erode(image, around)).max(axis=2) <= 16
    if flat.mean() < 0.2:
        return True
    high = (image[flat] >> 4).astype(np.int32)  # 4 bits a channel, or JPEG's noise would count
    counts = np.bincount((high[:, 0] << 8) | (high[:, 1] << 4) | high[:, 2], minlength=4096)
    return int((counts * 1000 >= flat.size).sum()) > 24


# -- augmentation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AugmentOptions:
    """What random augmentation may do. Each sample draws its own values."""

    flip: bool = True
    """Mirror every other sample."""
    rotate: float = 5.0
    """Largest angle in degrees."""
    scale: tuple[float, float] = (0.85, 1.04)
    """Objects on a plain background are scaled by a factor from this range."""
    shift: float = 0.05
    """... and moved by up to this share of the size."""
    gamma: tuple[float, float] = (0.85, 1.18)
    """Gamma of a photo: white and black stay what they are."""
    brightness: float = 0.1
    contrast: float = 0.1
    """Of photos that a generator reads; not of those that it should learn to make."""
    saturation: float = 0.2
    hue: float = 0.03
    """Share of the colour circle."""


class Augmenter:
    """Random geometry for pairs and random colours for photos, with albumentations.

    Geometry: a pair on a plain background is mirrored, rotated, scaled and shifted as a whole, the
    background going on where the image ends; any other pair is mirrored, slightly rotated and cut
    out of a square of ``size * JITTER`` at random, as in pix2pix (arXiv:1611.07004).
    """

    def __init__(self, size: int, options: AugmentOptions | None = None) -> None:
        self.size = size
        self.options = options or AugmentOptions()
        self.load_size = round(size * JITTER)
        """Side of the squares that ``geometry`` expects."""
        self._pipelines: dict[str, Any] = {}

    def geometry(self, images: list[Array], seed: int) -> list[Array]:
        """Square images ``[load_size, load_size, C]`` to ``[size, size, C]``, all alike.

        Whether the background is plain is judged by the last image.
        """
        plain = all(plain_colour(images[-1], side) is not None for side in _SIDES)
        pipeline = self._pipeline("plain" if plain else "scene")
        pipeline.set_random_seed(seed)
        names = ["image", *(f"image{i}" for i in range(1, len(images)))]
        result = pipeline(**dict(zip(names, images, strict=True)))
        return [
            _restore_channels(result[name], image)
            for name, image in zip(names, images, strict=True)
        ]

    def colours(self, photo: Array, seed: int, target: bool) -> Array:
        """Vary the colours of a photo, uint8 ``[H, W, 3]``; other channel counts stay as they are.

        Args:
            photo: The photo.
            seed: Decides how.
            target: Whether the generator should learn to make this photo: then white stays white,
                or it would learn to make grey backgrounds.
        """
        if photo.shape[2] != 3:
            return photo
        pipeline = self._pipeline("target" if target else "input")
        pipeline.set_random_seed(seed)
        varied: Array = pipeline(image=photo)["image"]
        return varied

    def _pipeline(self, name: str) -> Any:
        if name not in self._pipelines:
            self._pipelines[name] = self._build(name)
        return self._pipelines[name]

    def _build(self, name: str) -> Any:
        albumentations = import_albumentations()
        options = self.options
        steps: list[Any] = []
        targets: dict[str, str] = {}
        if name in {"plain", "scene"}:
            targets = {f"image{i}": "image" for i in range(1, 4)}
            steps.append(albumentations.HorizontalFlip(p=0.5 if options.flip else 0.0))
        if name == "plain":
            factors = tuple(factor / JITTER for factor in options.scale)
            affine = albumentations.Affine(
                scale=factors,
                rotate=(-options.rotate, options.rotate),
                translate_percent=(-options.shift, options.shift),
                border_mode=cv2.BORDER_REPLICATE,
                p=1.0,
            )
            steps += [affine, albumentations.CenterCrop(self.size, self.size)]
        if name == "scene":
            turn = albumentations.Affine(
                rotate=(-options.rotate, options.rotate), border_mode=cv2.BORDER_REFLECT_101, p=0.3
            )
            steps += [turn, albumentations.RandomCrop(self.size, self.size)]
        if name in {"target", "input"}:
            gamma = tuple(round(100 * value) for value in options.gamma)
            steps.append(albumentations.RandomGamma(gamma_limit=gamma, p=0.5))
            is_input = name == "input"
            jitter = albumentations.ColorJitter(
                brightness=options.brightness if is_input else 0.0,
                contrast=options.contrast if is_input else 0.0,
                saturation=options.saturation,
                hue=options.hue,
                p=0.8,
            )
            steps.append(jitter)
        return albumentations.Compose(steps, additional_targets=targets)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pipelines": {}}  # built anew in each worker


def import_albumentations() -> Any:
    """albumentations, kept from asking the network for its newest version on import."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def _restore_channels(image: Array, like: Array) -> Array:
    return image.reshape(*image.shape[:2], like.shape[2])


def to_tensor(image: Array) -> torch.Tensor:
    """uint8 ``[H, W, C]`` in 0 to 255 to float32 ``[C, H, W]`` in [-1, 1]."""
    planes = torch.from_numpy(np.array(image.transpose(2, 0, 1), np.float32, order="C"))
    return planes.div_(127.5).sub_(1.0)
