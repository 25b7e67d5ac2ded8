"""`config.json`: everything a translator must know about a model besides its weights.

The file is read strictly, for it may come from anywhere: an unknown format version, a field that is
missing, misspelt or of the wrong type, or a size that no network has is a `CheckpointError`, raised
before anything is built from it. Nothing in it names code.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pix2gan.errors import CheckpointError

FORMAT_VERSION = 1
"""The version that is written; a reader refuses any other."""

MAX_CONFIG_BYTES = 1 << 20
MAX_IMAGE_SIZE = 65_536
MAX_CHANNELS = 1_024
# Above every network of the literature, and low enough that a network of this many layers is still
# built (without memory) within a second.
_ARCHITECTURE_LIMITS = {
    "width": 1_024,
    "max_width_factor": 64,
    "num_downs": 14,
    "num_blocks": 64,
    "n_layers": 14,
}
_ANY_INTEGER_LIMIT = 4_096

RESIZE_MODES = ("none", "fit")
FITS = ("pad", "resize", "crop", "scale-width", "none")
WEIGHTS_DTYPES = ("float32", "float16")
STATISTICS = ("running", "image")

# Fields that came after the first models were written: absent, they have their defaults.
_LATER_FIELDS = ("statistics", "keeps_dropout", "input_range", "output_range")


@dataclass(frozen=True)
class Preprocessing:
    """How images became the network's input in training, so that translation can do the same.

    Attributes:
        size: Height and width of the training images, in pixels.
        fit: How pictures were brought to that size: "pad" (whole picture, its border continued
            into the margins), "resize" (whole picture, stretched), "crop" (a part of it),
            "scale-width" (the width scaled, the height cut or padded) or "none" (cut out unscaled).
            Translation pads in the same way with "pad" and `resize_mode` "fit".
        resize_mode: What translation does by default: "none" runs the network at the image's own
            resolution; "fit" scales the image until its longer side is `size`, and the result back
            (right for networks that have learned whole objects of one size). Models trained with
            another `fit` say "none", and so see images at another scale than in training
            unless these are about as large as training images scaled to `size`.
        domain_a: What the inputs are, "sketch" or "photo" or any other word. "sketch" has a
            meaning: drawings are grey, dark on white, and have white around them.
        domain_b: What the outputs are.
        input_range: The values in the files of the input domain that are black and white, for data
            whose files do not say (depth in metres, 12 bits in 16); None is the whole range of
            integers, and 0 to 1 for floats. Left out of the file if None.
        output_range: The same for the output domain: what translation writes as floats.
    """

    size: int = 256
    fit: str = "pad"
    resize_mode: str = "none"
    domain_a: str = "photo"
    domain_b: str = "photo"
    input_range: tuple[float, float] | None = None
    output_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The contents of `config.json`.

    Attributes:
        architecture: `generator.config`, from which `create_generator(**architecture)` rebuilds it.
        in_channels: Channels of the network's input (a grey sketch may still be fed as three).
        out_channels: Channels of its output.
        preprocessing: See `Preprocessing`.
        value_range: The values that black and white have inside the network.
        statistics: What the batch norms of the network use in translation: the "running" statistics
            of training, or each "image"'s own, as the original pix2pix does in its tests. Without
            batch norms it says nothing.
        keeps_dropout: Whether dropout goes on in translation, as the original pix2pix has it in its
            tests. Left out of the file if not.
        direction: "AtoB" or "BtoA": which way round the training data were used.
        method: How it was trained, e.g. "pix2pix".
        name: What the model is called.
        version: Of these weights.
        licence: Under which the weights may be used; empty if nobody has said.
        training: Free-form: dataset, attribution, licence of the data, steps, seed, command, ...
        weights_dtype: How the weights are stored: "float32" or "float16". `save_model` sets it.
    """

    architecture: dict[str, Any]
    in_channels: int = 3
    out_channels: int = 3
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    value_range: tuple[float, float] = (-1.0, 1.0)
    statistics: str = "running"
    keeps_dropout: bool = False
    direction: str = "AtoB"
    method: str = "pix2pix"
    name: str = ""
    version: str = "1"
    licence: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    weights_dtype: str = "float32"

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` holds, `format_version` first."""
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        for name in ("input_range", "output_range"):
            if values["preprocessing"][name] is None:
                del values["preprocessing"][name]
        if not self.keeps_dropout:
            del values["keeps_dropout"]
        return values

    def to_json(self) -> str:
        """The text of `config.json`; a path or the like in `training` becomes text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str) + "\n"

    @classmethod
    def from_dict(cls, values: Any, where: str | Path = "config.json") -> ModelConfig:
        """Check `values` and make a config of them.

        Args:
            values: The parsed JSON.
            where: The file they came from, named in errors.

        Raises:
            CheckpointError: Whatever is unknown, missing, ill-typed or absurd.
        """
        return _Reader(where).model_config(values)

    @classmethod
    def read(cls, path: str | Path) -> ModelConfig:
        """Read a `config.json`.

        Raises:
            CheckpointError: If it is missing, is not JSON or does not describe a model.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_CONFIG_BYTES + 1)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} does not exist: a model is a folder that holds model.safetensors and "
                "config.json side by side"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from None
        if len(raw) > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than 1 MiB and so no model's config.json")
        try:
            values = json.loads(raw.decode("utf-8"))
        # RecursionError: thousands of nested brackets; ValueError: also an integer of 5,000 digits.
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is not valid JSON ({error}): take the file again from where the model "
                "came from"
            ) from None
        return cls.from_dict(values, path)


class _Reader:
    """Takes a config apart, naming the file in every complaint."""

    def __init__(self, where: str | Path) -> None:
        self.where = where

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {what}")

    def model_config(self, values: Any) -> ModelConfig:
        if not isinstance(values, Mapping):
            raise self.fail("expected a JSON object that describes a pix2gan model")
        if "format_version" not in values:
            raise self.fail(
                "has no 'format_version', so it is not the config.json of a pix2gan model"
            )
        version = values["format_version"]
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise self.fail(
                f"format_version is {_short(version)}, and this pix2gan reads version "
                f"{FORMAT_VERSION}: upgrade pix2gan, or convert the model with the version that "
                "wrote it"
            )
        fields = self.fields(
            ModelConfig, {k: v for k, v in values.items() if k != "format_version"}
        )
        return ModelConfig(
            architecture=self.architecture(fields["architecture"]),
            in_channels=self.integer("in_channels", fields["in_channels"], MAX_CHANNELS),
            out_channels=self.integer("out_channels", fields["out_channels"], MAX_CHANNELS),
            preprocessing=self.preprocessing(fields["preprocessing"]),
            value_range=self.value_range("value_range", fields["value_range"]),
            statistics=self.choice("statistics", fields["statistics"], STATISTICS),
            keeps_dropout=self.switch("keeps_dropout", fields["keeps_dropout"]),
            direction=self.choice("direction", fields["direction"], ("AtoB", "BtoA")),
            method=self.text("method", fields["method"]),
            name=self.text("name", fields["name"]),
            version=self.text("version", fields["version"]),
            licence=self.text("licence", fields["licence"]),
            training=dict(self.mapping("training", fields["training"])),
            weights_dtype=self.choice("weights_dtype", fields["weights_dtype"], WEIGHTS_DTYPES),
        )

    def preprocessing(self, value: Any) -> Preprocessing:
        fields = self.fields(Preprocessing, self.mapping("preprocessing", value), "preprocessing.")
        return Preprocessing(
            size=self.integer("preprocessing.size", fields["size"], MAX_IMAGE_SIZE),
            fit=self.choice("preprocessing.fit", fields["fit"], FITS),
            resize_mode=self.choice(
                "preprocessing.resize_mode", fields["resize_mode"], RESIZE_MODES
            ),
            domain_a=self.text("preprocessing.domain_a", fields["domain_a"]),
            domain_b=self.text("preprocessing.domain_b", fields["domain_b"]),
            input_range=self.optional_range("input_range", fields["input_range"]),
            output_range=self.optional_range("output_range", fields["output_range"]),
        )

    def architecture(self, value: Any) -> dict[str, Any]:
        architecture = dict(self.mapping("architecture", value))
        if not isinstance(architecture.get("name"), str):
            raise self.fail("architecture.name must be the name of a generator, such as 'unet256'")
        for key, option in architecture.items():
            name = f"architecture.{key}"
            if isinstance(option, bool) or option is None:
                continue
            if isinstance(option, int):
                limit = _ARCHITECTURE_LIMITS.get(key, _ANY_INTEGER_LIMIT)
                if key.endswith("channels"):
                    limit = MAX_CHANNELS
                self.integer(name, option, limit, least=0 if key == "num_blocks" else 1)
            elif isinstance(option, float):
                if not math.isfinite(option):
                    raise self.fail(f"{name} must be a finite number, not {option}")
            elif isinstance(option, str):
                self.text(name, option)
            else:
                raise self.fail(
                    f"{name} must be a number, a word or true/false, not {_short(option)}"
                )
        return architecture

    def optional_range(self, name: str, value: Any) -> tuple[float, float] | None:
        return None if value is None else self.value_range(f"preprocessing.{name}", value)

    def value_range(self, name: str, value: Any) -> tuple[float, float]:
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 2
            or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value)
            or not -1e6 <= value[0] < value[1] <= 1e6
        ):
            raise self.fail(f"{name} must be two rising numbers like [-1, 1], not {_short(value)}")
        return float(value[0]), float(value[1])

    def fields(self, of: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        defaults = {f.name: f.default for f in dataclasses.fields(of) if f.name in _LATER_FIELDS}
        values = {**defaults, **values}
        names = [f.name for f in dataclasses.fields(of)]
        missing = [prefix + name for name in names if name not in values]
        unknown = [prefix + _short(key) for key in values if key not in names]
        if missing:
            raise self.fail(
                f"lacks {', '.join(missing)}: take the file again from where it came from"
            )
        if unknown:
            raise self.fail(
                f"has fields that format_version {FORMAT_VERSION} does not know: "
                f"{', '.join(unknown[:8])}; remove them or correct their spelling"
            )
        return dict(values)

    def mapping(self, name: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.fail(f"{name} must be an object, not {_short(value)}")
        return value

    def integer(self, name: str, value: Any, most: int, least: int = 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(f"{name} must be a whole number, not {_short(value)}")
        if not least <= value <= most:
            raise self.fail(f"{name} must be between {least} and {most:,}, not {_short(value)}")
        return value

    def text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.fail(f"{name} must be text, not {_short(value)}")
        return value

    def switch(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self.fail(f"{name} must be true or false, not {_short(value)}")
        return value

    def choice(self, name: str, value: Any, choices: tuple[str, ...]) -> str:
        if value not in choices:
            raise self.fail(f"{name} must be one of {', '.join(choices)}, not {_short(value)}")
        return str(value)


def _short(value: Any) -> str:
    """The value as JSON would show it, cut to one line's worth; foreign text stays printable."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    shown = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return shown if len(shown) <= 60 else shown[:57] + "..."
