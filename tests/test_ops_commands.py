"""``pix2gan ops``: list, check and bench."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pix2gan import cli, ops
from pix2gan.ops import bench_plot, dispatch
from tests.ops.conftest import imitation

REFERENCE = dispatch.load_backend("reference")


@pytest.fixture
def wrong() -> Iterator[str]:
    """A backend whose bias_act is wrong in bfloat16, and which has no upfirdn2d."""

    def bias_act(*args: object) -> None:
        REFERENCE.bias_act(*args)
        if str(args[0].dtype) == "torch.bfloat16":  # type: ignore[attr-defined]
            args[-1].mul_(1.5)  # type: ignore[attr-defined]

    ops.register_backend("wrong", imitation(bias_act=bias_act, upfirdn2d=None))
    yield "wrong"
    ops.unregister_backend("wrong")


# --------------------------------------------------------------------------------------------- list


def test_list_tells_what_is_chosen_and_why_not(
    capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    assert cli.main(["ops", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["forced"] is None
    verdicts = {(v["primitive"], v["device"], v["backend"]): v for v in found["verdicts"]}
    for primitive in dispatch.primitives():
        of_cpu = [v for k, v in verdicts.items() if k[:2] == (primitive, "cpu")]
        (chosen,) = [v for v in of_cpu if v["chosen"]]
        assert chosen["available"]
        assert verdicts[primitive, "cpu", "reference"]["available"]
        assert all(v["available"] is not bool(v["reason"]) for v in of_cpu)
    assert verdicts["upfirdn2d", "cpu", "wrong"]["reason"] == "it does not implement this"
    assert verdicts["bias_act", "cpu", "wrong"]["available"]


def test_list_tells_the_same_as_dispatch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setitem(dispatch.PREFERENCE, ("cpu", "*"), (wrong,))
    monkeypatch.setattr(dispatch, "_candidates", {})
    assert cli.main(["ops", "list"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    columns = rows["cpu,"][1:]  # "cpu, float32" stands for one column
    assert rows["bias_act"][columns.index("wrong")] == "chosen"
    assert rows["bias_act"][columns.index("reference")] == "available"
    assert rows["upfirdn2d"][columns.index("wrong")] == "-"
    assert "wrong: it does not implement this (upfirdn2d)" in out
    monkeypatch.setenv("PIX2GAN_BACKEND", "reference")
    assert cli.main(["ops", "list"]) == 0
    out = capsys.readouterr().out
    assert "Forced by PIX2GAN_BACKEND: reference" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["bias_act"][columns.index("reference")] == "chosen"


def test_list_knows_dtypes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ops", "list", "--json", "--dtype", "float64"]) == 0
    for verdict in json.loads(capsys.readouterr().out)["verdicts"]:
        if verdict["device"] == "cpu" and verdict["chosen"]:
            assert verdict["backend"] == "reference"


# -------------------------------------------------------------------------------------------- check


def test_check_passes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", "reference", "--subject", "bias_act", "--dtype", "float32"]
    assert cli.main(["ops", "check", *arguments]) == 0
    captured = capsys.readouterr()
    assert "reference on cpu: 114 passed, 0 failed" in captured.out
    assert "FAILED" not in captured.out
    assert "of 42" in captured.err  # progress, and none of it where the table goes


def test_check_names_what_fails(capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    arguments = ["--backend", wrong, "--primitive", "bias_act", "--primitive", "upfirdn2d"]
    assert cli.main(["ops", "check", *arguments, "--dtype", "float32", "--dtype", "bfloat16"]) == 1
    out = capsys.readouterr().out
    failed = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert failed
    assert all(line.startswith("FAILED wrong bias_act [") for line in failed)
    assert all("bfloat16" in line and "elements are off" in line for line in failed)
    unsupported = [line for line in out.splitlines() if line.startswith("upfirdn2d")]
    assert [line.split()[2:] for line in unsupported] == [["0", "0", "108"]] * 2


def test_check_of_every_backend(capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    arguments = ["--subject", "bias_act_grad2", "--dtype", "float32"]
    assert cli.main(["ops", "check", *arguments]) == 0
    out = capsys.readouterr().out
    available = [s.name for s in ops.list_backends() if s.runs_on("cpu")]
    assert {"reference", wrong} <= set(available)
    assert all(f"{name} on cpu: 134 passed, 0 failed" in out for name in available)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "nobody"], "no backend named 'nobody'"),
        (["--device", "spaceship"], "--device spaceship"),
        (["--device", "cuda:99"], "There is no device cuda:99 here"),
        (["--subject", "upfirdn"], "did you mean 'upfirdn2d'?"),
        (["--backend", "wrong", "--subject", "upfirdn2d"], "Nothing was checked"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_check_that_cannot_run(
    capsys: pytest.CaptureFixture[str], wrong: str, arguments: list[str], message: str
) -> None:
    assert cli.main(["ops", "check", *arguments]) == 2
    assert message in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- bench


def test_bench_prints_writes_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "speeds"
    arguments = ["--op", "bias_act", "--device", "cpu", "--dtype", "bfloat16", "--no-compile"]
    assert cli.main(["ops", "bench", *arguments, "--seconds", "0", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("bias_act")]
    assert len(rows) == 4
    assert all("%" in row for row in rows)
    report = json.loads((out / "ops.json").read_text())
    assert report["copy_gb_s"] > 0
    assert [m["direction"] for m in report["measurements"]] == ["forward", "backward"] * 2
    for measurement in report["measurements"]:
        assert {"reference", "stock", "copy"} <= set(measurement["results"])
    with Image.open(out / "ops.png") as picture:
        assert picture.size == bench_plot.draw(report).size
        drawn = {colour for _, colour in picture.getcolors(2**24) or []}
        assert (165, 165, 165) in drawn  # the dots of stock PyTorch


def test_bench_of_what_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["ops", "bench", "--op", "bias_akt", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean 'bias_act'?" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_scale_of_the_plot_holds_the_largest_share() -> None:
    for largest in (0.3, 1.0, 1.3, 4.0, 9.9, 57.0, 2000.0):
        step, ticks = bench_plot._axis(max(1.0, largest))
        assert step * ticks >= 100 * largest
        assert ticks <= 11
