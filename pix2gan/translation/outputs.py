"""From the network's result to the file that is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pix2gan.data.image_io import ImageInfo, encode_image, format_of, to_grey, to_rgb
from pix2gan.translation.processing import Array, FloatArray, Prepared, Processing
from pix2gan.translation.signing import Signer
from pix2gan.translation.targets import FORMATS


def finish_output(
    processing: Processing,
    result: FloatArray,
    prepared: Prepared,
    info: ImageInfo,
    name: Path,
) -> tuple[Array, dict[str, Any]]:
    """The image that a file of this `name` holds, and what it takes over from the original: options
    of `save_image` and `encode_image`."""
    suffix = name.suffix.lower()
    has_range = processing.output_range is not None
    dtype = "float32" if has_range else prepared.dtype
    image = processing.finish(result, prepared, depth_of(suffix, dtype))
    options = {
        # The colours of a drawing's profile mean nothing for the photo made of it.
        "icc_profile": None if processing.sketch else info.icc_profile,
        "dpi": info.dpi,
    }
    return without_alpha(image) if suffix in FORMATS["jpg"] else image, options


def encode_output(
    processing: Processing,
    result: FloatArray,
    prepared: Prepared,
    info: ImageInfo,
    name: Path,
    *,
    quality: int,
    xmp: bytes | None,
    signer: Signer | None,
) -> bytes:
    """The bytes of the file of this `name`, with what it says about itself."""
    image, kept = finish_output(processing, result, prepared, info, name)
    data = encode_image(image, format_of(name), quality=quality, xmp=xmp, **kept)
    return data if signer is None else signer.sign(data, name)


def depth_of(suffix: str, dtype: str) -> str:
    """The depth of an output: as the image's, as far as the format has it."""
    if suffix in (*FORMATS["tiff"], *FORMATS["npy"]):
        return dtype
    if suffix in FORMATS["png"]:
        return "uint16" if dtype == "float32" else dtype
    return "uint8"


def without_alpha(image: Array) -> Array:
    channels = image.shape[2]
    if channels == 2:
        return to_grey(image)
    return to_rgb(image) if channels == 4 else image
