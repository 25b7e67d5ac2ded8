"""Mutated files are an image or a BadImageError: no crash, no other error, no hang."""

from __future__ import annotations

import io
import time

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pix2gan.data.image_io import open_image
from pix2gan.errors import BadImageError

MUTATION = st.tuples(
    st.sampled_from(["flip", "set", "delete", "insert", "cut", "header"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
)


def mutate(data: bytes, mutations: list[tuple[str, float, int]]) -> bytes:
    changed = bytearray(data)
    for kind, place, value in mutations:
        position = int(place * (min(64, len(changed)) if kind == "header" else len(changed)))
        if not changed:
            break
        if kind == "flip":
            changed[position] ^= 1 << value % 8
        elif kind in {"set", "header"}:
            changed[position] = value
        elif kind == "delete":
            del changed[position : position + 1 + value % 32]
        elif kind == "insert":
            changed[position:position] = bytes([value]) * (1 + value % 16)
        else:
            del changed[position:]
    return bytes(changed)


def open_or_explain(data: bytes) -> tuple[np.ndarray | None, str]:
    """The image, or the one error that is allowed; any other fails the test."""
    try:
        return open_image(io.BytesIO(data)), ""
    except BadImageError as error:
        return None, str(error)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_mutated_files(sound_files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(sound_files)))
    mutated = mutate(sound_files[name], data.draw(st.lists(MUTATION, min_size=1, max_size=8)))
    started = time.monotonic()
    pixels, message = open_or_explain(mutated)
    if pixels is None:
        assert message.startswith("Cannot use image <stream>: ")
        assert "\n" not in message
    else:
        assert pixels.ndim == 3
        assert pixels.size > 0
        assert pixels.dtype in (np.uint8, np.uint16, np.float32)
    assert time.monotonic() - started < 10  # generous: the machine may be busy


@settings(max_examples=200, deadline=None)
@given(head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"GIF89a", b"BM",
                             b"P6 ", b"RIFF\0\0\0\0WEBP", b"\xff\x4f\xff\x51"]),
       tail=st.binary(max_size=200))  # fmt: skip
def test_garbage(head: bytes, tail: bytes) -> None:
    pixels, message = open_or_explain(head + tail)
    assert (pixels is None) == bool(message)
