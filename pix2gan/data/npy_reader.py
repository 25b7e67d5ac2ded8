"""``.npy``: arrays [H, W] or [H, W, C] of numbers, read without unpickling anything."""

from __future__ import annotations

import math
from typing import IO

import numpy as np

from pix2gan.data.image_info import ImageInfo, check_size
from pix2gan.data.pixels import Array, normalise_dtype
from pix2gan.errors import BadImageError

_MOST_CHANNELS = 1024
_BITS = {"?": 1}


class NpyReader:
    """A file that ``numpy.save`` wrote."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name = file, name
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise BadImageError(name, f"its .npy version {version} is unknown; save it again.")
        shape, self.fortran_order, self.dtype = read(file)
        if self.dtype.hasobject or self.dtype.kind not in "biuf":
            raise BadImageError(name, f"it holds {self.dtype}, not numbers; save pixels alone.")
        if len(shape) not in {2, 3}:
            raise BadImageError(name, f"its shape is {list(shape)}; save [H, W] or [H, W, C].")
        self.shape = (*shape, 1) if len(shape) == 2 else shape
        self.height, self.width, self.channels = self.shape
        if self.channels > _MOST_CHANNELS or (self.channels > 64 and self.height <= 16):
            raise BadImageError(
                name, f"its shape is {list(shape)}, which is not [H, W, C]; move the channels last."
            )

    def check_size(self, max_pixels: int) -> None:
        """Refuse what is too large, or is larger than its file."""
        check_size(self.name, self.width, self.height, max_pixels)
        if self.channels < 1:
            raise BadImageError(self.name, "it has no channels; restore or remove it.")
        if self.width * self.height * self.channels > 4 * max_pixels:
            raise BadImageError(
                self.name,
                f"it has {self.channels} channels of {self.width} x {self.height} pixels, more "
                f"than 4 times the {max_pixels} allowed; shrink it, or raise max_pixels.",
            )

    def decode(self) -> Array:
        """``[H, W, C]``."""
        data = self.file.read(math.prod(self.shape) * self.dtype.itemsize)
        pixels = np.frombuffer(data, self.dtype)  # ValueError where the file ends early
        if self.fortran_order:
            pixels = pixels.reshape(self.shape[::-1]).transpose()
        return np.ascontiguousarray(normalise_dtype(pixels.reshape(self.shape)))

    def info(self) -> ImageInfo:
        """What the header says."""
        modes = {1: "F" if self.dtype.kind == "f" else "L", 2: "LA", 3: "RGB", 4: "RGBA"}
        return ImageInfo(
            format="NPY",
            mode=modes.get(self.channels, "N-channel"),
            width=self.width,
            height=self.height,
            bit_depth=_BITS.get(self.dtype.char, 8 * self.dtype.itemsize),
            icc_profile=None,
            dpi=None,
            orientation=1,
        )
