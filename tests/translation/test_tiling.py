"""Tiled translation: exact is the untiled result, fast has no seams, and neither needs the image in
memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from pix2gan.checkpoints import ModelConfig
from pix2gan.errors import BadImageError, ConfigError
from pix2gan.models import create_generator, list_models
from pix2gan.models.layer_graph import IMAGE, receptive_radius, run_layers
from pix2gan.translation import (
    Translator,
    exact_tiles,
    fast_tiles,
    memory,
    planes,
    row_streams,
    tiling,
)

KINDS = {
    "unet": {"name": "unet256", "width": 4, "num_downs": 4},
    "unet, nearest, zeros": {
        "name": "unet256",
        "width": 4,
        "num_downs": 3,
        "upsampling": "nearest",
        "padding": "zeros",
    },
    "unet, nearest": {"name": "unet256", "width": 4, "num_downs": 4, "upsampling": "nearest"},
    "unet, blur": {
        "name": "unet256",
        "width": 4,
        "num_downs": 3,
        "upsampling": "blur",
        "downsampling": "blur",
    },
    "unet, batch": {"name": "unet256", "width": 4, "num_downs": 3, "norm": "batch"},
    "resnet": {"name": "resnet9", "width": 4, "num_blocks": 2},
    "resnet, blur": {
        "name": "resnet9",
        "width": 4,
        "num_blocks": 2,
        "upsampling": "blur",
        "downsampling": "blur",
    },
    "resnet, nearest, replicate": {
        "name": "resnet9",
        "width": 4,
        "num_blocks": 1,
        "upsampling": "nearest",
        "padding": "replicate",
    },
    "resnet, zeros": {"name": "resnet9", "width": 4, "num_blocks": 1, "padding": "zeros"},
    "resnet, batch": {"name": "resnet9", "width": 4, "num_blocks": 1, "norm": "batch"},
    "pix2pixhd": {"name": "pix2pixhd", "width": 4, "num_downs": 3, "num_blocks": 2},
    "enhancers": {
        "name": "pix2pixhd_enhancer",
        "width": 4,
        "num_downs": 1,
        "num_blocks": 1,
        "num_enhancers": 2,
    },
    "modulated unet": {"name": "modulated_unet", "width": 4, "num_downs": 3},
    "modulated resnet": {"name": "modulated_resnet", "width": 4, "num_blocks": 2},
}


def make(kind: str):
    torch.manual_seed(3)
    generator = create_generator(**KINDS[kind]).eval().requires_grad_(False)
    for parameter in generator.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, std=0.3)
    return generator


@pytest.fixture(params=KINDS)
def generator(request):
    return make(request.param)


@pytest.mark.parametrize(("tile", "in_memory"), [(8, 0), (1000, planes.IN_MEMORY)])
def test_exact_is_the_untiled_result(generator, tile, in_memory, monkeypatch):
    """In scratch files or in memory, in many bands or one."""
    monkeypatch.setattr(planes, "IN_MEMORY", in_memory)
    monkeypatch.setattr(exact_tiles, "SMALLEST_BAND", 10)
    x = torch.rand(1, 3, 112, 80) * 2 - 1
    layers = generator.layer_graph()
    result = exact_tiles.translate_exactly(layers, planes.Image(x), tile, torch.device("cpu"))
    assert (result.channels, result.height, result.width) == (3, 112, 80)
    torch.testing.assert_close(result.read(0, 112), generator(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.read(17, 50), result.read(0, 112)[:, :, 17:50])


@pytest.mark.parametrize("name", list_models())
def test_every_generator_tiles_exactly(name, monkeypatch):
    """As they are but narrow, over bands of few rows; in float64, where rounding hides nothing."""
    monkeypatch.setattr(exact_tiles, "SMALLEST_BAND", 6)
    monkeypatch.setattr(planes, "IN_MEMORY", 0)
    torch.manual_seed(5)
    generator = create_generator(name, width=2).eval().requires_grad_(False).double()
    height, width = 3 * max(generator.multiple, 32), max(generator.multiple, 64)
    x = torch.rand(1, 3, height, width, dtype=torch.float64) * 2 - 1
    result = exact_tiles.translate_exactly(
        generator.layer_graph(), planes.Image(x), 8, torch.device("cpu"), torch.float64
    )
    torch.testing.assert_close(result.read(0, height), generator(x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["modulated unet", "modulated resnet"])
def test_a_styled_generator_is_tiled_in_the_style_asked_for(kind):
    generator = make(kind)
    x = torch.rand(1, 3, 64, 80) * 2 - 1
    z = generator.style_code(3)
    layers = generator.layer_graph(z)
    result = exact_tiles.translate_exactly(layers, planes.Image(x), 8, torch.device("cpu"))
    torch.testing.assert_close(result.read(0, 64), generator(x, z), rtol=1e-5, atol=1e-5)
    assert float((result.read(0, 64) - generator(x)).abs().max()) > 1e-3


def assembled(parts, *shape):
    result = torch.full(shape, float("nan"))
    for top, left, part in parts:
        result[:, :, top : top + part.shape[2], left : left + part.shape[3]] = part
    return result


def test_with_the_statistics_of_the_image_itself_fast_is_exact(generator):
    x = torch.rand(1, 3, 96, 192) * 2 - 1
    image, layers, cpu = planes.Image(x), generator.layer_graph(), torch.device("cpu")
    statistics = statistics_of(layers, x)
    parts = fast_tiles.translate_strips(layers, image, statistics, 8, generator.multiple, cpu)
    torch.testing.assert_close(assembled(parts, *x.shape), generator(x), rtol=1e-5, atol=1e-5)


def test_an_image_that_is_its_own_sample_is_gone_over_once(monkeypatch):
    monkeypatch.setattr(fast_tiles, "gather_statistics", None)
    generator = make("unet")
    x = torch.rand(1, 3, 144, 80) * 2 - 1
    parts = fast_tiles.translate_fast(
        generator.layer_graph(), planes.Image(x), 8, generator.multiple, torch.device("cpu")
    )
    torch.testing.assert_close(assembled(parts, *x.shape), generator(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (100, 100, [(0, 32), (68, 100)], [(0, 32), (68, 100)]),
        (40, 300, [(4, 36)], [(0, 32), (67, 99), (134, 166), (201, 233), (268, 300)]),
        (16, 1000, [(0, 16)], [(round(968 * i / 9), round(968 * i / 9) + 32) for i in range(10)]),
        (64, 64, [(0, 64)], [(0, 64)]),
    ],
)
def test_a_sample_is_made_of_windows_between_the_borders(height, width, rows, columns, monkeypatch):
    monkeypatch.setattr(fast_tiles, "SAMPLE_SIDE", 32)
    monkeypatch.setattr(fast_tiles, "SAMPLE_PIXELS", 5200)
    x = torch.rand(1, 3, height, width)
    found = fast_tiles.sample(planes.Image(x), 8)
    wanted = torch.cat([x[:, :, a:b] for a, b in rows], 2)
    wanted = torch.cat([wanted[:, :, :, a:b] for a, b in columns], 3)
    assert (found.channels, found.height, found.width) == wanted.shape[1:]
    assert torch.equal(found.read(0, found.height), wanted)
    assert torch.equal(found.read(5, found.height - 3), wanted[:, :, 5:-3])


def statistics_of(layers, x):
    return exact_tiles.gather_statistics(layers, planes.Image(x), 64, torch.device("cpu"))


def with_statistics(layers, x, statistics):
    return run_layers(layers, x, lambda layer, _: statistics[layer.name])


def test_fast_has_no_seams(generator, monkeypatch):
    """Whatever the statistics: strips equal the whole image normalised by them."""
    monkeypatch.setattr(fast_tiles, "SAMPLE_SIDE", 32)
    monkeypatch.setattr(fast_tiles, "SAMPLE_PIXELS", 16000)
    monkeypatch.setattr(fast_tiles, "TILES_PER_STRIP", 1)
    monkeypatch.setattr(fast_tiles, "BAND", 16)
    x = torch.rand(1, 3, 192, 256) * 2 - 1
    image, cpu = planes.Image(x), torch.device("cpu")
    layers, multiple = generator.layer_graph(), generator.multiple
    sample = fast_tiles.sample(image, multiple)
    assert sample.height < 192
    assert sample.width < 256
    statistics = exact_tiles.gather_statistics(layers, sample, 64, cpu)
    whole = with_statistics(layers, x, statistics)
    parts = fast_tiles.translate_fast(layers, image, 104, multiple, cpu)
    torch.testing.assert_close(assembled(parts, *whole.shape), whole, rtol=1e-5, atol=1e-5)


def test_a_strip_is_forgotten_when_the_next_begins(monkeypatch):
    """By counting references: whoever waited for the collector would hold several strips."""
    monkeypatch.setattr(fast_tiles, "TILES_PER_STRIP", 1)
    alive = weakref.WeakSet()
    begin = row_streams._Streamed.__init__

    def counting(self, *arguments):
        alive.add(self)
        begin(self, *arguments)

    monkeypatch.setattr(row_streams._Streamed, "__init__", counting)
    generator = make("unet")
    layers, cpu = generator.layer_graph(), torch.device("cpu")
    x = torch.rand(1, 3, 64, 256) * 2 - 1
    image, statistics = planes.Image(x), statistics_of(layers, x)
    gc.disable()
    try:
        for _ in fast_tiles.translate_strips(
            layers, image, statistics, 32, generator.multiple, cpu
        ):
            assert len(alive) == len(layers)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["unet", "resnet, blur", "modulated unet"])
def test_what_a_stream_keeps_does_not_grow_with_the_image(kind, monkeypatch):
    generator = make(kind)
    layers = generator.layer_graph()
    most = []
    rows = row_streams._Streamed.rows

    def counting(self, first, last):
        made = rows(self, first, last)
        most[-1] = max(most[-1], sum(x.numel() for _, x in self.kept))
        return made

    monkeypatch.setattr(row_streams._Streamed, "rows", counting)
    statistics = statistics_of(layers, torch.rand(1, 3, 64, 64) * 2 - 1)
    for height in (320, 800):
        most.append(0)
        image = planes.Image(torch.rand(1, 3, height, 32) * 2 - 1)
        # as many rows of the image at once in both
        made = row_streams.stream(layers, image, statistics, 16, torch.device("cpu"))
        for top in range(0, height, 16):
            assert made.read(top, top + 16).shape == (1, 3, 16, 32)
    assert most[1] <= most[0]


def test_the_receptive_radius_is_wide_enough_and_not_much_wider(generator):
    layers, multiple = generator.layer_graph(), generator.multiple
    radius = receptive_radius(layers)[IMAGE]
    centre = (radius // multiple + 1) * multiple
    x = torch.rand(1, 3, 32, 2 * centre + multiple, requires_grad=True)
    statistics = statistics_of(layers, x.detach())
    y = with_statistics(layers, x, statistics)[..., centre : centre + multiple].sum()
    (gradient,) = torch.autograd.grad(y, x)
    columns = gradient[0].abs().sum((0, 1)).nonzero().flatten()
    furthest = max(centre - int(columns.min()), int(columns.max()) - (centre + multiple - 1))
    assert furthest <= radius <= 2 * furthest + 8


def test_work_is_one_forward_pass(monkeypatch):
    """No more than a few rows are computed twice."""
    generator = make("resnet")
    counted = []
    convolve = exact_tiles.convolve_band

    def counting(step, rows, first, last):
        up, down, _ = step.geometry
        counted.append((last - first) * rows.width * up // down)
        return convolve(step, rows, first, last)

    monkeypatch.setattr(exact_tiles, "convolve_band", counting)
    layers = generator.layer_graph()
    image = planes.Image(torch.rand(1, 3, 128, 64))
    exact_tiles.translate_exactly(layers, image, 16, torch.device("cpu"))
    once = sum(
        128 * 64 // {"stem": 1, "ups.1": 1, "head": 1, "downs.0": 4, "ups.0": 4}.get(layer.name, 16)
        for layer in layers
    )
    assert sum(counted) == once


# --------------------------------------------------------------------------------------- translator


def bytes_per_pixel(generator):
    return memory.bytes_per_pixel(generator.layer_graph(), generator.in_channels)


@pytest.fixture
def translator():
    generator = make("unet, nearest")
    return Translator(generator, ModelConfig(architecture=dict(generator.config)), device="cpu")


@pytest.mark.parametrize("size", [(150, 203), (64, 64), (97, 640)])
def test_a_translator_makes_the_same_image_of_tiles(translator, size):
    image = torch.rand(3, *size)
    whole = translator(image, output="tensor", tile=None)
    tiled = translator(image, output="tensor", tile=64)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    if size[0] * size[1] > 64**2:
        several = translator([image, image], output="tensor", tile=64)
        assert all(torch.equal(each, tiled) for each in several)
    fast = translator(image, output="tensor", tile=64, tile_statistics="fast")
    assert fast.shape == whole.shape
    assert float((fast - whole).abs().mean()) < 0.1


def test_tiles_are_taken_where_memory_does_not_suffice(translator, monkeypatch):
    used = []
    run_tiled = Translator._run_tiled

    def counting(self, item, tile, statistics, seed):
        used.append(tile)
        return run_tiled(self, item, tile, statistics, seed)

    monkeypatch.setattr(Translator, "_run_tiled", counting)
    image = torch.rand(3, 96, 96)
    whole = translator(image, output="tensor")
    assert not used
    needed = int(bytes_per_pixel(translator.generator) * 96 * 96 * 1.5)
    monkeypatch.setattr(tiling, "available_memory", lambda _: needed + 1)
    translator(image)
    assert not used
    monkeypatch.setattr(tiling, "available_memory", lambda _: needed - 2)
    torch.testing.assert_close(translator(image, output="tensor"), whole, rtol=0, atol=1e-5)
    assert used == [tiling.AUTO_TILE]
    translator(image, tile=None)
    assert len(used) == 1


def test_tiles_shrink_until_they_fit(translator, monkeypatch):
    tried = []

    def failing(self, item, tile, statistics, seed):
        tried.append(tile)
        raise MemoryError

    monkeypatch.setattr(Translator, "_run_tiled", failing)
    monkeypatch.setattr(Translator, "_forward", lambda *_: failing(None, None, None, None, None))
    with pytest.raises(BadImageError, match="not enough memory"):
        translator(torch.rand(3, 96, 96))
    assert tried == [None, 768, 384, 192, 96]
    tried.clear()
    with pytest.raises(BadImageError, match="not enough memory"):
        translator(torch.rand(3, 96, 96), tile=None)
    assert tried == [None]


def test_the_estimate_of_memory_is_of_the_right_size():
    generator = make("resnet")
    # by hand, the second doubling: the 8 channels of half the size that it sees, the 4 channels of
    # full size that it makes, and as much again to work in
    full, half = 4 * 4.0, 8 * 4.0 / 4
    assert bytes_per_pixel(generator) >= full + half
    assert bytes_per_pixel(generator) <= 3 * full + 3 * half
    assert memory.available_memory(torch.device("cpu")) > 2**20


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tile": 3}, "tile must be at least 64"),
        ({"tile": "big"}, 'tile must be "auto", a side in pixels or None'),
        ({"tile": True}, 'tile must be "auto"'),
        ({"tile_statistics": "none"}, "tile_statistics must be one of exact, fast"),
    ],
)
def test_unusable_options_of_tiles(translator, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        translator(torch.rand(3, 64, 64), **options)


def test_what_cannot_be_tiled_says_so(make_mirror):
    with pytest.raises(ConfigError, match="cannot be tiled"):
        make_mirror()(torch.rand(3, 64, 64), tile=64)
