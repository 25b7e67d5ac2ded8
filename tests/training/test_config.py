"""The options: checked on construction, to and from YAML, compared on resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pix2gan.errors import ConfigError
from pix2gan.training.config import FREE_ON_RESUME, TrainConfig, read_yaml
from pix2gan.training.method_options import CycleGANConfig, Pix2PixConfig


def config(**options: object) -> Pix2PixConfig:
    return Pix2PixConfig(**{"data": "pairs", "out": "run", **options})  # type: ignore[arg-type]


def test_defaults_are_the_papers() -> None:
    options = config()
    assert (options.lr, options.beta1, options.beta2) == (2e-4, 0.5, 0.999)
    assert (options.l1, options.batch, options.n_layers) == (100.0, 1, 3)
    assert options.total_steps(images=10) == 2000  # 200 epochs


def test_defaults_of_cyclegan_are_the_papers() -> None:
    options = CycleGANConfig("heaps", out="run")
    assert (options.generator, options.lr, options.batch) == ("resnet9", 2e-4, 1)
    assert (options.lambda_cycle, options.lambda_identity, options.pool_size) == (10.0, 0.5, 50)
    assert (options.gan_loss, options.decay_start) == ("lsgan", 0.5)
    for name in ("lambda_cycle", "lambda_identity", "pool_size"):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must not be negative"):
            CycleGANConfig("heaps", out="run", **{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "images", "steps"),
    [
        ({"steps": 7}, 1000, 7),
        ({"epochs": 2, "batch": 4}, 10, 5),
        ({"epochs": 2, "batch": 3}, 10, 7),  # the last batch goes beyond the second epoch
        ({"epochs": 0.01}, 10, 1),
        ({"epochs": 2, "batch": 2, "accumulate": 2}, 10, 5),
    ],
)
def test_length(options: dict[str, float], images: int, steps: int) -> None:
    assert config(**options).total_steps(images) == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "--size must be at least 1, got 0."),
        ({"size": 2.5}, "--size must be a whole number, got 2.5."),
        ({"size": "big"}, "--size must be a whole number"),
        ({"size": True}, "--size must be a whole number, got True."),
        ({"direction": "BtoC"}, "--direction must be AtoB or BtoA, got 'BtoC'."),
        ({"holdout": 1.0}, "--holdout must be at least 0 and below 1"),
        ({"ema": -0.1}, "--ema must be at least 0"),
        ({"lr": 0}, "--lr must be above 0"),
        ({"lr": float("nan")}, "--lr must be a number, got nan."),
        ({"lr_discriminator": -1.0}, "--lr-discriminator must be above 0"),
        ({"l1": -1}, "--l1 must not be negative"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"steps": 10, "epochs": 1}, "Give --steps or --epochs, not both."),
        ({"decay_start": 1.5}, "--decay-start must lie in 0 to 1"),
        ({"precision": "fp8"}, "--precision must be bf16 or fp16 or fp32, got 'fp8'."),
        ({"resume": "maybe"}, "--resume must be auto, got 'maybe'."),
        ({"accumulate": 0}, "--accumulate must be at least 1"),
        ({"clip_gradient": -1.0}, "--clip-gradient must not be negative"),
        ({"decay_every": 0.0}, "--decay-every must be above 0 and at most 1"),
        ({"schedule": "plateau"}, "--schedule plateau needs evaluations"),
        ({"dropout": "yes"}, "--dropout must be true or false, got 'yes'."),
        ({"discriminator_scales": 0}, "--discriminator-scales must be at least 1"),
        ({"data": ""}, "--data must be a path, got ''."),
        ({"seed": -1}, "--seed must not be negative, got -1."),
        ({"seed": 2**64}, "--seed must be below 2**64"),
        ({"width": 2**31}, "--width must be below 2**31"),
        ({"num_blocks": 10**30}, "--num-blocks must be below 2**31"),
    ],
)
def test_bad_values_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_yaml_round_trip(tmp_path: Path) -> None:
    options = config(name="Fassade Köln", lr=1e-5, steps=30, norm="batch", sketch="mixed")
    path = tmp_path / "options.yaml"
    path.write_text(options.to_yaml(), encoding="utf-8")
    assert Pix2PixConfig.from_yaml(path) == options
    assert Pix2PixConfig.from_yaml(path, lr=1.0).lr == 1.0


def test_a_file_says_of_which_method_its_options_are(tmp_path: Path) -> None:
    options = CycleGANConfig("heaps", out="run", lambda_cycle=3.0)
    path = tmp_path / "options.yaml"
    path.write_text(options.to_yaml(), encoding="utf-8")
    assert TrainConfig.from_yaml(path) == options
    with pytest.raises(ConfigError, match=r"Unknown option in .*options\.yaml: data_b"):
        Pix2PixConfig.from_yaml(path)
    path.write_text("data: pairs\nout: run\nmethod: pix3pix\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="--method must be"):
        TrainConfig.from_yaml(path)
    path.write_text("data: pairs\nout: run\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Missing in .*: method"):
        TrainConfig.from_yaml(path)


def test_resume_is_not_written(tmp_path: Path) -> None:
    # Or starting from a finished run's config.yaml would ask for --resume without a word.
    path = tmp_path / "options.yaml"
    path.write_text(config(resume=True).to_yaml(), encoding="utf-8")
    assert not Pix2PixConfig.from_yaml(path).resume


def test_yaml_floats_without_a_point(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("data: pairs\nout: run\nlr: 2e-4\n", encoding="utf-8")
    assert Pix2PixConfig.from_yaml(path).lr == 2e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", "learning_rate"),
        ("- a\n- b", "option: value"),
        ("lr: [", "Cannot read"),
        ("lr: 1", "Missing"),
    ],
)
def test_bad_yaml_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        Pix2PixConfig.from_yaml(path)
    assert str(path) in str(caught.value)


def test_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_differences_name_what_changes_the_result() -> None:
    assert config().differences(config()) == []
    lines = config(lr=1.0, norm="batch").differences(config())
    assert lines == ["--norm batch (the run has instance)", "--lr 1.0 (the run has 0.0002)"]
    free = config(out="other", workers=0, log_every=1, checkpoint_every=3, device="cpu")
    assert free.differences(config()) == []
    lines = config(evaluate_every=3, schedule="plateau", holdout=0.1).differences(
        config(schedule="plateau", holdout=0.1)
    )
    assert lines == ["--evaluate-every 3 (the run has 1000)"]


def test_every_free_option_exists() -> None:
    kinds = (Pix2PixConfig, CycleGANConfig)
    known = {option.name for kind in kinds for option in dataclasses.fields(kind)}
    assert known >= FREE_ON_RESUME
