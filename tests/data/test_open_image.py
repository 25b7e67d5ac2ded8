"""Every kind of image opens exactly, upright and silently; everything else is a BadImageError."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from pix2gan.data.image_io import (
    ImageInfo,
    encode_image,
    list_images,
    open_image,
    open_image_with_info,
    pil_to_array,
    read_image_info,
)
from pix2gan.errors import BadImageError, DataError


def noise(height: int, width: int, channels: int, dtype: Any = np.uint8) -> np.ndarray:
    rng = np.random.default_rng([height, width, channels])
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def opened(data: bytes, **options: Any) -> np.ndarray:
    return open_image(io.BytesIO(data), **options)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"metadata": None} | options)
    return buffer.getvalue()


# -- kinds of files --------------------------------------------------------------------------------


def test_every_kind_of_file_opens(sound_files: dict[str, bytes]) -> None:
    for name, data in sound_files.items():
        pixels, info = open_image_with_info(io.BytesIO(data))
        assert pixels.ndim == 3, name
        assert pixels.dtype in (np.uint8, np.uint16, np.float32), name
        assert pixels.shape[:2] == (info.height, info.width), name
        assert pixels.flags.c_contiguous, name
        assert pixels.flags.writeable, name
        assert read_image_info(io.BytesIO(data)) == info, name


def test_the_corpus_has_every_format(sound_files: dict[str, bytes]) -> None:
    formats = {read_image_info(io.BytesIO(data)).format for data in sound_files.values()}
    assert formats >= {"PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"}


def test_path_and_file_are_the_same(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(5, 6, 3)), "PNG")
    path = tmp_path / "ünïcode name.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert np.array_equal(open_image(file), open_image(path))
    assert np.array_equal(open_image(str(path)), noise(5, 6, 3))


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_png.jpg"
    path.write_bytes(encoded(Image.fromarray(noise(5, 6, 3)), "PNG"))
    assert np.array_equal(open_image(path), noise(5, 6, 3))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_exact(channels: int) -> None:
    pixels = noise(9, 7, channels, np.uint16)
    data = bytes(imagecodecs.png_encode(pixels.squeeze()))
    result, info = open_image_with_info(io.BytesIO(data))
    assert result.dtype == np.uint16
    assert np.array_equal(result, pixels)
    assert info.bit_depth == 16


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_colour_is_exact(dtype: Any, planar: str, byteorder: Any) -> None:
    pixels = noise(9, 7, 3, dtype)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    data = tiff(stored, photometric="rgb", planarconfig=planar, byteorder=byteorder)
    assert np.array_equal(opened(data), pixels)


@pytest.mark.parametrize("channels", [5, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_many_channel_tiff_is_exact(dtype: Any, channels: int) -> None:
    pixels = noise(9, 7, channels).astype(dtype)
    data = tiff(pixels, photometric="minisblack", planarconfig="contig", tile=(16, 16))
    assert opened(data).dtype == dtype
    assert np.array_equal(opened(data), pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_tiff(dtype: Any) -> None:
    pixels = (noise(9, 7, 1)[..., 0] / 256).astype(dtype)
    result = opened(tiff(pixels))
    assert result.dtype == np.float32
    assert np.array_equal(result[..., 0], pixels.astype(np.float32))


def test_32_bit_integers_that_fit_become_16_bit() -> None:
    pixels = noise(9, 7, 1, np.uint16)[..., 0].astype(np.uint32)
    assert np.array_equal(opened(tiff(pixels))[..., 0], pixels)
    assert opened(tiff(pixels)).dtype == np.uint16
    assert opened(tiff(pixels * 100)).dtype == np.float32


def test_tiff_where_white_is_zero() -> None:
    pixels = noise(9, 7, 1, np.uint16)[..., 0]
    assert np.array_equal(opened(tiff(pixels, photometric="miniswhite"))[..., 0], 65535 - pixels)


def test_tiff_palette_and_cmyk_and_lab_agree_with_pillow() -> None:
    rgb = Image.fromarray(noise(9, 7, 3))
    palette = rgb.quantize(16)
    lab = ImageCms.applyTransform(
        rgb,
        ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        ),
    )
    assert lab is not None
    assert np.array_equal(opened(encoded(palette, "TIFF")), np.array(palette.convert("RGB")))
    cmyk = rgb.convert("CMYK")
    difference = opened(encoded(cmyk, "TIFF")).astype(int) - np.array(cmyk.convert("RGB"))
    assert np.abs(difference).max() <= 1
    assert np.array_equal(opened(encoded(lab, "TIFF")), pil_to_array(lab))


def test_tiff_bilevel_and_alpha() -> None:
    bilevel = Image.fromarray(noise(9, 17, 1)[..., 0]).convert("1")
    for compression in ("raw", "group4", "packbits"):
        data = encoded(bilevel, "TIFF", compression=compression)
        assert np.array_equal(opened(data)[..., 0], np.array(bilevel) * 255)
    rgba = noise(9, 7, 4)
    assert np.array_equal(opened(encoded(Image.fromarray(rgba), "TIFF")), rgba)
    rgba[..., :3] = 60
    rgba[..., 3] = 120
    associated = tiff(rgba, photometric="rgb", extrasamples=["assocalpha"])
    assert np.unique(opened(associated)[..., :3]) == 128  # 60 / (120 / 255), rounded
    unspecified = tiff(rgba, photometric="rgb", extrasamples=["unspecified"])
    assert opened(unspecified).shape == (9, 7, 3)


def test_deep_pnm_is_exact_and_spread() -> None:
    pixels = noise(9, 7, 3, np.uint16)
    header = b"P6 # a comment\n7 9\n65535\n"
    assert np.array_equal(opened(header + pixels.astype(">u2").tobytes()), pixels)
    grey = opened(b"P5\n2 1\n1023\n" + np.array([0, 1023], ">u2").tobytes())
    assert grey.ravel().tolist() == [0, 65535]
    text = opened(b"P3\n1 2\n65535\n0 1 2\n65533 65534 # end\n65535\n")
    assert text.ravel().tolist() == [0, 1, 2, 65533, 65534, 65535]


def test_deep_jpeg_2000_is_exact() -> None:
    pixels = noise(40, 33, 3, np.uint16)
    data = bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True))
    assert np.array_equal(opened(data), pixels)


# -- modes -----------------------------------------------------------------------------------------

MODES = {
    "1": 1, "L": 1, "LA": 2, "La": 2, "P": 3, "PA": 4, "RGB": 3, "RGBX": 3, "RGBA": 4, "RGBa": 4,
    "CMYK": 3, "YCbCr": 3, "HSV": 3, "LAB": 3, "I;16": 1, "I;16B": 1, "I;16L": 1, "I": 1, "F": 1,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_is_what_pillow_makes_of_it(mode: str, progressive: bool, subsampling: int) -> None:
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    image = Image.fromarray(noise(37, 51, channels).squeeze(), mode)
    data = encoded(image, "JPEG", quality=80, progressive=progressive, subsampling=subsampling)
    expected = pil_to_array(Image.open(io.BytesIO(data)))
    pixels = opened(data)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.writeable
    np.testing.assert_array_equal(opened(data + b"something behind its end"), expected)
    for length in (len(data) // 2, len(data) - 40):
        with pytest.raises(BadImageError):
            opened(data[:length])


@pytest.mark.parametrize("mode", MODES)
def test_every_pillow_mode(mode: str) -> None:
    pixels = pil_to_array(Image.new(mode, (7, 5)))
    assert pixels.shape == (5, 7, MODES[mode])
    deep = mode.startswith("I")
    assert pixels.dtype == (np.uint16 if deep else np.float32 if mode == "F" else np.uint8)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "P", "L", "RGB"])
def test_modes_keep_their_colours(mode: str) -> None:
    colours = Image.new("RGB", (4, 4), (200, 60, 30))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(colours, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
        assert image is not None
    elif mode == "RGBa":
        image = colours.convert("RGBA").convert("RGBa")
    else:
        image = colours.quantize(4) if mode == "P" else colours.convert(mode)
    expected = [97, 97, 97] if mode == "L" else [200, 60, 30]
    result = pil_to_array(image)[0, 0, :3].astype(int)
    assert np.abs(result - expected[: len(result)]).max() <= 3


def test_16_bit_grey_modes_are_exact() -> None:
    values = np.array([[0, 1, 255, 256, 65534, 65535]], np.uint16)
    for mode, stored in (("I;16", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, (6, 1), values.astype(stored).tobytes())
        assert np.array_equal(pil_to_array(image)[..., 0], values)
        assert pil_to_array(image).dtype == np.dtype(np.uint16)


def test_palette_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    single = opened(encoded(image, "PNG", transparency=1))
    assert single.tolist() == [[[10, 20, 30, 255], [40, 50, 60, 0]]]
    several = opened(encoded(image, "PNG", transparency=bytes([7, 200])))
    assert several[..., 3].tolist() == [[7, 200]]
    assert opened(encoded(image, "PNG")).shape == (1, 2, 3)


def test_key_colour_transparency() -> None:
    grey = Image.fromarray(np.array([[5, 6]], np.uint8))
    assert opened(encoded(grey, "PNG", transparency=5)).tolist() == [[[5, 0], [6, 255]]]
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    keyed = opened(encoded(rgb, "PNG", transparency=(1, 2, 3)))
    assert keyed[..., 3].tolist() == [[0, 255]]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert opened(data)[0, 0, :3].tolist() == [255, 0, 0], format


# -- orientation -----------------------------------------------------------------------------------


def lossless(pixels: np.ndarray, format: str, orientation: int | None) -> bytes:
    """A file of format "PNG", "WEBP", "TIFF", "deep TIFF", "deep PNG" or "JPEG" with the tag."""
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    if format == "deep TIFF":
        tags = [] if orientation is None else [(274, "H", 1, orientation, True)]
        return tiff(pixels.astype(np.uint16) * 257, photometric="rgb", extratags=tags)
    if format == "deep PNG":
        data = bytes(imagecodecs.png_encode(pixels.astype(np.uint16) * 257))
        content = b"eXIf" + exif.tobytes()[6:]  # behind the pixels, as some writers have it
        chunk = struct.pack(">I", len(content) - 4) + content
        chunk += struct.pack(">I", zlib.crc32(content))
        return data[:-12] + chunk + data[-12:] if orientation is not None else data
    options: dict[str, Any] = {
        "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}
    }.get(format, {})  # fmt: skip
    return encoded(Image.fromarray(pixels), format, exif=exif, **options)


def upright(pixels: np.ndarray, orientation: int | None) -> np.ndarray:
    """By the EXIF standard: where row 0 and column 0 of the stored image belong."""
    turns = {
        2: lambda p: np.fliplr(p),
        3: lambda p: np.rot90(p, 2),
        4: lambda p: np.flipud(p),
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p, 1),
    }
    return turns[orientation](pixels) if orientation in turns else pixels


@pytest.mark.parametrize("format", ["JPEG", "PNG", "deep PNG", "WEBP", "TIFF", "deep TIFF"])
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_orientation(format: str, orientation: int | None) -> None:
    blocks = noise(2, 3, 3).repeat(8, axis=0).repeat(8, axis=1)  # what JPEG keeps
    pixels, info = open_image_with_info(io.BytesIO(lossless(blocks, format, orientation)))
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    expected = upright(blocks, orientation)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (4 if format == "JPEG" else 0)
    assert info.orientation == (orientation or 1)
    assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    pixels = noise(2, 3, 3)
    result, info = open_image_with_info(io.BytesIO(lossless(pixels, "PNG", value)))
    assert np.array_equal(result, pixels)
    assert info.orientation == 1


def test_damaged_exif_does_not_spoil_the_image() -> None:
    pixels = noise(8, 8, 3)
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff damaged")
    assert np.array_equal(opened(data), pixels)


# -- metadata --------------------------------------------------------------------------------------


def test_profile_and_resolution_are_read() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(noise(4, 5, 3))
    for format in ("PNG", "JPEG", "TIFF"):
        info = read_image_info(
            io.BytesIO(encoded(image, format, icc_profile=profile, dpi=(300, 150)))
        )
        assert info.icc_profile == profile
        assert info.dpi == pytest.approx((300, 150), rel=1e-3)
    assert read_image_info(io.BytesIO(encoded(image, "WEBP"))) == ImageInfo(
        "WEBP", "RGB", 5, 4, 8, None, None, 1
    )


def test_a_profile_of_other_colours_is_dropped() -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"CMYK"
    image = Image.fromarray(noise(4, 5, 3)).convert("CMYK")
    for format in ("JPEG", "TIFF"):
        data = encoded(image, format, icc_profile=bytes(profile))
        assert read_image_info(io.BytesIO(data)).icc_profile is None


# -- what cannot be used ---------------------------------------------------------------------------


def huge_png(width: int, height: int, depth: int = 8) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT5\xaf\x06\x1e"


@pytest.mark.parametrize("depth", [8, 16])
def test_the_pixel_cap_is_judged_by_the_header(depth: int) -> None:
    with pytest.raises(BadImageError, match="100000 x 100000 pixels, more than the 268435456"):
        opened(huge_png(100_000, 100_000, depth))
    pixels = noise(10, 10, 3)
    data = encoded(Image.fromarray(pixels), "PNG")
    with pytest.raises(BadImageError, match="raise max_pixels"):
        opened(data, max_pixels=99)
    assert np.array_equal(opened(data, max_pixels=100), pixels)


def test_the_cap_is_ours_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"):
            assert opened(encoded(Image.new("RGB", (20, 20)), format)).shape == (20, 20, 3)


def test_the_cap_holds_for_tiff_and_its_channels() -> None:
    pixels = noise(10, 10, 7)
    data = tiff(pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(BadImageError, match="7 channels"):
        opened(data, max_pixels=100)
    with pytest.raises(BadImageError, match="10 x 10 pixels"):
        opened(data, max_pixels=99)


def test_every_file_cut_short_is_named(sound_files: dict[str, bytes]) -> None:
    for name, data in sound_files.items():
        if name.endswith((".gif", ".pgm")):
            continue  # half of these may be whole: few codes, or shorter numbers
        file = io.BytesIO(data[: len(data) // 2])
        file.name = f"folder/{name}"
        with pytest.raises(BadImageError) as caught:
            open_image(file)
        assert caught.value.path == f"folder/{name}"
        assert str(caught.value).startswith(f"Cannot use image folder/{name}: ")
        assert "\n" not in str(caught.value)


def test_what_is_no_image(tmp_path: Path) -> None:
    cases = {"empty.png": b"", "text.png": b"hello " * 99, "zip.jpg": b"PK\x03\x04" + bytes(99)}
    expected = {"empty.png": "empty", "text.png": "known format", "zip.jpg": "known format"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImageError, match=expected[name]) as caught:
            open_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="no such file"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(BadImageError, match="folder"):
        open_image(tmp_path)
    with pytest.raises(BadImageError):
        open_image("nul\0byte.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(BadImageError, match="not a regular file"):
            open_image(tmp_path / "pipe.png")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.new("L", (2, 2)), "PNG"))
    path.chmod(0)
    with pytest.raises(BadImageError, match="permissions"):
        open_image(path)


def test_formats_that_run_programs_are_not_offered() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    with pytest.raises(BadImageError, match="known format"):
        opened(eps)


def test_nothing_is_printed_or_warned(
    sound_files: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in sound_files.values():
            for damaged in (data, data[: len(data) * 2 // 3], data[:40] + b"\xff" + data[41:]):
                try:
                    opened(damaged)
                except BadImageError:
                    continue
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_warning_filters_are_left_as_they_were() -> None:
    before = list(warnings.filters)
    opened(encode_image(noise(3, 3, 3), "PNG"))
    assert list(warnings.filters) == before


# -- finding ---------------------------------------------------------------------------------------


def test_list_images_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "2.PNG", "1.jpeg", "sub/3.webp", ".hidden.png", "sub/.x/4.png", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["1.jpeg", "2.PNG", "10.png", "sub/3.webp"]
    assert len(list_images(tmp_path, recursive=False)) == 3


def test_links_to_where_they_lie_lead_nowhere(tmp_path: Path) -> None:
    for name in ("secret", "in/deep", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").touch()
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "other").symlink_to(tmp_path / "other")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path / "in")]
    assert found == ["in/deep/x.png", "in/other/x.png"]


def test_a_folder_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(DataError, match=r"closed cannot be read \(Permission denied\): get access"):
        list_images(tmp_path)


def test_list_images_survives_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(list_images(tmp_path)) == 1
    with pytest.raises(DataError, match="no folder"):
        list_images(tmp_path / "missing")
