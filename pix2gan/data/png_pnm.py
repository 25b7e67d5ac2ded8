"""The parts of PNG and PNM (netpbm) files that Pillow does not pass on or would reduce."""

from __future__ import annotations

import os
import re
import struct
import zlib
from typing import IO

import numpy as np

from pix2gan.data.pixels import Array, spread_to_16_bits

_PNM_FIELD = re.compile(rb"(?:\s|#[^\n]*\n)+(\d{1,10})")


def parse_pnm_header(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, offset of the pixels and largest value of a P2, P3, P5 or P6 file."""
    values, position = [], 2
    for _ in range(3):
        field = _PNM_FIELD.match(data, position)
        if field is None:
            raise ValueError("the PNM header is incomplete")
        values.append(int(field.group(1)))
        position = field.end()
    return values[0], values[1], position + 1, values[2]


def decode_deep_pnm(data: bytes) -> Array:
    """PNM (netpbm) with values of up to 65535; Pillow reduces colour ones to 8 bits."""
    width, height, offset, maximum = parse_pnm_header(data)
    channels = 3 if data[1:2] in b"36" else 1
    count = width * height * channels
    if maximum > 65535:
        raise ValueError(f"the largest value is {maximum}, PNM ends at 65535")
    if data[1:2] in b"56":
        pixels: Array = np.frombuffer(data, ">u2", count, offset)
    else:
        text = re.sub(rb"#[^\n]*", b"", data[offset:]).split(None, count)[:count]
        pixels = np.array(text, dtype=np.int64)
        if pixels.size < count or pixels.max(initial=0) > maximum:
            raise ValueError("pixels are missing or too large")
    pixels = pixels.astype(np.uint16).reshape(height, width, channels)
    return spread_to_16_bits(pixels, maximum) if maximum < 65535 else pixels


def find_png_chunk(file: IO[bytes], wanted: bytes) -> bytes:
    """Content of the first chunk of that type, or nothing; where ``file`` stands is kept."""
    start = file.tell()
    try:
        file.seek(8)
        for _ in range(100_000):
            head = file.read(8)
            if len(head) < 8:
                break
            length, kind = struct.unpack(">I4s", head)
            if kind == wanted and length < 2**24:
                return file.read(length)
            file.seek(length + 4, os.SEEK_CUR)
        return b""
    finally:
        file.seek(start)


def make_png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
