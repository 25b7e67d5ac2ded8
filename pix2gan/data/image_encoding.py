"""Image files from arrays, in memory: ``image_io.save_image`` puts them on disk."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np

from pix2gan.data.pixels import Array, to_channels, with_channels
from pix2gan.data.png_pnm import make_png_chunk
from pix2gan.errors import ConfigError


def encode_image(
    image: Array,
    format: str,
    *,
    quality: int = 95,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """The bytes of an image file; ``format`` is "PNG", "JPEG", "WEBP", "TIFF", "BMP" or "NPY", the
    last two of which have no place for ``xmp``."""
    image = with_channels(image)
    if format == "NPY":
        buffer = io.BytesIO()
        np.save(buffer, image[..., 0] if image.shape[2] == 1 else image, allow_pickle=False)
        return buffer.getvalue()
    channels = image.shape[2]
    icc_profile = _profile_for(icc_profile, channels)
    if format == "TIFF" and (image.dtype != np.uint8 or channels > 4):
        return _encode_tiff(image, icc_profile, dpi, xmp)
    if format == "PNG" and image.dtype == np.uint16 and channels in {1, 2, 3, 4}:
        return _encode_deep_png(image, icc_profile, dpi, xmp)
    holds = {"PNG": 4, "TIFF": 4, "WEBP": 4, "JPEG": 3, "BMP": 4}.get(format, 0)
    if image.dtype != np.uint8 or channels > holds or (format == "JPEG" and channels == 2):
        raise ConfigError(
            f"{format} cannot hold {channels} channels of {image.dtype}; "
            "choose PNG (up to 16 bits, alpha) or TIFF (anything), or convert the image first."
        )
    if format == "JPEG" and channels == 3 and not icc_profile:
        data = _encode_jpeg(image, quality, dpi)
        return _with_jpeg_xmp(data, xmp) if xmp else data
    from PIL import Image

    if channels == 2 and format == "BMP":
        image = to_channels(image, 4)
    pil = Image.fromarray(np.ascontiguousarray(image[..., 0] if channels == 1 else image))
    options: dict[str, Any] = {}
    if icc_profile and format != "BMP":
        options["icc_profile"] = icc_profile
    if dpi and format != "WEBP":
        options["dpi"] = dpi
    if format == "JPEG":
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    if format == "WEBP":
        options |= {"quality": quality, "xmp": xmp or b""}
    if format == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
        options |= {"tiffinfo": {_TIFF_XMP: xmp}} if xmp else {}
    buffer = io.BytesIO()
    pil.save(buffer, format, **options)
    data = buffer.getvalue()
    if xmp and format == "PNG":
        return data[:_PNG_HEADER] + _png_xmp(xmp) + data[_PNG_HEADER:]
    if xmp and format == "JPEG":
        return _with_jpeg_xmp(data, xmp)
    return data


def _encode_jpeg(image: Array, quality: int, dpi: tuple[float, float] | None) -> bytes:
    """What Pillow would write, without its copies."""
    import imagecodecs

    sampling = "444" if quality >= 90 else "420"
    pixels = np.ascontiguousarray(image)
    data = imagecodecs.jpeg8_encode(pixels, quality, subsampling=sampling, optimize=False)
    if dpi is None or max(dpi) >= 2**16 - 0.5:
        return bytes(data)
    # The JFIF header: its unit, here inches, and how many pixels there are in one.
    density = struct.pack(">BHH", 1, *(round(value) for value in dpi))
    return bytes(data[:13] + density + data[18:])


# Bytes before the first chunk that may be ours: the signature and IHDR.
_PNG_HEADER = 8 + 25
_TIFF_XMP = 700
_TIFF_BYTES = 1


def _png_xmp(xmp: bytes) -> bytes:
    # keyword, not compressed, no language, no translated keyword (XMP specification, part 3)
    return make_png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)


def _with_jpeg_xmp(data: bytes, xmp: bytes) -> bytes:
    """XMP as an APP1 segment, behind the JFIF header where there is one."""
    content = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    start = 2
    if data[2:4] == b"\xff\xe0":
        start += 2 + int.from_bytes(data[4:6], "big")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content
    return data[:start] + segment + data[start:]


def _profile_for(profile: bytes | None, channels: int) -> bytes | None:
    space = b"GRAY" if channels <= 2 else b"RGB "
    return profile if profile and channels <= 4 and profile[16:20] == space else None


def _encode_tiff(
    image: Array, icc_profile: bytes | None, dpi: tuple[float, float] | None, xmp: bytes | None
) -> bytes:
    import tifffile

    channels = image.shape[2]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        image[..., 0] if channels == 1 else image,
        photometric="rgb" if channels in {3, 4} else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in {2, 4} else None,
        compression="zlib",
        iccprofile=icc_profile,
        resolution=dpi,
        resolutionunit="INCH" if dpi else None,
        metadata=None,
        extratags=[(_TIFF_XMP, _TIFF_BYTES, len(xmp), xmp, True)] if xmp else (),
    )
    return buffer.getvalue()


def _encode_deep_png(
    image: Array, icc_profile: bytes | None, dpi: tuple[float, float] | None, xmp: bytes | None
) -> bytes:
    """16-bit PNG of any channel count; profile and resolution are put behind the header."""
    import imagecodecs

    image = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
    data = bytes(imagecodecs.png_encode(image))
    extra = b""
    if icc_profile:
        extra += make_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        per_metre = [round(value / 0.0254) for value in dpi]
        extra += make_png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if xmp:
        extra += _png_xmp(xmp)
    return data[:_PNG_HEADER] + extra + data[_PNG_HEADER:]
