"""Benchmarks of the ops as a picture: a line for each case, a dot for each contestant.

Drawn with nothing but Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _LABELS, _ROW, _HEAD, _FOOT, _RIGHT = 1160, 430, 22, 96, 14, 40
_INK, _GRID, _FAINT = (40, 40, 40), (222, 222, 222), (120, 120, 120)
_BACKENDS = ((31, 98, 168), (200, 80, 30), (20, 140, 90), (140, 60, 160), (180, 140, 20))
_OTHERS = {
    "reference": (150, 190, 225),
    "stock": (165, 165, 165),
    "compiled": (85, 85, 85),
    "vendor": (120, 80, 50),
}


def draw(report: Mapping[str, Any]) -> Image.Image:
    """The picture of what ``bench.report`` returns: shares of what the device can do."""
    measurements = report["measurements"]
    names = dict.fromkeys(n for m in measurements for n in m["results"] if n != "copy")
    colours = _colours(list(names))
    ops = dict.fromkeys(m["op"] for m in measurements)
    height = _HEAD + sum(_panel_height(measurements, op) for op in ops)
    image = Image.new("RGB", (_WIDTH, height), "white")
    canvas = ImageDraw.Draw(image)
    _draw_head(canvas, report, colours)
    y = _HEAD
    for op in ops:
        of_op = [m for m in measurements if m["op"] == op]
        _draw_panel(canvas, y, of_op, colours)
        y += _panel_height(measurements, op)
    return image


def _colours(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Backends first, then what they are compared with."""
    backends = [name for name in names if name not in _OTHERS]
    found = {name: _BACKENDS[i % len(_BACKENDS)] for i, name in enumerate(backends)}
    return found | {name: colour for name, colour in _OTHERS.items() if name in names}


def _panel_height(measurements: Sequence[Mapping[str, Any]], op: str) -> int:
    return _ROW * (sum(m["op"] == op for m in measurements) + 2) + _FOOT


def _draw_head(
    canvas: ImageDraw.ImageDraw,
    report: Mapping[str, Any],
    colours: Mapping[str, tuple[int, int, int]],
) -> None:
    products = ", ".join(f"{r:g} TFLOP/s {t}" for t, r in report["matrix_tflop_s"].items())
    canvas.text((14, 10), report["device"], fill=_INK, font=ImageFont.load_default(17))
    canvas.text(
        (14, 36),
        f"100 % is a copy ({report['copy_gb_s']:g} GB/s beyond all caches) or, for convolutions, a "
        f"product of matrices ({products}).  torch {report['torch']}, {report['date']}",
        fill=_FAINT,
        font=ImageFont.load_default(12),
    )
    x = 14.0
    font = ImageFont.load_default(13)
    for name, colour in colours.items():
        canvas.circle((x + 6, 72), 5 if name in _OTHERS else 6, fill=colour)
        canvas.text((x + 18, 72), name, fill=_INK, font=font, anchor="lm")
        x += 40 + canvas.textlength(name, font=font)


def _draw_panel(
    canvas: ImageDraw.ImageDraw,
    top: int,
    measurements: Sequence[Mapping[str, Any]],
    colours: Mapping[str, tuple[int, int, int]],
) -> None:
    font = ImageFont.load_default(12)
    canvas.text((14, top + 4), measurements[0]["op"], fill=_INK, font=ImageFont.load_default(15))
    shares = [r["share"] for m in measurements for r in m["results"].values() if "share" in r]
    step, last = _axis(max([1.0, *shares]))
    x0, x1, y0 = _LABELS, _WIDTH - _RIGHT, top + _ROW
    y1 = y0 + _ROW * len(measurements) + 4
    for tick in range(last + 1):
        x = x0 + (x1 - x0) * tick / last
        percent = tick * step
        canvas.line([(x, y0), (x, y1)], fill=_FAINT if percent == 100 else _GRID)
        canvas.text((x, y1 + 4), f"{percent} %", fill=_FAINT, font=font, anchor="ma")
    for row, m in enumerate(measurements):
        y = y0 + _ROW * row + _ROW // 2 + 2
        layout = "" if m["layout"] == "contiguous" else f" {m['layout']}"
        label = (
            f"{m['case']}  {'x'.join(map(str, m['shape']))}  {m['dtype']}{layout} {m['direction']}"
        )
        canvas.text((x0 - 12, y), label, fill=_INK, font=font, anchor="rm")
        canvas.line([(x0, y), (x1, y)], fill=_GRID)
        for name in reversed(list(colours)):  # the backends on top
            result = m["results"].get(name)
            if result is not None:
                x = x0 + (x1 - x0) * 100 * result["share"] / (step * last)
                canvas.circle((x, y), 4 if name in _OTHERS else 6, fill=colours[name])


def _axis(largest: float) -> tuple[int, int]:
    """(percent between ticks, ticks), so that the largest share lies within."""
    step = next(s for s in (20, 50, 100, 200, 500, 1000, 10**9) if 100 * largest <= 10 * s)
    return step, math.ceil(100 * largest / step)
