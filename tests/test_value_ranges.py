"""Values from files to files: what is trained on 8 bits, 16 bits or floats writes such again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from pix2gan.data.image_io import open_image, save_image
from pix2gan.training import train
from pix2gan.training.method_options import Pix2PixConfig
from pix2gan.translation import Translator

TINY: dict[str, Any] = {
    "size": 16,
    "generator": "resnet6",
    "num_blocks": 1,
    "width": 4,
    "discriminator_width": 4,
    "n_layers": 1,
    "batch": 1,
    "steps": 2,
    "workers": 0,
    "sample_every": 1000,
}


class Same(nn.Module):
    """A perfect translator of a domain into itself: values near black and white are kept, too,
    where tanh would not reach them."""

    multiple = minimum_size = 1

    def forward(self, x: Tensor) -> Tensor:
        return x


def noise(seed: int, channels: int, dtype: type, low: float, high: float) -> np.ndarray[Any, Any]:
    """All the values from black to white, both included."""
    values = np.random.default_rng(seed).uniform(low, high, (20, 20, channels))
    values.flat[:2] = low, high
    return (values if dtype is np.float32 else np.round(values)).astype(dtype)


KINDS: dict[str, tuple[str, int, type, tuple[float, float], dict[str, Any]]] = {
    # suffix, channels, dtype, what the values lie in, options of the training
    "8 bits": (".png", 3, np.uint8, (0, 255), {}),
    "8 bits, grey": (".png", 1, np.uint8, (0, 255), {"in_channels": 1, "out_channels": 1}),
    "16 bits": (".png", 3, np.uint16, (0, 65535), {}),
    "12 in 16 bits": (
        ".tif",
        1,
        np.uint16,
        (0, 4095),
        {"in_channels": 1, "out_channels": 1, "input_range": "0,4095", "output_range": "0,4095"},
    ),
    "5 channels of floats": (".tif", 5, np.float32, (0, 1), {"in_channels": 5, "out_channels": 5}),
    "metres": (
        ".npy",
        2,
        np.float32,
        (-5, 80),
        {"in_channels": 2, "out_channels": 2, "input_range": "-5,80", "output_range": "-5,80"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_survive_training_and_translation(kind: str, tmp_path: Path) -> None:
    suffix, channels, dtype, values, options = KINDS[kind]
    data = tmp_path / "data"
    for side in "AB":
        (data / side).mkdir(parents=True)
        for number in range(3):
            image = noise(number, channels, dtype, *values)
            path = data / side / f"{number}{suffix}"
            np.save(path, image) if suffix == ".npy" else save_image(path, image)
    train(Pix2PixConfig(data, out=tmp_path / "run", **TINY, **options))

    translator = Translator.from_pretrained(tmp_path / "run" / "model", device="cpu")
    same = Translator(Same(), translator.config, device="cpu")
    for name, made_by in (("made", translator), ("same", same)):
        report = made_by.translate_folder(data / "A", tmp_path / name, resize="none")
        assert (report.done, report.failed) == (3, [])
    # Values of a range are written as floats, all others as they came.
    written = np.float32 if "output_range" in options else dtype
    for number in range(3):
        given = noise(number, channels, dtype, *values)
        (made,), (back,) = ((tmp_path / n).glob(f"{number}.*") for n in ("made", "same"))
        assert made.suffix == back.suffix
        for path in (made, back):
            found = open_image(path)
            assert found.shape == given.shape
            assert found.dtype == written
            assert values[0] <= found.min() <= found.max() <= values[1]
        assert open_image(made).std() > 0
        # Networks compute in float32: that has all of 16 bits.
        exact = np.round if written is np.float32 and dtype is np.uint16 else np.asarray
        tolerance = 1e-6 * (values[1] - values[0]) if dtype is np.float32 else 0
        np.testing.assert_allclose(exact(open_image(back)), given, rtol=0, atol=tolerance)
