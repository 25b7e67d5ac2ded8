"""Manifests name pairs wherever they lie, and every mistake in them by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2gan.data.image_io import save_image
from pix2gan.data.manifest import read_manifest, write_manifest
from pix2gan.data.paired import check_paired, open_paired
from pix2gan.data.unpaired import open_unpaired
from pix2gan.errors import DataError

ROWS = [
    {"A": "maps/1.png", "B": "photos/one.png", "split": "train"},
    {"A": "maps/2.png", "B": "photos/two.png", "split": "train"},
    {"A": "maps/3.png", "B": "photos/three.png", "split": "test"},
    {"A": "maps/4.png", "B": "photos/four.png", "split": "val"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The images of ``ROWS``, each of one shade."""
    for number, row in enumerate(ROWS):
        for column, shade in (("A", 10), ("B", 110)):
            path = tmp_path / row[column]
            path.parent.mkdir(exist_ok=True)
            save_image(path, np.full((8, 8, 3), shade + number, np.uint8))
    return tmp_path


def shades(dataset: Any, side: str) -> list[int]:
    return [round((float(dataset[0, i][side].mean()) + 1) * 127.5) for i in range(len(dataset))]


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_a_manifest_written_is_read_and_opened(folder: Path, name: str) -> None:
    write_manifest(folder / name, ROWS)
    rows = read_manifest(folder / name)
    assert [row.split for row in rows] == ["train", "train", "test", "val"]
    assert rows[0].a == folder / "maps" / "1.png"
    train = open_paired(folder / name, size=8, augment=False)
    assert train.names == ["photos/one", "photos/two"]
    assert (shades(train, "A"), shades(train, "B")) == ([10, 11], [110, 111])
    assert shades(open_paired(folder / name, size=8, split="test"), "A") == [12]
    assert "two files" in str(check_paired(train))


def test_other_columns_and_a_byte_order_mark_do_not_matter(folder: Path) -> None:
    text = "\ufeffnote, B ,A\nhello,photos/one.png,maps/1.png\n"
    (folder / "m.csv").write_text(text, encoding="utf-8")
    assert open_paired(folder / "m.csv", size=8).names == ["photos/one"]


def test_rows_of_one_image_are_side_by_side_or_photos(folder: Path) -> None:
    both = np.concatenate([np.full((8, 8, 3), shade, np.uint8) for shade in (30, 200)], axis=1)
    save_image(folder / "both.png", both)
    write_manifest(folder / "m.csv", [{"B": "both.png"}])
    item = open_paired(folder / "m.csv", size=8, augment=False)[0]
    assert float(item["A"].max()) < 0 < float(item["B"].min())
    assert open_paired(folder / "m.csv", size=8, sketch="canny").layout == "sketched photos"


def test_unpaired_methods_take_what_images_there_are(folder: Path) -> None:
    rows = [{"A": "maps/1.png"}, {"A": "maps/2.png"}, *({"B": row["B"]} for row in ROWS[:3])]
    write_manifest(folder / "m.jsonl", rows)
    dataset = open_unpaired(folder / "m.jsonl", size=8, augment=False)
    assert (len(dataset.images_a), len(dataset.images_b)) == (2, 3)
    write_manifest(folder / "pairs.csv", ROWS)
    assert len(open_unpaired(folder / "pairs.csv", size=8)) == 2
    assert len(open_unpaired(folder / "pairs.csv", size=8, split="test")) == 1
    with pytest.raises(DataError, match="has no B"):
        open_paired(folder / "m.jsonl", size=8)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.csv", "left,right\n1,2\n", "first line of .* must name its columns"),
        ("m.csv", "A,B\n", "no rows"),
        ("m.csv", "A,B\n1.png,2.png\n,\n", "line 3: it names no image"),
        ("m.csv", "A,B,split\n1.png,2.png,tset\n", "line 2: split must be one of train, test"),
        ("m.jsonl", '{"A": "1.png", "B": 7}\n', "line 1: B must be a text"),
        ("m.jsonl", '\n{"A": \n', "line 2: this is not JSON"),
        ("m.jsonl", "[1]\n", "line 1: write an object"),
        ("m.jsonl", "[" * 100_000, "line 1: this is not JSON"),
        ("m.csv", "A,B\n1.png,2.png\n,3.png\n", "others B alone"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=complaint):
        open_paired(tmp_path / name, size=8)


def test_missing_files_and_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        open_paired(tmp_path / "none.csv", size=8)
    (tmp_path / "m.jsonl").write_text(json.dumps({"A": "gone.png", "B": "gone2.png"}))
    with pytest.raises(DataError, match=r"gone\.png: there is no such file"):
        check_paired(open_paired(tmp_path / "m.jsonl", size=8))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="is a file, but no manifest"):
        open_paired(tmp_path / "notes.txt", size=8)


def test_sketch_of_pairs_is_refused(folder: Path) -> None:
    write_manifest(folder / "m.csv", ROWS)
    with pytest.raises(DataError, match="leave sketch out"):
        open_paired(folder / "m.csv", size=8, sketch="canny")
