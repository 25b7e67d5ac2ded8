"""Reading ONNX files from anywhere: what `pix2gan.export` wrote, and networks of features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pix2gan.checkpoints.exported import KEY, Description, Run
from pix2gan.checkpoints.native import one_line
from pix2gan.errors import CheckpointError

MAX_BYTES = 2**31 - 1  # a protocol buffer cannot be larger
_OUT_OF_MEMORY = ("bad_alloc", "failed to allocate memory", "bad allocation")


def open_onnx(path: Path) -> tuple[Description, Run]:
    """The description of an ONNX file that pix2gan exported, and a function that runs it.

    Raises:
        CheckpointError: If the file is anything else, or ONNX Runtime is not installed.
    """
    model, data = read_onnx(path)
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(texts) != 1:
        raise CheckpointError(
            f"{path} does not say how its images are prepared: it is no export of pix2gan"
        )
    description = Description.from_json(texts[0], path)
    _check_interface(model.graph, description, path)
    session = open_session(data, path)

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        try:
            (result,) = session.run(None, {name: x.numpy() for name, x in inputs.items()})
        except Exception as error:
            if any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
                raise MemoryError(one_line(error)) from None
            raise RuntimeError(f"ONNX Runtime: {one_line(error)}") from None
        return torch.from_numpy(result)

    return description, run


def read_onnx(path: Path) -> tuple[Any, bytes]:
    """The model in an ONNX file, parsed and as bytes, if it is data and nothing but data.

    Only operators of the ONNX standard are accepted, in one file and without control flow: no
    library is loaded, no other file is opened, and a run ends.

    Raises:
        CheckpointError: If the file is anything else, or ONNX is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"{path} needs {error.name}: pip install 'pix2gan[export]'") from None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is larger than 2 GiB, which no ONNX file is")
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from None
    except CheckpointError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None
    _check_is_data(model, path)
    return model, data


def open_session(data: bytes, path: Path) -> Any:
    """ONNX Runtime's session on the CPU, from the bytes that ``read_onnx`` has checked and not from
    the file, which may be another one by now."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or no ONNX file ({one_line(error)}): take it again from where it came "
        "from"
    )


def _check_is_data(model: Any, path: Path) -> None:
    if len(model.functions) > 0 or len(model.training_info) > 0:
        raise CheckpointError(f"{path} is refused: it defines operators of its own")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise CheckpointError(
                f"{path} is refused: {node.domain}.{node.op_type} is no operator of the ONNX "
                "standard, and could be anybody's code"
            )
        for attribute in node.attribute:
            if attribute.HasField("g") or len(attribute.graphs) > 0:
                raise CheckpointError(
                    f"{path} is refused: {node.op_type} is control flow, which is not needed here"
                )
    for tensor in _tensors(model.graph):
        if tensor.data_location != 0 or len(tensor.external_data) > 0:
            raise CheckpointError(
                f"{path} is refused: it keeps {tensor.name or 'a tensor'} in another file, and "
                "only whole files are read"
            )


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph without subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _check_interface(graph: Any, description: Description, path: Path) -> None:
    """CheckpointError unless inputs and outputs are float32 tensors of the described channels."""
    config = description.config
    wanted = {"image": (4, config.in_channels)}
    if description.style_channels:
        wanted["style"] = (2, description.style_channels)
    initialised = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initialised]
    if _interface(inputs) != wanted or list(_interface(graph.output).values()) != [
        (4, config.out_channels)
    ]:
        raise CheckpointError(
            f"{path} is damaged: its inputs and outputs are not those that it describes"
        )


def _interface(values: Iterable[Any]) -> dict[str, tuple[int, int] | None]:
    """Name -> (number of axes, size of the second), None for what is no tensor of float32."""
    found: dict[str, tuple[int, int] | None] = {}
    for value in values:
        kind = value.type.tensor_type
        dims = kind.shape.dim
        is_float = kind.elem_type == 1 and len(dims) > 1
        found[value.name] = (len(dims), dims[1].dim_value) if is_float else None
    return found
