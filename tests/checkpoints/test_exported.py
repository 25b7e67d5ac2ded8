"""Exported files from anywhere: what is more than data is refused, before anything happens."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pix2gan.checkpoints import ModelConfig, load_model
from pix2gan.checkpoints.exported import KEY, Description
from pix2gan.errors import CheckpointError

CONFIG = ModelConfig(architecture={"name": "made by hand"}, name="by hand")


def description(**changes) -> Description:
    return Description(**{"config": CONFIG, "multiple": 1, "minimum_size": 1, **changes})


def image(name: str, channels=3, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, ["batch", channels, "height", "width"])


def model_of(nodes=None, *, inputs=None, outputs=None, text=None, initializer=(), functions=()):
    graph = helper.make_graph(
        nodes or [helper.make_node("Tanh", ["image"], ["translation"])],
        "by hand",
        inputs or [image("image")],
        outputs or [image("translation")],
        initializer=initializer,
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("evil", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)
    helper.set_model_props(model, {KEY: description().to_json() if text is None else text})
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def refused(path: Path, model, reason: str) -> None:
    path.write_bytes(model.SerializeToString() if hasattr(model, "graph") else model)
    before = sorted(path.parent.iterdir())
    with pytest.raises(CheckpointError, match=reason) as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(path.parent.iterdir()) == before


def test_an_onnx_file_made_by_hand_is_taken(path: Path):
    path.write_bytes(model_of().SerializeToString())
    generator, config = load_model(path)
    assert config == CONFIG
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(generator(x), x.tanh())


def test_operators_from_elsewhere_are_refused(path: Path):
    node = helper.make_node("Tanh", ["image"], ["translation"], domain="evil")
    refused(path, model_of([node]), "evil.Tanh is no operator of the ONNX standard")
    function = helper.make_function(
        "evil",
        "F",
        ["x"],
        ["y"],
        [helper.make_node("Tanh", ["x"], ["y"])],
        [helper.make_opsetid("", 20)],
    )
    refused(path, model_of(functions=[function]), "defines operators of its own")


def test_control_flow_is_refused(path: Path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Tanh", ["a"], ["b"])],
        "forever",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            image("a"),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), image("b")],
    )
    loop = helper.make_node("Loop", ["", "true", "image"], ["translation"], body=body)
    true = numpy_helper.from_array(np.array(True), "true")
    refused(path, model_of([loop], initializer=[true]), "Loop is control flow")


@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "/etc/passwd"])
@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_other_files_are_not_opened(path: Path, location: str, place: str):
    (path.parent / "secret.bin").write_bytes(bytes(12))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    add = helper.make_node("Add", ["image", "w"], ["translation"])
    if place == "initializer":
        model = model_of([add], initializer=[tensor])
    else:
        model = model_of([helper.make_node("Constant", [], ["w"], value=tensor), add])
    refused(path, model, "keeps w in another file")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inputs": [image("x")]}, "not those that it describes"),
        ({"inputs": [image("image", 4)]}, "not those that it describes"),
        ({"outputs": [image("translation", 1)]}, "not those that it describes"),
        ({"inputs": [image("image"), image("more")]}, "not those that it describes"),
        ({"inputs": [image("image", kind=TensorProto.DOUBLE)]}, "not those that it describes"),
        ({"text": ""}, "not valid JSON"),
        ({"text": "[" * 100_000}, "not valid JSON"),
        ({"text": "{}"}, "must hold config, format_version"),
        ({"text": " " * 2**20 + " "}, "larger than 1 MiB"),
        ({"nodes": [helper.make_node("Tanh", ["nothing"], ["translation"])]}, "damaged"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, changes, reason):
    refused(path, model_of(**changes), reason)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("multiple", 0, "multiple must be from 1"),
        ("multiple", 10**9, "multiple must be from 1"),
        ("minimum_size", True, "minimum_size must be from 1"),
        ("style_channels", -1, "style_channels must be from 0"),
        ("format_version", 2, "another version"),
        ("config", {"name": "x"}, "format_version"),
    ],
)
def test_descriptions_are_read_strictly(path: Path, field, value, reason):
    values = json.loads(description().to_json())
    values[field] = value
    refused(path, model_of(text=json.dumps(values)), reason)


def test_damaged_files_are_refused(path: Path):
    whole = model_of().SerializeToString()
    refused(path, b"", "is no export of pix2gan")
    refused(path, b"\x80\x04no protobuf at all", "damaged or no ONNX file")
    refused(path, whole[: len(whole) // 2], "onnx")
    plain = model_of()
    plain.ClearField("metadata_props")
    refused(path, plain, "is no export of pix2gan")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(path.with_name("other.onnx"))


def test_a_graph_that_does_not_keep_its_word(path: Path):
    halve = helper.make_node("MaxPool", ["image"], ["translation"], kernel_shape=[2, 2])
    path.write_bytes(model_of([halve]).SerializeToString())
    generator, _ = load_model(path)
    with pytest.raises(CheckpointError, match=r"makes \[1, 3, 7, 7\] instead of \[1, 3, 8, 8\]"):
        generator(torch.zeros(1, 3, 8, 8))


def test_a_missing_package_is_named(path: Path, monkeypatch: pytest.MonkeyPatch):
    path.write_bytes(model_of().SerializeToString())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"needs onnxruntime: pip install 'pix2gan\[export\]"):
        load_model(path)


# ----------------------------------------------------------------------------------------- .pt2


class Evil:
    """A pickle of it makes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def hostile(path: Path, target: Path, *, described=True, compiled=False) -> None:
    """A .pt2 that would make the file ``target`` when PyTorch reads it."""

    class Identity(torch.nn.Module):
        def forward(self, image):
            return image.tanh()

    extra = {f"{KEY}.json": description().to_json()} if described else {}
    program = torch.export.export(Identity(), (torch.zeros(1, 3, 4, 4),), strict=False)
    torch.export.save(program, path, extra_files=extra)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    evil = io.BytesIO()
    torch.save(Evil(target), evil)
    for name in entries:
        if name.endswith("sample_inputs/model.pt"):
            entries[name] = evil.getvalue()
    if compiled:
        entries["model/data/aotinductor/model/evil.so"] = b"\x7fELF"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_a_pt2_can_execute_code_and_so_needs_trust(tmp_path: Path):
    path, target = tmp_path / "model.pt2", tmp_path / "executed"
    for compiled, reason in ((False, "can execute code"), (True, "is machine code")):
        hostile(path, target, compiled=compiled)
        with pytest.raises(CheckpointError, match=f"{reason}.*say so with trust_code"):
            load_model(path)
        assert not target.exists()
    hostile(path, target, described=False)
    with pytest.raises(CheckpointError, match="is no export of pix2gan"):
        load_model(path, trust_code=True)
    assert not target.exists()
    # The danger is real: PyTorch's own reader executes it.
    with suppress(Exception):
        torch.export.load(path)
    assert target.exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 broken", b"text"])
def test_damaged_archives_are_refused(tmp_path: Path, data: bytes):
    path = tmp_path / "model.pt2"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or no archive of PyTorch"):
        load_model(path, trust_code=True)
