"""``pix2gan data``: look at data sets and make them. Parses, calls, prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

data_app = App(
    name="data", help="Check, join, sketch, split, pack and download data sets.", sort_key=2
)

DONE, SOME_FAILED = 0, 1  # as in pix2gan.cli


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@data_app.command
def check(
    data: Path,
    /,
    *,
    unpaired: bool = False,
    sheet: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Report counts, sizes and modes, and what is wrong: broken, unmatched, double, empty files.

    The exit code is 1 if something is wrong.

    Parameters
    ----------
    data
        A folder, a manifest or shards.
    unpaired
        Images of A and B need no partners.
    sheet
        Write a contact sheet to this PNG file.
    json_
        Print the report as JSON.
    """
    from pix2gan.data.checking import check_data

    with _progress("Checking") as progress:
        report = check_data(data, unpaired=unpaired, sheet=sheet, progress=progress)
    print(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) if json_ else report)
    return DONE if report.is_sound else SOME_FAILED


@data_app.command
def pair(a: Path, b: Path, /, *, out: Annotated[Path, Parameter(alias="-o")]) -> None:
    """Join a folder of A and one of B, matched by name, into one data set.

    Parameters
    ----------
    a
        Folder of the images of A.
    b
        Folder of the images of B.
    out
        A manifest to write (.csv, .jsonl), or a new folder for PNG files with A|B side by side.
    """
    from pix2gan.data.making import join_folders

    with _progress("Joining") as progress:
        count = join_folders(a, b, out, progress)
    print(f"{count} pairs: {out}")


@data_app.command
def sketch(
    photos: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    method: Literal["canny", "xdog", "strokes", "mixed"] | None = None,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    seed: int | None = None,
) -> int:
    """Draw the photos of a folder; drawings that are there already stay.

    Parameters
    ----------
    photos
        Folder of photos.
    out
        Folder for the drawings, PNG files of the same names.
    method
        How to draw; strokes if not given.
    model
        Draw with this model instead, one that makes sketches of photos: as in translate.
    seed
        Vary thresholds and pens from photo to photo; all alike if not given.
    """
    from pix2gan.data.making import sketch_folder
    from pix2gan.errors import ConfigError

    if model is not None and (method is not None or seed is not None):
        option = "method" if method is not None else "seed"
        raise ConfigError(f"A model draws without --{option}: leave that out, or --model.")
    sketcher = (method or "strokes") if model is None else _learned_sketcher(model)
    with _progress("Drawing") as progress:
        drawn, kept, failed = sketch_folder(photos, out, sketcher, seed=seed, progress=progress)
    for path, reason in failed:
        print(f"{path}: {reason}")
    print(
        f"{drawn} drawn"
        + (f", {kept} there already" if kept else "")
        + (f", {len(failed)} failed" if failed else "")
        + f": {out}"
    )
    return SOME_FAILED if failed else DONE


def _learned_sketcher(model: str) -> Callable[[Any], Any]:
    from pix2gan.data.image_io import to_uint8
    from pix2gan.translation import Translator

    translator = Translator.from_pretrained(model)
    return lambda photo: to_uint8(translator(photo, output="numpy"))


@data_app.command
def split(
    data: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    val: float = 0.0,
    test: float = 0.1,
    by: Literal["name", "content"] = "name",
    seed: int = 0,
    unpaired: bool = False,
) -> None:
    """Divide a data set into train, val and test, always the same way; the data stay as they are.

    Parameters
    ----------
    data
        A folder or a manifest.
    out
        A manifest to write (.csv, .jsonl), or a new folder for copies.
    val
        Share of the validation set.
    test
        Share of the test set.
    by
        What decides: names and the seed, or the files' content, which keeps doubles together.
    seed
        Another number, another split.
    unpaired
        Images of A and B do not belong together.
    """
    from pix2gan.data.splitting import split_data

    counts = split_data(data, out, val=val, test=test, by=by, seed=seed, unpaired=unpaired)
    print(f"{', '.join(f'{name} {count}' for name, count in counts.items())}: {out}")


@data_app.command
def shard(
    data: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    samples: int = 1000,
) -> None:
    """Pack a data set into shards (tar files) with indexes; of shards, write the indexes alone.

    Parameters
    ----------
    data
        Pairs or a folder of images; or shards on this machine.
    out
        A new folder for the shards.
    samples
        Samples in each shard.
    """
    from pix2gan.data.making import pack_shards
    from pix2gan.data.shards import names_shards
    from pix2gan.errors import ConfigError

    if out is None and not names_shards(data):
        raise ConfigError("Give --out, a new folder for the shards.")
    with _progress("Packing") as progress:
        count = pack_shards(data, out or data, samples, progress)
    print(f"{count} shards: {out or data}")


@data_app.command
def download(
    name: str | None = None,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")] = Path("datasets"),
    mirror: str | None = None,
    sha256: str | None = None,
) -> None:
    """Download a public data set of pix2pix or CycleGAN; without a name, list them.

    An interrupted download goes on. Sizes and checksums are not known beforehand: the first
    download records them in NAME.download.json, and later ones are checked against that, as is
    every file of a data set that is there already. Mind the terms of the data: most are for
    research.

    Parameters
    ----------
    name
        Which one.
    out
        The data set becomes a folder in this one.
    mirror
        URL of another place that holds the archives.
    sha256
        Refuse an archive with another checksum.
    """
    from pix2gan.data.download import PUBLIC_DATA, recorded
    from pix2gan.data.download import download as fetch

    if name is None:
        for known, data in PUBLIC_DATA.items():
            print(f"{known:24}{'paired  ' if data.paired else 'unpaired'}  {data.what}")
            print(f"  {data.url}")
            if (archive := recorded(known, out)) is not None:
                print(f"  recorded in {out}: {archive[0]} bytes, SHA-256 {archive[1]}")
        print(
            "Sizes and SHA-256 are not known beforehand: the first download records them in "
            "NAME.download.json, and later ones are checked against that."
        )
        return
    with _progress("Downloading") as progress:
        folder, digest = fetch(name, out, mirror=mirror, sha256=sha256, progress=progress)
    print(f"{folder}: all files as downloaded (SHA-256 of the archive: {digest})")
