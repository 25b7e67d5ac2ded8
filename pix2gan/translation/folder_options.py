"""The options of a folder run, and which values of them make sense."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from pix2gan.checkpoints.model_config import ModelConfig
from pix2gan.data.image_io import IMAGE_SUFFIXES
from pix2gan.errors import ConfigError
from pix2gan.file_io import check_replaceable, check_writable
from pix2gan.translation.folder_report import is_report
from pix2gan.translation.signing import Signer
from pix2gan.translation.targets import FORMATS
from pix2gan.translation.tiling import Tiling
from pix2gan.translation.video import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator

ON_EXISTS = ("skip", "overwrite", "rename")
ON_ERROR = ("skip", "stop")
ENGINES = ("local", "ray")
_BATCHES_PER_CHUNK = 16


@dataclass(frozen=True)
class FolderOptions:
    """The options of `translate_folder`, which documents them."""

    recursive: bool = True
    glob: str | None = None
    batch_size: int = 4
    suffix: str = ""
    format: str | None = None
    quality: int = 95
    on_exists: str = "skip"
    on_error: str = "skip"
    resize: str | None = None
    seed: int | None = None
    jobs: int | None = None
    shard: str | None = None
    engine: str = "local"
    watch: bool = False
    dry_run: bool = False
    report: str | os.PathLike[str] | None = None
    progress: bool | None = None
    provenance: bool = True
    c2pa_certificate: str | os.PathLike[str] | None = None
    c2pa_key: str | os.PathLike[str] | None = None
    tile: int | str | None = "auto"
    tile_statistics: str = "exact"

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.tile, self.tile_statistics)

    @property
    def batch(self) -> int:
        """Images that share a batch at most: with a seed an output depends on its image and the
        seed alone, in a watched folder not on what comes with it."""
        return self.batch_size if self.seed is None and not self.watch else 1

    @property
    def chunk(self) -> int:
        """Images of the sorted list whose batches are planned together."""
        return _BATCHES_PER_CHUNK * self.batch

    @property
    def threads(self) -> int:
        return self.jobs or min(4, os.cpu_count() or 1)

    @property
    def part(self) -> tuple[int, int]:
        """`shard` as numbers: (2, 5) is the second of five."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shard or "1/1")
        i, n = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= i <= n:
            raise ConfigError(
                f"shard must be i/n with i from 1 to n, as in 2/5, and not {self.shard!r}"
            )
        return i, n

    def signer(self, config: ModelConfig) -> Signer | None:
        """What signs outputs of the model, if they are to be signed.

        Raises:
            ConfigError: If it cannot.
        """
        if self.c2pa_certificate is None or self.c2pa_key is None:
            if self.c2pa_certificate is not self.c2pa_key:
                raise ConfigError(
                    "A signature needs both c2pa_certificate and c2pa_key: add the other, or leave "
                    "both out"
                )
            return None
        return Signer(config, self.c2pa_certificate, self.c2pa_key)

    def check(self, translator: Translator) -> None:
        """ConfigError if a value makes no sense for this model."""
        from pix2gan.translation.translator import RESIZES, check_batch_size

        channels = translator.config.out_channels
        check_batch_size(self.batch_size)
        translator.check_seed(self.seed)
        self.tiling.check(translator.generator)
        _one_of("format", self.format, (None, *FORMATS))
        if channels > 4 and self.format not in (None, "tiff", "npy"):
            raise ConfigError(
                f"{self.format} cannot hold the {channels} channels of this model's output: use "
                "the format tiff or npy"
            )
        given: object = self.quality
        if not isinstance(given, Integral) or not 1 <= self.quality <= 100:
            raise ConfigError(
                f"quality must be a whole number between 1 and 100, not {self.quality!r}"
            )
        _one_of("on_exists", self.on_exists, ON_EXISTS)
        _one_of("on_error", self.on_error, ON_ERROR)
        _one_of("engine", self.engine, ENGINES)
        _one_of("resize", self.resize, (None, *RESIZES))
        if any(sign in self.suffix for sign in ("/", "\\", "\0")):
            raise ConfigError(f"suffix is part of a file name, so {self.suffix!r} cannot be one")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs must be at least 1, not {self.jobs}")
        if self.glob is not None and (not self.glob or self.glob.startswith("/")):
            raise ConfigError(
                f"glob is a pattern for paths in the source, as in '*.jpg', and not {self.glob!r}"
            )
        _ = self.part
        if self.signer(translator.config) is not None and self.format == "npy":
            raise ConfigError(
                "npy has no place for a signature: choose png, jpg, webp or tiff, or leave "
                "c2pa_certificate and c2pa_key out"
            )
        if self.watch and (
            self.dry_run
            or self.shard is not None
            or self.engine != "local"
            or self.on_exists == "rename"
        ):
            raise ConfigError(
                "watch goes on with what it finds here, so there is no sense in dry_run, shard, "
                "engine=ray or on_exists=rename beside it: leave them out"
            )
        if self.report is not None:
            _check_report(Path(self.report))


def _one_of(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        shown = ", ".join(choice for choice in choices if choice is not None)
        raise ConfigError(f"{option} must be one of {shown}, not {value!r}")


def _check_report(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"The report cannot be {path}: name a file, as in report.jsonl")
    if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise ConfigError(
            f"The report cannot be {path}, which is named like an image or a video: report.jsonl "
            "would do"
        )
    try:
        check_replaceable(path, is_report)
        check_writable(path.parent)
    except OSError as error:
        raise ConfigError(
            f"The report {path} cannot be written ({error.strerror}): choose another place for it"
        ) from None
