"""The options of a training run that all methods take, for Python, the shell and YAML alike.

What a method takes besides, and its defaults, is a subclass in ``method_options``.
"""

# Annotations are not postponed here: the options that a class in another module inherits would be
# looked up among the names of that module by whoever asks what the parameters of its __init__ are.

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pix2gan.errors import ConfigError

#: Options that do not change what is learned, but for rounding (``device`` and ``compile``); a run
#: may be resumed with other values of them.
#: ``data`` and ``epochs`` are not listed as such: the trainer compares what they amount to.
FREE_ON_RESUME = frozenset(
    {
        "data",
        "data_b",
        "out",
        "steps",
        "epochs",
        "workers",
        "log_every",
        "sample_every",
        "evaluate_every",
        "checkpoint_every",
        "keep_checkpoints",
        "resume",
        "device",
        "compile",
        "name",
        "licence",
        "attribution",
    }
)

_SIZES = (
    *("size", "in_channels", "out_channels", "width", "batch", "discriminator_width", "n_layers"),
    *("discriminator_scales", "num_downs", "num_blocks"),
)
_COUNTS = (
    *("steps", "log_every", "sample_every", "evaluate_every", "checkpoint_every"),
    *("keep_checkpoints", "accumulate", "patience"),
)

_Config = TypeVar("_Config", bound="TrainConfig")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of a training run that all methods take; each method has a subclass with its own.

    Values are checked on construction: a :class:`~pix2gan.errors.ConfigError` names the option and
    says what is wrong with it.
    """

    default_epochs: ClassVar[float] = 200.0
    """The length of a run of which neither ``epochs`` nor ``steps`` is given."""

    # Only the data may be given without its name, in Python as on the command line.
    data: Path = dataclasses.field(kw_only=False)
    """Training data: a folder, a manifest (.csv, .jsonl) or shards (.tar)."""

    out: Path
    """The run's folder: metrics, samples, checkpoints and, in the end, the model."""

    method: str
    """How to train."""

    fit: Literal["pad", "resize", "crop", "scale-width", "none"] = "pad"
    """How images are made square: padded, stretched, cropped, scaled to the width and cropped, or
    cut out unscaled."""

    holdout: float = 0.0
    """Fraction of the data to hold back from training, for samples and evaluation."""

    size: int = 256
    """Side of the training images in pixels."""

    in_channels: int = 3
    """Channels of the input images."""

    out_channels: int = 3
    """Channels of the output images."""

    input_range: str | None = None
    """Values in the input's files that are black and white, as in 0,4095; by default the whole
    range of 8 or 16 bits, and 0 to 1 for floats."""

    output_range: str | None = None
    """The same for the output."""

    augment: bool | str = True
    """Vary the training images at random; or only as some of flip, flip-vertical, rotate, crop,
    shift, colour and cutout (joined by commas) say, or a file that albumentations.save wrote."""

    generator: str = "resnet9"
    """Generator architecture, a name of `pix2gan models`."""

    width: int = 64
    """Channels of the generator's first layer."""

    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation in generator and discriminator."""

    dropout: bool = False
    """Dropout in the generator, pix2pix's source of noise."""

    downsampling: Literal["strided", "blur"] = "strided"
    """How the generator halves images."""

    upsampling: Literal["transposed", "nearest", "blur"] = "transposed"
    """How the generator doubles images."""

    padding: Literal["reflect", "replicate", "zeros"] = "reflect"
    """How the generator pads at the borders."""

    num_downs: int | None = None
    """Levels of a U-Net, if other than its name says."""

    num_blocks: int | None = None
    """Residual blocks of a ResNet, if other than its name says."""

    discriminator: Literal["patch", "pixel"] = "patch"
    """Discriminator architecture."""

    discriminator_width: int = 64
    """Channels of the discriminator's first layer."""

    n_layers: int = 3
    """Strided layers of the patch discriminator: 3 sees patches of 70 pixels."""

    spectral_norm: bool = False
    """Spectral normalisation in the discriminator."""

    discriminator_scales: int = 1
    """Discriminators, each looking at images half as large as the one before."""

    augment_discriminator: str | None = None
    """Vary what the discriminator sees, for small data (DiffAugment): some of colour, translation
    and cutout, joined by commas."""

    gan_loss: Literal["lsgan", "vanilla"] = "lsgan"
    """Least squares (lsgan) or cross entropy (vanilla)."""

    steps: int | None = None
    """Length of the training in steps, one batch each."""

    epochs: float | None = None
    """Length of the training in passes over the data; 200 if neither this nor --steps is given."""

    batch: int = 1
    """Images in a batch, for each of the processes that train together."""

    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""

    lr: float = 2e-4
    """Learning rate of Adam."""

    lr_discriminator: float | None = None
    """Learning rate of the discriminator, if other than --lr."""

    beta1: float = 0.5
    """Adam's decay of the mean gradient."""

    beta2: float = 0.999
    """Adam's decay of the mean squared gradient."""

    clip_gradient: float = 0.0
    """Largest norm of a player's gradient, which is scaled down to it; 0 turns it off."""

    schedule: Literal["linear", "cosine", "step", "plateau"] = "linear"
    """How the learning rate falls: to zero on a line or on half a cosine, in steps, or whenever the
    evaluation no longer improves."""

    decay_start: float = 0.5
    """Fraction of the training after which the learning rate falls (linear, cosine)."""

    decay_every: float = 0.25
    """Fraction of the training after which the learning rate drops, again and again (step)."""

    decay_factor: float = 0.1
    """What a drop multiplies the learning rate by (step, plateau)."""

    patience: int = 5
    """Evaluations without improvement before a drop (plateau)."""

    ema: float = 0.999
    """Decay of the moving average of the generator's weights, which is what is saved; 0 turns it
    off."""

    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Number format of the networks' arithmetic; weights are float32 in all, and fp16 scales its
    losses."""

    compile: bool = False
    """Run the networks through torch.compile."""

    seed: int = 0
    """Seed of everything random."""

    workers: int = 2
    """Processes that load data; 0 loads in the training process."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the GPU if there is one."""

    log_every: int = 50
    """Steps between two entries of the metrics."""

    sample_every: int = 500
    """Steps between two sample sheets."""

    evaluate_every: int = 1000
    """Steps between two evaluations on the held-out data, if there are any; the best model so far
    is kept."""

    checkpoint_every: int = 1000
    """Steps between two checkpoints."""

    keep_checkpoints: int = 2
    """Checkpoints to keep."""

    resume: bool | Literal["auto"] = False
    """Continue the run in --out from its newest checkpoint; auto: if there is one, else start."""

    name: str | None = None
    """Name of the model; the folder's name if not given."""

    licence: str | None = None
    """Licence of the training data, to be recorded in the model."""

    attribution: str | None = None
    """Who made the training data, to be recorded in the model."""

    def __post_init__(self) -> None:
        declared = typing.get_type_hints(type(self))
        for name in (option.name for option in dataclasses.fields(self)):
            object.__setattr__(self, name, _typed(name, getattr(self, name), declared[name]))
        self._at_least_one(*_SIZES, *_COUNTS)
        for name in _SIZES:  # beyond these torch's own arithmetic ends, not only the memory
            if getattr(self, name) is not None and getattr(self, name) >= 2**31:
                raise ConfigError(_says(name, "must be below 2**31", getattr(self, name)))
        if self.seed >= 2**64:
            raise ConfigError(_says("seed", "must be below 2**64", self.seed))
        self._not_negative("workers", "seed", "clip_gradient")
        self._above_zero("lr", "lr_discriminator", "epochs")
        for name in ("holdout", "ema", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    _says(name, "must be at least 0 and below 1", getattr(self, name))
                )
        if not 0 <= self.decay_start <= 1:
            raise ConfigError(_says("decay_start", "must lie in 0 to 1", self.decay_start))
        for name in ("decay_every", "decay_factor"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(_says(name, "must be above 0 and at most 1", getattr(self, name)))
        if self.schedule == "plateau" and self.holdout == 0:
            raise ConfigError("--schedule plateau needs evaluations: hold data out with --holdout.")
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("Give --steps or --epochs, not both.")

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(_says(name, "must be at least 1", getattr(self, name)))

    def _not_negative(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 0:
                raise ConfigError(_says(name, "must not be negative", getattr(self, name)))

    def _above_zero(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(_says(name, "must be above 0", getattr(self, name)))

    def total_steps(self, images: int, processes: int = 1) -> int:
        """The length of the run in steps, for ``images`` images and ``processes`` processes."""
        if self.steps is not None:
            return self.steps
        epochs = self.default_epochs if self.epochs is None else self.epochs
        return max(1, math.ceil(epochs * images / (self.batch * self.accumulate * processes)))

    def differences(self, other: "TrainConfig") -> list[str]:
        """Which options differ from ``other``'s in a way that changes what is learned."""
        lines = []
        for option in dataclasses.fields(self):
            mine, theirs = getattr(self, option.name), getattr(other, option.name)
            if mine != theirs and not self._is_free_on_resume(option.name):
                lines.append(f"{_flag(option.name)} {mine} (the run has {theirs})")
        return lines

    def _is_free_on_resume(self, name: str) -> bool:
        if name == "evaluate_every":  # where the learning rate follows from the evaluations
            return self.schedule != "plateau"
        return name in FREE_ON_RESUME

    def to_dict(self) -> dict[str, Any]:
        """All options as strings, numbers, booleans and None: for YAML, JSON and checkpoints."""
        values = dataclasses.asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}

    @classmethod
    def from_dict(
        cls: type[_Config], values: Mapping[str, Any], source: str = "the configuration"
    ) -> _Config:
        """The inverse of :meth:`to_dict`; missing options take their defaults.

        ``TrainConfig.from_dict`` makes the options of the method that ``values`` names.

        Raises:
            ConfigError: If an option is unknown to the method, the method is, or ``data`` or
                ``out`` is missing.
        """
        kind = cls
        if cls is TrainConfig and "method" in values:
            from pix2gan.training.methods import find_method

            kind = find_method(values["method"]).options  # type: ignore[assignment]
        check_names(kind, values, source)
        fields = dataclasses.fields(kind)
        required = [f.name for f in fields if f.default is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise ConfigError(f"Missing in {source}: {' and '.join(missing)}.")
        return kind(**values)

    def to_yaml(self) -> str:
        """All options but ``resume`` as YAML, in the order of this class."""
        import yaml

        values = {name: value for name, value in self.to_dict().items() if name != "resume"}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls: type[_Config], path: str | Path, **overrides: Any) -> _Config:
        """Read options from a YAML file; ``overrides`` take precedence.

        ``TrainConfig.from_yaml`` makes the options of the method that the file names.

        Raises:
            ConfigError: If the file cannot be read, is not a mapping, or holds a bad option.
        """
        return cls.from_dict({**read_yaml(path), **overrides}, source=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The options in a YAML file, some or all of them, unchecked.

    Raises:
        ConfigError: If the file cannot be read or is no mapping of names to single values.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = error.strerror if isinstance(error, OSError) else None
        reason = " ".join((said or str(error)).split())
        raise ConfigError(
            f"Cannot read the configuration {path} ({reason}): give a YAML file with one "
            "`option: value` a line."
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold one `option: value` a line.")
    for name, value in values.items():
        if isinstance(value, (list, dict)):
            raise ConfigError(f"{path}: {name} takes one value, got {value!r}.")
    return values


def check_names(kind: type[TrainConfig], values: Mapping[str, Any], source: str) -> None:
    """ConfigError if ``values`` has a name that is no option of ``kind``."""
    known = [option.name for option in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise ConfigError(f"Unknown option in {source}: {name}{hint}")


def _typed(name: str, value: Any, declared: Any) -> Any:
    """``value`` as the type that option ``name`` declares; numbers and paths are converted."""
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(declared):
            return None
        choices = [t for t in typing.get_args(declared) if t is not type(None)]
        # Of bool | str and bool | Literal["auto"] the second, where the value is a text.
        declared = choices[-1] if isinstance(value, str) else choices[0]
    if typing.get_origin(declared) is Literal:
        allowed = typing.get_args(declared)
        if value not in allowed:
            raise ConfigError(_says(name, f"must be {' or '.join(allowed)}", value))
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if declared is bool and isinstance(value, bool):
        return value
    if declared is int and is_number and math.isfinite(value) and int(value) == value:
        return int(value)
    if declared is float and is_number and math.isfinite(value):
        return float(value)
    if declared is float and isinstance(value, str):  # YAML reads 2e-4 as a string
        try:
            return _typed(name, float(value), float)
        except ValueError:
            pass
    if declared is str and isinstance(value, str) and value:
        return value
    if declared is Path and isinstance(value, (str, Path)) and str(value):
        return Path(value)
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise ConfigError(_says(name, f"must be {kinds.get(declared, 'a path')}", value))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _says(name: str, rule: str, value: Any) -> str:
    return f"{_flag(name)} {rule}, got {value!r}."
