"""Exported models: equal to the original in ONNX Runtime, OpenVINO and PyTorch, at any size."""

from __future__ import annotations

import itertools
import operator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from pix2gan import Translator
from pix2gan.checkpoints import Preprocessing, load_model
from pix2gan.checkpoints.exported import ExportedGenerator
from pix2gan.cli import main
from pix2gan.errors import CheckpointError, ConfigError
from pix2gan.export import export_model, parity, writers
from pix2gan.export.model import FORMATS
from pix2gan.export.tracing import trace
from pix2gan.models import list_models

from .conftest import TINY, SaveTiny

# One of each way to halve, double, pad and normalise; the stress test has them all crossed.
EXPORTED = [
    ("resnet9", {"downsampling": "blur", "upsampling": "nearest", "norm": "batch"}),
    ("unet128", {"upsampling": "blur", "in_channels": 1, "out_channels": 4}),
    ("modulated_unet", {}),
]


def shapes_for(generator) -> list[tuple[int, int, int]]:
    """(N, H, W): the smallest, odd multiples, more than one."""
    unit, least = generator.multiple, -(-generator.minimum_size // generator.multiple)
    return [
        (1, least * unit, least * unit),
        (1, (least + 2) * unit, (least + 1) * unit),
        (3, (least + 1) * unit, (least + 4) * unit),
    ]


def in_openvino(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import openvino

    core = openvino.Core()
    # OpenVINO takes bfloat16 of its own accord on some processors.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(core.read_model(path), "CPU", exact)
    return model(inputs)[0]


def check_everywhere(model: Path, path: Path) -> None:
    """ONNX Runtime, plainly and through ours, and OpenVINO equal the original."""
    import onnxruntime

    generator, _ = load_model(model)
    exported, _ = load_model(path)
    assert isinstance(exported, ExportedGenerator)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    onnx.checker.check_model(path, full_check=True)
    for n, height, width in shapes_for(generator):
        x = torch.rand(n, generator.in_channels, height, width) * 2 - 1
        inputs, codes = {"image": x.numpy()}, ()
        if generator.style_channels:
            codes = (torch.randn(1, generator.style_channels),)
            inputs["style"] = codes[0].numpy()
        wanted = generator(x, *codes)
        found = [
            session.run(["translation"], inputs)[0],
            exported(x.contiguous(memory_format=torch.channels_last), *codes).numpy(),
            in_openvino(path, inputs),
        ]
        for result in found:
            torch.testing.assert_close(torch.from_numpy(result), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), EXPORTED)
def test_onnx_equals_the_original_in_two_runtimes(name, options, save_tiny: SaveTiny, tmp_path):
    model = save_tiny(name, **options)
    made = export_model(model, "onnx", tmp_path / "model.onnx")
    assert len(made.parity.shapes) == len(set(made.parity.shapes)) == 8
    assert {shape[0] for shape in made.parity.shapes} > {1}
    assert made.parity.difference < 1e-4
    check_everywhere(model, made.path)
    text = made.path.read_bytes()
    assert b"/blocks.py" not in text, "the paths of the machine it was made on"


@pytest.mark.stress
@pytest.mark.parametrize("to", ["onnx", "torch"])
@pytest.mark.parametrize("name", list_models())
def test_all_options_of_every_generator(name, to, save_tiny: SaveTiny, tmp_path):
    choices = {"norm": ("instance", "batch", "none"), "padding": ("reflect", "zeros")}
    if name.startswith(("resnet", "unet")):
        choices["downsampling"] = ("strided", "blur")
        choices["upsampling"] = ("transposed", "nearest", "blur")
    if name.startswith("modulated"):
        choices = {"style_channels": (6,)}
    elif name in ("resnet9", "unet256", "unet512"):  # as resnet6 and unet128, only deeper
        choices = {"norm": ("instance", "batch")}
    for values in itertools.product(*choices.values()):
        model = save_tiny(name, **dict(zip(choices, values, strict=True)))
        for statistics in ("running", "image") if "batch" in values else ("running",):
            path = tmp_path / ("model.onnx" if to == "onnx" else "model.pt2")
            export_model(model, to, path, statistics=statistics, overwrite=True)
            if to == "onnx" and statistics == "running":
                check_everywhere(model, path)


@pytest.mark.parametrize("name", list_models())
def test_every_generator_is_standard_operators(name, save_tiny: SaveTiny):
    generator, _ = load_model(save_tiny(name))
    program = trace(generator)
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    targets.discard(str(operator.getitem))
    assert all(target.startswith("aten.") for target in targets), targets
    run = program.module()
    for n, height, width in shapes_for(generator):
        x = torch.rand(n, 3, height, width) * 2 - 1
        codes = (torch.randn(1, generator.style_channels),) if generator.style_channels else ()
        torch.testing.assert_close(run(x, *codes), generator(x, *codes), rtol=1e-3, atol=1e-4)
        if codes:  # zeros stand for the fixed style
            torch.testing.assert_close(run(x, codes[0] * 0), generator(x), rtol=1e-3, atol=1e-4)


def test_a_translator_takes_an_exported_model_like_any_other(save_tiny: SaveTiny, tmp_path):
    prepared = Preprocessing(size=48, fit="pad", resize_mode="fit", domain_a="sketch")
    model = save_tiny("modulated_resnet", prepared, in_channels=1, num_blocks=0)
    original = Translator.from_pretrained(model)
    pictures = [np.random.randint(0, 256, (h, w, 3), np.uint8) for h, w in ((31, 57), (8, 8))]
    for to, trust in (("onnx", False), ("torch", True)):
        path = export_model(model, to, tmp_path / f"model{FORMATS[to].suffix}").path
        exported = Translator.from_pretrained(path, trust_code=trust)
        assert exported.config == original.config
        for options in ({}, {"seed": 3}, {"seed": 4}):
            for wanted, found in zip(
                original(pictures, output="numpy", **options),
                exported(pictures, output="numpy", **options),
                strict=True,
            ):
                assert np.abs(wanted.astype(int) - found).max() <= 1
        with pytest.raises(ConfigError, match="runs on the CPU in float32"):
            Translator.from_pretrained(path, dtype="bfloat16", trust_code=trust)


@pytest.fixture(scope="module")
def resnet(save_tiny: SaveTiny, tmp_path_factory) -> tuple[Path, Path]:
    """A model with batch norms, and its export, whose norms use each image's own statistics."""
    model, path = save_tiny("resnet6", norm="batch"), tmp_path_factory.mktemp("made") / "tiny.onnx"
    assert main(["export", str(model), "-o", str(path), "--statistics", "image"]) == 0
    return model, path


def test_exported_models_are_not_turned_back(resnet, tmp_path, capsys):
    _, path = resnet
    for command in (
        ["convert", str(path), str(tmp_path / "back")],
        ["export", str(path)],
        ["export", "-m", str(path)],
    ):
        assert main(command) == 2
        assert "that way there is no return" in capsys.readouterr().err
    for options, reason in (
        ({"direction": "BtoA"}, "translates AtoB"),
        ({"statistics": "running"}, "batch norms are fixed"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            load_model(path, **options)
    load_model(path, statistics="image", direction="AtoB")


def test_a_folder_is_translated_by_an_exported_model(resnet, tmp_path):
    source = tmp_path / "in"
    for name, size in (("a.png", (40, 30)), ("sub/b.png", (17, 23)), ("c.png", (40, 30))):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.randint(0, 256, (*size, 3), np.uint8)).save(source / name)
    (source / "broken.png").write_bytes(b"no image")
    for which, out in zip(resnet, ("ours", "exported"), strict=True):
        arguments = ["translate", str(source), "-m", str(which), "-o", str(tmp_path / out)]
        assert main([*arguments, "--statistics", "image"]) == 1, "one image is broken"
    for name in ("a.png", "sub/b.png", "c.png"):
        ours, theirs = (
            np.asarray(Image.open(tmp_path / out / name)).astype(int)
            for out in ("ours", "exported")
        )
        assert np.abs(ours - theirs).max() <= 1


def test_nothing_is_written_unless_it_matches(save_tiny: SaveTiny, tmp_path, monkeypatch):
    model = save_tiny("unet128")
    write = writers.write_torch

    def wrongly(program, description, path):
        name = next(n for n in program.state_dict if n.endswith("ups.0.conv.bias"))
        program.state_dict[name] = nn.Parameter(program.state_dict[name] + 0.02)
        write(program, description, path)

    form = FORMATS["torch"]
    monkeypatch.setitem(FORMATS, "torch", type(form)(form.suffix, form.check, wrongly))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError, match="does not translate as the original does"):
        export_model(model, "torch", out / "model.pt2")
    assert list(out.iterdir()) == []


def test_what_is_not_a_number_is_no_match(save_tiny: SaveTiny):
    generator, _ = load_model(save_tiny("unet128"))

    def broken(x):
        return generator(x) + float("nan")

    with pytest.raises(CheckpointError, match="nothing was written"):
        parity.check_parity(generator, broken)


def test_wishes_that_cannot_be_fulfilled(save_tiny: SaveTiny, tmp_path, monkeypatch):
    model = save_tiny("unet128")
    there = tmp_path / "there.onnx"
    there.write_text("mine")
    for to, out, reason in (
        ("tflite", None, "to must be one of onnx, torch, aoti"),
        ("onnx", tmp_path / "model.pt2", "must end in .onnx"),
        ("torch", tmp_path / "model.onnx", "must end in .pt2"),
        ("onnx", there, "is there already"),
        ("onnx", tmp_path / "no" / "model.onnx", "cannot be written"),
    ):
        with pytest.raises(ConfigError, match=reason):
            export_model(model, to, out)
    assert there.read_text() == "mine"
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="there is no no-such-compiler: install a C"):
        export_model(model, "aoti")
    assert sorted(TINY) == list_models()


@pytest.mark.stress
def test_aoti_compiles_and_translates(save_tiny: SaveTiny, tmp_path):
    model = save_tiny("resnet6", upsampling="nearest", downsampling="blur")
    made = export_model(model, "aoti", tmp_path / "model.pt2")
    assert made.parity.difference < 1e-4
    with pytest.raises(CheckpointError, match="is machine code: if you trust"):
        load_model(made.path)
    translator = Translator.from_pretrained(made.path, trust_code=True)
    original = Translator.from_pretrained(model)
    picture = np.random.randint(0, 256, (37, 50, 3), np.uint8)
    wanted, found = (t(picture, output="numpy") for t in (original, translator))
    assert np.abs(wanted.astype(int) - found).max() <= 1
