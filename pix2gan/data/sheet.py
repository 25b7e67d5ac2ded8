"""Pictures side by side on one sheet: what went in, what came out."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from pix2gan.errors import ConfigError

_PAPER = (255, 255, 255)
_INK = (60, 60, 60)
_FRAME = (214, 214, 214)


def side_by_side(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    *,
    cell: int = 256,
    margin: int = 16,
) -> Image.Image:
    """Lay pictures out in rows and columns.

    Args:
        rows: The pictures; rows may differ in length. Each is scaled to fit its cell, keeping its
            proportions, and framed by a thin line, so that white pictures have an edge.
        labels: A heading for each column.
        captions: A line of text under each row.
        cell: Height and width of a cell, in pixels.
        margin: Space between cells and around the sheet, in pixels.

    Returns:
        The sheet, RGB.

    Raises:
        ConfigError: If there is no picture, or labels or captions do not match the pictures.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ConfigError("A sheet needs at least one picture")
    if labels is not None and len(labels) != columns:
        raise ConfigError(f"There are {len(labels)} labels for {columns} columns of pictures")
    if captions is not None and len(captions) != len(rows):
        raise ConfigError(f"There are {len(captions)} captions for {len(rows)} rows of pictures")
    text_size = max(10, cell // 14)
    text_height = round(1.6 * text_size)
    top = margin + (text_height if labels else 0)
    row_height = cell + margin + (text_height if captions else 0)
    sheet = Image.new(
        "RGB", (margin + columns * (cell + margin), top + len(rows) * row_height), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(text_size)
    for column, label in enumerate(labels or ()):
        left = margin + column * (cell + margin)
        draw.text((left + cell / 2, margin + text_height / 2), label, _INK, font, anchor="mb")
    for index, row in enumerate(rows):
        y = top + index * row_height
        for column, picture in enumerate(row):
            _place(sheet, draw, picture, margin + column * (cell + margin), y, cell)
        if captions:
            draw.text(
                (margin, y + cell + text_height / 2), captions[index], _INK, font, anchor="lm"
            )
    return sheet


def _place(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, picture: Image.Image, x: int, y: int, cell: int
) -> None:
    """Draw a picture into the square cell whose upper left corner is (x, y)."""
    picture = _on_white(picture)
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    x, y = x + (cell - size[0]) // 2, y + (cell - size[1]) // 2
    draw.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=_FRAME)
    sheet.paste(picture, (x, y))


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, (*_PAPER, 255))
        picture = Image.alpha_composite(paper, picture)
    return picture.convert("RGB")
