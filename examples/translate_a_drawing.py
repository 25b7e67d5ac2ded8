"""Turn one drawing into a photo, in three lines of Python.

python examples/translate_a_drawing.py                     # draws something itself
python examples/translate_a_drawing.py sketch.png photo.png
python examples/translate_a_drawing.py sketch.png photo.png runs/mine
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import pix2gan


def draw_motorbike(path: Path) -> None:
    """A motorbike in nine strokes, black on white."""
    sheet = Image.new("L", (256, 256), 255)
    pen = ImageDraw.Draw(sheet)
    for x in (62, 196):
        pen.ellipse((x - 40, 120, x + 40, 200), outline=0, width=3)
        pen.ellipse((x - 8, 152, x + 8, 168), outline=0, width=2)
    pen.line([(62, 160), (110, 108), (168, 108), (196, 160)], fill=0, width=3)
    pen.line([(40, 100), (96, 96), (116, 110)], fill=0, width=4)
    pen.line([(168, 108), (152, 76), (132, 70)], fill=0, width=3)
    pen.rounded_rectangle((102, 118, 160, 168), 12, outline=0, width=3)
    pen.line([(110, 172), (40, 180)], fill=0, width=4)
    sheet.save(path)


def main(arguments: list[str]) -> None:
    sketch = Path(arguments[0] if arguments else "sketch.png")
    photo = Path(arguments[1] if len(arguments) > 1 else "photo.png")
    model = arguments[2] if len(arguments) > 2 else "sketch2motorbike"
    if not arguments:
        draw_motorbike(sketch)
    translator = pix2gan.Translator.from_pretrained(model)
    translator(sketch).save(photo)
    print(f"{sketch} -> {photo}")


if __name__ == "__main__":
    main(sys.argv[1:])
