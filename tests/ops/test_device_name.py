"""Names of devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from pix2gan.ops import device_name


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("AMD EPYC 9654 96-Core Processor", "AMD EPYC 9654, 3 cores"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "Intel Xeon E5-2680 v4, 3 cores"),
        ("AMD EPYC", "AMD EPYC family 26 model 2, 3 cores"),
    ],
)
def test_processors_have_the_names_people_know(
    monkeypatch: pytest.MonkeyPatch, model: str, expected: str
):
    fields = {"model name": model, "cpu family": "26", "model": "2"}
    monkeypatch.setattr(device_name, "_first_processor", lambda path: fields)
    monkeypatch.setattr(device_name, "_usable_cores", lambda: 3)
    assert device_name.device_name("cpu") == expected


def test_cpuinfo_is_read_up_to_its_second_processor(tmp_path: Path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A 1: x\nflags\t:\n\nmodel name\t: B\n")
    assert device_name._first_processor(path)["model name"] == "A 1: x"
    assert device_name._first_processor(tmp_path / "missing") == {}
