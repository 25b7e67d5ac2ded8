"""Motorbikes drawn for this project as pen strokes: what ``pix2gan demo`` turns into photos.

A drawing is a list of strokes on a square of 256 units, y pointing down. A stroke is either a
circle or a list of points that the pen passes through, rounded or straight. Nothing here was
traced: the points were set by hand.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]

_OVERSAMPLING = 4


@dataclass(frozen=True)
class Curve:
    """The pen passes through the points: smoothly (Catmull-Rom), or in straight lines."""

    points: tuple[Point, ...]
    smooth: bool = True
    closed: bool = False


@dataclass(frozen=True)
class Circle:
    x: float
    y: float
    radius: float


Stroke = Curve | Circle


def curve(*points: Point, closed: bool = False) -> Curve:
    return Curve(points, True, closed)


def line(*points: Point, closed: bool = False) -> Curve:
    return Curve(points, False, closed)


def wheel(x: float, y: float, radius: float, rim: float, hub: float) -> list[Stroke]:
    return [Circle(x, y, radius), Circle(x, y, rim), Circle(x, y, hub)]


DRAWINGS: dict[str, list[Stroke]] = {
    "cruiser": [
        *wheel(58, 168, 36, 24, 7),
        *wheel(203, 168, 36, 26, 6),
        # mudguards
        curve((18, 158), (28, 134), (54, 124), (82, 131), (97, 148)),
        curve((170, 150), (182, 132), (204, 127), (228, 136)),
        # seat and tank
        curve((42, 124), (58, 112), (78, 112), (94, 118), (112, 112), (120, 104)),
        curve((78, 112), (80, 120), (96, 127), (114, 122), (122, 112)),
        curve((116, 112), (126, 98), (150, 92), (166, 100), (160, 114), (136, 120), closed=True),
        # fork, handlebar, lamp
        line((167, 94), (203, 168)),
        line((174, 94), (210, 164)),
        curve((170, 96), (160, 80), (146, 74), (134, 78)),
        Circle(182, 97, 9),
        # engine: two cylinders in a V, and a round case
        line((118, 142), (112, 122), (126, 119), (130, 140), closed=True),
        line((134, 140), (142, 119), (156, 124), (146, 144), closed=True),
        Circle(132, 153, 14),
        line((113, 128), (128, 125)),
        line((115, 134), (129, 131)),
        line((139, 126), (153, 130)),
        line((137, 132), (150, 136)),
        # frame and exhausts
        line((164, 110), (160, 140), (150, 166), (108, 168), (92, 150)),
        curve((146, 144), (152, 160), (132, 174), (96, 176), (40, 180), (18, 178)),
        curve((18, 178), (17, 186), (40, 188), (98, 184), (134, 182), (158, 158), (152, 140)),
    ],
    "sport": [
        *wheel(54, 170, 36, 26, 8),
        *wheel(202, 170, 36, 26, 8),
        # tail and seat
        curve((14, 102), (36, 98), (60, 104), (84, 116), (104, 117), (118, 108)),
        curve((14, 102), (24, 112), (48, 120), (72, 132), (96, 138)),
        # tank
        curve((112, 113), (124, 92), (146, 86), (162, 94), (160, 108), (138, 116), (114, 118)),
        # fairing, screen, nose
        curve((158, 92), (170, 76), (184, 72), (198, 84), (214, 102), (218, 112), (200, 118)),
        curve((184, 72), (192, 84), (190, 96), (172, 98), (162, 96)),
        curve((200, 118), (184, 140), (172, 164), (150, 184), (118, 186), (100, 178), (96, 160)),
        curve((96, 160), (112, 150), (134, 142), (150, 128), (162, 110)),
        curve((112, 178), (132, 168), (152, 160), (166, 146)),
        curve((204, 104), (212, 104), (214, 110), (206, 111), closed=True),
        # fork and front mudguard
        line((190, 126), (202, 170)),
        line((196, 122), (208, 166)),
        curve((172, 150), (184, 136), (204, 132), (224, 140)),
        # swing arm, exhaust, foot rest
        line((54, 170), (104, 158), (104, 166), (56, 178)),
        line((28, 128), (76, 148), (70, 160), (24, 138), closed=True),
        line((76, 152), (100, 164)),
        curve((30, 142), (50, 130), (74, 136)),
        line((150, 88), (160, 82)),
    ],
    "dirt bike": [
        *wheel(52, 172, 36, 28, 6),
        *wheel(208, 168, 40, 33, 6),
        # rear mudguard, seat, tank
        curve((8, 98), (32, 92), (58, 100), (78, 108)),
        curve((8, 98), (30, 100), (54, 110), (74, 120)),
        curve((46, 98), (74, 92), (104, 96), (128, 92), (142, 84)),
        curve((76, 112), (100, 112), (124, 110), (134, 102)),
        curve(
            (122, 108),
            (132, 92),
            (148, 82),
            (164, 88),
            (158, 112),
            (146, 130),
            (130, 126),
            closed=True,
        ),
        # number plate on the side
        line((58, 104), (92, 112), (90, 132), (66, 124), closed=True),
        # high front mudguard
        curve((168, 112), (188, 106), (214, 108), (240, 118)),
        curve((168, 118), (192, 113), (216, 114), (240, 118)),
        # fork, handlebar, front plate
        line((165, 76), (206, 168)),
        line((172, 74), (213, 165)),
        curve((166, 78), (154, 66), (144, 66)),
        line((170, 76), (184, 80), (188, 102), (178, 104), closed=True),
        # engine and frame
        line((158, 112), (148, 146), (136, 164), (104, 166), (92, 146), (98, 124)),
        Circle(114, 150, 13),
        line((116, 138), (112, 118), (130, 116), (134, 136), closed=True),
        line((114, 124), (131, 122)),
        line((115, 130), (132, 128)),
        # exhaust and swing arm
        curve((132, 132), (148, 140), (146, 156), (120, 140), (96, 130), (72, 126), (34, 116)),
        curve((34, 116), (32, 123), (70, 135), (92, 138)),
        line((52, 172), (104, 156)),
        line((54, 179), (104, 163)),
        line((76, 124), (84, 160)),
    ],
    "classic": [
        *wheel(54, 166, 38, 31, 7),
        *wheel(204, 166, 38, 31, 8),
        # mudguards
        curve((16, 150), (30, 128), (56, 122), (80, 130), (92, 146)),
        curve((172, 142), (188, 126), (208, 123), (230, 132), (242, 146)),
        # long seat
        curve((36, 112), (40, 104), (70, 102), (110, 104), (118, 108)),
        curve((36, 112), (60, 116), (92, 118), (114, 118)),
        # tank
        curve(
            (112, 114),
            (118, 98),
            (142, 92),
            (164, 98),
            (166, 108),
            (150, 118),
            (124, 120),
            closed=True,
        ),
        curve((124, 112), (134, 104), (150, 104)),
        # fork, lamp, handlebar
        line((172, 88), (202, 166)),
        line((178, 88), (208, 162)),
        Circle(186, 98, 10),
        curve((174, 90), (166, 78), (150, 80)),
        line((170, 80), (168, 66)),
        Circle(168, 62, 5),
        # engine
        line((116, 142), (114, 122), (146, 120), (148, 142), closed=True),
        line((115, 127), (147, 125)),
        line((115, 132), (147, 130)),
        line((115, 137), (148, 135)),
        curve((104, 146), (152, 142), (160, 156), (148, 170), (110, 170), (100, 158), closed=True),
        Circle(140, 156, 9),
        # frame and springs
        line((170, 106), (164, 140), (154, 168)),
        line((54, 166), (104, 160)),
        line((48, 118), (52, 160)),
        line((56, 118), (60, 158)),
        line((82, 120), (104, 146)),
        # exhaust
        curve((148, 132), (164, 146), (160, 172), (130, 178), (90, 178), (26, 176)),
        curve((26, 176), (24, 186), (90, 188), (130, 186), (160, 178)),
    ],
    "roadster": [
        *wheel(56, 170, 37, 27, 9),
        *wheel(204, 170, 37, 27, 9),
        # tail, seat, tank
        curve((22, 104), (44, 98), (72, 104), (98, 112), (114, 106)),
        curve((22, 104), (34, 114), (62, 122), (92, 126), (112, 120)),
        curve(
            (108, 114),
            (118, 94),
            (142, 88),
            (164, 96),
            (168, 110),
            (148, 122),
            (116, 124),
            closed=True,
        ),
        # lamp, clocks, handlebar
        Circle(190, 99, 11),
        line((176, 88), (188, 84), (192, 88)),
        curve((172, 90), (160, 80), (148, 82)),
        line((166, 82), (162, 66)),
        curve((156, 66), (162, 60), (170, 62), (168, 68), (160, 69), closed=True),
        # fork and mudguard
        line((174, 96), (203, 170)),
        line((181, 96), (210, 166)),
        curve((172, 150), (184, 135), (206, 131), (226, 138)),
        # engine: a block with fins
        line((118, 128), (158, 124), (162, 148), (124, 152), closed=True),
        line((120, 134), (159, 130)),
        line((121, 140), (160, 136)),
        line((122, 146), (161, 142)),
        curve((108, 152), (164, 148), (166, 166), (150, 178), (116, 178), (104, 166), closed=True),
        Circle(124, 164, 10),
        Circle(150, 162, 8),
        # frame, swing arm, springs
        line((166, 112), (168, 130), (160, 150)),
        line((96, 126), (108, 152)),
        line((56, 170), (106, 164)),
        line((58, 178), (106, 172)),
        line((66, 122), (58, 160)),
        line((74, 123), (66, 162)),
        # exhaust
        curve((160, 146), (170, 164), (154, 184), (120, 186), (90, 180)),
        line((90, 172), (24, 156), (20, 166), (88, 188), closed=True),
    ],
    "bobber": [
        *wheel(60, 168, 39, 25, 8),
        *wheel(206, 168, 37, 29, 6),
        curve((20, 156), (36, 128), (66, 122), (94, 138)),
        # single sprung saddle
        curve((70, 112), (80, 104), (100, 108), (118, 106)),
        curve((70, 112), (86, 118), (106, 116), (118, 106)),
        line((80, 118), (80, 130)),
        line((88, 118), (88, 130)),
        # tank
        curve((118, 108), (132, 92), (154, 92), (168, 102), (150, 114), (128, 116), closed=True),
        # fork, wide handlebar, lamp
        line((168, 90), (204, 168)),
        line((175, 90), (211, 164)),
        curve((170, 92), (166, 72), (148, 62), (134, 66)),
        Circle(184, 104, 9),
        # engine
        line((116, 146), (110, 124), (124, 121), (130, 143), closed=True),
        line((136, 143), (142, 121), (156, 125), (150, 147), closed=True),
        line((112, 130), (126, 127)),
        line((114, 136), (127, 133)),
        line((141, 128), (154, 132)),
        line((139, 135), (152, 138)),
        Circle(132, 156, 15),
        Circle(132, 156, 6),
        line((165, 106), (164, 140), (154, 172), (104, 174), (60, 168)),
        line((94, 120), (104, 146), (60, 168)),
        curve((150, 146), (160, 164), (140, 180), (104, 182), (30, 184)),
        curve((152, 140), (168, 164), (144, 188), (104, 190), (32, 191)),
    ],
}


def render_drawing(
    name: str, size: int = 256, pen: float = 1.6, tremble: float = 0.7
) -> Image.Image:
    """Draw with a pen.

    Args:
        name: one of ``DRAWINGS``.
        size: side of the square picture, pixels.
        pen: width of the line, in units of the 256-unit square.
        tremble: standard deviation of the hand's wandering, in the same units; 0 draws exactly.

    Returns:
        A grey picture (mode "L"), black lines on white; the same every time.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scale = size * _OVERSAMPLING / 256
    picture = Image.new("L", (size * _OVERSAMPLING,) * 2, 255)
    draw = ImageDraw.Draw(picture)
    for stroke in DRAWINGS[name]:
        path = _sample(stroke)
        if tremble:
            path = path + _wander(len(path), tremble, rng)
        width = max(1, round(pen * scale))
        points = [(float(x), float(y)) for x, y in path * scale]
        draw.line(points, fill=0, width=width, joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=0)
    return picture.resize((size, size), Image.Resampling.BOX)


def _sample(stroke: Stroke) -> np.ndarray:
    """Points along a stroke, about two units apart: [P, 2]."""
    if isinstance(stroke, Circle):
        count = max(12, int(3 * stroke.radius))
        # A hand overshoots a little when it closes a circle.
        angle = np.linspace(-1.6, -1.6 + 2 * np.pi + 0.12, count)
        return np.stack(
            [stroke.x + stroke.radius * np.cos(angle), stroke.y + stroke.radius * np.sin(angle)], 1
        )
    points = np.asarray(stroke.points, dtype=float)
    if stroke.closed:
        points = np.concatenate([points, points[:1]])
    if not stroke.smooth or len(points) < 3:
        pieces = [_segment(a, b) for a, b in itertools.pairwise(points)]
        return np.concatenate([*pieces, points[-1:]])
    before, after = (points[-2], points[1]) if stroke.closed else (points[0], points[-1])
    padded = np.concatenate([[before], points, [after]])
    pieces = [_catmull_rom(*padded[i : i + 4]) for i in range(len(padded) - 3)]
    return np.concatenate([*pieces, points[-1:]])


def _segment(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    count = max(2, int(np.hypot(*(end - start)) / 2))
    t = np.linspace(0, 1, count, endpoint=False)[:, None]
    return np.asarray(start + t * (end - start))


def _catmull_rom(p0: np.ndarray, p1: np.ndarray, p2: np.ndarray, p3: np.ndarray) -> np.ndarray:
    count = max(3, int(np.hypot(*(p2 - p1)) / 2))
    t = np.linspace(0, 1, count, endpoint=False)[:, None]
    return np.asarray(
        0.5
        * (
            2 * p1
            + (p2 - p0) * t
            + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
            + (3 * p1 - p0 - 3 * p2 + p3) * t**3
        )
    )


def _wander(count: int, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise along a stroke, [count, 2]: its knots lie about 20 units apart."""
    knots = max(2, count // 10 + 1)
    noise = rng.standard_normal((knots, 2)) * amount
    at = np.linspace(0, knots - 1, count)
    return np.stack([np.interp(at, np.arange(knots), noise[:, axis]) for axis in (0, 1)], 1)
