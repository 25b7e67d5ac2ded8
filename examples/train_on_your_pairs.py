"""Train a translator on your own pairs, and use it: here, outlines into coloured discs.

    python examples/train_on_your_pairs.py WORK_FOLDER [STEPS]

Replace make_pairs() by your own folders: data/A/name.png is the input, data/B/name.png the output.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from pix2gan import Pix2PixConfig, Translator, train


def make_pairs(data: Path, count: int, size: int) -> None:
    chance = random.Random(0)
    for folder in ("A", "B"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        x, y, r = (chance.randint(size // 4, size // 2) for _ in range(3))
        outline = Image.new("RGB", (size, size), "white")
        ImageDraw.Draw(outline).ellipse((x - r // 2, y - r // 2, x + r // 2, y + r // 2), outline=0)
        disc = Image.new("RGB", (size, size), "white")
        ImageDraw.Draw(disc).ellipse((x - r // 2, y - r // 2, x + r // 2, y + r // 2), "teal")
        outline.save(data / "A" / f"{index:03d}.png")
        disc.save(data / "B" / f"{index:03d}.png")


def main(arguments: list[str]) -> None:
    work = Path(arguments[0] if arguments else "discs")
    steps = int(arguments[1]) if len(arguments) > 1 else 300
    make_pairs(work / "data", count=32, size=64)
    config = Pix2PixConfig(
        work / "data",
        out=work / "run",
        generator="unet128",
        num_downs=5,
        width=16,
        size=64,
        batch=4,
        steps=steps,
        upsampling="nearest",
    )
    run = train(config)
    translator = Translator.from_pretrained(run / "model")
    translator(work / "data" / "A" / "000.png").save(work / "disc.png")
    print(f"the run is in {run}, a first result in {work / 'disc.png'}")


if __name__ == "__main__":
    main(sys.argv[1:])
