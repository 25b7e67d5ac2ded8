"""A page on how good translations are: one file of HTML, which needs no network and no script.

Scores of the whole with what they mean, how the images' scores are spread, the worst, the usual and
the best images beside the real ones, every image in a table, and the protocol.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pix2gan.evaluation.scores import ImageScores
from pix2gan.file_io import atomic_write

BEGINNING = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
"""What a page begins with."""

CASES = 8
MAX_ROWS = 2000  # of the table
MOST = 0.5  # a difference from which on the map of differences is at its brightest
_LONGER_SIDE = 320  # pixels; larger images are shrunk for the page
_BINS = 24

# What a score tells, and in which direction it is better.
MEANINGS = {
    "PSNR": ("↑", "equal pixels: decibels of peak signal to noise"),
    "SSIM": ("↑", "equal structure in windows of 11 pixels; 1 is the real image"),
    "L1": ("↓", "mean difference of values in [0, 1]"),
    "SWD": ("↓", "patches of both sets, compared at each scale"),
    "LPIPS": ("↓", "what a network for recognition sees differ"),
    "FID": ("↓", "a network's features of both sets, as normal distributions"),
    "KID": ("↓", "the same by a kernel; around 0 for equal sets"),
}


@dataclass(frozen=True)
class Case:
    """One image for the page: its scores, and what it is called -> [3, H, W] in [0, 1]."""

    scores: ImageScores
    image: Tensor
    real: Tensor
    given: Tensor | None = None


def write_page(
    path: Path,
    title: str,
    facts: Sequence[str],
    figures: Mapping[str, str],
    images: Sequence[ImageScores],
    cases: Sequence[tuple[str, str, Sequence[Case]]],
    protocol: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        path: The HTML file; whole or not there.
        title: Its heading.
        facts: What is below that: numbers of images, split, model.
        figures: The scores of the whole, by name, as they are to be read.
        images: The scores of every image.
        cases: Sections: a heading, a sentence, and the images.
        protocol: How the scores came about, as JSON.
    """
    sections = "".join(
        f"<section><h2>{escape(heading)}</h2><p>{escape(sentence)}</p>"
        f'<div class="cases">{"".join(map(_case, shown))}</div></section>'
        for heading, sentence, shown in cases
    )
    body = (
        f"<header><p class=kind>How good are they?</p><h1>{escape(title)}</h1>"
        f"<p>{' · '.join(map(escape, facts))}</p></header>"
        f'<div class="cards">{"".join(map(_card, figures.items()))}</div>'
        f'<div class="spreads">{_spreads(images)}</div>'
        f"{_LEGEND}{sections}{_table(images)}"
        f"<details><summary>Protocol</summary><pre>"
        f"{escape(json.dumps(protocol, indent=2, ensure_ascii=False))}</pre></details>"
    )
    page = (
        f"{BEGINNING}{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )
    with atomic_write(path) as file:
        file.write(page.encode("utf-8"))


def chosen(images: Sequence[ImageScores]) -> dict[str, list[ImageScores]]:
    """The worst, usual and best of the images by SSIM, none of them twice."""
    ranked = sorted(images, key=lambda image: (image.ssim, image.name))
    worst = ranked[: min(CASES, math.ceil(len(ranked) / 3))]
    rest = ranked[len(worst) :]
    best = rest[::-1][: min(CASES, math.ceil(len(rest) / 2))]
    between = rest[: len(rest) - len(best)]
    start = max(0, (len(between) - CASES // 2) // 2)
    return {"worst": worst, "usual": between[start : start + CASES // 2], "best": best}


def _card(figure: tuple[str, str]) -> str:
    name, text = figure
    value, _, detail = text.partition("  ")
    direction, meaning = MEANINGS[name]
    word = {"↑": "higher is better", "↓": "lower is better"}[direction]
    more = f"<small>{escape(detail.strip('()'))}</small>" if detail else ""
    return (
        f'<div class="card"><h3>{escape(name)} <abbr title="{word}">{direction}</abbr></h3>'
        f"<b>{escape(value)}</b>{more}<p>{escape(meaning)}</p></div>"
    )


def _spreads(images: Sequence[ImageScores]) -> str:
    """A histogram of each score that an image has."""
    scores: dict[str, tuple[Callable[[ImageScores], float | None], str]] = {
        "SSIM": (lambda image: image.ssim, ".2f"),
        "PSNR, dB": (lambda image: image.psnr, ".1f"),
        "L1": (lambda image: image.l1, ".3f"),
        "LPIPS": (lambda image: image.lpips, ".3f"),
    }
    made = []
    for name, (score, digits) in scores.items():
        values = [v for v in map(score, images) if v is not None and math.isfinite(v)]
        if len(values) > 1 and min(values) < max(values):
            made.append(_histogram(name, np.asarray(values), digits))
    return "".join(made)


def _histogram(name: str, values: np.ndarray[Any, Any], digits: str) -> str:
    counts, _ = np.histogram(values, _BINS)
    low, middle, high = float(values.min()), float(np.median(values)), float(values.max())
    width, height = 240 / _BINS, 60
    bars = "".join(
        f'<rect x="{i * width + 0.5:g}" y="{height - count / counts.max() * height:.4g}" '
        f'width="{width - 1:g}" height="{count / counts.max() * height:.4g}"/>'
        for i, count in enumerate(counts.tolist())
    )
    place = (middle - low) / (high - low) * 240
    label = f"{name}: {low:{digits}} to {high:{digits}}, median {middle:{digits}}"
    return (
        f'<figure><svg viewBox="0 0 240 62" role="img" aria-label="{escape(label)}">{bars}'
        f'<line x1="{place:.4g}" x2="{place:.4g}" y1="0" y2="62"/></svg>'
        f"<figcaption><span>{low:{digits}}</span>"
        f"<span><b>{escape(name)}</b>, median {middle:{digits}}</span>"
        f"<span>{high:{digits}}</span></figcaption></figure>"
    )


def _case(case: Case) -> str:
    scores = case.scores
    name = escape(scores.name)
    made, real = _embedded(case.image), _embedded(case.real)
    given = "" if case.given is None else _panel("input", _embedded(case.given), name)
    perceptual = "" if scores.lpips is None else f" · LPIPS {scores.lpips:.3f}"
    height, width = case.image.shape[-2:]
    panels = (
        given,
        f'<div class="pair" style="background-image: url({real})">',
        _panel("translation", made, name),
        "</div>",
        _panel("real", real, name),
        _panel("difference", _embedded(_map(case)), name),
    )
    return (
        f'<figure class="case"><div class="panels" style="--shape: {width} / {height}">'
        f"{''.join(panels)}</div>"
        f"<figcaption><b>{name}</b><span>SSIM {scores.ssim:.3f} · {_decibels(scores.psnr)} · "
        f"L1 {scores.l1:.3f}{perceptual}</span></figcaption></figure>"
    )


def _panel(what: str, data: str, name: str) -> str:
    return f'<div class="panel"><img alt="{what}: {name}" src="{data}"><i>{what}</i></div>'


def _decibels(psnr: float) -> str:
    return f"{psnr:.1f} dB" if math.isfinite(psnr) else "equal"


def _map(case: Case) -> Tensor:
    """The mean difference of a pixel's channels, from black over red to yellow [3, H, W]."""
    apart = ((case.image - case.real).abs().mean(0) / MOST).clamp(0, 1)
    return _colours(apart)


def _colours(values: Tensor) -> Tensor:
    """[H, W] in [0, 1] -> [3, H, W]."""
    anchors = values.new_tensor([_rgb(colour) for colour in _HEAT])  # [K, 3]
    place = values * (len(_HEAT) - 1)
    first = place.floor().clamp(max=len(_HEAT) - 2)
    share = (place - first)[..., None]
    lower, upper = anchors[first.long()], anchors[first.long() + 1]
    return (lower + (upper - lower) * share).permute(2, 0, 1)


def _rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _table(images: Sequence[ImageScores]) -> str:
    """Every image, the worst first."""
    ranked = sorted(images, key=lambda image: (image.ssim, image.name))
    has_lpips = any(image.lpips is not None for image in ranked)
    rows = "".join(
        f"<tr><td>{escape(image.name)}</td>"
        f'<td><meter min="0" max="1" value="{max(image.ssim, 0):.3f}"></meter>{image.ssim:.3f}</td>'
        f"<td>{_decibels(image.psnr)}</td><td>{image.l1:.4f}</td>"
        + (f"<td>{image.lpips:.4f}</td>" if image.lpips is not None else "")
        + "</tr>"
        for image in ranked[:MAX_ROWS]
    )
    last = "<th>LPIPS</th>" if has_lpips else ""
    rest = len(ranked) - MAX_ROWS
    more = f"<p>and {rest} more, in the report</p>" if rest > 0 else ""
    return (
        f"<details><summary>All {len(ranked)} images, the worst first</summary><table><thead><tr>"
        f"<th>image</th><th>SSIM</th><th>PSNR</th><th>L1</th>{last}</tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}</details>"
    )


def _embedded(image: Tensor) -> str:
    """[3, H, W] in [0, 1] as a data URL."""
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


_HEAT = ("#05040c", "#4a1079", "#b5367a", "#f5804a", "#fdf3b0")

_LEGEND = (
    '<p class="legend">Point at a translation to see the real image in its place. Differences: '
    f"0 <span></span> {MOST:g} or more, of values in [0, 1].</p>"
)

_STYLE = (
    """
:root { color-scheme: light dark; --ink: #1d1d22; --soft: #6b6b76; --line: #e3e3ea;
  --card: #f7f7fa; --paper: #fff; --mark: #6a3fd0; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --soft: #a0a0ad; --line: #34343d;
  --card: #202027; --paper: #16161b; --mark: #a88bff; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  margin: 0 auto; max-width: 1500px; padding: 2.5rem 1.5rem 4rem; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .1rem 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 0; }
h2 + p, header p, .card p, .card small, .legend { color: var(--soft); margin: 0; }
h2 + p { margin-bottom: .9rem; }
.kind { text-transform: uppercase; letter-spacing: .08em; font-size: .75rem; font-weight: 600; }
.cards, .spreads { display: grid; gap: 1rem; margin: 1.6rem 0;
  grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: .9rem 1.1rem; }
.card h3 { font-size: .85rem; margin: 0; color: var(--soft); }
.card abbr { text-decoration: none; color: var(--mark); }
.card b { display: block; font-size: 1.8rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card p { font-size: .8rem; } .card small { display: block; font-size: .8rem; }
.spreads { grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); }
figure { margin: 0; }
svg { display: block; width: 100%; } rect { fill: var(--mark); opacity: .75; }
svg line { stroke: var(--ink); stroke-width: 1.5; }
.spreads figcaption { display: flex; justify-content: space-between; font-size: .8rem;
  color: var(--soft); border-top: 1px solid var(--line); padding-top: .2rem; }
.spreads b { color: var(--ink); }
.legend { font-size: .85rem; }
.legend span { display: inline-block; width: 9rem; height: .7rem; border-radius: 3px;
  background: linear-gradient(90deg, """
    + ", ".join(_HEAT)
    + """); }
.cases { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(560px, 1fr)); }
.case { border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
  background: var(--card); }
.panels { display: flex; gap: 2px; }
.panels > * { flex: 1 1 0; min-width: 0; aspect-ratio: var(--shape); }
.panel { position: relative; width: 100%; height: 100%; }
.panel img { display: block; width: 100%; height: 100%; object-fit: contain; }
.panel i { position: absolute; left: 6px; bottom: 6px; font: 600 10px/1 system-ui, sans-serif;
  padding: 3px 5px; border-radius: 4px; background: rgba(0, 0, 0, .5); color: #fff; }
.pair { background-size: contain; background-position: center; background-repeat: no-repeat;
  cursor: crosshair; }
.pair:hover img { opacity: 0; }
.case figcaption { display: flex; flex-wrap: wrap; gap: 0 1rem; justify-content: space-between;
  padding: .5rem .9rem; font-size: .85rem; }
.case figcaption b { overflow-wrap: anywhere; }
.case figcaption span { color: var(--soft); font-variant-numeric: tabular-nums; }
details { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: .8rem; }
summary { cursor: pointer; font-weight: 600; }
table { border-collapse: collapse; margin-top: .8rem; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem 1.4rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td:first-child { overflow-wrap: anywhere; } meter { width: 6rem; margin-right: .6rem; }
pre { overflow-x: auto; font-size: .8rem; }
@media (max-width: 640px) { .cases { grid-template-columns: 1fr; } }
"""
)
