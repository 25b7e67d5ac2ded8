"""Fitting draws no frames; augmentation moves pairs together and depends on its seed alone."""

from __future__ import annotations

import pickle
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pix2gan.data.transforms import (
    Augmenter,
    AugmentOptions,
    fit_image,
    has_plain_background,
    is_photo,
    plain_colour,
    to_tensor,
    trim_margins,
)
from pix2gan.errors import ConfigError

SIDES: tuple[Any, ...] = ("top", "bottom", "left", "right")


def scene(height: int, width: int) -> np.ndarray:
    """Smooth colours without any plain border."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / 9) * 60 + y / height * 120 + 60, np.cos(y / 7) * 80 + 120,
             np.sin((x + y) / 11) * 100 + 120]  # fmt: skip
    return np.clip(np.stack(waves, axis=2), 0, 255).astype(np.uint8)


def on_white(height: int, width: int) -> np.ndarray:
    """An asymmetric object on white paper."""
    image = np.full((height, width, 3), 255, np.uint8)
    cv2.circle(image, (width // 3, height // 2), min(height, width) // 5, (200, 30, 30), -1)
    cv2.rectangle(image, (width // 2, height // 2), (width * 3 // 4, height * 3 // 5), 0, -1)
    return image


# -- fitting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["pad", "resize", "crop"])
@pytest.mark.parametrize(
    "shape", [(40, 90), (90, 40), (64, 64), (1, 50), (50, 1), (1, 1), (500, 7)]
)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_every_shape_becomes_the_square(fit: str, shape: tuple[int, int], channels: int) -> None:
    image = np.full((*shape, channels), 77, np.uint8)
    result = fit_image(image, 64, fit)  # type: ignore[arg-type]
    assert result.shape == (64, 64, channels)
    assert (result == 77).all()


def test_what_fits_already_is_not_touched() -> None:
    image = scene(64, 64)
    for fit in ("pad", "resize", "crop"):
        assert np.array_equal(fit_image(image, 64, fit), image)  # type: ignore[arg-type]


def test_pad_keeps_shapes_where_resize_distorts_them() -> None:
    image = np.full((60, 120, 3), 255, np.uint8)
    cv2.circle(image, (60, 30), 20, (0, 0, 0), -1)
    for fit, ratio in (("pad", 1.0), ("resize", 2.0)):
        dark = (fit_image(image, 64, fit) < 128).all(axis=2)  # type: ignore[arg-type]
        rows, columns = np.nonzero(dark.any(axis=1))[0], np.nonzero(dark.any(axis=0))[0]
        assert np.ptp(rows) / np.ptp(columns) == pytest.approx(ratio, rel=0.15)


def test_crop_keeps_the_middle() -> None:
    image = np.zeros((50, 150, 1), np.uint8)
    image[:, 50:100] = 200
    assert (fit_image(image, 50, "crop") == 200).all()


def test_padding_goes_on_in_the_colour_of_its_side() -> None:
    image = np.full((30, 60, 3), 100, np.uint8)
    image[:8], image[-8:] = (250, 249, 248), (20, 30, 40)
    padded = fit_image(image, 60, "pad")
    assert (padded[:15] == (250, 249, 248)).all()
    assert (padded[-15:] == (20, 30, 40)).all()


@pytest.mark.parametrize("image", [on_white(40, 90), on_white(90, 40), scene(40, 90)])
def test_padding_draws_no_frame(image: np.ndarray) -> None:
    """The step into the padding is no larger than steps within the image."""
    padded = fit_image(image, 90, "pad").astype(int)
    if image.shape[0] > image.shape[1]:
        padded = padded.transpose(1, 0, 2)
    start = (90 - 40) // 2
    for edge in (start, start + 40):
        assert np.abs(padded[edge] - padded[edge - 1]).max() <= 12


def test_unknown_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="pad, resize, crop"):
        fit_image(scene(8, 8), 8, "squeeze")  # type: ignore[arg-type]


def test_plain_colour_needs_nearly_all_of_a_side() -> None:
    image = on_white(40, 90)
    assert plain_colour(image, "top") is not None
    image[0, :20] = 0
    assert plain_colour(image, "top") is None
    assert plain_colour(image, "bottom") is not None


def test_plain_background_is_light_grey_and_even() -> None:
    assert has_plain_background(on_white(40, 90))
    assert not has_plain_background(scene(40, 90))
    assert not has_plain_background(np.full((40, 90, 3), (60, 60, 60), np.uint8))  # dark
    assert not has_plain_background(np.full((40, 90, 3), (255, 200, 180), np.uint8))  # tinted
    noisy = on_white(40, 90)
    noisy[:10, :10:2] = 150
    assert not has_plain_background(noisy)
    assert not has_plain_background(np.full((2, 2, 3), 255, np.uint8))  # too small to tell


# -- margins ---------------------------------------------------------------------------------------


def framed(margins: tuple[int, int, int, int]) -> np.ndarray:
    """A picture inside white margins: top, bottom, left, right."""
    inner = np.minimum(scene(80, 100), 220)
    return cv2.copyMakeBorder(inner, *margins, cv2.BORDER_CONSTANT, value=(255, 255, 255))


@pytest.mark.parametrize("margins", [(5, 5, 5, 5), (30, 20, 25, 40), (0, 12, 0, 0), (0, 0, 1, 3)])
def test_margins_around_a_picture_are_cut_off(margins: tuple[int, int, int, int]) -> None:
    trimmed = trim_margins(framed(margins))
    assert trimmed.max() <= 220
    assert 80 - 4 <= trimmed.shape[0] <= 80
    assert 100 - 4 <= trimmed.shape[1] <= 100


def test_an_object_on_white_keeps_a_narrow_margin() -> None:
    image = on_white(200, 400)
    trimmed = trim_margins(image)
    assert trimmed.shape[0] < 120
    assert trimmed.shape[1] < 320
    inked = trimmed.min(axis=2) < 255
    assert inked.sum() == (image.min(axis=2) < 255).sum()
    for border in (inked[:4], inked[-4:], inked[:, :4], inked[:, -4:]):
        assert not border.any()


@pytest.mark.parametrize("image", [scene(80, 100), np.full((50, 50, 3), 255, np.uint8),
                                   np.zeros((3, 3, 3), np.uint8)])  # fmt: skip
def test_images_without_margins_stay(image: np.ndarray) -> None:
    assert np.array_equal(trim_margins(image), image)


# -- augmentation ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def augmenter() -> Augmenter:
    return Augmenter(56)


def squares(augmenter: Augmenter, image: np.ndarray) -> np.ndarray:
    return fit_image(image, augmenter.load_size, "pad")


@pytest.mark.parametrize("make", [scene, on_white])
def test_both_images_move_together(augmenter: Augmenter, make: object) -> None:
    image = squares(augmenter, make(60, 60))  # type: ignore[operator]
    for seed in range(6):
        first, second = augmenter.geometry([image.copy(), image], seed)
        assert first.shape == (56, 56, 3)
        assert np.array_equal(first, second)


def test_many_channels_move_together(augmenter: Augmenter) -> None:
    image = squares(augmenter, scene(60, 60))
    many = np.concatenate([image, image], axis=2)
    for seed in range(4):
        first, second = augmenter.geometry([many, image], seed)
        assert first.shape == (56, 56, 6)
        assert np.array_equal(first[..., :3], first[..., 3:])
        assert np.abs(first[..., :3].astype(int) - second).max() <= 1


def test_channels_may_differ(augmenter: Augmenter) -> None:
    image = squares(augmenter, on_white(60, 60))
    first, second = augmenter.geometry([image[..., :1], image], 3)
    assert first.shape == (56, 56, 1)
    assert np.abs(first[..., 0].astype(int) - second[..., 0]).max() <= 1


def test_seeds_decide_and_nothing_else(augmenter: Augmenter) -> None:
    image = squares(augmenter, scene(60, 60))
    np.random.seed(1)
    first = [augmenter.geometry([image], seed)[0] for seed in range(8)]
    np.random.seed(2)
    again = Augmenter(56)
    second = [again.geometry([image], seed)[0] for seed in reversed(range(8))][::-1]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)
    assert len({a.tobytes() for a in first}) >= 7


def test_plain_background_stays_plain(augmenter: Augmenter) -> None:
    image = squares(augmenter, on_white(40, 60))
    for seed in range(10):
        (moved,) = augmenter.geometry([image], seed)
        assert all((plain_colour(moved, side) == 255).all() for side in SIDES)
        assert (moved < 128).any()


def test_flip_can_be_forbidden() -> None:
    image = on_white(64, 64)
    still = AugmentOptions(flip=False, rotate=0, scale=(1, 1), shift=0)
    augmenter = Augmenter(56, still)
    image = squares(augmenter, image)
    moved = {augmenter.geometry([image], seed)[0].tobytes() for seed in range(8)}
    assert len(moved) == 1
    flipping = Augmenter(56, AugmentOptions(rotate=0, scale=(1, 1), shift=0))
    assert len({flipping.geometry([image], seed)[0].tobytes() for seed in range(8)}) == 2


def test_colours_change_and_geometry_does_not(augmenter: Augmenter) -> None:
    image = on_white(56, 56)
    changed = [augmenter.colours(image, seed, target=True) for seed in range(10)]
    assert any(not np.array_equal(image, other) for other in changed)
    for other in changed:
        assert other.dtype == np.uint8
        assert (other[:4] == 255).all()  # white stays white in what is to be made
    grey = image[..., :1]
    assert augmenter.colours(grey, 0, target=False) is grey


def test_colours_depend_on_the_seed(augmenter: Augmenter) -> None:
    image = scene(56, 56)
    for target in (True, False):
        first = [augmenter.colours(image, seed, target) for seed in range(6)]
        second = [Augmenter(56).colours(image, seed, target) for seed in range(6)]
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert len({a.tobytes() for a in first}) >= 4


def test_an_augmenter_can_be_sent_to_a_worker(augmenter: Augmenter) -> None:
    image = squares(augmenter, scene(60, 60))
    expected = augmenter.geometry([image], 5)[0]
    copy = pickle.loads(pickle.dumps(augmenter))
    assert np.array_equal(copy.geometry([image], 5)[0], expected)


def test_photos_are_told_from_label_maps_and_drawings() -> None:
    labels = np.zeros((64, 64, 3), np.uint8)
    labels[20:40, 10:50] = (255, 0, 0)
    assert is_photo(scene(64, 64))
    assert not is_photo(labels)
    assert not is_photo(np.full((8, 8, 1), 3, np.uint8))


def test_to_tensor_spans_minus_one_to_one_exactly() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    image.flags.writeable = False
    tensor = to_tensor(image)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (1, 16, 16)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    assert torch.equal(((tensor + 1) * 127.5).round().to(torch.uint8).flatten(),
                       torch.arange(256).to(torch.uint8))  # fmt: skip
    assert to_tensor(np.zeros((2, 3, 4), np.uint8)).is_contiguous()
