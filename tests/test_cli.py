"""The command line: quick, lazy, one sentence for an error, the exit codes that it promises."""

from __future__ import annotations

import dataclasses
import inspect
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pix2gan import cli
from pix2gan.errors import CheckpointError
from pix2gan.training.config import TrainConfig

COMMAND = [sys.executable, "-m", "pix2gan"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1", **environment},
    )


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failed command leaves on standard error."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("pix2gan: error: ")
    assert captured.out == ""
    return lines[0]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Replaces training; holds the configurations that it was called with."""
    import pix2gan.training.trainer

    configs: list[TrainConfig] = []
    monkeypatch.setattr(pix2gan.training.trainer, "train", configs.append)
    return configs


# ------------------------------------------------------------------------------------ help


def test_help_answers_within_300_ms_of_python_itself() -> None:
    def seconds(*command: str) -> float:
        """Processor time, which other work on the machine does not stretch as it does wall time."""
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    bare = seconds(sys.executable, "-c", "pass")
    assert seconds(*COMMAND, "--help") - bare < 0.3


def test_help_lists_the_commands_and_loads_no_torch() -> None:
    code = (
        "import sys; from pix2gan.cli import main; code = main(['--help']); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("demo", "translate", "train", "evaluate", "models", "ops", "doctor"):
        assert f" {command} " in result.stdout


@pytest.mark.parametrize(
    "command",
    ["demo", "translate", "train", "train pix2pix", "evaluate", "models", "ops", "doctor"],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    assert f"Usage: pix2gan {command}" in capsys.readouterr().out


def test_train_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "pix2pix", "--help"]) == 0
    text = capsys.readouterr().out
    for option in dataclasses.fields(TrainConfig):
        assert f"--{option.name.replace('_', '-')}" in text
    assert "--no-augment" in text


def test_translate_spells_its_options_as_python_does() -> None:
    from pix2gan.translation import Translator
    from pix2gan.translation.folder import FolderOptions

    options = set(inspect.signature(cli.translate).parameters)
    python = {option.name for option in dataclasses.fields(FolderOptions)}
    python |= {name for name in inspect.signature(Translator).parameters if name != "config"}
    assert options - {"source", "more", "model", "out"} == python - {"generator"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import pix2gan

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == pix2gan.__version__


# ---------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tran"], 'Did you mean "train"?'),
        (["train", "pix2px", "D"], 'Did you mean "pix2pix"?'),
        (["train", "pix2pix", "D", "--out", "x", "--stps", "3"], "Did you mean --steps?"),
        (["train", "pix2pix", "D", "--out", "x", "--steps", "many"], "--steps"),
        (["train", "pix2pix", "D", "--out", "x", "--steps", "0"], "--steps must be at least 1"),
        (["train", "pix2pix", "D", "--out", "x", "--gan-loss", "hinge"], '"lsgan", "vanilla"'),
        (["train", "pix2pix", "D", "--out", "x", "--method", "cut"], "--method cut"),
        (["train", "pix2pix", "D"], "--out"),
        (["train", "pix2pix", "--out", "x"], "--data"),
        (["train", "pix2pix", "D", "E", "--out", "x"], "E"),
        (["models", "nothing*"], "nothing*"),
        (["demo", "--out"], "--out"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert expected in error_line(capsys)


def test_missing_data_and_model_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nowhere")
    assert cli.main(["train", "pix2pix", missing, "--out", str(tmp_path / "run")]) == 2
    assert missing in error_line(capsys)
    assert not (tmp_path / "run").exists()
    (tmp_path / "in").mkdir()
    out = str(tmp_path / "out")
    assert cli.main(["translate", str(tmp_path / "in"), "-m", missing, "-o", out]) == 2
    assert missing in error_line(capsys)


def test_errors_of_the_operating_system_name_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(out: Path) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere/sheet.png")

    monkeypatch.setattr("pix2gan.demo.run_demo", fail)
    assert cli.main(["demo"]) == 2
    assert error_line(capsys) == "pix2gan: error: /somewhere/sheet.png: Permission denied"


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(out: Path) -> None:
        raise CheckpointError("the model\nis damaged")

    monkeypatch.setattr("pix2gan.demo.run_demo", fail)
    assert cli.main(["demo"]) == 2
    assert error_line(capsys) == "pix2gan: error: the model is damaged"
    monkeypatch.setenv("PIX2GAN_DEBUG", "1")
    with pytest.raises(CheckpointError):
        cli.main(["demo"])


def test_a_bug_is_not_dressed_up_as_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pix2gan.demo.run_demo", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


def test_control_c_exits_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(out: Path) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("pix2gan.demo.run_demo", interrupt)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "pix2gan: stopped\n"


# rich, which prints the help, exits with 1 by itself.
@pytest.mark.parametrize(("command", "code"), [("models", 141), ("train pix2pix --help", 1)])
def test_a_closed_pipe_is_quiet(command: str, code: int) -> None:
    process = subprocess.Popen(
        [*COMMAND, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before anything is written: the first flush fails
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == code
    assert errors == b""


def test_exit_code_and_stderr_of_the_real_command() -> None:
    result = run("train", "pix2pix", "D", "--out", "x", "--stps", "3")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "pix2gan: error: Unknown option: --stps. Did you mean --steps?\n"


# ------------------------------------------------------------------------ training options


def test_train_takes_options_from_the_shell(trained: list[TrainConfig]) -> None:
    shell = "train pix2pix D --out runs/x --steps 20 --l1 10 --no-augment --direction BtoA"
    assert cli.main(shell.split()) == 0
    expected = TrainConfig("D", out="runs/x", steps=20, l1=10.0, augment=False, direction="BtoA")
    assert trained == [expected]


def test_flags_beat_yaml_beats_defaults(trained: list[TrainConfig], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: D\nout: runs/x\nlr: 1e-4\nl1: 5\naugment: false\nsteps: null\n")
    assert cli.main(["train", "pix2pix", "--config", str(file), "--l1", "7", "--augment"]) == 0
    assert trained == [TrainConfig("D", out="runs/x", lr=1e-4, l1=7.0, augment=True)]


def test_a_finished_runs_config_can_be_given_again(
    trained: list[TrainConfig], tmp_path: Path
) -> None:
    config = TrainConfig("D", out="runs/x", epochs=3, width=8, name="mine", sketch="canny")
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert cli.main(["train", "pix2pix", "--config", str(file)]) == 0
    assert cli.main(["train", "pix2pix", "--config", str(file), "--steps", "9"]) == 0
    longer = TrainConfig("D", out="runs/x", steps=9, width=8, name="mine", sketch="canny")
    assert trained == [config, longer]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("l2: 3", "l2"),
        ("l1: [1, 2]", "l1"),
        ("gan_loss: hinge", "gan_loss"),
        ("- a\n- b", "one `option: value` a line"),
        ("l1: {", "Cannot read the configuration"),
        (None, "Cannot read the configuration"),
    ],
)
def test_bad_configuration_files_are_named(
    text: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    assert cli.main(["train", "pix2pix", "D", "--out", "x", "--config", str(file)]) == 2
    line = error_line(capsys)
    assert expected in line
    assert str(file) in line


# --------------------------------------------------------------------------------- reports


def test_models_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "*net*"]) == 0
    out = capsys.readouterr().out
    assert "  unet256\n" in out
    assert "  resnet9\n" in out


def test_ops_list_shows_the_reference_with_every_primitive(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["ops", "list"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    column = rows["primitive"].index("reference")
    for primitive in ("bias_act", "upfirdn2d", "instance_norm_act", "scaled_conv2d"):
        assert rows[primitive][column] == "yes"
    assert "reference (" in out


def test_doctor_names_versions_backends_and_a_broken_compiler() -> None:
    result = run("doctor", CXX="/bin/false")
    assert result.returncode == 0, result.stderr
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert facts["compiler"] == "/bin/false does not work"
    assert facts["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert "torch" in facts
    assert "backend reference" in result.stdout
