"""Images of more pixels than are decoded at once: the same result, in parts, through libvips."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import nn

from pix2gan.checkpoints import ModelConfig, Preprocessing
from pix2gan.data.image_io import open_image, open_image_with_info, read_image_info, save_image
from pix2gan.models import create_generator
from pix2gan.translation import Translator, folder_run, gigapixel
from pix2gan.translation.progress import FolderProgress

pytest.importorskip("pyvips", reason="the extra [gigapixel] is not installed", exc_type=ImportError)

SIZE = (150, 203)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    decode = partial(open_image_with_info, max_pixels=100)
    monkeypatch.setattr(folder_run, "open_image_with_info", decode)


def make_translator(channels=3, **preprocessing):
    torch.manual_seed(3)
    generator = create_generator(
        "unet256", in_channels=channels, width=4, num_downs=3, upsampling="nearest"
    )
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = ModelConfig(
        architecture=dict(generator.config),
        in_channels=channels,
        preprocessing=Preprocessing(**{"size": 64, "resize_mode": "none", **preprocessing}),
    )
    return Translator(generator, config, device="cpu")


@pytest.fixture(scope="module")
def translator():
    return make_translator()


def pixels(channels, dtype=np.uint8):
    rng = np.random.default_rng(channels)
    return rng.integers(0, np.iinfo(dtype).max, (*SIZE, channels)).astype(dtype)


def level(image):
    return {np.uint8: 1, np.uint16: 2}[image.dtype.type]


@pytest.mark.parametrize("statistics", ["exact", "fast"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_result_is_that_of_the_whole_image(translator, tmp_path, channels, dtype, statistics):
    """Grey and colours, with alpha and without; of so small an image fast is exact."""
    source, target = tmp_path / "in.tif", tmp_path / "out.png"
    save_image(source, pixels(channels, dtype))
    report = translator.translate_paths(source, target, tile=64, tile_statistics=statistics)
    assert (report.done, report.failed) == (1, [])
    whole = translator(open_image(source), output="numpy", tile=None)
    found = open_image(target)
    assert found.dtype == dtype
    assert found.shape == whole.shape
    assert np.abs(found.astype(int) - whole.astype(int)).max() <= level(found)


def test_drawings_lie_on_white_paper(tmp_path):
    translator = make_translator(1, domain_a="sketch")
    source = tmp_path / "in.png"
    save_image(source, pixels(3))
    report = translator.translate_folder(tmp_path, tmp_path / "out", tile=64)
    assert report.done == 1
    whole = translator(source, output="numpy", tile=None).astype(int)
    assert np.abs(open_image(tmp_path / "out" / "in.png") - whole).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_output_is_upright(translator, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels(3)).save(tmp_path / "in.tif", exif=exif)
    translator.translate_paths(tmp_path / "in.tif", tmp_path / "out.png", tile=64)
    whole = translator(tmp_path / "in.tif", output="numpy", tile=None).astype(int)
    found = open_image(tmp_path / "out.png")
    assert found.shape == whole.shape
    assert np.abs(found - whole).max() <= 1


def said_by(path):
    """What a file says in text, which PNG may compress."""
    with Image.open(path) as image:
        return str(getattr(image, "text", None) or path.read_bytes())


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp"])
def test_what_files_say_survives(translator, tmp_path, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source, target = tmp_path / "in.png", tmp_path / f"out.{suffix}"
    save_image(source, pixels(3), dpi=(300, 300), icc_profile=profile)
    translator.translate_paths(source, target, tile=64)
    info = read_image_info(target)
    assert info.icc_profile == profile
    if suffix != "webp":
        assert info.dpi == pytest.approx((300, 300), rel=1e-3)
    assert "trainedAlgorithmicMedia" in said_by(target)
    whole = translator(source, output="numpy", tile=None).astype(int)
    assert np.abs(open_image(target) - whole).mean() < (
        1 if suffix in ("tif", "png") else 60
    )  # noise
    translator.translate_paths(source, target, tile=64, on_exists="overwrite", provenance=False)
    assert "trainedAlgorithmicMedia" not in said_by(target)


def test_a_tiff_has_tiles_and_smaller_versions(translator, tmp_path):
    import tifffile

    save_image(tmp_path / "in.png", np.tile(pixels(3), (3, 3, 1)))
    translator.translate_paths(tmp_path / "in.png", tmp_path / "out.tif", tile=64)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert [page.is_tiled for page in file.pages] == [True] * len(file.pages)
        assert len(file.pages) > 1


def test_stopped_midway_nothing_is_left(translator, tmp_path, monkeypatch):
    save_image(tmp_path / "in.png", pixels(3))
    seen = []

    def stop(self, share):
        seen.append([path.name for path in (tmp_path / "out").iterdir()])
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderProgress, "within", stop)
    with pytest.raises(KeyboardInterrupt):
        translator.translate_paths(tmp_path / "in.png", tmp_path / "out", tile=64)
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert not [name for name in seen[0] + left if name.startswith("in") or name.endswith(".tmp")]


@pytest.mark.parametrize(
    "failure",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory"), "vips"],
    ids=["Python", "torch", "libvips"],
)
def test_tiles_shrink_until_they_fit(translator, tmp_path, monkeypatch, failure):
    """Attempts that fail midway leave nothing in the result."""
    save_image(tmp_path / "in.png", pixels(3))
    tried, in_parts, vips = [], Translator.run_in_parts, gigapixel._vips()

    def counted(self, image, write, tile, *rest):
        def short(top, left, part):
            write(top, left, part + 1)  # to be overwritten
            raise failure

        tried.append(tile)
        fails = tile > 100 and failure != "vips"
        return in_parts(self, image, short if fails else write, tile, *rest)

    def crop(image, *area):
        if failure == "vips" and tried[-1] > 100:
            raise vips.Error("unable to crop", detail="vips: out of memory --- size == 12MB")
        return vips.Operation.call("crop", image, *area)

    monkeypatch.setattr(Translator, "run_in_parts", counted)
    monkeypatch.setattr(vips.Image, "crop", crop, raising=False)
    whole = translator(open_image(tmp_path / "in.png"), output="numpy", tile=None).astype(int)
    report = translator.translate_paths(tmp_path / "in.png", tmp_path / "out.png", tile="auto")
    assert report.failed == []
    assert tried == [768, 384, 192, 96]
    assert np.abs(open_image(tmp_path / "out.png") - whole).max() <= 1
    monkeypatch.setattr(gigapixel, "in_smaller_tiles", lambda *_: None)
    assert "not enough memory" in fail(translator, tmp_path / "in.png", tmp_path / "none.png")


def test_what_is_there_is_skipped(translator, tmp_path):
    save_image(tmp_path / "in.png", pixels(3))
    (tmp_path / "out.png").write_bytes(b"there")
    report = translator.translate_paths(tmp_path / "in.png", tmp_path / "out.png", tile=64)
    assert report.skipped == 1


def fail(translator, source, target, **options):
    report = translator.translate_paths(source, target, **{"tile": 64, **options})
    ((path, reason),) = report.failed
    assert path == source
    assert not target.exists()
    return reason


def test_what_cannot_be_says_why(translator, tmp_path, monkeypatch):
    source = tmp_path / "in.png"
    save_image(source, pixels(3))
    assert 'use resize="none"' in fail(translator, source, tmp_path / "o.png", resize="fit")
    assert "let it be tiled" in fail(translator, source, tmp_path / "o.png", tile=None)
    assert "choose png, jpg or tiff" in fail(translator, source, tmp_path / "o.npy")
    monkeypatch.setattr(gigapixel.shutil, "disk_usage", lambda _: Namespace(free=10))
    assert 'tile_statistics="fast"' in fail(translator, source, tmp_path / "o.png")
    monkeypatch.undo()


def test_formats_have_their_limits(translator, tmp_path, monkeypatch):
    monkeypatch.setitem(gigapixel._LONGEST, "jpg", 100)
    save_image(tmp_path / "in.png", pixels(3))
    reason = fail(translator, tmp_path / "in.png", tmp_path / "o.jpg")
    assert "jpg holds 100 pixels in a row" in reason


def test_a_broken_file_is_named_and_nothing_written(translator, tmp_path):
    source = tmp_path / "in.png"
    save_image(source, pixels(3))
    source.write_bytes(source.read_bytes()[:-2000])
    assert "damaged or incomplete" in fail(translator, source, tmp_path / "o.png")


def test_without_pyvips_it_says_what_to_install(translator, tmp_path, monkeypatch):
    save_image(tmp_path / "in.png", pixels(3))
    monkeypatch.setattr(gigapixel, "_find_vips", lambda: None)
    reason = fail(translator, tmp_path / "in.png", tmp_path / "o.png")
    assert "pip install 'pix2gan[gigapixel]'" in reason
