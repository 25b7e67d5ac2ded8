"""Saving and loading models, and refusing what is not one."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from pix2gan.checkpoints import ModelConfig, load_model, save_model
from pix2gan.errors import CheckpointError
from pix2gan.models import create_generator

IMAGE = torch.linspace(-1, 1, 3 * 16 * 24).reshape(1, 3, 16, 24)


def change_config(model: Path, **changes: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(model: Path, **changes: torch.Tensor | None) -> None:
    path = model / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights |= {name.replace("__", "."): t for name, t in changes.items() if t is not None}
    for name in (name.replace("__", ".") for name, t in changes.items() if t is None):
        del weights[name]
    safetensors.torch.save_file(weights, path)


def first_weight(generator: nn.Module) -> str:
    return next(name for name, t in generator.state_dict().items() if t.dim() == 4)


def test_float32_comes_back_bit_for_bit(
    model: Path, generator: nn.Module, config: ModelConfig
) -> None:
    loaded, loaded_config = load_model(model)
    for name, tensor in generator.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded(IMAGE), generator(IMAGE))  # buffers that are not saved, too
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded_config.preprocessing == config.preprocessing
    assert loaded_config.training["folder"] == "here"
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]


def test_float16_halves_the_file(
    tmp_path: Path, model: Path, generator: nn.Module, config: ModelConfig
) -> None:
    half = save_model(tmp_path / "half", generator, config, dtype="float16")
    loaded, loaded_config = load_model(half)
    assert loaded_config.weights_dtype == "float16"
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    torch.testing.assert_close(loaded(IMAGE), generator(IMAGE), rtol=0, atol=1e-2)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, model)]
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("name", ["unet128", "resnet6"])
def test_every_kind_of_generator(tmp_path: Path, name: str, norm: str) -> None:
    options = {"num_downs": 3} if name == "unet128" else {"num_blocks": 1}
    generator = create_generator(name, width=4, norm=norm, in_channels=1, **options).eval()
    config = ModelConfig(architecture=generator.config, in_channels=1)
    loaded, _ = load_model(save_model(tmp_path / "m", generator, config))
    assert torch.equal(loaded(IMAGE[:, :1]), generator(IMAGE[:, :1]))


def test_channels_last_and_trained_weights_are_stored_as_any_others(
    tmp_path: Path, model: Path, generator: nn.Module, config: ModelConfig
) -> None:
    generator.train().to(memory_format=torch.channels_last)
    again = save_model(tmp_path / "again", generator, config)
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (model / name).read_bytes()
    assert generator.training


def test_loading_leaves_the_random_state_alone(model: Path) -> None:
    before = torch.get_rng_state()
    load_model(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_safetensors_file_is_a_model_with_its_config_beside_it(model: Path) -> None:
    assert load_model(model / "model.safetensors")[1].name == "tiny"
    (model / "model.safetensors").rename(model / "other.safetensors")
    assert load_model(model)[1].name == "tiny"  # the only one in its folder
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_model(model / "other.safetensors")


def test_a_failed_save_leaves_the_model_that_is_there(
    model: Path, generator: nn.Module, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_model(model, generator, config, dtype="float16")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_what_cannot_be_loaded_again_is_not_saved(
    tmp_path: Path, generator: nn.Module, config: ModelConfig
) -> None:
    other = ModelConfig(architecture=config.architecture | {"width": 8})
    with pytest.raises(CheckpointError, match="does not fit the architecture"):
        save_model(tmp_path / "m", generator, other)
    with pytest.raises(ValueError, match="dtype must be one of"):
        save_model(tmp_path / "m", generator, config, dtype="int8")
    with torch.no_grad():
        generator.get_parameter(first_weight(generator)).fill_(1e6)
    with pytest.raises(CheckpointError, match="not finite in float16"):
        save_model(tmp_path / "m", generator, config, dtype="float16")
    assert not (tmp_path / "m").exists()


def test_tensors_that_do_not_fit_are_named(model: Path, generator: nn.Module) -> None:
    name = first_weight(generator)
    change_weights(model, **{name: None}, surplus__thing=torch.zeros(3))
    with pytest.raises(CheckpointError) as caught:
        load_model(model)
    for part in ("model.safetensors", f"missing {name}", "unexpected surplus.thing"):
        assert part in str(caught.value)
    change_weights(model, **{name: torch.zeros(1, 2)}, surplus__thing=None)
    with pytest.raises(CheckpointError, match=r"misshapen .* is \[1, 2\] instead of \["):
        load_model(model)


def test_weights_must_be_finite_floats(model: Path, generator: nn.Module) -> None:
    name = first_weight(generator)
    weight = generator.state_dict()[name]
    change_weights(model, **{name: weight * float("nan")})
    with pytest.raises(CheckpointError, match=f"{name} holds values that are not finite"):
        load_model(model)
    change_weights(model, **{name: weight.to(torch.int32)})
    with pytest.raises(CheckpointError, match=f"{name} is stored as I32"):
        load_model(model)


def header(values: Any) -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text


HOSTILE_WEIGHTS = {
    "empty": b"",
    "short": b"\x08",
    "zeros": b"\0" * 64,
    "length beyond the file": struct.pack("<Q", 2**62) + b"{}",
    "length of everything": struct.pack("<Q", 2**64 - 1) + b"{}",
    "no JSON": header(b"hello"),
    "not UTF-8": header(b"\xff\xfe{}"),
    "no tensors": header({}),
    "deep JSON": header(b"[" * 50_000),
    "offsets beyond the file": header(
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ),
    "shape overflows": header(
        {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}
    )
    + b"\0" * 4,
    "negative shape": header({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}})
    + b"\0" * 4,
    "unknown dtype": header({"w": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}})
    + b"\0" * 4,
    "a pickle": pickle.dumps({"weight": [1.0]}),
    "an image": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
}


@pytest.mark.parametrize("data", HOSTILE_WEIGHTS.values(), ids=HOSTILE_WEIGHTS.keys())
def test_hostile_weights(model: Path, data: bytes) -> None:
    (model / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
def test_truncated_weights(model: Path, keep: float) -> None:
    path = model / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_model(model)


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "os.system"},
        {"name": "unet128", "colour": "red"},
        {"name": "unet128", "norm": "evil"},
        {"name": "unet128", "width": "wide"},
        {"name": "unet128", "self": 1},
    ],
)
def test_hostile_architectures(model: Path, architecture: dict[str, Any]) -> None:
    change_config(model, architecture=architecture)
    with pytest.raises(CheckpointError, match=r"config\.json: architecture cannot be built"):
        load_model(model)


def test_a_huge_architecture_takes_no_memory(model: Path, config: ModelConfig) -> None:
    # 2.5 TB of weights if they were allocated.
    huge = config.architecture | {"width": 1024, "num_downs": 14, "max_width_factor": 64}
    change_config(model, architecture=huge)
    with pytest.raises(CheckpointError, match="does not fit the architecture"):
        load_model(model)


def test_channels_must_agree(model: Path) -> None:
    change_config(model, in_channels=1)
    with pytest.raises(CheckpointError, match="in_channels is 1, but the architecture has 3"):
        load_model(model)


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"notes\.txt is not a model"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match=r"absent does not exist"):
        load_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load_model(tmp_path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("name", ["latest_net_G.pth", "model.pt", "last.ckpt", "weights.pkl"])
def test_pickles_are_neither_loaded_nor_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps(_Evil()))
    for path in (Path(name), Path()):
        with pytest.raises(CheckpointError, match=r"refused|holds no model|is not a model"):
            load_model(path)
    assert not Path("executed").exists()
