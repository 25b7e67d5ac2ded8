"""Gigapixels and videos, killed midway: no half file under the output's name, and the same command
finishes the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import save_image
from pix2gan.translation import Translator

from .image_trees import tree

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

# One process that starts all of the runs, so that torch is imported once: each is a copy of it.
KILLED_RUNS = """
import os, signal, sys
from functools import partial
from pix2gan.data.image_io import open_image_with_info
from pix2gan.translation import Translator, folder_run, gigapixel, translate_paths, video

kind, model, source, out, *moments = sys.argv[1:]
folder_run.open_image_with_info = partial(open_image_with_info, max_pixels=100)
translator = Translator.from_pretrained(model, device="cpu")

def translate_until(moment):
    # A part is made; at the end the output reaches the disk, gets its name, its name reaches it.
    steps = 0

    def deadly(step):
        def counted(*arguments):
            nonlocal steps
            steps += 1
            if steps > moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)
        return counted

    writer = gigapixel._PixelFile if kind == "gigapixel" else video._Writer
    writer.write = deadly(writer.write)
    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    report = translate_paths(
        translator, source, out, tile=64, tile_statistics="fast", progress=False
    )
    print("steps", steps, report.done, flush=True)

for moment in map(int, moments):
    child = os.fork()
    if child == 0:
        try:
            translate_until(moment)
        finally:
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sorted(os.listdir(os.path.dirname(out))))
"""


def run(kind: str, model: Path, source: Path, out: Path, moments: list[int]) -> list[str]:
    command = [sys.executable, "-c", KILLED_RUNS, kind, model, source, out, *moments]
    made = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    return made.stdout.splitlines()


def check(kind: str, unet: Translator, source: Path, tmp_path: Path, suffix: str) -> None:
    model = save_model(tmp_path / "model", unet.generator, unet.config)
    undisturbed = tmp_path / "undisturbed" / f"out{suffix}"
    undisturbed.parent.mkdir()
    counted, _ = run(kind, model, source, undisturbed, [10**6])
    steps, done = map(int, counted.split()[1:])
    assert done == 1
    expected = tree(undisturbed.parent)
    assert list(expected) == [undisturbed.name]

    out = tmp_path / "killed" / f"out{suffix}"
    out.parent.mkdir()
    # before the first part, between parts, before the last three steps; the fourth of these is when
    # the output has its name, and only that has to reach the disk
    moments = [0, (steps - 3) // 2, steps - 3, steps - 2, steps - 1]
    for moment in moments:
        for path in out.parent.iterdir():
            path.unlink()
        (line,) = run(kind, model, source, out, [moment])
        assert line.startswith(f"{-signal.SIGKILL} ")
        named = out.exists()
        assert named == (moment == steps - 1), "the name comes last"
        if named:
            assert out.read_bytes() == expected[out.name]
        unet.translate_paths(
            source, out, tile=64, tile_statistics="fast", progress=False
        ) if kind == "video" else run(kind, model, source, out, [10**6])
        assert tree(out.parent) == expected, "whole, and nothing beside it"


def test_gigapixels(unet: Translator, tmp_path: Path) -> None:
    pytest.importorskip("pyvips", reason="needs [gigapixel]", exc_type=ImportError)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 150, 3), np.uint8)
    save_image(tmp_path / "in.tif", pixels)
    check("gigapixel", unet, tmp_path / "in.tif", tmp_path, ".tif")
