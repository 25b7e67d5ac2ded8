"""pix2gan data: what it reports, makes and fetches, and how it says no."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2gan import cli
from pix2gan.checkpoints.model_config import ModelConfig
from pix2gan.checkpoints.native import save_model
from pix2gan.checkpoints.resolve import resolve_model
from pix2gan.data import download
from pix2gan.data.checking import check_data
from pix2gan.data.image_io import open_image, save_image
from pix2gan.data.manifest import read_manifest
from pix2gan.data.paired import open_paired
from pix2gan.data.splitting import split_data
from pix2gan.errors import DataError
from pix2gan.models import create_generator


def noise(seed: int, height: int = 16, width: int = 16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(folder: Path, *names: str, start: int = 0) -> Path:
    for number, name in enumerate(names, start):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(folder / name, noise(number))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty pairs in A and B."""
    names = [f"{side}/{number}.png" for side in "AB" for number in range(20)]
    return write(tmp_path / "pairs", *names)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.main(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize("command", ["", "check", "pair", "sketch", "split", "shard", "download"])
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, text = run(capsys, *command.split(), "--help")
    assert code == 0
    assert f"Usage: pix2gan data {command}".strip() in text


# -- check -----------------------------------------------------------------------------------------


def test_a_sound_data_set(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = pairs.parent / "sheet.png"
    code, text = run(capsys, "check", pairs, "--sheet", sheet)
    assert code == 0
    assert "40 images (two folders)" in text
    assert "sizes: 16 x 16 (40)" in text
    assert "modes: RGB, 8 bits (40)" in text
    assert "nothing is wrong" in text
    assert open_image(sheet).std() > 20


def test_everything_wrong_is_listed(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pairs / "A" / "3.png").write_bytes((pairs / "A" / "3.png").read_bytes()[:60])
    (pairs / "B" / "4.png").unlink()
    (pairs / "A" / "5.png").write_bytes((pairs / "A" / "6.png").read_bytes())
    save_image(pairs / "B" / "7.png", np.full((16, 16, 3), 9, np.uint8))
    save_image(pairs / "B" / "8.tif", np.full((16, 16), np.nan, np.float32))
    (pairs / "B" / "8.png").unlink()
    code, text = run(capsys, "check", pairs, "--json")
    report = json.loads(text)
    assert code == 1
    assert not report["sound"]
    assert [name for name, _ in report["broken"]] == ["A/3.png", "B/8.tif"]
    assert report["unmatched"] == ["A/4.png"]
    assert report["duplicates"] == [["A/5.png", "A/6.png"]]
    assert report["near_empty"] == ["B/7.png"]
    code, text = run(capsys, "check", pairs)
    assert code == 1
    assert "A/5.png = A/6.png" in text


def test_layouts_are_told_apart(pairs: Path, tmp_path: Path) -> None:
    assert check_data(pairs / "A").layout == "photos"
    both = tmp_path / "both"
    both.mkdir()
    for number in range(3):
        halves = [np.full((16, 16, 3), shade, np.uint8) for shade in (20 + number, 200)]
        save_image(both / f"{number}.png", np.concatenate(halves, axis=1))
    assert check_data(both).layout == "side by side"
    unpaired = write(tmp_path / "two", "A/x.png", "B/y.png")
    assert check_data(unpaired).layout == "unpaired folders"
    write(unpaired, "B/x.png", start=9)
    assert check_data(unpaired).unmatched == ["B/y.png"]
    assert check_data(unpaired, unpaired=True).unmatched == []
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no images"):
        check_data(tmp_path / "none")


# -- pair, shard -----------------------------------------------------------------------------------


def test_pair_joins(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = open_paired(pairs, size=16, augment=False)[3]
    for out in (tmp_path / "joined", tmp_path / "lists" / "pairs.csv"):
        code, text = run(capsys, "pair", pairs / "A", pairs / "B", "--out", out)
        assert (code, text) == (0, f"20 pairs: {out}\n")
        made = open_paired(out, size=16, augment=False, side_by_side=True)[3]
        assert (made["A"] == expected["A"]).all()
        assert (made["B"] == expected["B"]).all()
        assert run(capsys, "pair", pairs / "A", pairs / "B", "--out", out)[0] == 2
    save_image(pairs / "A" / "0.png", noise(0, 16, 20))
    code, text = run(capsys, "pair", pairs / "A", pairs / "B", "-o", tmp_path / "other")
    assert code == 2
    assert "20 x 16 pixels and its partner 16 x 16" in text


def test_shard_packs_and_indexes(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert run(capsys, "shard", pairs, "-o", out, "--samples", 8) == (0, f"3 shards: {out}\n")
    assert [len(open_paired(tar, size=16)) for tar in sorted(out.glob("*.tar"))] == [8, 8, 4]
    made, given = open_paired(out, size=16), open_paired(pairs, size=16)
    assert all((made[0, i]["B"] == given[0, i]["B"]).all() for i in range(20))
    indexes = sorted(out.glob("*.index"))
    before = [path.read_bytes() for path in indexes]
    for path in indexes:
        path.unlink()
    assert run(capsys, "shard", out)[0] == 0
    assert [path.read_bytes() for path in indexes] == before
    assert run(capsys, "shard", pairs)[0] == 2


# -- sketch ----------------------------------------------------------------------------------------


def test_sketches_are_drawn_once_and_the_broken_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write(tmp_path / "photos", "a.png", "sub/b.jpg")
    (photos / "c.png").write_bytes(b"no image")
    out = tmp_path / "drawn"
    code, text = run(capsys, "sketch", photos, "-o", out, "--method", "canny", "--seed", 3)
    assert code == 1
    assert "c.png: it is not an image" in text
    assert f"2 drawn, 1 failed: {out}" in text
    drawn = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert drawn == ["a.png", "sub/b.png"]
    assert open_image(out / "a.png").shape == (16, 16, 1)
    (out / "a.png").write_bytes(b"mine")
    assert (
        f"0 drawn, 2 there already, 1 failed: {out}" in run(capsys, "sketch", photos, "-o", out)[1]
    )
    assert (out / "a.png").read_bytes() == b"mine"
    assert run(capsys, "sketch", photos, "-o", photos / "drawn")[0] == 2


def test_a_learned_sketcher_is_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = create_generator("resnet6", width=4, num_blocks=1, out_channels=1)
    config = ModelConfig(architecture=dict(network.config), out_channels=1)
    save_model(tmp_path / "model", network, config)
    photos = write(tmp_path / "photos", "a.png")
    code, _ = run(capsys, "sketch", photos, "-o", tmp_path / "out", "-m", tmp_path / "model")
    assert code == 0
    from pix2gan.translation import Translator

    translator = Translator.from_pretrained(tmp_path / "model")
    expected = translator(photos / "a.png", output="numpy")
    assert np.array_equal(open_image(tmp_path / "out" / "a.png"), expected)


def test_a_bundled_model_is_found_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pix2gan.translation import Translator

    asked = []

    def load(model: str) -> Callable[..., np.ndarray[Any, Any]]:
        asked.append(resolve_model(model).name)
        return lambda photo, output: 255 - photo

    monkeypatch.setattr(Translator, "from_pretrained", load)
    photos = write(tmp_path / "photos", "a.png")
    code, text = run(capsys, "sketch", photos, "-o", tmp_path / "out", "-m", "sketch2motorbike")
    assert (code, asked) == (0, ["sketch2motorbike"]), text
    assert np.array_equal(open_image(tmp_path / "out" / "a.png"), 255 - noise(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", -1), "seed must be a whole number from 0, not -1"),
        (("-m", "sketch2motorbike", "--seed", 0), "without --seed"),
        (("-m", "sketch2motorbike", "--method", "strokes"), "without --method"),
    ],
)
def test_options_that_draw_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], said: str
) -> None:
    photos = write(tmp_path / "photos", "a.png")
    code, text = run(capsys, "sketch", photos, "-o", tmp_path / "out", *options)
    assert code == 2
    assert said in text
    assert not (tmp_path / "out").exists()


# -- split -----------------------------------------------------------------------------------------


def test_split_is_complete_and_always_the_same(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lists" / "s.csv"
    code, _ = run(capsys, "split", pairs, "-o", out, "--val", 0.2, "--test", 0.3)
    assert code == 0
    rows = {row.name: row.split for row in read_manifest(out)}
    assert len(rows) == 20
    assert set(rows.values()) == {"train", "val", "test"}
    split_data(pairs, tmp_path / "folders", val=0.2, test=0.3)
    for name, split in rows.items():
        stem = Path(name).name
        for side in "AB":
            copy = tmp_path / "folders" / f"{split}{side}" / f"{stem}.png"
            assert copy.read_bytes() == (pairs / side / f"{stem}.png").read_bytes()
    assert sum(1 for _ in (tmp_path / "folders").rglob("*.png")) == 40
    assert len(open_paired(tmp_path / "folders", size=16, split="test")) == list(
        rows.values()
    ).count("test")
    assert run(capsys, "split", pairs, "-o", out)[0] == 2  # nothing is overwritten
    (pairs / "A" / "0.png").unlink()
    (pairs / "B" / "0.png").unlink()
    split_data(pairs, tmp_path / "again.jsonl", val=0.2, test=0.3)
    again = {Path(row.name).name: row.split for row in read_manifest(tmp_path / "again.jsonl")}
    assert again == {Path(k).name: v for k, v in rows.items() if Path(k).name != "0"}


def test_split_by_content_keeps_doubles_together(pairs: Path, tmp_path: Path) -> None:
    for number in range(20):
        for side in "AB":
            original = (pairs / side / f"{number}.png").read_bytes()
            (pairs / side / f"copy{number}.png").write_bytes(original)
    counts = split_data(pairs, tmp_path / "s.csv", test=0.4, by="content")
    assert sum(counts.values()) == 40
    where = {Path(row.name).name: row.split for row in read_manifest(tmp_path / "s.csv")}
    assert all(where[str(n)] == where[f"copy{n}"] for n in range(20))
    assert len(set(where.values())) == 2


def test_split_of_unpaired_and_side_by_side(tmp_path: Path) -> None:
    heaps = write(tmp_path / "heaps", *(f"A/{n}.png" for n in range(9)), "B/x.jpg", "B/x.png")
    counts = split_data(heaps, tmp_path / "out", test=0.4, unpaired=True)
    files = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")]
    assert len(files) == sum(counts.values()) == 11
    assert Counter(path.parts[0][-1] for path in files) == {"A": 9, "B": 2}
    single = write(tmp_path / "single", *(f"{n}.png" for n in range(9)))
    split_data(single, tmp_path / "singles", test=0.4)
    assert {path.name for path in (tmp_path / "singles").iterdir()} == {"train", "test"}


# -- download --------------------------------------------------------------------------------------


def entity_tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; ``cut`` ends the next answers early, ``ranges`` may be switched off.

    A range that begins at the end is refused, with the size if ``says_size``. Files are told apart
    by ``tags`` (name of the header, and what makes its value of a file's bytes), if there are any;
    those that are asked about in If-Range count unless it is ``careless``. ``shift`` moves ranges.
    """

    files: dict[str, bytes]
    cut: list[int]
    ranges: bool
    says_size: bool
    tags: tuple[str, Callable[[bytes], str]] | None
    careless: bool
    shift: int
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        name, wanted = self.path.rpartition("/")[2], self.headers.get("Range")
        self.asked.append((name, wanted))
        if name not in self.files:
            self.send_error(404)
            return
        data = self.files[name]
        tag = self.tags[1](data) if self.tags else ""
        start = 0
        if wanted and self.ranges and (self.careless or self.headers.get("If-Range") == tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-")) + self.shift
            if start >= len(data):
                self.send_response(416)
                if self.says_size:
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if self.tags:
            self.send_header(self.tags[0], tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : start + self.cut.pop(0)] if self.cut else data[start:])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    fresh: dict[str, Any] = {"files": {}, "cut": [], "asked": [], "ranges": True, "says_size": True}
    fresh |= {"tags": ("ETag", entity_tag), "careless": False, "shift": 0}
    state = type("State", (Server,), fresh)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), state) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/d"  # type: ignore[attr-defined]
        yield state
        running.shutdown()


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("facades/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


PAYLOAD = np.random.default_rng(0).bytes(300_000)


def test_download_unpacks_and_tells_the_checksum(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["facades.tar.gz"] = tar_gz({"facades/train/1.jpg": PAYLOAD})
    server.files["horse2zebra.zip"] = zipped({"horse2zebra/trainA/1.jpg": PAYLOAD})
    digest = hashlib.sha256(server.files["facades.tar.gz"]).hexdigest()
    common = ("-o", tmp_path, "--mirror", server.url)
    code, text = run(capsys, "download", "facades", *common, "--sha256", digest.upper())
    assert code == 0
    assert digest in text
    assert run(capsys, "download", "horse2zebra", *common)[0] == 0
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == [  # no link, no archive
        "facades.download.json",
        "facades/train/1.jpg",
        "horse2zebra.download.json",
        "horse2zebra/trainA/1.jpg",
    ]
    assert (tmp_path / files[1]).read_bytes() == PAYLOAD
    (tmp_path / files[0]).unlink()
    code, text = run(capsys, "download", "facades", *common)
    assert code == 2
    assert "exists already" in text


def test_what_was_downloaded_is_recorded_and_checked_again(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"facades/train/{number}.jpg": PAYLOAD[number:] for number in range(3)}
    server.files["facades.tar.gz"] = data = tar_gz(files)
    digest, command = hashlib.sha256(data).hexdigest(), ("-o", tmp_path, "--mirror", server.url)
    assert run(capsys, "download", "facades", *command)[0] == 0
    record = json.loads((tmp_path / "facades.download.json").read_text())
    assert (record["bytes"], record["sha256"]) == (len(data), digest)
    assert record["url"] == f"{server.url}/facades.tar.gz"
    assert record["files"]["train/2.jpg"] == [
        len(PAYLOAD) - 2,
        hashlib.sha256(PAYLOAD[2:]).hexdigest(),
    ]

    asked = len(server.asked)
    code, text = run(capsys, "download", "facades", *command)
    assert (code, len(server.asked)) == (0, asked)  # nothing is fetched again
    assert "all files as downloaded" in text
    assert digest in text

    folder = tmp_path / "facades"
    (folder / "train" / "mine.jpg").write_bytes(b"the user's own")
    assert run(capsys, "download", "facades", *command)[0] == 0
    damaged = bytearray(PAYLOAD)
    damaged[1000] ^= 1  # the size stays
    (folder / "train" / "0.jpg").write_bytes(damaged)
    (folder / "train" / "1.jpg").unlink()
    code, text = run(capsys, "download", "facades", *command)
    assert code == 2
    assert "2 of 3 files" in text
    assert "train/0.jpg, train/1.jpg" in text

    shutil.rmtree(folder)
    assert run(capsys, "download", "facades", *command)[0] == 0  # the same archive
    shutil.rmtree(folder)
    server.files["facades.tar.gz"] = tar_gz({"facades/train/0.jpg": b"another"})
    code, text = run(capsys, "download", "facades", *command)
    assert code == 2
    assert f"{len(data)} of {digest}" in text
    assert "to take the new ones" in text
    assert not folder.exists()
    (tmp_path / "facades.download.json").write_text("[]")
    code, text = run(capsys, "download", "facades", *command)
    assert code == 2
    assert "facades.download.json cannot be read" in text


def test_an_interrupted_download_goes_on(server: Any, tmp_path: Path) -> None:
    server.files["facades.tar.gz"] = data = tar_gz({"facades/1.jpg": PAYLOAD})
    server.cut[:] = [100_000, 50_000]
    for _ in range(2):
        with pytest.raises(DataError, match=rf"ended after \d+ of {len(data)} bytes.*to go on"):
            download.download("facades", tmp_path, mirror=server.url)
    folder, digest = download.download("facades", tmp_path, mirror=server.url)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert digest == hashlib.sha256(data).hexdigest()
    assert (folder / "1.jpg").read_bytes() == PAYLOAD


@pytest.mark.parametrize("changed", [True, False])
def test_it_begins_again_where_going_on_is_not_possible(
    server: Any, tmp_path: Path, changed: bool
) -> None:
    server.files["facades.tar.gz"] = tar_gz({"facades/1.jpg": PAYLOAD})
    server.cut[:] = [100_000]
    with pytest.raises(DataError):
        download.download("facades", tmp_path, mirror=server.url)
    if changed:
        server.files["facades.tar.gz"] = tar_gz({"facades/2.jpg": PAYLOAD[::-1]})
    else:
        server.ranges = False
    _, digest = download.download("facades", tmp_path, mirror=server.url)
    assert digest == hashlib.sha256(server.files["facades.tar.gz"]).hexdigest()


@pytest.mark.parametrize("sign", ["tag", "size", "place", "date"])
def test_two_files_are_never_glued_together(server: Any, tmp_path: Path, sign: str) -> None:
    """A careless server gives any range of what is there now: each sign alone gives it away."""
    server.files["facades.tar.gz"] = old = tar_gz({"facades/1.jpg": PAYLOAD})
    new = tar_gz({"facades/2.jpg": PAYLOAD[::-1] + bytes(1000)})
    dates = {old: "Mon, 01 Jan 2024 00:00:00 GMT", new: "Tue, 02 Jan 2024 00:00:00 GMT"}
    if sign == "date":
        server.tags = ("Last-Modified", dates.get)
    server.cut[:] = [100_000]
    with pytest.raises(DataError, match="ended after 100000"):
        download.download("facades", tmp_path, mirror=server.url)
    server.careless = True
    if sign == "size":  # and the answer has no tag
        server.tags = None
    if sign == "place":
        server.shift = -1
    if sign in {"tag", "date"}:  # of the same size
        new = new[: len(old)] + bytes(max(0, len(old) - len(new)))
        dates[new] = "Tue, 02 Jan 2024 00:00:00 GMT"
    server.files["facades.tar.gz"] = old if sign == "place" else new
    archive = tmp_path / "facades.tar.gz"
    download.fetch(f"{server.url}/facades.tar.gz", archive)
    assert archive.read_bytes() == server.files["facades.tar.gz"]
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-", None]
    assert {path.name for path in tmp_path.iterdir()} == {"facades.tar.gz"}


def test_a_date_lets_a_download_go_on(server: Any, tmp_path: Path) -> None:
    server.files["facades.tar.gz"] = tar_gz({"facades/1.jpg": PAYLOAD})
    server.tags = ("Last-Modified", lambda data: "Mon, 01 Jan 2024 00:00:00 GMT")
    server.cut[:] = [100_000]
    with pytest.raises(DataError, match="ended after 100000"):
        download.download("facades", tmp_path, mirror=server.url)
    download.download("facades", tmp_path, mirror=server.url)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-"]


def test_without_a_tag_or_a_note_nothing_is_added_to(server: Any, tmp_path: Path) -> None:
    server.files["facades.tar.gz"] = data = tar_gz({"facades/1.jpg": PAYLOAD})
    archive = tmp_path / "facades.tar.gz"
    archive.with_name("facades.tar.gz.part").write_bytes(b"x" * 1000)
    archive.with_name("facades.tar.gz.part.json").write_text('{"tag": ')
    download.fetch(f"{server.url}/facades.tar.gz", archive)
    assert archive.read_bytes() == data
    assert [wanted for _, wanted in server.asked] == [None]


@pytest.mark.parametrize(("surplus", "says_size"), [(0, True), (0, False), (5, True)])
def test_a_whole_part_is_taken_and_one_that_may_not_be_is_fetched_again(
    server: Any, tmp_path: Path, surplus: int, says_size: bool
) -> None:
    server.files["facades.tar.gz"] = data = tar_gz({"facades/1.jpg": PAYLOAD})
    server.says_size = says_size
    part = tmp_path / "facades.tar.gz.part"  # as of a process that ended before it renamed it
    part.write_bytes(data + bytes(surplus))
    part.with_name(part.name + ".json").write_text(
        json.dumps({"tag": entity_tag(data), "bytes": len(data)})
    )
    folder, digest = download.download("facades", tmp_path, mirror=server.url)
    taken = says_size and not surplus
    assert [wanted for _, wanted in server.asked] == [
        f"bytes={len(data) + surplus}-",
        *([] if taken else [None]),
    ]
    assert digest == hashlib.sha256(data).hexdigest()
    assert (folder / "1.jpg").read_bytes() == PAYLOAD
    assert {path.name for path in tmp_path.iterdir()} == {"facades", "facades.download.json"}


def test_another_checksum_is_refused(server: Any, tmp_path: Path) -> None:
    server.files["facades.tar.gz"] = tar_gz({"facades/1.jpg": PAYLOAD})
    with pytest.raises(DataError, match="not what it should be"):
        download.download("facades", tmp_path, mirror=server.url, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../escape.jpg", "/tmp/escape.jpg", "a/../../escape.jpg", "..\\escape.jpg", "C:/x.jpg"]
)
@pytest.mark.parametrize("kind", ["facades", "horse2zebra"])
def test_archives_cannot_write_elsewhere(server: Any, tmp_path: Path, name: str, kind: str) -> None:
    pack: Callable[[dict[str, bytes]], bytes] = tar_gz if kind == "facades" else zipped
    server.files[download.PUBLIC_DATA[kind].archive] = pack({"ok.jpg": b"x", name: b"x"})
    inner = tmp_path / "deep" / "in"
    with pytest.raises(DataError, match="lies outside"):
        download.download(kind, inner, mirror=server.url)
    assert not [p for p in tmp_path.rglob("*") if "escape" in p.name or p.name == "x.jpg"]
    assert not (inner / kind).exists()


def flipped(data: bytes, place: int) -> bytes:
    damaged = bytearray(data)
    damaged[place] ^= 0xFF
    return bytes(damaged)


def damaged_archives() -> dict[str, tuple[str, bytes]]:
    """Data set and archive: damage that only a checksum shows, and damage that stops a decoder."""
    tar = tar_gz({"facades/1.jpg": PAYLOAD})  # noise, which gzip stores as it is
    text = {"horse2zebra/1.txt": json.dumps(list(range(20_000))).encode()}
    deflated = zipped(text, zipfile.ZIP_DEFLATED)
    with_lzma, with_bzip2 = (zipped(text, how) for how in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    return {
        "tar: content": ("facades", flipped(tar, len(tar) // 2)),
        "tar: checksum": ("facades", flipped(tar, -8)),
        "zip: deflate": ("horse2zebra", deflated[:100] + b"\xff" * 900 + deflated[1000:]),
        "zip: content": ("horse2zebra", flipped(zipped(text), 5000)),
        "zip: lzma": ("horse2zebra", with_lzma[:100] + b"\xff" * 900 + with_lzma[1000:]),
        "zip: bzip2": ("horse2zebra", with_bzip2[:100] + b"\xff" * 900 + with_bzip2[1000:]),
    }


@pytest.mark.parametrize("case", damaged_archives())
def test_no_damaged_archive_is_unpacked(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name, data = damaged_archives()[case]
    server.files[download.PUBLIC_DATA[name].archive] = data
    code, text = run(capsys, "download", name, "-o", tmp_path / "out", "--mirror", server.url)
    assert code == 2
    assert "is damaged" in text
    assert "Traceback" not in text
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "mirror",
    ["http://[bad", "http://", "http://host:port", "http://h\u00f6st/\u00e4", "file:///etc"],
)
def test_a_mirror_is_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str], mirror: str) -> None:
    code, text = run(capsys, "download", "maps", "-o", tmp_path, "--mirror", mirror)
    assert code == 2
    assert "A mirror is a URL" in text


def test_damage_and_errors_of_the_server(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("-o", tmp_path, "--mirror", server.url)
    code, text = run(capsys, "download", "maps", *common)
    assert (code, "the server says 404" in text) == (2, True)
    server.files["maps.tar.gz"] = tar_gz({"maps/1.jpg": PAYLOAD})[:-40_000]
    code, text = run(capsys, "download", "maps", *common)
    assert (code, "is damaged" in text) == (2, True)
    assert not (tmp_path / "maps").exists()
    assert run(capsys, "download", "nosuch")[0] == 2
    assert run(capsys, "download", "maps", "--sha256", "xyz")[0] == 2
    assert run(capsys, "download", "maps", "-o", tmp_path / "x", "--mirror", "file:///etc")[0] == 2


def test_the_list_needs_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "download")
    assert code == 0
    assert "facades" in text
    assert "horse2zebra" in text
    assert all(data.url in text for data in download.PUBLIC_DATA.values())
    assert "Sizes and SHA-256 are not known beforehand" in text


def test_the_list_has_what_was_recorded(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["maps.tar.gz"] = data = tar_gz({"maps/1.jpg": PAYLOAD})
    assert run(capsys, "download", "maps", "-o", tmp_path, "--mirror", server.url)[0] == 0
    code, text = run(capsys, "download", "-o", tmp_path)
    digest = hashlib.sha256(data).hexdigest()
    assert (code, text.count("SHA-256 ")) == (0, 2)
    assert f"recorded in {tmp_path}: {len(data)} bytes, SHA-256 {digest}" in text
