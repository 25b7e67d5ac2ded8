"""Gigapixels and videos, killed midway: no half file under the output's name, and the same command
finishes the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import save_image
from pix2gan.translation import Translator

from .clips import write_clip
from .image_trees import tree

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

# One process that starts all of the runs, so that torch is imported once: each is a copy of it.
KILLED_RUNS = """
import json, os, signal, sys
from functools import partial
from pathlib import Path
from pix2gan.data.image_io import open_image_with_info
from pix2gan.translation import Translator, folder_run, gigapixel, translate_paths, video

kind, model, source, root, name = sys.argv[1:]
folder_run.open_image_with_info = partial(open_image_with_info, max_pixels=100)
translator = Translator.from_pretrained(model, device="cpu")

def translate(out, moment):
    # Parts are made; then the output reaches the disk, gets its name, and its name reaches it.
    steps = []

    def deadly(step):
        def counted(*arguments):
            steps.append(step.__name__)
            if len(steps) > moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)
        return counted

    writer = {"gigapixel": gigapixel._PixelFile, "video": video._Writer}[kind]
    writer.write = deadly(writer.write)
    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    report = translate_paths(
        translator, source, out, tile=64, tile_statistics="fast", progress=False
    )
    return steps, report.done

def in_child(out, moment=10**6):
    # what it did, None if it was killed
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(translate(out, moment)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None

steps, _ = undisturbed = in_child(Path(root, "undisturbed", name))
named = steps.index("replace")
found = []
for moment in (0, named // 2, named - 1, named, named + 1):
    out = Path(root, f"killed {moment}", name)
    killed = in_child(out, moment)
    found.append([out.parent.name, killed, out.exists(), in_child(out)])
print(json.dumps([undisturbed, found]))
"""


def check(kind: str, unet: Translator, source: Path, folder: Path, name: str) -> None:
    """Kill it before the first part, between parts, and before and behind its getting its name."""
    model = save_model(folder / "model", unet.generator, unet.config)
    command = [sys.executable, "-c", KILLED_RUNS, kind, model, source, folder, name]
    said = subprocess.run(map(str, command), stdout=subprocess.PIPE, text=True, check=True).stdout
    (steps, done), found = json.loads(said)
    assert done == 1
    assert steps.count("write") > 2
    assert steps.count("replace") == 1
    assert steps.index("replace") < len(steps) - 1
    expected = tree(folder / "undisturbed")
    assert list(expected) == [name]
    for number, (place, killed, named, again) in enumerate(found):
        assert killed is None, "killed, without a word"
        if number < 4:
            assert not named, "the name comes last"
            assert again == [steps, 1]
        else:
            assert named, "all but its way to the disk"
            assert again == [[], 0], "nothing is left to do"
        assert tree(folder / place) == expected, "whole, and nothing beside it"


def test_gigapixels(unet: Translator, tmp_path: Path) -> None:
    pytest.importorskip("pyvips", reason="needs [gigapixel]", exc_type=ImportError)
    pixels = np.random.default_rng(0).integers(0, 256, (600, 150, 3), np.uint8)
    save_image(tmp_path / "in.tif", pixels)
    check("gigapixel", unet, tmp_path / "in.tif", tmp_path, "out.tif")


@pytest.mark.parametrize("suffix", ["mp4", pytest.param("webm", marks=pytest.mark.stress)])
def test_videos(unet: Translator, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("av", reason="needs [video]", exc_type=ImportError)
    source = write_clip(tmp_path / f"in.{suffix}")
    check("video", unet, source, tmp_path, f"out.{suffix}")
