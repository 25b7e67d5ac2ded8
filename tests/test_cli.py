"""The command line: quick, lazy, one sentence for an error, the exit codes that it promises."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cyclopts import CycloptsError
from PIL import Image

from pix2gan import cli
from pix2gan.errors import CheckpointError, ConfigError
from pix2gan.training.config import TrainConfig
from pix2gan.training.method_options import Pix2PixConfig

ROOT = Path(__file__).parents[1]
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
    [
        "demo",
        "translate",
        "train",
        "train pix2pix",
        "train cyclegan",
        "evaluate",
        "models",
        "ops",
        "doctor",
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    assert f"Usage: pix2gan {command}" in capsys.readouterr().out


@pytest.mark.parametrize("method", sorted(cli.TRAIN_OPTIONS))
def test_train_help_explains_what_the_method_takes_and_no_more(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", method, "--help"]) == 0
    text = capsys.readouterr().out
    known = {f.name for f in dataclasses.fields(cli.TRAIN_OPTIONS[method])}
    others = {f.name for kind in cli.TRAIN_OPTIONS.values() for f in dataclasses.fields(kind)}
    shown = {name for name in others if re.search(rf"--{name.replace('_', '-')}[ \n]", text)}
    assert shown == known
    assert "--no-augment" in text


def test_train_offers_every_method() -> None:
    from pix2gan.training.methods import find_method, list_methods

    assert {name: find_method(name).options for name in list_methods()} == cli.TRAIN_OPTIONS


def test_translate_spells_its_options_as_python_does() -> None:
    from pix2gan.translation import Translator
    from pix2gan.translation.folder import FolderOptions, translate_paths

    options = set(inspect.signature(cli.translate).parameters)
    python = {option.name for option in dataclasses.fields(FolderOptions)}
    python |= set(inspect.signature(Translator.from_pretrained).parameters)
    python |= set(inspect.signature(translate_paths).parameters) - {"translator", "options"}
    assert options - {"more"} == python


@pytest.mark.parametrize(
    "arguments",
    [
        ["translate", "", "-m", "m", "-o", "o"],
        ["translate", "a", "-m", "", "-o", "o"],
        ["translate", "a", "-m", "m", "-o", ""],
        ["train", "pix2pix", "", "--out", "o"],
        ["train", "pix2pix", "D", "--out", ""],
        ["evaluate", "", "--against", "b"],
        ["evaluate", "a", "--against", "b", "--report", ""],
        ["demo", "--out="],
    ],
)
def test_empty_paths_are_refused(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    trained: list[TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert " is empty: name a path" in error_line(capsys)
    assert trained == []
    assert list(tmp_path.iterdir()) == []


def test_lists_of_files_stay_lists(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for folder, name in (("a", "1.png"), ("b", "2.png")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / name)
    assert cli.main(["evaluate", str(tmp_path / "a"), "--against", str(tmp_path / "b")]) == 2
    first, *files = capsys.readouterr().err.splitlines()
    assert first.startswith("pix2gan: error: 2 images of")
    assert files == [f"  {tmp_path / 'a' / '1.png'}", f"  {tmp_path / 'b' / '2.png'}"]


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
    assert error_line(capsys) == (
        "pix2gan: error: /somewhere/sheet.png: Permission denied; get access, or choose another "
        "place"
    )


def test_a_schedulers_signal_ends_what_ctrl_c_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from pix2gan.translation import Translator, folder_run

    image = tmp_path / "in" / "a.png"
    image.parent.mkdir()
    Image.new("RGB", (8, 8)).save(image)
    arguments = [
        "translate",
        str(image.parent),
        "-m",
        "sketch2motorbike",
        "-o",
        str(tmp_path / "out"),
    ]
    ended = []

    def run(self: Translator, *_: object) -> None:
        ended.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # the signal comes to the main thread

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(folder_run.FolderRun, "run", run)
    report = tmp_path / "report.jsonl"
    assert cli.main([*arguments, "--report", str(report)]) == 143
    assert capsys.readouterr().err == "pix2gan: stopped\n"
    assert '"status": "left"' in report.read_text()
    assert ended == [True]
    assert signal.getsignal(signal.SIGTERM) is before


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
    # A shell starts what it puts in the background with SIGINT ignored.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["demo"]) == 130
    finally:
        signal.signal(signal.SIGINT, ours)
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
    expected = Pix2PixConfig("D", out="runs/x", steps=20, l1=10.0, augment=False, direction="BtoA")
    assert trained == [expected]


def test_flags_beat_yaml_beats_defaults(trained: list[TrainConfig], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: D\nout: runs/x\nlr: 1e-4\nl1: 5\naugment: false\nsteps: null\n")
    assert cli.main(["train", "pix2pix", "--config", str(file), "--l1", "7", "--augment"]) == 0
    assert trained == [Pix2PixConfig("D", out="runs/x", lr=1e-4, l1=7.0, augment=True)]


def test_a_finished_runs_config_can_be_given_again(
    trained: list[TrainConfig], tmp_path: Path
) -> None:
    config = Pix2PixConfig("D", out="runs/x", epochs=3, width=8, name="mine", sketch="canny")
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert cli.main(["train", "pix2pix", "--config", str(file)]) == 0
    assert cli.main(["train", "pix2pix", "--config", str(file), "--steps", "9"]) == 0
    longer = Pix2PixConfig("D", out="runs/x", steps=9, width=8, name="mine", sketch="canny")
    assert trained == [config, longer]


def test_resume_takes_the_options_that_the_run_has(
    trained: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Pix2PixConfig("D", out=tmp_path / "run", epochs=3, width=8)
    run.out.mkdir()
    (run.out / "config.yaml").write_text(run.to_yaml())
    resume = ["train", "pix2pix", "--out", str(run.out), "--resume"]
    assert cli.main(resume) == 0
    assert cli.main([*resume, "auto", "--workers", "0"]) == 0
    expected = dataclasses.replace(run, resume=True)
    assert trained == [expected, dataclasses.replace(expected, resume="auto", workers=0)]
    # without --resume, or without a run, the data must be named
    assert cli.main([*resume[:-1], "--no-resume"]) == 2
    assert "--data" in error_line(capsys)
    assert cli.main(["train", "pix2pix", "--out", str(tmp_path / "none"), "--resume"]) == 2
    assert "--data" in error_line(capsys)
    assert cli.main(["train", "cyclegan", *resume[2:]]) == 2
    assert "is for the method pix2pix" in error_line(capsys)


def test_a_dry_run_prints_and_does_not_train(
    trained: list[TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pix2gan.training.dry_run

    monkeypatch.setattr(pix2gan.training.dry_run, "dry_run", lambda options: f"of {options.out}")
    assert cli.main(["train", "pix2pix", "D", "--out", "runs/x", "--dry-run"]) == 0
    assert capsys.readouterr().out == "of runs/x\n"
    assert trained == []


def test_a_config_of_another_method_is_refused(
    trained: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(Pix2PixConfig("D", out="runs/x").to_yaml())
    assert cli.main(["train", "cyclegan", "--config", str(file)]) == 2
    assert "is for the method pix2pix: give it to pix2gan train pix2pix" in error_line(capsys)
    assert trained == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("l2: 3", "l2"),
        ("lambda_cycle: 3", "lambda_cycle"),
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


# --------------------------------------------------------------------- folders of images


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A translator of random weights, on disk."""
    from pix2gan.checkpoints import ModelConfig, save_model
    from pix2gan.models import create_generator

    generator = create_generator("unet128", width=4, num_downs=3)
    config = ModelConfig(architecture=generator.config, in_channels=3, out_channels=3)
    save_model(tmp_path / "model", generator, config)
    return tmp_path / "model"


def test_translate_a_folder_with_a_broken_image_then_score_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    for index, name in enumerate(["a.png", "b.png", "deep/c.png"]):
        Image.new("RGB", (24, 20), (index * 80, 99, 200)).save(source / name)
    (source / "deep" / "broken.png").write_bytes(b"not an image")
    command = ["translate", str(source), "-m", str(model), "-o", str(out)]

    assert cli.main(command) == 1
    report = capsys.readouterr().out
    assert "3 translated, 1 failed" in report
    assert str(source / "deep" / "broken.png") in report
    assert len(list(out.rglob("*.png"))) == 3

    (source / "deep" / "broken.png").unlink()
    assert cli.main(command) == 0
    assert "0 translated, 3 skipped" in capsys.readouterr().out

    arguments = ["evaluate", str(out), "--against", str(source)]
    assert cli.main([*arguments, "--report", str(tmp_path / "r.json")]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["images"][2]["name"].startswith("deep")


def test_seeds_choose_styles_where_there_are_some(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pix2gan.checkpoints import ModelConfig, save_model
    from pix2gan.models import create_generator

    Image.radial_gradient("L").resize((16, 16)).save(tmp_path / "a.png")
    generator = create_generator("modulated_resnet", width=8, num_blocks=1)
    styled = save_model(tmp_path / "styled", generator, ModelConfig(architecture=generator.config))
    photos = []
    for name, seed in {"one": ["--seed", "1"], "two": ["--seed", "2"], "fixed": []}.items():
        for again in ("", "-again"):
            out = tmp_path / f"{name}{again}.png"
            command = ["translate", str(tmp_path / "a.png"), "-m", str(styled), "-o", str(out)]
            assert cli.main([*command, *seed]) == 0
            photos.append(out.read_bytes())
    assert photos[0::2] == photos[1::2]
    assert len(set(photos)) == 3
    command = ["translate", str(tmp_path / "a.png"), "-m", str(model), "-o", str(tmp_path / "o")]
    assert cli.main([*command, "--seed", "1"]) == 2
    assert "unet128 has no styles for a seed to choose from" in capsys.readouterr().err


def test_translate_takes_a_glob_in_quotes_and_explains_one_without(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    options = ["-m", str(model), "-o", str(tmp_path / "out")]
    assert cli.main(["translate", str(tmp_path / "*.png"), *options]) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    capsys.readouterr()
    expanded = [str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]
    assert cli.main(["translate", *expanded, *options]) == 2
    assert "put a glob in quotes" in error_line(capsys)


def test_a_forced_backend_that_is_missing_is_no_images_fault(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    monkeypatch.setenv("PIX2GAN_BACKEND", "nonsense")
    command = ["translate", str(tmp_path / "a.png"), "-m", str(model), "-o", str(tmp_path / "out")]
    assert cli.main(command) == 2
    assert "nonsense" in error_line(capsys)


# --------------------------------------------------------------------------- documentation

DOCUMENTS = [
    path
    for pattern in ("README.md", "docs/*.md", "datasets/*.md", "benchmarks/*.md", "examples/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def documented_commands(document: Path) -> list[str]:
    """The lines of a page that call pix2gan, with continued lines joined."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.strip().removeprefix("$ ") for line in text.splitlines())
    return [line for line in lines if re.match(r"pix2gan [a-z-]", line)]


def test_the_readme_shows_commands() -> None:
    assert len(documented_commands(ROOT / "README.md")) >= 4


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_between_pages_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_commands_parse(document: Path) -> None:
    for line in documented_commands(document):
        tokens = shlex.split(line, comments=True)[1:]
        if "--config" in tokens or tokens[-1] in {"--help", "-h", "--version"}:
            continue  # needs a file that the page does not come with, or parses by itself
        try:
            cli.app.parse_args(tokens)
        except (CycloptsError, ConfigError) as error:
            pytest.fail(f"{line}: {error}")


# --------------------------------------------------------------------------------- reports


def test_models_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "*net*"]) == 0
    out = capsys.readouterr().out
    assert "  unet256\n" in out
    assert "  resnet9\n" in out


def test_doctor_names_versions_backends_and_a_broken_compiler() -> None:
    result = run("doctor", CXX="/bin/false")
    assert result.returncode == 0, result.stderr
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert facts["compiler"] == "/bin/false does not work"
    assert facts["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert "torch" in facts
    assert "backend reference" in result.stdout
