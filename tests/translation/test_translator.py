"""One image or a list, of any kind and size, through a network and back."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import save_image, to_channels
from pix2gan.data.transforms import fit_image
from pix2gan.errors import BadImageError, CheckpointError, ConfigError
from pix2gan.translation import Translator

from .conftest import MakeMirror, Mirror


def picture(height: int, width: int, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    """Random pixels over the whole range of `dtype`."""
    rng = np.random.default_rng(height * 10_000 + width * 10 + channels)
    if dtype == "float32":
        return rng.random((height, width, channels), dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


# What goes in, what comes out


def test_paths_pil_arrays_and_tensors_are_the_same_image(unet: Translator, tmp_path: Path) -> None:
    pixels = picture(20, 30)
    path = tmp_path / "a.png"
    save_image(path, pixels)
    expected = unet(pixels, output="numpy")
    assert expected.shape == (20, 30, 3)
    assert expected.dtype == np.uint8
    assert expected.std() > 5  # the network did something
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (path, str(path), Image.fromarray(pixels), tensor, tensor / 255):
        result = unet(image)
        assert isinstance(result, Image.Image)
        assert np.abs(np.asarray(result).astype(int) - expected).max() <= 1


def test_a_list_gives_a_list_in_its_order(unet: Translator, mirror: Translator) -> None:
    images = [picture(8 + i % 3, 8 * (1 + i % 2)) for i in range(9)]
    for result, image in zip(mirror(images, output="numpy"), images, strict=True):
        assert np.array_equal(result, image)
    assert unet([], output="tensor") == unet([]) == []
    assert len(unet((images[0],))) == 1
    alone = [unet(image, output="numpy") for image in images]
    together = unet(images, batch_size=2, output="numpy")
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_images_of_equal_padded_size_share_batches(mirror: Translator) -> None:
    sizes = [(16, 16), (9, 8), (15, 10), (16, 9), (10, 16), (1, 1), (12, 12)]
    mirror([picture(*size) for size in sizes], batch_size=3)
    shapes = sorted(tuple(x.shape) for x in mirror.generator.seen)  # type: ignore[union-attr]
    assert shapes == [(1, 3, 8, 8), (1, 3, 16, 8), (2, 3, 16, 16), (3, 3, 16, 16)]


def test_batches_of_tensors_and_arrays(mirror: Translator) -> None:
    tensor = torch.rand(3, 3, 10, 12)
    result = mirror(tensor, output="tensor")
    torch.testing.assert_close(result, tensor, rtol=0, atol=1e-6)
    assert [image.size for image in mirror(tensor)] == [(12, 10)] * 3
    array = np.stack([picture(5, 6), picture(5, 7)[:, :6]])
    assert np.array_equal(np.stack(mirror(array, output="numpy")), array)


def test_tensors_come_out_as_floats_whatever_went_in(mirror: Translator) -> None:
    pixels = picture(7, 9, dtype="uint16")
    result = mirror(pixels, output="tensor")
    assert result.dtype == torch.float32
    assert result.shape == (3, 7, 9)
    expected = pixels.transpose(2, 0, 1) / 65535
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    half = torch.rand(3, 4, 4).to(torch.bfloat16)
    torch.testing.assert_close(mirror(half, output="tensor"), half.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 500), (500, 3), (257, 255), (8, 8), (2, 17)])
@pytest.mark.parametrize("domain", ["photo", "sketch"])
def test_any_size_comes_back_as_it_was(
    unet: Translator, make_mirror: MakeMirror, size: tuple[int, int], domain: str
) -> None:
    pixels = np.repeat(picture(*size, 1), 3, axis=2)
    mirror = make_mirror(domain_a=domain)
    assert np.array_equal(mirror(pixels, output="numpy"), pixels)
    assert unet(pixels, output="numpy").shape == pixels.shape


def test_float32_arithmetic_is_exact_for_every_grey_level(mirror: Translator) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    assert np.array_equal(mirror(levels, output="numpy"), levels)
    levels8 = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(np.asarray(mirror(levels8)), levels8)


def test_the_value_range_is_the_models(make_mirror: MakeMirror) -> None:
    mirror = make_mirror(value_range=(0.0, 255.0))
    pixels = picture(8, 8)
    assert np.array_equal(np.asarray(mirror(pixels)), pixels)
    seen = mirror.generator.seen[0]  # type: ignore[union-attr,index]
    np.testing.assert_allclose(seen[0].permute(1, 2, 0).numpy(), pixels, atol=1e-3)


SHIFTED = [(1.0, 0.0), (1.5, 0.0), (1.0, 0.5), (1.0, -0.5), (1.0, 3e7), (1.0, -3e7)]


@pytest.mark.parametrize(("factor", "shift"), SHIFTED)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 8), (7, 6)])
def test_what_lies_outside_of_the_range_is_clipped(
    make_mirror: MakeMirror,
    factor: float,
    shift: float,
    layout: torch.memory_format,
    size: tuple[int, int],
) -> None:
    class Louder(Mirror):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x) * factor + shift).contiguous(memory_format=layout)

    pixels = picture(*size)
    exact = (pixels / 255 * 2 - 1) * factor + shift
    expected = np.clip((exact + 1) / 2, 0, 1) * 255
    made = np.asarray(make_mirror(Louder())(pixels)).astype(float)
    assert np.abs(made - expected).max() < 0.501  # rounded to the nearest


# Margins and scaling


def test_photos_are_mirrored_beyond_their_edges(mirror: Translator) -> None:
    mirror(np.arange(6, dtype=np.uint8).reshape(1, 6, 1).repeat(3, axis=2))
    row = mirror.generator.seen[0][0, 0, 0]  # type: ignore[union-attr,index]
    levels = ((row + 1) * 127.5).round().int().tolist()
    assert levels == [1, 0, 1, 2, 3, 4, 5, 4]


def test_sketches_lie_on_white_paper(make_mirror: MakeMirror) -> None:
    mirror = make_mirror(domain_a="sketch")
    mirror(np.zeros((6, 6), np.uint8))
    seen = mirror.generator.seen[0]  # type: ignore[union-attr,index]
    assert torch.equal(seen[..., 1:7, 1:7], -torch.ones(1, 3, 6, 6))
    assert seen.sum() == 3 * ((64 - 36) - 36)


def test_fit_shows_the_network_the_size_it_was_trained_at(make_mirror: MakeMirror) -> None:
    mirror = make_mirror(size=60, resize_mode="fit")
    smooth = np.linspace(0, 1, 200 * 100, dtype=np.float32).reshape(200, 100, 1).repeat(3, axis=2)
    result = mirror(smooth, output="numpy")
    assert mirror.generator.seen[0].shape == (1, 3, 64, 64)  # type: ignore[union-attr,index]
    assert result.shape == smooth.shape
    np.testing.assert_allclose(result, smooth, atol=0.01)
    for size in [(1, 1), (1, 900), (7, 5)]:
        assert mirror(picture(*size), output="numpy").shape == (*size, 3)
    mirror(smooth, resize="none")
    assert mirror.generator.seen[-1].shape == (1, 3, 200, 104)  # type: ignore[union-attr,index]


@pytest.mark.parametrize("frame", ["plain", "busy"])
def test_fit_pads_as_training_does(make_mirror: MakeMirror, frame: str) -> None:
    mirror = make_mirror(size=32, fit="pad", resize_mode="fit")
    pixels = picture(100, 61)
    if frame == "plain":
        pixels[:, :4] = pixels[:, -4:] = (200, 180, 20)
    mirror(pixels)
    seen = mirror.generator.seen[0][0].permute(1, 2, 0).numpy()  # type: ignore[union-attr,index]
    trained = fit_image(pixels, 32, "pad")
    np.testing.assert_allclose((seen + 1) * 127.5, trained, atol=1.01)


def test_the_smallest_size_of_a_network_is_kept(make_mirror: MakeMirror) -> None:
    network = Mirror()
    network.minimum_size = 24  # type: ignore[assignment]
    assert make_mirror(network)(picture(3, 30), output="numpy").shape == (3, 30, 3)
    assert network.seen[0].shape == (1, 3, 24, 32)


# Kinds of images

COLOUR = (200, 100, 50)
GREY = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
MODES = {
    "1": (0, 0, 0),  # darker than the middle
    "L": (GREY, GREY, GREY),
    "LA": (GREY, GREY, GREY),
    "P": COLOUR,
    "RGB": COLOUR,
    "RGBA": COLOUR,
    "RGBX": COLOUR,
    "CMYK": COLOUR,
    "YCbCr": COLOUR,
    "HSV": COLOUR,
    "RGBa": COLOUR,
    "La": (GREY, GREY, GREY),
    "PA": COLOUR,
}


@pytest.mark.parametrize("mode", MODES)
def test_every_pil_mode_shows_its_colours(mirror: Translator, mode: str) -> None:
    image = Image.new("RGB", (12, 10), COLOUR)
    if mode == "PA":
        image = image.convert("P").convert("PA")
    elif mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        image = image.convert(mode, dither=Image.Dither.NONE)
    result = mirror(image)
    assert result.size == (12, 10)
    expected_mode = {"LA": "RGBA", "La": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA", "PA": "RGBA"}
    assert result.mode == expected_mode.get(mode, "RGB")
    colour = np.asarray(result.convert("RGB"))[3, 3].astype(int)
    assert np.abs(colour - MODES[mode]).max() <= 4  # P: the web's palette


def test_lab_and_wide_modes(mirror: Translator) -> None:
    lab = Image.merge("LAB", [Image.new("L", (8, 8), v) for v in (255, 128, 128)])
    assert np.asarray(mirror(lab)).min() >= 250
    wide = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    image = Image.fromarray(wide)
    assert image.mode == "I;16"
    result = mirror(image, output="numpy")
    assert result.dtype == np.uint16
    assert np.array_equal(result[..., 0], wide)
    assert np.array_equal(np.asarray(mirror(image))[..., 1], np.rint(wide / 257))
    floats = Image.fromarray(np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8))
    assert floats.mode == "F"
    result = mirror(floats)
    assert np.asarray(result)[..., 0].ravel().tolist() == np.rint(np.linspace(0, 255, 64)).tolist()


def test_sixteen_bit_files_are_scaled_not_cut(mirror: Translator, tmp_path: Path) -> None:
    for channels in (1, 3):
        pixels = picture(9, 11, channels, "uint16")
        save_image(tmp_path / "deep.png", pixels)
        result = mirror(tmp_path / "deep.png", output="numpy")
        assert result.dtype == np.uint16
        assert np.array_equal(result, pixels.repeat(3 // channels, axis=2))
        shallow = np.asarray(mirror(tmp_path / "deep.png"))
        assert np.array_equal(shallow, np.rint(result / 257).astype(np.uint8))


def test_transparent_photos_are_seen_on_white_and_stay_transparent(mirror: Translator) -> None:
    image = np.zeros((8, 8, 4), np.uint8)
    image[..., 0] = 255
    image[:4, :, 3] = 255
    image[4:6, :, 3] = 51
    result = mirror(image, output="numpy")
    assert result.shape == (8, 8, 4)
    assert np.array_equal(result[..., 3], image[..., 3])
    assert result[0, 0, :3].tolist() == [255, 0, 0]
    assert result[4, 0, :3].tolist() == [255, 204, 204]
    assert result[7, 0, :3].tolist() == [255, 255, 255]
    assert mirror(Image.fromarray(image)).mode == "RGBA"
    tensor = mirror(image, output="tensor")
    assert tensor.shape == (4, 8, 8)
    assert tensor[3, :, 0].tolist() == pytest.approx([1] * 4 + [0.2] * 2 + [0] * 2)


def test_transparent_drawings_are_drawn_on_white_and_become_opaque(
    make_mirror: MakeMirror,
) -> None:
    sketch = make_mirror(domain_a="sketch")
    image = np.zeros((8, 8, 4), np.uint8)  # transparent black: nothing
    image[3, :, 3] = 255  # an opaque black stroke
    result = sketch(image, output="numpy")
    assert result.shape == (8, 8, 3)
    assert (result[3] == 0).all()
    assert (np.delete(result, 3, axis=0) == 255).all()
    assert sketch(Image.fromarray(image)).mode == "RGB"


@pytest.mark.parametrize("channels", [1, 3])
def test_sketch_networks_get_grey_drawings(make_mirror: MakeMirror, channels: int) -> None:
    sketch = make_mirror(in_channels=channels, domain_a="sketch")
    sketch(np.full((8, 8, 3), COLOUR, np.uint8))
    sketch(np.full((8, 8), GREY, np.uint8))
    coloured, grey = sketch.generator.seen  # type: ignore[union-attr,misc]
    assert coloured.shape == (1, channels, 8, 8)
    torch.testing.assert_close(coloured, grey, rtol=0, atol=0.01)
    assert (coloured == coloured[:, :1]).all()


def test_networks_of_other_channel_counts(make_mirror: MakeMirror) -> None:
    grey = make_mirror(in_channels=1)
    assert grey(picture(8, 9)).mode == "L"
    assert grey(picture(8, 9), output="numpy").shape == (8, 9, 1)
    assert grey(picture(8, 9, 2)).mode == "LA"
    for channels in (4, 6):
        many = make_mirror(in_channels=channels)
        pixels = picture(9, 7, channels)
        assert np.array_equal(many(pixels, output="numpy"), pixels)
    with pytest.raises(BadImageError, match="it has 3 channels, and the model takes 6"):
        many(picture(8, 8))
    with pytest.raises(ConfigError, match=r'6 channels .* output="numpy"'):
        many(pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_for_alpha_sees_images_without_as_opaque(
    make_mirror: MakeMirror, channels: int
) -> None:
    pixels = picture(8, 9, channels)
    result = make_mirror(in_channels=4)(pixels, output="numpy")
    assert np.array_equal(result, to_channels(pixels, 4))
    assert (result[..., 3] == 255).all()


def test_six_channels_are_scaled(make_mirror: MakeMirror) -> None:
    many = make_mirror(in_channels=6, size=16, resize_mode="fit")
    assert many(picture(40, 30, 6), output="numpy").shape == (40, 30, 6)


def test_big_endian_arrays(mirror: Translator) -> None:
    pixels = picture(8, 9).astype(np.uint16) * 257
    assert np.array_equal(mirror(pixels.astype(">u2"), output="numpy"), pixels)


EXIF_ORIENTATIONS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", EXIF_ORIENTATIONS)
def test_exif_orientation_is_applied_and_gone(
    mirror: Translator, tmp_path: Path, orientation: int
) -> None:
    pixels = picture(6, 9)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, exif=exif)
    upright = EXIF_ORIENTATIONS[orientation](pixels)
    with Image.open(path) as image:
        for source in (path, image):
            result = mirror(source)
            assert np.array_equal(np.asarray(result), upright)
            assert 274 not in result.getexif()


# Precision, threads, memory


def test_bfloat16_is_close_to_float32(unet: Translator) -> None:
    half = Translator(unet.generator, unet.config, device="cpu", dtype="bfloat16")
    image = torch.rand(3, 24, 24)
    exact, rough = unet(image, output="tensor"), half(image, output="tensor")
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, rtol=0, atol=0.05)


def test_threads_share_a_translator(unet: Translator) -> None:
    images = [picture(8 + i, 16) for i in range(24)]
    expected = [unet(image, output="numpy") for image in images]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda image: unet(image, output="numpy"), images)
        for result, one in zip(results, expected, strict=True):
            assert np.array_equal(result, one)


def test_results_need_no_gradients_and_leave_callers_modes_alone(unet: Translator) -> None:
    image = torch.rand(3, 8, 8, requires_grad=True)
    assert not unet(image, output="tensor").requires_grad
    assert torch.is_grad_enabled()


class Narrow(Mirror):
    """Has memory for so many images at once."""

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.most, self.error = most, error

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return super().forward(x)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_batches_shrink_until_they_fit(make_mirror: MakeMirror, error: type[Exception]) -> None:
    images = [picture(8, 8 + i % 2) for i in range(14)]
    network = Narrow(2, error)
    results = make_mirror(network)(images, batch_size=7, output="numpy")
    assert all(np.array_equal(a, b) for a, b in zip(results, images, strict=True))
    assert max(len(x) for x in network.seen) == 2
    with pytest.raises(BadImageError, match="image 1: there is not enough memory on cpu"):
        make_mirror(Narrow(0, error))(images)


# Errors


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.zeros((0, 5, 3), np.uint8), r"got shape \[0, 5, 3\]"),
        (np.zeros(5, np.uint8), r"got shape \[5\]"),
        (np.zeros((4, 4, 5), np.uint8), "it has 5 channels, and the model takes 3"),
        (np.full((4, 4), 255.0), r"must be in \[0, 1\], and these are in \[255, 255\]"),
        (np.full((4, 4), -1.0), r"must be in \[0, 1\]"),
        (np.full((4, 4), np.nan), r"must be in \[0, 1\]"),
        (np.zeros((4, 4), np.int64), "its values are int64"),
        (np.zeros((4, 4), complex), "its values are complex128"),
        (torch.zeros(2, 2, 2, 2, 2), r"got shape \[2, 2, 2, 2, 2\]"),
        (torch.zeros(3, 4, 4) - 1, r"must be in \[0, 1\]"),
    ],
)
def test_unusable_arrays(mirror: Translator, image: Any, complaint: str) -> None:
    with pytest.raises(BadImageError, match=f"^Cannot use image 2: .*{complaint}"):
        mirror([picture(4, 4), image])


def test_unusable_files(mirror: Translator, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for path in (broken, tmp_path / "absent.png", tmp_path):
        with pytest.raises(BadImageError, match=path.name):
            mirror(path)
    whole = tmp_path / "cut.png"
    Image.fromarray(picture(64, 64)).save(whole)
    whole.write_bytes(whole.read_bytes()[:5000])
    with Image.open(whole) as image, pytest.raises(BadImageError, match=r"cut\.png"):
        mirror(image)


def test_unusable_options(mirror: Translator) -> None:
    image = picture(4, 4)
    with pytest.raises(ConfigError, match="output must be one of pil, numpy, tensor"):
        mirror(image, output="jpeg")
    with pytest.raises(ConfigError, match="resize must be one of"):
        mirror(image, resize="crop")
    for batch_size in (0, -1, 2.0, True):
        with pytest.raises(ConfigError, match="batch_size must be a whole number"):
            mirror(image, batch_size=batch_size)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="image 1 is a dict"):
        mirror({})  # type: ignore[arg-type]
    for device, complaint in (
        ("gpu", "device must be cpu or cuda, got 'gpu'$"),
        ("cpu:x", "device must be cpu or cuda, got 'cpu:x'$"),
        ("meta", "device must be cpu or cuda: meta does not compute here"),
        ("cuda:99", "device cuda:99 is not there; this machine has "),
    ):
        with pytest.raises(ConfigError, match=complaint):
            Translator(Mirror(), mirror.config, device=device)
    with pytest.raises(ConfigError, match="dtype must be one of float32, bfloat16"):
        Translator(Mirror(), mirror.config, dtype="float16")


def test_output_that_is_not_finite_is_no_image(make_mirror: MakeMirror) -> None:
    class Diverged(Mirror):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0

    with pytest.raises(BadImageError, match="image 1: the network's output for it is not finite"):
        make_mirror(Diverged())(picture(4, 4))


def test_errors_that_are_not_about_memory_pass_through(make_mirror: MakeMirror) -> None:
    class Broken(Mirror):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make_mirror(Broken())([picture(4, 4), picture(4, 4)])


# Loading


def test_from_pretrained(unet: Translator, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "run" / "model", unet.generator, unet.config)
    image = picture(19, 21)
    expected = unet(image, output="numpy")
    for model in (folder, str(folder), folder / "model.safetensors", tmp_path / "run"):
        translator = Translator.from_pretrained(model, device="cpu")
        assert np.array_equal(translator(image, output="numpy"), expected)
    assert "unet128 on cpu in float32" in repr(translator)
    with pytest.raises(CheckpointError, match="There is no model 'sketch2nothing'"):
        Translator.from_pretrained("sketch2nothing")


def test_a_network_in_training_is_put_into_evaluation(unet: Translator) -> None:
    network = nn.Sequential(nn.Dropout(0.9))
    translator = Translator(network.train(), unet.config, device="cpu")
    image = picture(8, 8)
    assert np.array_equal(translator(image, output="numpy"), image)


def test_a_translator_travels_to_other_processes(unet: Translator) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    arrived = pickle.loads(pickle.dumps(unet))
    np.testing.assert_array_equal(
        arrived(image, output="numpy", batch_size=1), unet(image, output="numpy", batch_size=1)
    )
