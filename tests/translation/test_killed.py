"""A thousand images, some of them broken, and a run that is killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pix2gan import cli
from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import save_image
from pix2gan.translation import Translator

from .image_trees import translate, tree

# One process that starts all of the runs, so that torch is imported once: each is a copy of it.
KILLED_RUNS = """
import os, signal, sys, threading
from pix2gan.translation import Translator, translate_folder

model, source, out, *moments = sys.argv[1:]
translator = Translator.from_pretrained(model, device="cpu")

def translate_until(moment):
    # An output is three steps: its data reach the disk, it gets its name, its name reaches it.
    steps, one_at_a_time = 0, threading.Lock()  # several threads write

    def deadly(step):
        def counted(*arguments):
            nonlocal steps
            with one_at_a_time:
                steps += 1
                if steps > moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments)
        return counted

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    translate_folder(translator, source, out, progress=False)

for moment in map(int, moments):
    child = os.fork()
    if child == 0:
        try:
            translate_until(moment)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def fill(source: Path, images: int, broken: int, folders: int) -> list[Path]:
    """Noise of three sizes in sub-folders; returns the broken ones."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(images):
        suffix = ("png", "jpg", "webp", "bmp")[i % 4]
        path = source / f"{i % folders}" / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, rng.integers(0, 256, (8 + i % 3, 8, 3), np.uint8))
        paths.append(path)
    chosen = random.Random(1).sample(paths, broken)
    for i, path in enumerate(chosen):
        data = path.read_bytes()
        path.write_bytes((b"", data[: len(data) // 2], b"not an image", data[:20])[i % 4])
    return chosen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.timeout(900)  # the machine may be busy
@pytest.mark.parametrize(
    ("images", "broken", "folders", "kills"),
    [(160, 6, 8, 10), pytest.param(1000, 37, 50, 50, marks=pytest.mark.stress)],
)
def test_killed_again_and_again(
    unet: Translator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    images: int,
    broken: int,
    folders: int,
    kills: int,
) -> None:
    source, out, undisturbed = tmp_path / "in", tmp_path / "out", tmp_path / "undisturbed"
    bad = fill(source, images, broken, folders)
    model = save_model(tmp_path / "model", unet.generator, unet.config)
    assert translate(unet, source, undisturbed).done == images - broken
    expected = tree(undisturbed)

    # Together fewer steps than the run has, so that each of them comes to be killed.
    most = 3 * (images - broken) // kills
    moments = [random.Random(kill).randrange(most) for kill in range(kills)]
    moments[-1] = 0  # leaves a temporary file for certain
    command = [sys.executable, "-c", KILLED_RUNS, model, source, out, *moments]
    killed = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    assert killed.stdout.split() == [str(-signal.SIGKILL)] * kills
    found = tree(out)
    whole = {name: data for name, data in found.items() if not name.split("/")[-1].startswith(".")}
    assert 0 < len(whole) < len(expected)
    assert all(expected[name] == data for name, data in whole.items())
    assert len(found) > len(whole)

    lines = tmp_path / "report.jsonl"
    options = ["-m", str(model), "-o", str(out), "--device", "cpu", "--report", str(lines)]
    assert cli.main(["translate", str(source), *options]) == 1
    assert tree(out) == expected
    assert len(expected) == images - broken
    shown = capsys.readouterr().out
    assert f"{len(expected) - len(whole)} translated, {len(whole)} skipped" in shown
    assert f"{broken} failed" in shown
    assert all(f"  {path}: " in shown for path in bad)
    reported = [json.loads(line) for line in lines.read_text().splitlines()]
    statuses = {line["input"]: line["status"] for line in reported}
    assert len(statuses) == images
    assert {name for name, status in statuses.items() if status == "failed"} == set(map(str, bad))
