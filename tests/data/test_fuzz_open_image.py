"""Mutated files are an image or a BadImageError: no crash, no other error, no hang."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pix2gan.data.image_io import open_image
from pix2gan.errors import BadImageError

from .conftest import corpus

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
    started = time.process_time()
    pixels, message = open_or_explain(mutated)
    if pixels is None:
        assert message.startswith("Cannot use image <stream>: ")
        assert "\n" not in message
    else:
        assert pixels.ndim == 3
        assert pixels.size > 0
        assert pixels.dtype in (np.uint8, np.uint16, np.float32)
    assert time.process_time() - started < 10


@settings(max_examples=200, deadline=None)
@given(head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"GIF89a", b"BM",
                             b"P6 ", b"RIFF\0\0\0\0WEBP", b"\xff\x4f\xff\x51"]),
       tail=st.binary(max_size=200))  # fmt: skip
def test_garbage(head: bytes, tail: bytes) -> None:
    pixels, message = open_or_explain(head + tail)
    assert (pixels is None) == bool(message)


# Fifty thousand, in processes of their own that have little memory to spare.

SPARE = 400 * 2**20  # bytes that a decoder may take besides
MOST_PIXELS = 2**22
MOST_SECONDS = 2.0  # of the processor's time, for files of a few kilobytes


def open_many(first: int, count: int) -> list[str]:
    """What went wrong with the mutated files of these numbers, each with what to make it of again;
    writes the number at hand to stdout, so that a crash can be found."""
    files = corpus()
    names = sorted(files)
    limit_memory()
    wrong = []
    for number in range(first, first + count):
        rng = random.Random(number)
        name = names[number % len(names)]
        kinds = ["flip", "set", "delete", "insert", "cut", "header"]
        mutations = [
            (rng.choice(kinds), rng.random(), rng.randrange(256)) for _ in range(rng.randint(1, 8))
        ]
        mutated = mutate(files[name], mutations)
        sys.stdout.write(f"{number} {name}\n")
        sys.stdout.flush()
        started = time.process_time()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                open_image(io.BytesIO(mutated), max_pixels=MOST_PIXELS)
            except BadImageError as error:
                if "fit into memory" in str(error):
                    wrong.append(f"{number} {name} {mutations}: wants over {SPARE} bytes")
            except BaseException as error:
                wrong.append(f"{number} {name} {mutations}: {error!r}")
        wrong += [f"{number} {name} {mutations}: warns: {w.message}" for w in warned]
        if time.process_time() - started > MOST_SECONDS:
            wrong.append(f"{number} {name} {mutations}: took {time.process_time() - started:.1f} s")
    return wrong


def limit_memory() -> None:
    """Of address space: what there is now and `SPARE`."""
    import resource

    open_image(io.BytesIO(corpus()["deep.tif"]))  # what decoders import and start
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [270, pytest.param(50_000, marks=pytest.mark.stress)])
def test_mutated_files_in_a_process_of_their_own(count: int) -> None:
    code = (
        "import sys, types; sys.modules['tests'] = package = types.ModuleType('tests'); "
        "package.__path__ = ['tests']; from tests.data.test_fuzz_open_image import open_many; "
        f"wrong = open_many(0, {count}); sys.stderr.write('\\n'.join(wrong))"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
    )
    last = result.stdout.splitlines()[-1:]
    assert result.returncode == 0, f"{result.stderr[-5000:]} (at {last})"
    assert result.stderr == "", result.stderr[-5000:]
    assert last[0].split()[0] == str(count - 1)
