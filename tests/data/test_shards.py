"""Shards give the samples that are in them, in an order that resumes, from here or from afar."""

from __future__ import annotations

import functools
import http.server
import io
import itertools
import pickle
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from pix2gan.data import shards
from pix2gan.data.loader import make_loader
from pix2gan.data.paired import check_paired, open_paired
from pix2gan.data.sampler import MIXED_SHARDS, ResumableSampler, permutation
from pix2gan.data.unpaired import check_unpaired, open_unpaired
from pix2gan.errors import ConfigError, DataError

Synthesize = Callable[..., list[Path]]


@pytest.fixture
def packed(tmp_path: Path, synthesize: Synthesize) -> Path:
    """Ten pairs of folders ``A``, ``B``, and the same in shards of 4, 4 and 2."""
    synthesize(tmp_path / "files", count=10, size=16, layout="folders")
    pairs = open_paired(tmp_path / "files", size=16).pairs
    (tmp_path / "shards").mkdir()
    for number in range(3):
        chosen = pairs[4 * number : 4 * number + 4]
        samples = [(pair.name, {"a": pair.a, "b": pair.b}) for pair in chosen]
        shards.write_shard(tmp_path / "shards" / f"p-{number:03}.tar", samples)  # type: ignore[arg-type]
    return tmp_path


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[side], second[side]) for side in "AB")


@pytest.mark.parametrize("data", ["shards", "shards/p-*.tar", "shards/p-{000..002}.tar"])
def test_shards_hold_what_the_files_do(packed: Path, data: str) -> None:
    ours = open_paired(packed / data, size=16)
    theirs = open_paired(packed / "files", size=16)
    assert ours.names == theirs.names == [str(n) for n in range(1, 11)]
    assert ours.shard_sizes == (4, 4, 2)
    assert all(equal(ours[1, i], theirs[1, i]) for i in range(10))
    assert "10 pairs (two files)" in str(check_paired(ours))


def test_one_tar_and_the_hold_out(packed: Path) -> None:
    assert len(open_paired(packed / "shards" / "p-000.tar", size=16)) == 4
    train, test = (
        open_paired(packed / "shards", size=16, holdout=0.3, split=split)  # type: ignore[arg-type]
        for split in ("train", "test")
    )
    assert sorted(train.names + test.names, key=int) == [str(n) for n in range(1, 11)]
    assert sum(train.shard_sizes) == len(train)
    assert sum(test.shard_sizes) == len(test)


def test_an_epoch_visits_each_sample_once_and_few_shards_at_a_time() -> None:
    sizes = (5, 3, 8, 1, 4, 9)
    of = np.repeat(np.arange(len(sizes)), sizes)
    orders = [permutation(30, 7, epoch, sizes) for epoch in range(4)]
    for order in orders:
        assert sorted(order) == list(range(30))
        seen: list[int] = []
        for shard in of[order]:
            if shard not in seen[-MIXED_SHARDS:]:
                assert shard not in seen
                seen.append(shard)
    assert len({order.tobytes() for order in orders}) == 4
    assert np.array_equal(orders[2], permutation(30, 7, 2, sizes))
    with pytest.raises(ValueError, match="30 samples"):
        permutation(29, 7, 0, sizes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_shards_resumes_anywhere(packed: Path, workers: int) -> None:
    dataset = open_paired(packed / "shards", size=16)

    def batches(position: int, count: int) -> list[dict[str, Any]]:
        sampler = ResumableSampler(10, 2, 3, position, shard_sizes=dataset.shard_sizes)
        loader = iter(make_loader(dataset, sampler, workers))
        return [next(loader) for _ in range(count)]

    whole = batches(0, 9)
    again = batches(8, 5)
    assert all(equal(a, b) for a, b in zip(whole[4:], again, strict=True))


def test_unpaired_shards(packed: Path) -> None:
    both = open_unpaired(packed / "shards", size=16)
    assert (len(both.images_a), len(both.images_b)) == (10, 10)
    photos = sorted((packed / "files" / "B").iterdir())
    for number, few in enumerate((photos[:6], photos[6:])):
        samples = [(path.stem, {"": path}) for path in few]
        shards.write_shard(packed / f"photos-{number}.tar", samples)
    dataset = open_unpaired(packed / "files" / "A", packed / "photos-{0..1}.tar", size=16)
    assert dataset[0, 3]["name_b"].startswith("B/")
    assert check_unpaired(dataset).images_b == 10
    pairs = packed / "shards" / "p-000.tar"
    mixed = open_unpaired(packed / "photos-0.tar", packed / "photos-1.tar", size=16)
    assert mixed.shard_sizes == (6,)
    with pytest.raises(DataError, match="are pairs"):
        open_unpaired(packed / "files" / "A", pairs, size=16)
    with pytest.raises(DataError, match="one image each"):
        open_unpaired(packed / "photos-0.tar", size=16)


# -- afar ------------------------------------------------------------------------------------------


@pytest.fixture
def remote(packed: Path) -> Iterator[str]:
    """The shards in fsspec's file system in memory, without indexes."""
    memory = fsspec.filesystem("memory")
    for path in sorted((packed / "shards").glob("*.tar")):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_urls_survive_being_a_path() -> None:
    url = "s3://bucket/a/p-{000..009}.tar"
    assert shards.restore_url(Path(url)) == url
    assert shards.restore_url(Path("simplecache::s3://b/x.tar")) == "simplecache::s3://b/x.tar"
    assert shards.restore_url(Path("C:/data/x.tar")) == "C:/data/x.tar"
    assert shards.restore_url("/data/x.tar") == "/data/x.tar"


def test_remote_shards_are_fetched_a_few_at_a_time(packed: Path, remote: str) -> None:
    ours = open_paired(Path(f"{remote}/p-*.tar"), size=16, cache_bytes=0)
    theirs = open_paired(packed / "files", size=16)
    cache = ours.pairs[0].b.shard.cache  # type: ignore[union-attr]
    assert cache is not None
    cache.kept = 2
    for path in cache.folder.glob("*.tar"):  # fetched to be listed
        path.unlink()
    for index in (0, 9, 5, 1, 4):
        assert equal(ours[0, index], theirs[0, index])
        assert len(list(cache.folder.glob("*.tar"))) <= 2
    copy = pickle.loads(pickle.dumps(ours))  # as a worker gets it
    assert equal(copy[0, 7], theirs[0, 7])
    del copy
    assert cache.folder.exists()
    folder = cache.folder
    del ours, cache
    assert not folder.exists()


def test_an_index_spares_fetching(
    packed: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    for path in (packed / "shards").glob("*.index"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    fetched: list[str] = []
    real = shards.ShardCache._copy
    monkeypatch.setattr(
        shards.ShardCache,
        "_copy",
        lambda self, url, path: (fetched.append(url), real(self, url, path))[1],
    )
    dataset = open_paired(Path(f"{remote}/p-{{000..002}}.tar"), size=16)
    assert fetched == []
    dataset[0, 9]
    assert fetched == ["memory://bucket/p-002.tar"]


def test_what_cannot_be_fetched_is_one_sentence(remote: str) -> None:
    with pytest.raises(DataError, match=r"gone\.tar cannot be (fetched|read)"):
        open_paired(Path(f"{remote}/gone.tar"), size=16)
    with pytest.raises(ConfigError, match=r"pix2gan\[shards\]"):
        open_paired(Path("nosuchprotocol://bucket/x.tar"), size=16)


class Web(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, whose files it lists; one index is refused, though there is no secret."""

    def send_head(self) -> Any:
        if self.path in {"/forbidden.tar", "/p-001.tar.index"}:
            return self.send_error(403)
        return super().send_head()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(packed: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    handler = functools.partial(Web, directory=str(packed / "shards"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("name", ["p-{000..002}.tar", "p-*.tar"])
def test_shards_behind_http_are_those_on_the_disk(packed: Path, web: str, name: str) -> None:
    """The second form without indexes, so that the shards themselves are listed."""
    if "*" in name:
        for index in (packed / "shards").glob("*.index"):
            index.unlink()
    ours = open_paired(Path(f"{web}/{name}"), size=16)
    theirs = open_paired(packed / "shards", size=16)
    assert (ours.names, ours.shard_sizes) == (theirs.names, theirs.shard_sizes)
    sampler = ResumableSampler(10, batch=5, seed=3, shard_sizes=ours.shard_sizes)
    for workers in (1, 0):  # a worker has none of this process's connections
        batches = zip(sampler, make_loader(ours, sampler, workers), strict=False)
        for keys, batch in itertools.islice(batches, 2):
            assert torch.equal(batch["A"], torch.stack([theirs[key]["A"] for key in keys]))


def test_what_a_web_server_does_not_give_is_one_sentence(packed: Path, web: str) -> None:
    with pytest.raises(DataError, match=r"/gone\.tar cannot be fetched: .*404"):
        open_paired(Path(f"{web}/gone.tar"), size=16)
    with pytest.raises(DataError, match=r"forbidden\.tar cannot be fetched: .*403"):
        open_paired(Path(f"{web}/forbidden.tar"), size=16)
    with pytest.raises(DataError, match=r"There are no \.tar files at http://.*/q-\*\.tar"):
        open_paired(Path(f"{web}/q-*.tar"), size=16)
    nobody = "http://127.0.0.1:1"
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1/p-\*\.tar cannot be listed \("):
        open_paired(Path(f"{nobody}/p-*.tar"), size=16)
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1/p\.tar cannot be fetched: Cannot connect"):
        open_paired(Path(f"{nobody}/p.tar"), size=16)


def test_http_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
    with pytest.raises(ConfigError, match=r"^http://.* cannot be read here .*pix2gan\[shards\]"):
        open_paired(Path("http://127.0.0.1:1/p.tar"), size=16)


# -- bad shards ------------------------------------------------------------------------------------


def pack(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "holds no images"),
        ({"1.txt": b"x", "noext": b""}, "holds no images"),
        ({"1.a.png": b"x"}, "sample 1 has a"),
        ({"1.a.png": b"x", "1.b.png": b"x", "1.c.png": b"x"}, r"what is 1\.c\.png"),
        ({"1.a.png": b"x", "1.a.jpg": b"x", "1.b.png": b"x"}, r"what is 1\.a\.jpg"),
        ({"1.a.png": b"x", "1.b.png": b"x", "2.png": b"x"}, "make them alike"),
    ],
)
def test_samples_that_make_no_sense(
    tmp_path: Path, files: dict[str, bytes], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        open_paired(pack(tmp_path / "s.tar", files), size=16)


def test_damaged_tars_and_indexes(packed: Path, tmp_path: Path) -> None:
    good = packed / "shards" / "p-000.tar"
    short = tmp_path / "short.tar"
    short.write_bytes(good.read_bytes()[:2000])
    gzipped = pack(tmp_path / "zipped.tar", {"1.png": b"x"}, "w:gz")
    (tmp_path / "text.tar").write_text("hello " * 200)
    for path in (short, gzipped, tmp_path / "text.tar"):
        with pytest.raises(DataError, match=r"uncompressed tar|ends before"):
            open_paired(path, size=16)
    with pytest.raises(DataError, match=r"no \.tar files"):
        open_paired(tmp_path / "none-*.tar", size=16)
    index = good.with_name(good.name + shards.INDEX_SUFFIX)
    text = index.read_text()
    index.write_text(text[:-20])
    with pytest.raises(DataError, match="is damaged"):
        open_paired(good, size=16)
    index.write_text(
        text.replace('"members": [["1.a.png", 512', '"members": [["1.a.png", 99999999')
    )
    with pytest.raises(DataError, match="is not of this shard"):
        open_paired(good, size=16)
    index.write_text(text)
    with good.open("ab") as file:  # another tar than that of the index: read anew
        file.write(b"\0" * 512)
    assert len(open_paired(good, size=16)) == 4


def test_packing_is_deterministic(packed: Path) -> None:
    pair = open_paired(packed / "files", size=16).pairs[0]
    made = []
    for name in ("x.tar", "y.tar"):
        shards.write_shard(packed / name, [("k", {"a": pair.a, "b": pair.b})])  # type: ignore[dict-item]
        made.append((packed / name).read_bytes())
    assert made[0] == made[1]
