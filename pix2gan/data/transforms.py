"""From images of any size to training samples: fitting to a square and random augmentation.

Images here are samples: ``[H, W, C]`` uint8, or float32 in [0, 1] (what is deeper than 8 bits).
Both images of a pair go through the same geometry. Every random choice comes from a seed that the
caller derives from (seed, epoch, index). How a user's own augmentation is read is in
``augmentation``.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
import torch

from pix2gan.data.image_io import Array, to_uint8
from pix2gan.errors import ConfigError

Fit: TypeAlias = Literal["pad", "resize", "crop", "scale-width", "none"]
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
        image: The image.
        size: Side of the square in pixels.
        fit: "pad" keeps everything and the aspect ratio, continuing the border where the image
            ends; "resize" stretches; "crop" keeps the aspect ratio and cuts the longer side off
            evenly; "scale-width" makes the width fit and cuts the height off, or pads it; "none"
            scales nothing, and cuts off or pads.
    """
    height, width = image.shape[:2]
    if fit == "resize":
        return _resize_sample(image, size, size)
    if fit not in get_args(Fit):
        raise ConfigError(f"Unknown fit {fit!r}: choose one of {', '.join(get_args(Fit))}.")
    scales = {
        "pad": size / max(height, width),
        "crop": size / min(height, width),
        "scale-width": size / width,
        "none": 1.0,
    }
    least = size if fit == "crop" else 1
    height, width = (max(least, round(side * scales[fit])) for side in (height, width))
    scaled = _resize_sample(image, height, width)
    top, left = max(0, height - size) // 2, max(0, width - size) // 2
    cut = np.ascontiguousarray(scaled[top : top + size, left : left + size])
    return pad_to_square(cut, size)


def cut_windows(images: list[Array], size: int, seed: int) -> list[Array]:
    """The same ``size`` x ``size`` window, chosen at random, of images that have one shape.

    Where they are smaller, their border goes on as in ``pad_to_square``.
    """
    rng = np.random.default_rng(seed)
    height, width = images[0].shape[:2]
    top, left = (int(rng.integers(max(1, side - size + 1))) for side in (height, width))
    return [pad_to_square(image[top : top + size, left : left + size], size) for image in images]


def _resize_sample(image: Array, height: int, width: int) -> Array:
    """``resize`` without what cubic interpolation overshoots in floats."""
    resized = resize(image, height, width)
    return np.clip(resized, 0, 1) if resized.dtype.kind == "f" else resized


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
        photo: ``[H, W, 3]``, rid of its frame.
    """
    side = max(6, photo.shape[0] // 10)
    lab = cv2.cvtColor(np.ascontiguousarray(to_uint8(photo)), cv2.COLOR_RGB2LAB).astype(np.float32)
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
        photo: ``[H, W, 3]``.

    Returns:
        A view of the photo; the whole of it where it is all white.
    """
    height, width = photo.shape[:2]
    inked = to_uint8(photo).min(axis=2) < PAPER
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
    image = to_uint8(image)
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
    flip_vertical: bool = False
    """Turn every other sample upside down; right for what is seen from above."""
    rotate: float = 5.0
    """Largest angle in degrees."""
    scale: tuple[float, float] = (0.85, 1.04)
    """Objects on a plain background are scaled by a factor from this range."""
    shift: float = 0.05
    """... and moved by up to this share of the size."""
    crop: bool = True
    """Load images larger by ``JITTER`` and cut the sample out of them at random."""
    colours: bool = True
    """Vary the colours of photos, as follows."""
    gamma: tuple[float, float] = (0.85, 1.18)
    """Gamma of a photo: white and black stay what they are."""
    brightness: float = 0.1
    contrast: float = 0.1
    """Of photos that a generator reads; not of those that it should learn to make."""
    saturation: float = 0.2
    hue: float = 0.03
    """Share of the colour circle."""
    cutout: float = 0.0
    """Side, as a share of the size, of a square that is wiped out of half of the images that a
    generator reads (DeVries and Taylor, arXiv:1708.04552)."""


class Augmenter:
    """Random geometry for pairs and random colours for photos, with albumentations.

    Geometry: a pair on a plain background is mirrored, rotated, scaled and shifted as a whole, the
    background going on where the image ends; any other pair is mirrored, slightly rotated and cut
    out of a square of ``size * JITTER`` at random, as in pix2pix (arXiv:1611.07004).
    """

    def __init__(self, size: int, options: AugmentOptions | None = None) -> None:
        self.size = size
        self.options = options or AugmentOptions()
        self.load_size = round(size * JITTER) if self.options.crop else size
        """Side of the squares that ``geometry`` expects."""
        self._pipelines: dict[str, Any] = {}

    def geometry(self, images: list[Array], seed: int) -> list[Array]:
        """Square images ``[load_size, load_size, C]`` to ``[size, size, C]``, all alike.

        Whether the background is plain is judged by the last image.
        """
        plain = all(plain_colour(images[-1], side) is not None for side in _SIDES)
        pipeline = self._pipeline("plain" if plain else "scene")
        seed_pipeline(pipeline, seed)
        names = ["image", *(f"image{i}" for i in range(1, len(images)))]
        result = pipeline(**dict(zip(names, images, strict=True)))
        return [
            _restore_channels(result[name], image)
            for name, image in zip(names, images, strict=True)
        ]

    def colours(self, photo: Array, seed: int, target: bool) -> Array:
        """Vary the colours of a photo ``[H, W, 3]``; other channel counts stay as they are.

        Args:
            photo: The photo.
            seed: Decides how.
            target: Whether the generator should learn to make this photo: then white stays white,
                or it would learn to make grey backgrounds.
        """
        if photo.shape[2] != 3 or not self.options.colours:
            return photo
        pipeline = self._pipeline("target" if target else "input")
        seed_pipeline(pipeline, seed)
        varied: Array = pipeline(image=photo)["image"]
        return varied

    def cut_out(self, image: Array, seed: int) -> Array:
        """Wipe a square out of an image that a generator reads, or not: half of them stay whole.

        The hole has the image's mean colour and lies anywhere, partly outside as well.
        """
        rng = np.random.default_rng(seed)
        side = round(self.options.cutout * self.size)
        if not side or rng.random() < 0.5:
            return image
        top, left = rng.integers(-side // 2, self.size - side // 2, size=2)
        wiped = image.copy()
        wiped[max(0, top) : top + side, max(0, left) : left + side] = image.mean(axis=(0, 1))
        return wiped

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
            if options.flip_vertical:
                steps.append(albumentations.VerticalFlip(p=0.5))
        if name == "plain":
            factors = tuple(factor * self.size / self.load_size for factor in options.scale)
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


def seed_pipeline(pipeline: Any, seed: int) -> None:
    """Make what an albumentations pipeline draws next depend on ``seed`` alone.

    Its transforms share one stream. ``set_random_seed`` would start each of them with the same
    seed, so that all the coins of a pipeline fall alike: what is mirrored is always also turned.
    """
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))


def _restore_channels(image: Array, like: Array) -> Array:
    return image.reshape(*image.shape[:2], like.shape[2])


def to_tensor(image: Array) -> torch.Tensor:
    """A sample ``[H, W, C]`` as float32 ``[C, H, W]`` in [-1, 1]."""
    planes = torch.from_numpy(np.array(image.transpose(2, 0, 1), np.float32, order="C"))
    return planes.div_(0.5 if image.dtype.kind == "f" else 127.5).sub_(1.0)
