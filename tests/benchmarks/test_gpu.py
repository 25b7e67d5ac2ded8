"""The script for a GPU: its runner, and its parts in their dry form."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import gpu

# What the machine with the GPU need not have.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {
            "albumentations", "cyclopts", "huggingface_hub", "imagecodecs", "cv2", "PIL", "yaml",
            "rich", "safetensors", "tensorboard", "tifffile", "torchmetrics", "scipy",
        }:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
import pix2gan.ops, pix2gan.models, benchmarks.gpu_parts
assert pix2gan.models.list_models()
"""


def test_needs_torch_and_numpy_only():
    subprocess.run([sys.executable, "-c", BLOCKED], cwd=gpu.REPOSITORY, check=True)


def measurement(op, case, layout, **ms):
    results = {name: {"ms": value, "share": 1 / value} for name, value in ms.items()}
    return {
        "op": op,
        "case": case,
        "direction": "forward",
        "dtype": "bfloat16",
        "layout": layout,
        "results": results,
    }


def test_the_best_backend_and_layout_is_judged():
    verdicts = gpu.judge(
        [
            measurement("bias_act", "lrelu", "contiguous", triton=1.25, cuda=2.0, reference=1.0),
            measurement("bias_act", "lrelu", "channels_last", triton=1.0),
            measurement("modulated_conv2d", "3x3", "channels_last", triton=1.2, vendor=1.0),
        ]
    )
    found = {(v["bar"].split(",")[0], v["case"]): v for v in verdicts}
    assert found["bias_act", "lrelu"]["met"]
    assert found["bias_act", "lrelu"]["layout"] == "channels_last"
    plain, grouped = (v for v in verdicts if v["case"] == "3x3")
    assert plain["value"] == pytest.approx(0.833, abs=1e-3)
    assert not plain["met"], "1.2 times as long, 1.15 are allowed"
    assert "met" not in grouped, "nothing was measured"
    assert "met" not in found["bias_act", "swish"]


def test_a_part_that_hangs_keeps_what_it_found(tmp_path, monkeypatch):
    program = (
        "import sys, time\n"
        "file = open(sys.argv[-1], 'a')\n"
        'file.write(\'{"ok": true}\\n{"cut\'); file.flush()\n'
        "time.sleep(60)\n"
    )
    script = tmp_path / "hang.py"
    script.write_text(program)
    popen = subprocess.Popen
    monkeypatch.setattr(
        gpu.subprocess,
        "Popen",
        lambda command, **options: popen([command[0], str(script), *command[3:]], **options),
    )
    summary = gpu.run_part("race", "cpu", tmp_path, limit=20)
    assert summary["end"] == "out of time"
    assert not summary["ok"]
    assert summary["records"] == 1


def dry(tmp_path, *parts):
    arguments = ["--out", str(tmp_path), "--device", "cpu"]
    for part in parts:
        arguments += ["--part", part]
    code = gpu.main(arguments)
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 0, report
    assert [p["part"] for p in report["parts"]] == list(parts)
    return {part: gpu.read_records(tmp_path / f"{part}.jsonl") for part in parts}


@pytest.mark.timeout(600)
def test_dry_run(tmp_path):
    pytest.importorskip("triton")
    found = dry(tmp_path, "race")
    assert {r["op"] for r in found["race"]} >= {"bias_act", "modulated_conv2d"}
    assert all(r["ok"] and r["backend"] == "triton" for r in found["race"])


@pytest.mark.stress
def test_dry_run_of_every_part(tmp_path):
    pytest.importorskip("triton")
    found = dry(tmp_path, *gpu.PARTS)
    assert all(found.values()), "each part found something"
    measured = {r["op"] for r in found["ops"] if "results" in r}
    assert measured == {"bias_act", "upfirdn2d", "instance_norm_act", "modulated_conv2d"}
