"""Line drawings made from photos, so that a folder of photos is enough to train sketch-to-photo.

Three ways to draw, each with settings that can be jittered from sample to sample:

- ``canny``: thin edges (Canny, "A computational approach to edge detection", 1986), sometimes
  thickened;
- ``xdog``: soft pencil lines (Winnemöller et al., "XDoG", 2012);
- ``strokes``: few, long, simplified and slightly trembling lines, which is how people draw.

``mixed`` picks one of the three for every sample. A translator that has seen all of them, with
thresholds, line width and blur that vary, also takes drawings made by hand.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from pix2gan.errors import ConfigError

Image = npt.NDArray[np.uint8]

SKETCH_METHODS = ("canny", "xdog", "strokes", "mixed")

# Settings are written for pictures of this size; others are scaled to it.
_REFERENCE_SIZE = 256


def draw_sketch(photo: Image, method: str, rng: np.random.Generator | None = None) -> Image:
    """Draw the lines of a photo in black on white.

    Args:
        photo: uint8 RGB, [H, W, 3], or grey, [H, W] or [H, W, 1].
        method: one of ``SKETCH_METHODS``.
        rng: source of the jitter of thresholds, blur and line width. None draws with the middle
            setting of everything (``mixed`` then means ``strokes``), always the same.

    Returns:
        uint8, [H, W]: 255 where there is paper, 0 where there is a line.

    Raises:
        ConfigError: an unknown method.
    """
    if method not in SKETCH_METHODS:
        raise ConfigError(
            f"unknown sketch method {method!r}: choose one of {', '.join(SKETCH_METHODS)}"
        )
    grey = photo if photo.ndim == 2 else photo[..., 0]
    if photo.ndim == 3 and photo.shape[2] >= 3:
        colours = np.ascontiguousarray(photo[..., :3])
        grey = np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    grey = np.ascontiguousarray(grey)
    if method == "mixed":
        method = "strokes" if rng is None else str(rng.choice(["canny", "xdog", "strokes"]))
    draw = {"canny": _canny, "xdog": _xdog, "strokes": _strokes}[method]
    return draw(grey, _Jitter(rng), max(0.25, max(grey.shape) / _REFERENCE_SIZE))


class _Jitter:
    """Random settings, or the middle of each range when there is no generator."""

    def __init__(self, rng: np.random.Generator | None) -> None:
        self.rng = rng

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2 if self.rng is None else float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return probability > 0.5 if self.rng is None else bool(self.rng.random() < probability)


def _canny(grey: Image, jitter: _Jitter, scale: float) -> Image:
    edges = _edges(grey, jitter.uniform(0.7, 2.0) * scale, jitter.uniform(0.6, 1.4))
    width = jitter.uniform(0.5, 2.6) * scale
    if width >= 1.5:
        side = round(width)
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        edges = np.asarray(cv2.dilate(edges, pen), dtype=np.uint8)
    return _soften(255 - edges, jitter, scale)


def _edges(grey: Image, sigma: float, strength: float) -> Image:
    """Canny with thresholds relative to the picture's own gradients: dark photos get lines too."""
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma)
    dx = cv2.Sobel(smooth, cv2.CV_16S, 1, 0)
    dy = cv2.Sobel(smooth, cv2.CV_16S, 0, 1)
    magnitude = np.abs(dx) + np.abs(dy)
    strong = magnitude[magnitude > 24]
    if strong.size == 0:
        return np.zeros_like(grey)
    high = max(30.0, strength * float(np.percentile(strong, 70)))
    return np.asarray(cv2.Canny(dx, dy, 0.4 * high, high), dtype=np.uint8)


def _xdog(grey: Image, jitter: _Jitter, scale: float) -> Image:
    sigma = max(0.5, jitter.uniform(0.6, 1.3) * scale)
    sharpness = jitter.uniform(12.0, 30.0)
    level = jitter.uniform(0.01, 0.04)
    steepness = jitter.uniform(15.0, 60.0)
    picture = grey.astype(np.float32) / 255
    fine = cv2.GaussianBlur(picture, (0, 0), sigma)
    coarse = cv2.GaussianBlur(picture, (0, 0), 1.6 * sigma)
    # The paper adds a multiple of the difference to the blurred picture, which keeps tones and
    # fills dark areas with black; lines alone come from the bare difference.
    difference = sharpness * (fine - coarse) + level * sharpness
    lines = np.where(difference >= 0, 1.0, 1.0 + np.tanh(steepness / 10 * difference))
    return np.asarray(np.clip(lines * 255, 0, 255), dtype=np.uint8)


def _strokes(grey: Image, jitter: _Jitter, scale: float) -> Image:
    """Long edges only, as polygons with rounded corners, drawn with a pen that trembles."""
    edges = _edges(grey, jitter.uniform(1.3, 2.8) * scale, jitter.uniform(0.5, 1.3))
    chains, _ = cv2.findContours(edges, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    shortest = jitter.uniform(12, 60) * scale
    tolerance = jitter.uniform(0.5, 2.2) * scale
    keep = jitter.uniform(0.8, 1.0)
    pen = jitter.uniform(0.8, 2.4) * scale
    drawing = np.full(grey.shape, 255, dtype=np.uint8)
    if jitter.chance(0.6):
        chains = (*chains, *_outline(grey, scale))
    fraction_bits = 4
    for chain in chains:
        # A contour walks around an edge of one pixel, there and back: its length counts twice.
        if cv2.arcLength(chain, True) < 2 * shortest or not jitter.chance(keep):
            continue
        polygon = cv2.approxPolyDP(chain, tolerance, True).astype(np.float32)
        points = np.round(polygon * (1 << fraction_bits)).astype(np.int32)
        width = max(1, round(pen * jitter.uniform(0.8, 1.2)))
        cv2.polylines(drawing, [points], True, 0, width, cv2.LINE_AA, fraction_bits)
    return _soften(_tremble(drawing, jitter, scale), jitter, scale)


def _outline(grey: Image, scale: float) -> tuple[npt.NDArray[np.int32], ...]:
    """Contours of what stands out from a plain background (none if the background is not plain)."""
    rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if rim.std() > 12:
        return ()
    level = float(np.median(rim))
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5 * scale).astype(np.float32)
    mask = (np.abs(smooth - level) > 18).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return tuple(np.asarray(contour, dtype=np.int32) for contour in contours)


def _tremble(drawing: Image, jitter: _Jitter, scale: float) -> Image:
    """Displace the drawing smoothly by a pixel or two, as a hand does."""
    if jitter.rng is None:
        return drawing
    height, width = drawing.shape
    amplitude = jitter.uniform(0.0, 2.0) * scale
    cells = int(jitter.uniform(4, 12))
    noise = jitter.rng.standard_normal((2, cells, cells)).astype(np.float32) * amplitude
    grid_x, grid_y = _grid(height, width)
    shift = [cv2.resize(n, (width, height), interpolation=cv2.INTER_CUBIC) for n in noise]
    moved = cv2.remap(
        drawing, grid_x + shift[0], grid_y + shift[1], cv2.INTER_LINEAR, borderValue=255
    )
    return np.asarray(moved, dtype=np.uint8)


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def _soften(drawing: Image, jitter: _Jitter, scale: float) -> Image:
    """Pens, scanners and resampling blur: so does every other sketch."""
    if not jitter.chance(0.5):
        return drawing
    return np.asarray(
        cv2.GaussianBlur(drawing, (0, 0), jitter.uniform(0.3, 0.9) * scale), dtype=np.uint8
    )
