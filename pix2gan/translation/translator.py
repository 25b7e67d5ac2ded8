"""`Translator`: a generator together with the pre- and post-processing it was trained with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pix2gan.checkpoints.exported import ExportedGenerator
from pix2gan.checkpoints.load import load_model
from pix2gan.checkpoints.model_config import ModelConfig
from pix2gan.checkpoints.native import set_lasting_dropout
from pix2gan.checkpoints.resolve import resolve_model
from pix2gan.checkpoints.weights_hash import weights_hash
from pix2gan.data.image_io import to_uint8
from pix2gan.errors import BadImageError, CheckpointError, ConfigError
from pix2gan.models.generator import Generator
from pix2gan.models.layer_graph import Layer
from pix2gan.models.style import StyledGenerator
from pix2gan.translation.exact_tiles import translate_exactly
from pix2gan.translation.fast_tiles import translate_fast
from pix2gan.translation.inputs import ImageLike, read_image
from pix2gan.translation.memory import attempt, bytes_per_pixel
from pix2gan.translation.planes import Image as RowsOf
from pix2gan.translation.planes import Picture
from pix2gan.translation.processing import Array, FloatArray, Prepared, Processing
from pix2gan.translation.tiling import AUTO_TILE, Tiling, can_tile, in_smaller_tiles

if TYPE_CHECKING:
    from pix2gan.translation.folder_report import FolderReport

OUTPUTS = ("pil", "numpy", "tensor")
DTYPES = ("float32", "bfloat16")
RESIZES = ("none", "fit")
DEFAULT_BATCH_SIZE = 4
_AUTO = Tiling()


class Translator:
    """Turns images of domain A into images of domain B.

        translator = Translator.from_pretrained("sketch2motorbike")
        photo = translator("sketch.png")

    Several threads may use one translator at the same time.

    Args:
        generator: A network of `pix2gan.models`; it is moved to `device`, put into evaluation mode
            and laid out channels-last.
        config: What it was trained with.
        device: "cpu", "cuda", "cuda:1", ...; by default the GPU where there is one.
        dtype: "float32" (default) or "bfloat16": the precision of the network's arithmetic.

    Raises:
        ConfigError: If the device or the dtype is unknown or absent.
    """

    def __init__(
        self,
        generator: nn.Module,
        config: ModelConfig,
        *,
        device: str | torch.device | None = None,
        dtype: str | None = None,
    ) -> None:
        if dtype not in (None, *DTYPES):
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        self.config = config
        self.device = _find_device(_only_device(generator, device, dtype))
        self.dtype = dtype or "float32"
        generator = generator.eval().requires_grad_(False).to(self.device)
        self.generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.keeps_dropout = config.keeps_dropout
        self._masks = torch.Generator()
        if self.keeps_dropout and not set_lasting_dropout(self.generator, self._masks):
            raise CheckpointError(
                f"{config.name or config.architecture['name']} was trained without dropout: leave "
                "the option dropout out"
            )
        self._dropping = threading.Lock()
        self.processing = Processing(
            config,
            multiple=int(getattr(generator, "multiple", 1)),
            minimum=int(getattr(generator, "minimum_size", 1)),
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        direction: str | None = None,
        statistics: str | None = None,
        dropout: bool | None = None,
        trust_code: bool = False,
    ) -> Translator:
        """Load a translator.

        Args:
            model: The name of a bundled model, the folder of a model or of a training run, a
                `.safetensors` file with its `config.json` beside it, a `.pth` file of the original
                pix2pix, CycleGAN, CUT or pix2pixHD or the folder that holds it, a `.onnx` or `.pt2`
                file of `pix2gan.export`, or a hub id "org/name".
            device: See `Translator`.
            dtype: See `Translator`.
            direction: "AtoB" or "BtoA": which generator is meant where there are two, as
                CycleGAN's.
            statistics: What batch norms use: the "running" statistics of training or each
                "image"'s own; by default what the model's config says, and for the original
                repositories' files "image", as these test.
            dropout: Whether dropout goes on, in a network that was trained with it; by default what
                the model's config says, and for the original repositories' files yes, as these
                test. The masks come from the `seed` of each call, by default 0, and each image goes
                through the network by itself and untiled.
            trust_code: Open a `.pt2` file, which can execute code, because its maker is trusted.
                All other kinds hold data only.

        Raises:
            CheckpointError: If there is no such model or its files are damaged.
            ConfigError: If the device or the dtype is unknown or absent.
        """
        path = resolve_model(model, direction)
        loaded = load_model(
            path,
            direction=direction,
            statistics=statistics,
            dropout=dropout,
            trust_code=trust_code,
        )
        return cls(*loaded, device=device, dtype=dtype)

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        batch_size: int | None = None,
        output: str = "pil",
        resize: str | None = None,
        seed: int | None = None,
        tile: int | str | None = "auto",
        tile_statistics: str = "exact",
    ) -> Any:
        """Translate one image or several; each result has the size of its original.

        Args:
            images: A path, a PIL image, an array [H, W] or [H, W, C] (uint8, uint16, or floating
                point in [0, 1]), a tensor [C, H, W] (floating point in [0, 1], or uint8), or a list
                of them; an array [N, H, W, C] or a tensor [N, C, H, W] counts as a list. A model
                with an input range takes values of that range instead.
            batch_size: How many images of equal size go through the network at once.
            output: "pil": `PIL.Image`, 8 bits. "numpy": [H, W, C] in the dtype of the original
                if that is uint8, uint16 or float32; other floats give float32, and bool uint8.
                "tensor": float32 [C, H, W] in [0, 1] on the original's device (the CPU if it was no
                tensor); [N, C, H, W] if `images` was one tensor of that shape. Of a model with an
                output range the last two are float32 in that range.
            resize: "none" runs the network at the image's resolution, "fit" at the one that it was
                trained at; by default as the model's config says.
            seed: The style, for a generator that takes a style code: another seed gives another
                photo of the same image. By default the fixed style. With a seed images go through
                the network one by one, so that a result depends on its image and the seed alone.
            tile: "auto" works in tiles where an image does not fit into memory, a side in pixels
                where the image has more than its square, None never.
            tile_statistics: What norms use in tiles: the "exact" statistics of the whole image,
                which makes the result the untiled one, or "fast" those of a sample of it.

        Returns:
            One result for one image, a list for a list.

        Raises:
            BadImageError: If an image cannot be used; names it. Nothing is returned for the others.
            ConfigError: If an option makes no sense.
        """
        if output not in OUTPUTS:
            raise ConfigError(f"output must be one of {', '.join(OUTPUTS)}, not {output!r}")
        if resize not in (None, *RESIZES):
            raise ConfigError(f"resize must be one of {', '.join(RESIZES)}, not {resize!r}")
        self.check_seed(seed)
        tiling = Tiling(tile, tile_statistics)
        tiling.check(self.generator)
        many = isinstance(images, (list, tuple)) or (
            isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4
        )
        batch: list[Any] = list(images) if many else [images]  # type: ignore[arg-type]
        prepared = [
            self.processing.prepare(
                *read_image(image, str(i + 1), self.processing.input_range), resize
            )
            for i, image in enumerate(batch)
        ]
        batch_size = check_batch_size(batch_size)
        # Kernels are chosen by the size of the batch, and companions may change the last bits.
        results = self._run_all(prepared, batch_size if seed is None else 1, seed, tiling)
        made = [
            self._deliver(result, item, image, output)
            for result, item, image in zip(results, prepared, batch, strict=True)
        ]
        if not many:
            return made[0]
        return (
            torch.stack(made)
            if made and output == "tensor" and isinstance(images, Tensor)
            else made
        )

    def translate_folder(
        self, source: str | os.PathLike[str], out: str | os.PathLike[str], **options: Any
    ) -> FolderReport:
        """Translate every image in a folder; see `pix2gan.translation.translate_folder`."""
        from pix2gan.translation.folder import translate_folder

        return translate_folder(self, source, out, **options)

    def translate_paths(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        out: str | os.PathLike[str] | IO[bytes],
        **options: Any,
    ) -> FolderReport:
        """Translate files, a folder or a stream; see `pix2gan.translation.translate_paths`."""
        from pix2gan.translation.folder import translate_paths

        return translate_paths(self, source, out, **options)

    def weights_hash(self) -> str:
        """Says which weights these are; see `pix2gan.checkpoints.weights_hash`."""
        return weights_hash(self.generator)

    def check_seed(self, seed: int | None) -> None:
        """ConfigError if `seed` is no seed, or the generator has no style that it could choose."""
        if seed is None:
            return
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r}")
        if not getattr(self.generator, "style_channels", 0) and not self.keeps_dropout:
            raise ConfigError(
                f"The generator {self.config.architecture['name']} has no styles for a seed to "
                "choose from: leave the seed out, or use a model with a modulated generator"
            )

    def run(
        self, batch: Sequence[Prepared], seed: int | None = None, tiling: Tiling = _AUTO
    ) -> list[FloatArray]:
        """Put prepared images of one shape through the network, in the style of `seed`.

        Where memory does not suffice, the batch is halved until it does; one image is tiled, in
        ever smaller tiles, if `tiling` lets it.

        Returns:
            float32 [C, h, w] in the model's value range, one for each image.

        Raises:
            BadImageError: If an image does not even fit alone.
        """
        _, height, width = batch[0].values.shape
        tile = tiling.side_for(self.generator, height, width, self.device)
        if len(batch) > 1 and (tile is not None or self.keeps_dropout):
            return [self.run([item], seed, tiling)[0] for item in batch]
        if tile is None:
            made = attempt(lambda: self._run_whole(batch, seed), self.device)
            if made is not None:
                return made
            if len(batch) > 1:
                middle = len(batch) // 2
                halves = (batch[:middle], batch[middle:])
                return [made for half in halves for made in self.run(half, seed, tiling)]
            if tiling.tile is not None and can_tile(self.generator):
                tile = AUTO_TILE
        if tile is not None:
            single = in_smaller_tiles(
                lambda side: self._run_tiled(batch[0], side, tiling.statistics, seed),
                tile,
                self.device,
            )
            if single is not None:
                return [single]
        untiled = ", or say dropout=False, so that it can be tiled" if self.keeps_dropout else ""
        raise BadImageError(
            batch[0].name,
            f"there is not enough memory on {self.device} to translate it at {width} x {height} "
            f"pixels; shrink it, free memory or choose another device{untiled}",
        )

    def _run_whole(self, batch: Sequence[Prepared], seed: int | None) -> list[FloatArray]:
        stacked = torch.from_numpy(np.stack([item.values for item in batch]))
        return list(self._forward(stacked, seed).numpy())

    def _run_tiled(
        self, item: Prepared, tile: int, statistics: str, seed: int | None = None
    ) -> FloatArray:
        """One image in tiles."""
        out = np.empty((self.config.out_channels, *item.values.shape[1:]), np.float32)

        def write(top: int, left: int, part: FloatArray) -> None:
            out[:, top : top + part.shape[1], left : left + part.shape[2]] = part

        self.run_in_parts(
            RowsOf(torch.from_numpy(item.values)[None]), write, tile, statistics, seed
        )
        return out

    def run_in_parts(
        self,
        image: Picture,
        write: Callable[[int, int, FloatArray], None],
        tile: int,
        statistics: str,
        seed: int | None = None,
    ) -> None:
        """Put an image that is read in parts through the network, in tiles.

        Args:
            image: In the model's value range, its height and width as the network needs them.
            write: Takes the first row, the first column and the values [C, h, w] of each part of
                the output.
            tile, statistics: See `pix2gan.translation.tiling`.
            seed: The style.
        """
        generator = cast(Generator, self.generator)
        with torch.inference_mode(), self._precision():
            layers = self._layers(seed)
            if statistics == "fast":
                multiple = generator.multiple
                for top, left, part in translate_fast(layers, image, tile, multiple, self.device):
                    write(top, left, part[0].float().cpu().numpy())
                return
            dtype = torch.bfloat16 if self.dtype == "bfloat16" else torch.float32
            rows = translate_exactly(layers, image, tile, self.device, dtype)
            step = max(1, tile * tile // image.width)
            for top in range(0, image.height, step):
                part = rows.read(top, min(top + step, image.height))
                write(top, 0, part[0].float().cpu().numpy())

    def scratch_per_pixel(self) -> float:
        """Bytes that "exact" tiles keep on disk at most, for each pixel of an image."""
        generator = cast(Generator, self.generator)
        return bytes_per_pixel(generator.layer_graph(), generator.in_channels)

    def _layers(self, seed: int | None) -> list[Layer]:
        """What the generator does, layer by layer, in the style of `seed`."""
        generator = cast(Generator, self.generator)
        if seed is not None and isinstance(generator, StyledGenerator):
            return generator.layer_graph(generator.style_code(seed))
        return generator.layer_graph()

    def _precision(self) -> AbstractContextManager[Any]:
        if self.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _forward(self, x: Tensor, seed: int | None = None) -> Tensor:
        """[N, C, h, w] float32 on the CPU -> the same, through the network."""
        with torch.inference_mode(), self._precision():
            x = x.to(self.device).contiguous(memory_format=torch.channels_last)
            if self.keeps_dropout:
                # One image after the other: the masks are drawn from one source.
                with self._dropping:
                    self._masks.manual_seed(seed or 0)
                    result = self.generator(x)
            elif seed is None:
                result = self.generator(x)
            else:
                assert isinstance(self.generator, (StyledGenerator, ExportedGenerator))
                result = self.generator(x, self.generator.style_code(seed))
            return result.float().cpu()  # in whichever layout it has

    def _run_all(
        self, prepared: list[Prepared], batch_size: int, seed: int | None, tiling: Tiling
    ) -> list[FloatArray]:
        """`run` in batches of equal shape; the results in the order of the images."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(prepared):
            shapes.setdefault(item.values.shape, []).append(index)
        results: dict[int, FloatArray] = {}
        for indices in shapes.values():
            for start in range(0, len(indices), batch_size):
                group = indices[start : start + batch_size]
                made = self.run([prepared[i] for i in group], seed, tiling)
                results.update(zip(group, made, strict=True))
        return [results[index] for index in range(len(prepared))]

    def _deliver(self, result: FloatArray, item: Prepared, original: Any, output: str) -> Any:
        if output == "tensor":
            image = self.processing.finish(result, item, "float32")
            tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            return tensor.to(original.device) if isinstance(original, Tensor) else tensor
        in_8_bits = output == "pil" and self.processing.output_range is not None
        image = self.processing.finish(result, item, "uint8" if in_8_bits else None)
        return image if output == "numpy" else _to_pil(image)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_dropping"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._dropping = threading.Lock()  # locks stay where they are

    def __repr__(self) -> str:
        name = self.config.name or self.config.architecture["name"]
        return f"<Translator {name} on {self.device} in {self.dtype}>"


def check_batch_size(batch_size: int | None) -> int:
    """`batch_size`, or the default for None; ConfigError if it is not a positive number."""
    if batch_size is None:
        return DEFAULT_BATCH_SIZE
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
    return batch_size


def _only_device(
    generator: nn.Module, device: str | torch.device | None, dtype: str | None
) -> str | torch.device | None:
    """`device`; of an exported model, which runs on the CPU in float32, no other one."""
    if not isinstance(generator, ExportedGenerator):
        return device
    if dtype not in (None, "float32") or str(device or "cpu") != "cpu":
        raise ConfigError(
            f"{generator.path} is an exported model, which runs on the CPU in float32: leave out "
            "device and dtype, or use the model that it was made from"
        )
    return "cpu"


def _find_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device must be cpu or cuda, got {str(device)!r}") from None
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        present = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
        raise ConfigError(f"device {found} is not there; this machine has {present}")
    try:
        torch.ones(1, device=found).add(1).cpu()
    except Exception:  # "meta" and kinds that this torch was not built for
        raise ConfigError(f"device must be cpu or cuda: {found} does not compute here") from None
    return found


def _to_pil(image: Array) -> Image.Image:
    channels = image.shape[2]
    if channels > 4:
        raise ConfigError(
            f"A PIL image cannot hold the {channels} channels of this model's output; use "
            'output="numpy"'
        )
    pixels = to_uint8(image)
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))
