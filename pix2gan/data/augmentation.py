"""What augments a data set: the usual presets, some of them, or a pipeline of the user's own.

``choose_augmentation`` takes what ``augment`` may be: True (all presets but cutout), False, names
of presets joined by commas, ``AugmentOptions``, an ``albumentations.Compose``, or a file that
``albumentations.save`` wrote.

A pipeline gets images of ``size`` x ``size`` (with fit "none" as they are in the file) and must
return them at that size. In paired data the generator's input goes in as ``image`` and the target
as ``target``, so that both meet the same random choices; whoever wants colours left alone in a
label map declares it a mask: ``Compose([...], additional_targets={"target": "mask"})``.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pix2gan.data.image_io import Array
from pix2gan.data.transforms import Augmenter, AugmentOptions, import_albumentations, seed_pipeline
from pix2gan.errors import ConfigError, DataError

Augment: TypeAlias = "bool | str | AugmentOptions | Any"

_NOTHING = AugmentOptions(
    flip=False, rotate=0.0, scale=(1.0, 1.0), shift=0.0, crop=False, colours=False
)
PRESETS: dict[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "flip-vertical": {"flip_vertical": True},
    "rotate": {"rotate": AugmentOptions.rotate},
    "crop": {"crop": True},
    "shift": {"scale": AugmentOptions.scale, "shift": AugmentOptions.shift},
    "colour": {"colours": True},
    "cutout": {"cutout": 0.25},
}
"""Names that ``augment`` takes, joined by commas, and what each turns on."""

_FILES = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
_MAX_BYTES = 2**20


class Augmentation(Protocol):
    """What a data set asks of its augmentation; seeds come from (seed, epoch, index)."""

    load_size: int
    """Side of the squares that ``geometry`` takes."""

    def geometry(self, images: list[Array], seed: int) -> list[Array]:
        """Move images, all alike: to ``[size, size, C]`` each."""

    def colours(self, photo: Array, seed: int, target: bool) -> Array:
        """Vary the colours of one image."""

    def cut_out(self, image: Array, seed: int) -> Array:
        """Wipe a part out of an image that a generator reads."""


def choose_augmentation(
    augment: Augment, size: int, usual: AugmentOptions, names: tuple[str, ...]
) -> Augmentation | None:
    """The augmentation that ``augment`` asks for (see this module), None for none.

    Args:
        augment: What the user said.
        size: Side of the samples.
        usual: What True stands for.
        names: What a pipeline knows the images of one sample as, in their order: "image" and
            perhaps "target".

    Raises:
        ConfigError: If there is no such preset or file, or the file is no pipeline.
    """
    if augment is False:
        return None
    if augment is True or isinstance(augment, AugmentOptions):
        return Augmenter(size, usual if augment is True else augment)
    if isinstance(augment, str):
        path = Path(augment)
        if path.suffix.lower() in _FILES:
            return PipelineAugmenter(load_pipeline(path), size, names, augment, read_text(path))
        return Augmenter(size, parse_presets(augment))
    if not isinstance(augment, import_albumentations().Compose):
        raise ConfigError(
            f"augment takes True, False, names of presets, AugmentOptions, a file or an "
            f"albumentations.Compose, not a {type(augment).__name__}."
        )
    return PipelineAugmenter(augment, size, names, "the given Compose")


def parse_presets(text: str) -> AugmentOptions:
    """``"flip,rotate"`` as options with these and nothing else.

    Raises:
        ConfigError: If one is unknown.
    """
    options = _NOTHING
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name not in PRESETS:
            raise ConfigError(
                f"Unknown augmentation {name!r}: choose from {', '.join(PRESETS)}, or give a file "
                f"{', '.join(_FILES)} written by albumentations.save."
            )
        options = dataclasses.replace(options, **PRESETS[name])
    return options


# -- pipelines -------------------------------------------------------------------------------------


class PipelineAugmenter:
    """Augments with a pipeline of albumentations, which does geometry and colours in one."""

    def __init__(
        self, pipeline: Any, size: int, names: tuple[str, ...], source: str, text: str = ""
    ) -> None:
        self.size = self.load_size = size
        self.names, self.source = names, source
        #: What the pipeline's file says, by which a run knows that it is still the same.
        self.text = text
        self.pipeline = copy.deepcopy(pipeline)  # seeds are set in it, and targets added
        declared = {"image", *pipeline.additional_targets}
        self.pipeline.add_targets({name: "image" for name in names if name not in declared})

    def geometry(self, images: list[Array], seed: int) -> list[Array]:
        """Run the pipeline on the images of one sample.

        Raises:
            DataError: If it fails, or returns images of another size.
        """
        seed_pipeline(self.pipeline, seed)
        given = dict(zip(self.names, images, strict=True))
        try:
            result = self.pipeline(**given)
        except Exception as error:  # transforms raise nearly every class there is
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"The augmentation of {self.source} fails on an image of {images[0].shape[2]} "
                f"channels ({reason}): leave out the transform that cannot take it."
            ) from error
        moved = [
            result[name].reshape(*result[name].shape[:2], image.shape[2])
            for name, image in zip(given, images, strict=True)
        ]
        for image in moved:
            if image.shape[:2] != (self.size, self.size):
                height, width = image.shape[:2]
                raise DataError(
                    f"The augmentation of {self.source} makes images of {width} x {height} pixels: "
                    f"end it with RandomCrop or Resize to {self.size} x {self.size}."
                )
        return moved

    def colours(self, photo: Array, seed: int, target: bool) -> Array:
        """The photo as it is."""
        return photo

    def cut_out(self, image: Array, seed: int) -> Array:
        """The image as it is."""
        return image


def load_pipeline(path: Path) -> Any:
    """The ``albumentations.Compose`` that a file written by ``albumentations.save`` describes.

    The file may come from anywhere. Only transforms of albumentations itself are built from it,
    and none that takes code or reads files.

    Raises:
        ConfigError: If the file cannot be read or describes something else.
    """
    content = _read(path)
    albumentations = import_albumentations()
    for name in _class_names(content, path):
        kind: Any = getattr(albumentations, name, None)
        bases = (albumentations.BasicTransform, albumentations.BaseCompose)
        is_transform = isinstance(kind, type) and issubclass(kind, bases) and name != "Lambda"
        if not is_transform or "read_fn" in inspect.signature(kind).parameters:
            raise ConfigError(
                f"{path}: albumentations has no transform {name!r} that files may use."
            )
    try:
        pipeline = albumentations.from_dict(content)
    except Exception as error:  # pydantic's errors, KeyError, TypeError, ...
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} is no pipeline of albumentations: {reason}.") from None
    if not isinstance(pipeline, albumentations.Compose):
        raise ConfigError(f"{path} must hold a Compose, as albumentations.save writes it.")
    return pipeline


def read_text(path: Path) -> str:
    """The text of a pipeline's file.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than 1 MiB and so no pipeline of albumentations.")
        return raw.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"The augmentation {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"The augmentation {path} is not UTF-8 text.") from None


def _read(path: Path) -> dict[str, Any]:
    text = read_text(path)
    import yaml

    try:
        is_json = _FILES[path.suffix.lower()] == "json"
        content = json.loads(text) if is_json else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"The augmentation {path} cannot be read: {reason}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("transform"), dict):
        raise ConfigError(f"{path} is not what albumentations.save writes: it has no transform.")
    return content


def _class_names(content: Any, path: Path, depth: int = 0) -> Iterator[str]:
    """Every class that the content names, however deep."""
    if depth > 50:
        raise ConfigError(f"{path} is nested too deeply to be a pipeline of albumentations.")
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "__class_fullname__":
                # albumentations' own classes go by their bare names.
                yield value if isinstance(value, str) else repr(value)
            else:
                yield from _class_names(value, path, depth + 1)
        if content.get("__type__") == "Lambda":
            yield "Lambda"
    elif isinstance(content, list):
        for value in content:
            yield from _class_names(value, path, depth + 1)
