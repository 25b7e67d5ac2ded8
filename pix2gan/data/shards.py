"""Shards: tar files of samples, as WebDataset has them, on this machine or behind a URL.

The files of one sample follow each other in the tar and share their name up to the first dot, the
key. What comes behind it says what a file is: ``000123.a.png`` and ``000123.b.jpg`` are the images
of a pair, ``000123.png`` alone is an image that holds A|B side by side, a photo to be sketched, or
one image of an unpaired domain. Files that are no images (``.json``, ``.cls``) are left alone.

A shard is listed once, from its headers or from the index beside it (``NAME.tar.index``), and each
image is then read from its place in the tar. So a sample has an index like any other, and a
training resumes at any position without replaying what came before it. Nothing is ever unpacked.

Shards behind a URL are read through fsspec (``s3://``, ``gs://``, ``https://``, ...): one is
fetched whole when a sample of it is needed, and the last few are kept in a temporary folder.
"""

from __future__ import annotations

import glob
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tarfile
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pix2gan.data.image_io import IMAGE_SUFFIXES, natural_key
from pix2gan.errors import ConfigError, DataError
from pix2gan.file_io import atomic_write

INDEX_SUFFIX = ".index"
"""Behind a shard's name: its index."""

KEPT_SHARDS = 4
"""So many fetched shards lie in the temporary folder at a time."""


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    url: str
    """Path or URL."""
    cache: ShardCache | None
    """Where it is kept once fetched; None if it lies on this machine."""

    def path(self) -> Path:
        """The shard on this machine, fetched if need be."""
        return Path(self.url) if self.cache is None else self.cache.fetch(self.url)


@dataclass(frozen=True)
class ShardMember:
    """One file in a shard."""

    shard: Shard
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard.url}#{self.name}"

    def open(self) -> IO[bytes]:
        """Its bytes as a file, named for errors."""
        for attempt in (1, 2):
            try:
                with self.shard.path().open("rb") as tar:
                    tar.seek(self.offset)
                    data = tar.read(self.size)
                break
            except FileNotFoundError:  # another process made room just now
                if attempt == 2 or self.shard.cache is None:
                    raise DataError(f"The shard {self.shard.url} is gone; restore it.") from None
        file = io.BytesIO(data)
        file.name = str(self)
        return file


@dataclass(frozen=True)
class ShardSample:
    """The images of one sample: both of a pair, or one."""

    key: str
    a: ShardMember | None
    b: ShardMember
    """Image of domain B, or the only one."""


# -- finding ---------------------------------------------------------------------------------------


def names_shards(data: str | os.PathLike[str]) -> bool:
    """Whether ``data`` is a tar file, a pattern or URL of such, or a folder with nothing else."""
    text = restore_url(data)
    if "::" in text or "://" in text or text.endswith(".tar"):
        return True
    folder = Path(text)
    return folder.is_dir() and any(folder.glob("*.tar"))


def open_shards(data: str | os.PathLike[str]) -> list[list[ShardSample]]:
    """The samples of each shard, shards in natural order.

    Args:
        data: A tar file; a folder of them; a pattern with ``*`` or ranges, as in
            ``pairs-{000..099}.tar``; or a URL of a tar file or such a pattern.

    Raises:
        DataError: If there is none, or one is no tar file or holds no sample.
        ConfigError: If the library for such URLs is not installed.
    """
    text = restore_url(data)
    cache = ShardCache() if _is_url(text) else None
    urls = _list_urls(text)
    if not urls:
        raise DataError(f"There are no .tar files at {text}; check the path.")
    shards = [Shard(url, cache) for url in urls]
    samples = [_samples(shard, read_index(shard)) for shard in shards]
    kinds = {sample.a is None for shard in samples for sample in shard}
    if len(kinds) > 1:
        raise DataError(
            f"Some samples of {text} have two images KEY.a.png and KEY.b.png, and others one; "
            "make them alike."
        )
    return samples


def restore_url(data: str | os.PathLike[str]) -> str:
    """``data`` as text; URLs that went through ``Path``, which makes // one slash, get it back."""
    return re.sub(r"^((?:\w+::)?[a-z][a-z0-9+]+):/(?=[^/])", r"\1://", os.fspath(data))


def _is_url(text: str) -> bool:
    return "://" in text


def _list_urls(text: str) -> list[str]:
    expanded = list(_expand_ranges(text))
    if _is_url(text):
        found = [url for one in expanded for url in _glob_url(one)]
    elif Path(text).is_dir():
        found = [str(path) for path in Path(text).glob("*.tar")]
    else:
        # Not Path.glob: the pattern may be absolute.
        found = [path for one in expanded for path in glob.glob(one)]  # noqa: PTH207
    return sorted(found, key=natural_key)


def _expand_ranges(text: str) -> Iterator[str]:
    """``a{00..02}b`` as a00b, a01b and a02b; several ranges as all their combinations."""
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", text)
    texts, ranges = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
    counts = [range(int(first), int(last) + 1) for first, last in ranges]
    for numbers in itertools.product(*counts):
        words = [texts[0]]
        for number, (first, _), rest in zip(numbers, ranges, texts[1:], strict=True):
            words += [str(number).zfill(len(first)), rest]
        yield "".join(words)


def _glob_url(url: str) -> list[str]:
    if not glob.has_magic(url):
        return [url]
    files, path = _file_system(url)
    try:
        return [str(files.unstrip_protocol(found)) for found in files.glob(path)]
    except Exception as error:  # each protocol's library raises its own
        raise DataError(
            f"What lies at {url} cannot be listed ({_reason(error)}): check the address, or name "
            "the shards by a range, as in pairs-{000..099}.tar."
        ) from error


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec  # comes with torch

    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{url} cannot be read here ({reason}): install pix2gan[shards], or the package named."
        ) from None
    return files, str(path)


def _reason(error: BaseException) -> str:
    """Why a file behind a URL cannot be had, in a few words."""
    if isinstance(error, FileNotFoundError):  # its own text is the URL
        return "there is no such file" if error.__cause__ is None else _reason(error.__cause__)
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


# -- listing ---------------------------------------------------------------------------------------

Members = Sequence[tuple[str, int, int]]
"""Name, offset and size of each file in a tar."""


def read_index(shard: Shard) -> Members:
    """What lies where in a shard: from the index beside it if it is of this tar, else its headers.

    Raises:
        DataError: If it is no uncompressed tar file.
    """
    try:
        index = _read_index_file(shard)
        return scan_tar(shard.path()) if index is None else index
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise DataError(f"The shard {shard.url} cannot be read: {reason}.") from None


def scan_tar(path: Path) -> Members:
    """Name, offset and size of the regular files in an uncompressed tar, from its headers.

    Raises:
        DataError: If it is something else, or ends early.
        OSError: If it cannot be read.
    """
    members = []
    whole = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    members.append((member.name, member.offset_data, member.size))
    except tarfile.TarError as error:
        raise DataError(
            f"{path} is not an uncompressed tar file ({error}): make it again, without gzip."
        ) from None
    if any(size < 0 or offset + size > whole for _, offset, size in members):
        raise DataError(f"{path} ends before its last file does: copy it again.")
    return members


def write_index(path: Path) -> Path:
    """List a shard on this machine in an index beside it, which spares fetching it for that."""
    index = path.with_name(path.name + INDEX_SUFFIX)
    content = {"size": path.stat().st_size, "members": scan_tar(path)}
    with atomic_write(index, "w") as file:
        json.dump(content, file, ensure_ascii=False)
    return index


def _read_index_file(shard: Shard) -> Members | None:
    """The index beside a shard; None where there is none, or it is of a tar of another size."""
    try:
        size: int | None
        if shard.cache is None:
            size = Path(shard.url).stat().st_size
            text = Path(shard.url + INDEX_SUFFIX).read_bytes()
        else:
            fetched = _fetch_index(shard.url)
            if fetched is None:
                return None
            size, text = fetched
        content = json.loads(text)
        if content["size"] != size:
            return None
        members = [(str(name), int(o), int(s)) for name, o, s in content["members"]]
    except FileNotFoundError:
        Path(shard.url).stat()  # whether it is the shard that is missing
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"The index {shard.url}{INDEX_SUFFIX} is damaged: remove it, or make it again with "
            "pix2gan data shard."
        ) from None
    if any(o < 0 or s < 0 or (size is not None and o + s > size) for _, o, s in members):
        raise DataError(f"The index {shard.url}{INDEX_SUFFIX} is not of this shard: remove it.")
    return members


def _fetch_index(url: str) -> tuple[int | None, bytes] | None:
    """The size of a shard behind a URL, None if nobody says, and its index."""
    files, path = _file_system(url)
    try:
        return files.size(path), files.cat_file(path + INDEX_SUFFIX)
    except Exception:  # some servers refuse what they lack; the shard itself tells what is wrong
        return None


def _samples(shard: Shard, members: Members) -> list[ShardSample]:
    by_key: dict[str, dict[str, ShardMember]] = {}
    for name, offset, size in members:
        folder, _, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot or "." + extension.rpartition(".")[2].lower() not in IMAGE_SUFFIXES:
            continue
        side = extension.rpartition(".")[0].lower()
        key = f"{folder}/{stem}" if folder else stem
        images = by_key.setdefault(key, {})
        if side not in {"", "a", "b"} or side in images:
            raise DataError(
                f"{shard.url}: what is {name}? Name images KEY.a.png and KEY.b.png, or KEY.png if "
                "there is one a sample, each key once."
            )
        images[side] = ShardMember(shard, name, offset, size)
    samples = []
    for key, images in by_key.items():
        if images.keys() not in ({""}, {"a", "b"}):
            raise DataError(
                f"{shard.url}: sample {key} has {' and '.join(sorted(images)) or 'one'}; it needs "
                "KEY.a.png and KEY.b.png, or a single KEY.png."
            )
        samples.append(ShardSample(key, images.get("a"), images.get("b") or images[""]))
    if not samples:
        raise DataError(f"{shard.url} holds no images named KEY.a.png and KEY.b.png, or KEY.png.")
    return samples


# -- fetching --------------------------------------------------------------------------------------


class ShardCache:
    """The last few fetched shards, in a temporary folder for this process and its workers."""

    def __init__(self, kept: int = KEPT_SHARDS) -> None:
        self.kept = kept
        self.folder = Path(tempfile.mkdtemp(prefix="pix2gan-shards-"))
        self._end = weakref.finalize(self, _remove_folder, self.folder, os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.kept, "folder": self.folder}

    def fetch(self, url: str) -> Path:
        """The shard's copy on this machine; processes that ask for the same one fetch it once.

        Raises:
            DataError: If it cannot be fetched.
        """
        path = self.folder / (hashlib.blake2b(url.encode(), digest_size=16).hexdigest() + ".tar")
        if self._is_here(path):
            return path
        with _locked(path.with_suffix(".lock")):
            if not self._is_here(path):
                self._make_room()
                self._copy(url, path)
        return path

    def _is_here(self, path: Path) -> bool:
        with suppress(FileNotFoundError):
            os.utime(path)  # what is used last goes last
            return True
        return False

    def _copy(self, url: str, path: Path) -> None:
        files, remote = _file_system(url)
        try:
            with files.open(remote, "rb") as source, atomic_write(path) as target:
                while block := source.read(2**22):
                    target.write(block)
        except Exception as error:  # each protocol's library raises its own
            raise DataError(f"The shard {url} cannot be fetched: {_reason(error)}.") from error

    def _make_room(self) -> None:
        here = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):
                here.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(here)[: max(0, len(here) - self.kept + 1)]:
            path.unlink(missing_ok=True)


def _remove_folder(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a worker that got a copy of the cache by fork
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock, which ends with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: at worst two workers fetch the same shard
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- writing ---------------------------------------------------------------------------------------


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, Path]]]) -> None:
    """Pack samples into one tar with its index; the same samples give the same bytes.

    Args:
        path: The tar to write; it appears whole or not at all.
        samples: For each a key without a dot, and its files: ``{"a": ..., "b": ...}``, or
            ``{"": ...}`` where there is one.
    """
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for key, files in samples:
            for side, source in files.items():
                name = ".".join(filter(None, (key, side))) + source.suffix.lower()
                member = tarfile.TarInfo(name)
                with source.open("rb") as content:
                    member.size = os.fstat(content.fileno()).st_size
                    tar.addfile(member, content)
    write_index(path)
