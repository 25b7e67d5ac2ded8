"""`config.json` is read strictly: what it says is right, or the error says what is not."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2gan.checkpoints import ModelConfig, Preprocessing
from pix2gan.errors import CheckpointError

ARCHITECTURE = {"name": "unet128", "in_channels": 3, "out_channels": 3, "width": 4}


def make_config(**changes: Any) -> ModelConfig:
    return ModelConfig(architecture=dict(ARCHITECTURE), **changes)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    config = make_config(
        preprocessing=Preprocessing(size=286, fit="crop", resize_mode="fit", domain_b="painting"),
        value_range=(0.0, 1.0),
        direction="BtoA",
        name="über",
        licence="CC0-1.0",
        training={"dataset": "two heaps", "steps": 7},
        weights_dtype="float16",
    )
    path = tmp_path / "config.json"
    path.write_text(config.to_json(), encoding="utf-8")
    assert ModelConfig.read(path) == config
    assert json.loads(path.read_text(encoding="utf-8"))["format_version"] == 1


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5, [1], 10**400])
def test_other_format_versions_are_refused(version: Any) -> None:
    values = make_config().to_dict() | {"format_version": version}
    with pytest.raises(CheckpointError, match=r"here\.json: format_version is .*reads version 1"):
        ModelConfig.from_dict(values, "here.json")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"in_channels": 10**9}, "in_channels must be between 1 and 1,024, not 1000000000"),
        ({"in_channels": 0}, "in_channels must be between"),
        ({"in_channels": "3"}, "in_channels must be a whole number, not '3'"),
        ({"in_channels": True}, "in_channels must be a whole number, not true"),
        ({"out_channels": 10**5000}, "not a number of more than 30 digits"),
        ({"architecture": []}, r"architecture must be an object, not \[\]"),
        ({"architecture": {}}, "architecture.name must be"),
        ({"architecture": {"name": ["unet128"]}}, "architecture.name must be"),
        ({"architecture": ARCHITECTURE | {"width": -4}}, "architecture.width must be between"),
        ({"architecture": ARCHITECTURE | {"width": 10**9}}, "architecture.width must be between"),
        ({"architecture": ARCHITECTURE | {"num_blocks": 10**6}}, "num_blocks must be between 0"),
        ({"architecture": ARCHITECTURE | {"num_downs": 60}}, "num_downs must be between 1 and 14"),
        ({"architecture": ARCHITECTURE | {"in_channels": 10**9}}, "architecture.in_channels must"),
        ({"architecture": ARCHITECTURE | {"width": float("nan")}}, "must be a finite number"),
        ({"architecture": ARCHITECTURE | {"norm": {"a": 1}}}, "norm must be a number, a word"),
        ({"preprocessing": None}, "preprocessing must be an object, not null"),
        ({"preprocessing": {"size": 256}}, r"lacks preprocessing\.fit, preprocessing\.resize_mode"),
        ({"value_range": [1, -1]}, "value_range must be two rising numbers"),
        ({"value_range": [0, float("nan")]}, "value_range must be two rising numbers"),
        ({"value_range": [0, 0.5, 1]}, "value_range must be two rising numbers"),
        ({"direction": "AtoC"}, "direction must be one of AtoB, BtoA, not 'AtoC'"),
        ({"method": 3}, "method must be text, not 3"),
        ({"training": "much"}, "training must be an object, not 'much'"),
        ({"weights_dtype": "int4"}, "weights_dtype must be one of float32, float16, not 'int4'"),
        ({"licens": "CC0"}, "has fields that format_version 1 does not know: 'licens'"),
        ({"name": "x" * 10_000, "direction": "y" * 10_000}, r"not 'yyy[y]*\.\.\.$"),
    ],
)
def test_nonsense_is_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint) as caught:
        ModelConfig.from_dict(make_config().to_dict() | change, "some/config.json")
    assert str(caught.value).startswith("some/config.json")
    assert len(str(caught.value)) < 400


LATER = {"statistics"}


@pytest.mark.parametrize("field", sorted(set(make_config().to_dict()) - LATER))
def test_every_field_is_needed(field: str) -> None:
    values = make_config().to_dict()
    del values[field]
    with pytest.raises(CheckpointError, match=field):
        ModelConfig.from_dict(values)


def test_files_from_before_a_field_have_its_default() -> None:
    values = make_config().to_dict()
    for field in LATER:
        del values[field]
    assert ModelConfig.from_dict(values) == make_config()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"config"',
        "[" * 100_000,
        "\x00",
        '{"format_version": NaN}',
        "9" * 5000,
    ],
    ids=lambda text: text[:10],
)
def test_files_that_are_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ModelConfig.read(path)


def test_files_that_are_not_text_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x80" * 10)
    with pytest.raises(CheckpointError, match="not valid JSON"):
        ModelConfig.read(path)
    path.write_bytes(b" " * (2 << 20))
    with pytest.raises(CheckpointError, match="larger than 1 MiB"):
        ModelConfig.read(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        ModelConfig.read(tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        ModelConfig.read(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(field=st.sampled_from(sorted(make_config().to_dict())), value=JSON_VALUES)
def test_any_value_in_any_field_is_fine_or_one_error(field: str, value: Any) -> None:
    # Any other exception, from whatever value, fails the test.
    with contextlib.suppress(CheckpointError):
        config = ModelConfig.from_dict(make_config().to_dict() | {field: value}, "c.json")
        assert ModelConfig.from_dict(config.to_dict()) is not None
