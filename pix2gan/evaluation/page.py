"""A page of the best and the worst translations beside the real images: one file of HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pix2gan.evaluation.scores import ImageScores
from pix2gan.file_io import atomic_write

CASES = 8
_LONGER_SIDE = 320  # pixels; larger images are shrunk for the page

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure div { display: flex; gap: 4px; } img { width: 50%; height: auto; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
"""


def write_page(
    path: Path,
    title: str,
    figures: Mapping[str, str],
    cases: Sequence[tuple[str, Sequence[tuple[ImageScores, Tensor, Tensor]]]],
) -> None:
    """Write the page.

    Args:
        path: The HTML file; whole or not there.
        title: Its heading.
        figures: The scores of the whole, by name, as they are to be read.
        cases: Sections: a heading, and for each image its scores, itself and the real one, both
            [3, H, W] in [0, 1].
    """
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in figures.items()
    )
    sections = "".join(
        f'<h2>{escape(heading)}</h2><div class="cases">{"".join(map(_figure, images))}</div>'
        for heading, images in cases
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><table>{rows}</table>"
        f"<p>Each pair: the translation, then the real image.</p>{sections}</body></html>\n"
    )
    with atomic_write(path) as file:
        file.write(page.encode("utf-8"))


def _figure(case: tuple[ImageScores, Tensor, Tensor]) -> str:
    scores, image, real = case
    pictures = "".join(
        f'<img alt="{what} {escape(scores.name)}" src="{_embedded(pixels)}">'
        for what, pixels in (("translation of", image), ("real", real))
    )
    caption = (
        f"{escape(scores.name)}<br>SSIM {scores.ssim:.3f}, PSNR {scores.psnr:.1f} dB, "
        f"L1 {scores.l1:.3f}"
    )
    return f"<figure><div>{pictures}</div><figcaption>{caption}</figcaption></figure>"


def _embedded(image: Tensor) -> str:
    """[3, H, W] in [0, 1] as a data URL."""
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
