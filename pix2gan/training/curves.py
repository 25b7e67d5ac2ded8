"""The curves of a run as a picture, drawn with nothing but Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_PANEL = (420, 220)
_MARGIN = (64, 12, 26, 24)  # left, right, top, bottom
_NOT_DRAWN = ("step", "epoch", "seconds")
_INK, _GRID, _LINE = (40, 40, 40), (222, 222, 222), (31, 98, 168)


def draw_curves(entries: Sequence[Mapping[str, Any]], columns: int = 2) -> Image.Image:
    """One panel for each metric in ``entries`` (the lines of ``metrics.jsonl``) over the steps."""
    names = list(dict.fromkeys(k for entry in entries for k in entry if k not in _NOT_DRAWN))
    rows = max(1, math.ceil(len(names) / columns))
    image = Image.new("RGB", (_PANEL[0] * columns, _PANEL[1] * rows), "white")
    for i, name in enumerate(names):
        points = [
            (float(entry["step"]), float(entry[name]))
            for entry in entries
            if entry.get(name) is not None and math.isfinite(entry[name])
        ]
        x, y = i % columns * _PANEL[0], i // columns * _PANEL[1]
        _draw_panel(ImageDraw.Draw(image), x, y, name, points)
    return image


def _draw_panel(
    draw: ImageDraw.ImageDraw, x: int, y: int, name: str, points: list[tuple[float, float]]
) -> None:
    left, right, top, bottom = _MARGIN
    x0, x1, y0, y1 = x + left, x + _PANEL[0] - right, y + top, y + _PANEL[1] - bottom
    font = ImageFont.load_default(12)
    draw.text((x0, y + 6), name, fill=_INK, font=font)
    if not points:
        return
    steps, values = [p[0] for p in points], [p[1] for p in points]
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.1 * abs(low) - 1e-9, high + 0.1 * abs(high) + 1e-9
    first, last = min(steps), max(max(steps), min(steps) + 1)
    for quarter in range(5):
        height = y1 - (y1 - y0) * quarter / 4
        draw.line([(x0, height), (x1, height)], fill=_GRID)
        label = f"{low + (high - low) * quarter / 4:.3g}"
        draw.text((x0 - 6, height), label, fill=_INK, font=font, anchor="rm")
    draw.text((x0, y1 + 6), f"{first:.0f}", fill=_INK, font=font)
    draw.text((x1, y1 + 6), f"{last:.0f}", fill=_INK, font=font, anchor="ra")
    line = [
        (x0 + (x1 - x0) * (s - first) / (last - first), y1 - (y1 - y0) * (v - low) / (high - low))
        for s, v in points
    ]
    if len(line) == 1:
        draw.circle(line[0], 2, fill=_LINE)
    else:
        draw.line(line, fill=_LINE, width=2, joint="curve")
