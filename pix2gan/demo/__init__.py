"""What ``pix2gan demo`` does: drawings that come with the package become photos."""

from __future__ import annotations

from pathlib import Path

from pix2gan.demo.drawings import DRAWINGS, render_drawing

MODEL = "sketch2motorbike"
_COLUMNS = 4  # each drawing with its photo to the right, two pairs in a row


def run_demo(out: str | Path = "pix2gan-demo") -> Path:
    """Translate the bundled drawings and write drawings, photos and a sheet of both.

    Args:
        out: folder to write to; made if need be. Files of an earlier demo are replaced.

    Returns:
        The path of the sheet, ``out/sheet.png``.
    """
    import numpy as np

    from pix2gan.data.image_io import save_image
    from pix2gan.data.sheet import side_by_side
    from pix2gan.translation import Translator

    out = Path(out)
    translator = Translator.from_pretrained(MODEL)
    drawings = {name: render_drawing(name) for name in DRAWINGS}
    photos = dict(zip(drawings, translator(list(drawings.values())), strict=True))
    for folder, pictures in (("drawings", drawings), ("photos", photos)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            save_image(out / folder / f"{name.replace(' ', '-')}.png", np.asarray(picture))
    pairs = [picture for name in drawings for picture in (drawings[name], photos[name])]
    sheet = side_by_side([pairs[i : i + _COLUMNS] for i in range(0, len(pairs), _COLUMNS)])
    save_image(out / "sheet.png", np.asarray(sheet))
    return out / "sheet.png"
