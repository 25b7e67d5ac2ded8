"""From a picture to the network's input and back: what a translator does around its network.

Arrays are [H, W, C] throughout, with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels,
or as many as the network takes. uint8 and uint16 use their whole range, floats are in [0, 1].

The rules, each of which docs/translation.md explains:

- Transparent pixels are blended with white before the network sees them. The alpha channel is put
  back onto the output, unless the inputs are sketches: a drawing on a transparent sheet becomes an
  opaque photo.
- A network for sketches gets grey drawings, however many channels it and they have.
- The result has the size and the depth (8, 16 bits, float) of what came in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from pix2gan.checkpoints.model_config import ModelConfig
from pix2gan.data import transforms
from pix2gan.data.image_io import to_channels, to_grey
from pix2gan.data.value_range import restore_range, scale_range
from pix2gan.errors import BadImageError

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]

_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
_MOST_TIMES = 1e6  # as far above the range as OpenCV saturates; from 8e6 on its integers overflow


@dataclass
class Prepared:
    """One image as the network takes it, and what is needed to turn the result back.

    Attributes:
        values: float32 [C, h, w] in the model's value range, h and w as the network needs them.
        name: The image as the user knows it.
        size: Height and width of the image.
        scaled: Height and width at which the network sees it, before padding.
        origin: Row and column of the image within the padded `values`.
        dtype: "uint8", "uint16" or "float32": the depth of the image and of the result.
        alpha: [H, W, 1] in `dtype`, to be put back onto the result; None if there is none.
    """

    values: FloatArray
    name: str
    size: tuple[int, int]
    scaled: tuple[int, int]
    origin: tuple[int, int]
    dtype: str
    alpha: Array | None


class Processing:
    """The pre- and post-processing of one model.

    Args:
        config: The model's config.
        multiple: What height and width of the network's input must be a multiple of.
        minimum: What they must at least be.
    """

    def __init__(self, config: ModelConfig, multiple: int, minimum: int = 1) -> None:
        self.channels = config.in_channels
        self.out_channels = config.out_channels
        self.low, self.high = config.value_range
        self.input_range = config.preprocessing.input_range
        self.output_range = config.preprocessing.output_range
        self.sketch = config.preprocessing.domain_a == "sketch"
        self.size = config.preprocessing.size
        self.fit = config.preprocessing.fit
        self.resize_mode = config.preprocessing.resize_mode
        self.multiple = multiple
        self.minimum = minimum

    def prepare(self, image: Array, name: str, resize: str | None = None) -> Prepared:
        """Make the network's input of an image.

        Args:
            image: [H, W, C] or [H, W]; bool, uint8, uint16 or float in [0, 1]. If the model has an
                input range, integers or floats in that; what lies outside is clipped.
            name: What to call the image in errors.
            resize: "none" or "fit" (see `Preprocessing.resize_mode`); None takes the model's own.

        Raises:
            BadImageError: If it is empty, of another type, not finite, or has channels that do not
                fit the model.
        """
        image = self._checked(image, name)
        size = (image.shape[0], image.shape[1])
        dtype = image.dtype.name
        values, alpha = self._values(image, name)
        resize = resize or self.resize_mode
        scaled, canvas = self.sizes(size, resize)
        values = _resize(values, scaled)
        origin = ((canvas[0] - scaled[0]) // 2, (canvas[1] - scaled[1]) // 2)
        as_in_training = resize == "fit" and self.fit == "pad"
        values = self._pad(values, canvas, origin, as_in_training)
        return Prepared(
            values=self._to_network(values),
            name=name,
            size=size,
            scaled=scaled,
            origin=origin,
            dtype=dtype,
            alpha=alpha,
        )

    def prepare_part(self, image: Array, name: str) -> tuple[FloatArray, Array | None]:
        """Make the network's input of a part of an image, at its own resolution and without margin.

        Args and Raises: as of `prepare`.

        Returns:
            float32 [C, h, w] in the model's value range, and the alpha channel as in `Prepared`.
        """
        values, alpha = self._values(self._checked(image, name), name)
        return self._to_network(values), alpha

    def finish(self, result: FloatArray, prepared: Prepared, dtype: str | None = None) -> Array:
        """Make an image of the network's output.

        Args:
            result: float32 [C, h, w] in the model's value range.
            prepared: The input that it came from.
            dtype: "uint8", "uint16" or "float32" in [0, 1]; None takes that of the original. If the
                model has an output range, None is "float32", and that is in the range.

        Returns:
            [H, W, C] with the size of the original; C grows by one for an alpha channel if the
            original had one that is to be kept.

        Raises:
            BadImageError: If the network's output is not finite.
        """
        (top, left), (height, width) = prepared.origin, prepared.scaled
        result = result[:, top : top + height, left : left + width]
        if dtype is None:
            dtype = prepared.dtype if self.output_range is None else "float32"
        if prepared.size == prepared.scaled:
            return self.finish_part(result, prepared.alpha, prepared.name, dtype)
        self._extremes(result, prepared.name)
        image = _resize(self._from_network(result), prepared.size)
        return self._in_depth(image, prepared.alpha, dtype)

    def finish_part(self, result: FloatArray, alpha: Array | None, name: str, dtype: str) -> Array:
        """Make a part of an image of the network's output for it, float32 [C, h, w].

        Args:
            alpha: As `prepare_part` gives it.
            name: The image as the user knows it.
            dtype: As of `finish`.

        Returns: as `finish`.
        """
        lowest, highest = self._extremes(result, name)
        most = self.low + _MOST_TIMES * (self.high - self.low)
        if dtype == "uint8" and self.low <= lowest and highest <= most:
            return self._with_alpha(self._to_bytes(result), alpha)
        image = self._from_network(result)
        np.clip(image, 0.0, 1.0, out=image)
        return self._in_depth(image, alpha, dtype)

    def _values(self, image: Array, name: str) -> tuple[FloatArray, Array | None]:
        """[H, W, the network's channels] in [0, 1], and the alpha channel that is put back."""
        if self.input_range is not None:
            image = scale_range(image, self.input_range)
        colours, alpha = self._split_alpha(image, name)
        full_scale = np.float32(_FULL_SCALE[image.dtype.name])
        # Few passes: they are what a folder costs besides the network and its codecs.
        values = self._to_channels(colours.astype(np.float32), name)
        values /= full_scale
        if alpha is not None:
            opacity = alpha.astype(np.float32) / full_scale
            values = values * opacity + (1.0 - opacity)
        dropped = self.sketch or self.output_range is not None
        return values, None if dropped else alpha

    def _to_network(self, values: FloatArray) -> FloatArray:
        """[H, W, C] in [0, 1], which is overwritten, -> [C, H, W] in the model's value range."""
        values *= np.float32(self.high - self.low)
        values += np.float32(self.low)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def _from_network(self, result: FloatArray) -> FloatArray:
        """[C, H, W] in the model's value range -> [H, W, C] around [0, 1], in memory of its own."""
        image = result.transpose(1, 2, 0) - np.float32(self.low)  # in the order of the result
        image /= np.float32(self.high - self.low)
        return image

    def _extremes(self, result: FloatArray, name: str) -> tuple[float, float]:
        """The network's least and greatest value; BadImageError if one is not finite."""
        low, high = float(result.min()), float(result.max())  # NaN if there is one
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadImageError(
                name,
                "the network's output for it is not finite; translate it in float32, and if that "
                "does not help, the model is damaged",
            )
        return low, high

    def _to_bytes(self, result: FloatArray) -> Array:
        """[C, H, W] in the model's value range, or some way above it -> uint8 [H, W, C]."""
        image = result.transpose(1, 2, 0)
        if not image.flags.c_contiguous:
            image = _interleaved(image)
        scale = 255.0 / (self.high - self.low)
        # One pass for everything; it would make negative values positive, and huge ones 0.
        return cv2.convertScaleAbs(image, alpha=scale, beta=-self.low * scale).reshape(image.shape)

    def _in_depth(self, image: FloatArray, alpha: Array | None, dtype: str) -> Array:
        """[H, W, C] in [0, 1], which is overwritten, in a depth, with the alpha channel that is put
        back; or in the model's output range."""
        if self.output_range is not None and dtype == "float32":
            return restore_range(image, self.output_range)
        return self._with_alpha(_interleaved(_quantize(image, dtype)), alpha)

    def _with_alpha(self, pixels: Array, alpha: Array | None) -> Array:
        if alpha is None or pixels.shape[2] not in (1, 3):
            return pixels
        if alpha.dtype != pixels.dtype:
            opacity = alpha.astype(np.float32) / _FULL_SCALE[alpha.dtype.name]
            alpha = _quantize(opacity, pixels.dtype.name)
        return np.concatenate([pixels, alpha], axis=2)

    def _checked(self, image: Array, name: str) -> Array:
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or 0 in image.shape:
            raise BadImageError(
                name, f"expected an array [H, W] or [H, W, C], got shape {list(image.shape)}"
            )
        if image.dtype == np.bool_:
            return image.astype(np.uint8) * np.uint8(255)
        if self.input_range is not None:
            return self._checked_values(image, name)
        if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
            return image.astype(image.dtype.newbyteorder("="), copy=False)
        if image.dtype.kind != "f":
            raise BadImageError(
                name,
                f"its values are {image.dtype}; give uint8, uint16 or floating point in [0, 1]",
            )
        image = image.astype(np.float32)
        low, high = float(image.min()), float(image.max())
        # Somebody's resampling may overshoot a little; [0, 255] or [-1, 1] is a mistake.
        if not (math.isfinite(low) and math.isfinite(high) and low >= -0.01 and high <= 1.01):
            raise BadImageError(
                name,
                f"floating-point values must be in [0, 1], and these are in [{low:g}, {high:g}]; "
                "scale them first",
            )
        return image.clip(0.0, 1.0)

    def _checked_values(self, image: Array, name: str) -> Array:
        """Values of a range that the model knows: any numbers that are finite."""
        if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
            return image.astype(image.dtype.newbyteorder("="), copy=False)
        if image.dtype.kind not in "iuf" or not np.isfinite(image).all():
            raise BadImageError(name, f"its values ({image.dtype}) are no finite numbers")
        return image.astype(np.float32)

    def _split_alpha(self, image: Array, name: str) -> tuple[Array, Array | None]:
        channels = image.shape[2]
        if channels == self.channels and channels not in (1, 3):
            return image, None  # as many as the network takes: none of them is alpha
        if channels <= 4 and self.channels in (2, 4) and not self.sketch:
            return to_channels(image, self.channels), None  # without alpha means opaque
        if channels in (2, 4):
            return image[:, :, :-1], image[:, :, -1:]
        if channels not in (1, 3):
            raise BadImageError(
                name, f"it has {channels} channels, and the model takes {self.channels}"
            )
        return image, None

    def _to_channels(self, values: FloatArray, name: str) -> FloatArray:
        """[H, W, C] -> [H, W, the network's channels]."""
        have = values.shape[2]
        if have == 3 and (self.sketch or self.channels == 1):
            values, have = to_grey(values), 1
        if have == self.channels:
            return values
        if have == 1 and (self.channels == 3 or self.sketch):
            return np.repeat(values, self.channels, axis=2)
        raise BadImageError(name, f"it has {have} channels, and the model takes {self.channels}")

    def sizes(self, size: tuple[int, int], resize: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size at which the network sees the image, and that size with its padding."""
        if resize == "fit":
            scale = self.size / max(size)
            scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            side = self._padded(self.size)
            return scaled, (side, side)
        return size, (self._padded(size[0]), self._padded(size[1]))

    def _padded(self, length: int) -> int:
        return math.ceil(max(length, self.minimum) / self.multiple) * self.multiple

    def _pad(
        self,
        values: FloatArray,
        canvas: tuple[int, int],
        origin: tuple[int, int],
        as_in_training: bool,
    ) -> FloatArray:
        height, width, _ = values.shape
        margins = [
            (origin[0], canvas[0] - height - origin[0]),
            (origin[1], canvas[1] - width - origin[1]),
            (0, 0),
        ]
        if not any(sum(margin) for margin in margins):
            return values
        if self.sketch:
            # Paper goes on beyond the edge of a drawing; its strokes do not come back mirrored.
            return np.pad(values, margins, mode="constant", constant_values=1.0)
        if as_in_training:
            return transforms.pad_to_square(values, canvas[0])
        # NumPy mirrors over and over where the margin is wider than the picture, and repeats the
        # only row or column where there is nothing to mirror.
        return np.pad(values, margins, mode="reflect")


def _quantize(image: FloatArray, dtype: str) -> Array:
    """Values in [0, 1], which are overwritten, as "uint8", "uint16" (rounded to the nearest) or
    "float32"."""
    if dtype == "float32":
        return image.astype(np.float32, copy=False)
    image *= np.float32(_FULL_SCALE[dtype])
    if dtype == "uint8" and image.flags.c_contiguous:  # rounds and converts in one pass
        return cv2.convertScaleAbs(image).reshape(image.shape)
    return np.rint(image, out=image).astype(dtype)


def _interleaved(image: Array) -> Array:
    """[H, W, C] whose channels are planes in memory as a file has them: pixel after pixel."""
    if image.flags.c_contiguous or image.shape[2] > 4:
        return image
    planes = [np.ascontiguousarray(image[..., i]) for i in range(image.shape[2])]
    return cv2.merge(planes).reshape(image.shape)


def _resize(values: FloatArray, size: tuple[int, int]) -> FloatArray:
    """[H, W, C] -> [size[0], size[1], C] as in training, without what cubic overshoots."""
    if values.shape[:2] == size:
        return values
    return np.clip(transforms.resize(np.ascontiguousarray(values), *size), 0.0, 1.0)
