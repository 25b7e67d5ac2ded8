"""A graph of standard operators as a file: ONNX, a `torch.export` archive, compiled code."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from pix2gan import __version__
from pix2gan.checkpoints.exported import KEY, Description
from pix2gan.checkpoints.native import one_line
from pix2gan.errors import ConfigError
from pix2gan.export.tracing import IMAGE, STYLE, TRANSLATION, quiet_exporters

_MAX_ONNX_BYTES = 2**31 - 1
# What tracing leaves at every node about the source code it came from, local paths included.
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")


def check_onnx() -> None:
    """ConfigError if a package that writes or checks ONNX files is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"An export to ONNX needs {error.name}: pip install 'pix2gan[export]'"
        ) from None


def write_onnx(program: ExportedProgram, description: Description, path: Path) -> None:
    """One .onnx file of operators of the ONNX standard, whose axes are called batch, height and
    width."""
    sizes = {0: "batch", 2: "height", 3: "width"}
    inputs: dict[str, dict[int, str]] = {IMAGE: sizes}
    if description.style_channels:
        inputs[STYLE] = {}
    with quiet_exporters():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=[TRANSLATION],
            dynamic_shapes=tuple(inputs.values()),
        )
    assert made is not None
    model: Any = made.model_proto
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for part in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
    model.graph.name = description.config.name or "translator"
    model.producer_name, model.producer_version = "pix2gan", __version__
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, description.to_json()
    if model.ByteSize() > _MAX_ONNX_BYTES:
        raise ConfigError("ONNX holds no more than 2 GiB in one file: export to torch instead")
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_torch(program: ExportedProgram, description: Description, path: Path) -> None:
    """The .pt2 archive of `torch.export`."""
    for node in program.graph.nodes:
        for origin in _ORIGINS:
            node.meta.pop(origin, None)
    program.example_inputs = None
    with quiet_exporters():
        torch.export.save(program, path, extra_files={f"{KEY}.json": description.to_json()})


def check_compiler() -> None:
    """ConfigError if there is no C++ compiler, which AOTInductor needs."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"An export to aoti compiles C++, and there is no {compiler}: install a C++ compiler, "
            "name one in the environment variable CXX, or export to torch or onnx"
        )


def write_aoti(program: ExportedProgram, description: Description, path: Path) -> None:
    """The .pt2 archive of AOTInductor: machine code for the processor at hand."""
    try:
        with quiet_exporters():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # whatever the compiler, the linker or Inductor may raise
        raise ConfigError(
            f"AOTInductor cannot compile this model here ({one_line(error)}): export to torch or "
            "onnx instead"
        ) from error
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/{KEY}.json", description.to_json())
