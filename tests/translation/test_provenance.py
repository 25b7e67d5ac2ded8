"""What outputs say about themselves, read by Pillow, tifffile and, where it is, exiftool."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

from pix2gan import __version__
from pix2gan.checkpoints import ModelConfig
from pix2gan.data.image_io import open_image, save_image
from pix2gan.translation.provenance import DIGITAL_SOURCE_TYPE, xmp_packet

NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
}
CONFIG = ModelConfig(architecture={"name": "unet256"}, name="a <b> & \x00c", version="7")
KINDS = [
    (suffix, dtype, channels)
    for suffix, dtypes in {
        ".png": ("uint8", "uint16"),
        ".jpg": ("uint8",),
        ".webp": ("uint8",),
        ".tif": ("uint8", "uint16", "float32"),
    }.items()
    for dtype in dtypes
    for channels in ((1, 3) if suffix == ".jpg" else (1, 2, 3, 4))
]


def packet_of(path: Path) -> bytes | None:
    """The XMP packet as other programs find it."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            tag = file.pages[0].tags.get(700)
            return None if tag is None else bytes(tag.value)
    with Image.open(path) as image:
        if path.suffix == ".png":
            image.load()
            text = image.info.get("XML:com.adobe.xmp")
            return None if text is None else text.encode()
        return image.info.get("xmp") or None


def said(packet: bytes) -> dict[str, str]:
    root = ElementTree.parse(io.BytesIO(packet.split(b"?>", 1)[1].rsplit(b"<?xpacket", 1)[0]))
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {child.tag: child.text or "" for child in description}


def test_packet():
    content = said(xmp_packet(CONFIG))
    for name, value in {
        "Iptc4xmpExt:DigitalSourceType": DIGITAL_SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": "a <b> & c",
        "Iptc4xmpExt:AISystemVersionUsed": "7",
        "xmp:CreatorTool": f"pix2gan {__version__}",
    }.items():
        prefix, _, tag = name.partition(":")
        assert content[f"{{{NAMESPACES[prefix]}}}{tag}"] == value
    assert xmp_packet(CONFIG) == xmp_packet(CONFIG)


@pytest.mark.parametrize(("suffix", "dtype", "channels"), KINDS)
def test_every_format_keeps_it_and_its_pixels(tmp_path, suffix, dtype, channels):
    image = np.linspace(0, 1, 12 * 9 * channels).reshape(12, 9, channels)
    image = (image * {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]).astype(dtype)
    packet = xmp_packet(CONFIG)
    with_it, without = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    save_image(with_it, image, dpi=(300, 300), xmp=packet)
    save_image(without, image, dpi=(300, 300))
    assert packet_of(with_it) == packet
    assert packet_of(without) is None
    assert np.array_equal(open_image(with_it), open_image(without))


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_folders(tmp_path, make_mirror, format):
    translator = make_mirror()
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    for provenance in (True, False):
        out = tmp_path / f"out-{provenance}"
        translator.translate_paths(
            tmp_path / "a.png", out, format=format, provenance=provenance, progress=False
        )
        (made,) = out.iterdir()
        packet = packet_of(made)
        assert packet == (xmp_packet(translator.config) if provenance else None)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exiftool_reads_it(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_image(path, np.zeros((9, 9, 3), np.uint8), xmp=xmp_packet(CONFIG))
    command = ["exiftool", "-json", "-XMP:all", str(path)]
    (tags,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert DIGITAL_SOURCE_TYPE.rpartition("/")[2] in str(tags["DigitalSourceType"]) or (
        tags["DigitalSourceType"] == "Trained Algorithmic Media"
    )
    assert tags["CreatorTool"] == f"pix2gan {__version__}"
