"""The public data sets of pix2pix and CycleGAN: fetched when asked for, and at no other time.

A download that was interrupted goes on where it stopped, if the server allows it. The archive is
unpacked into a folder that appears when it is complete; nothing in it can lie outside of that. What
was taken is recorded beside the folder, in ``NAME.download.json``: URL, size and SHA-256 of the
archive, size and SHA-256 of each file. Run again, it checks the folder against that; where the
folder is gone, the archive that is fetched anew has to be the same.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pix2gan.errors import ConfigError, DataError
from pix2gan.file_io import atomic_write

try:
    from lzma import LZMAError
except ImportError:  # this Python was built without lzma, and opens no such archives
    LZMAError = RuntimeError  # type: ignore[misc, assignment]

_PIX2PIX = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/"
_CYCLEGAN = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/"
_BLOCK = 2**18
_TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class PublicData:
    """One archive.

    Sizes and checksums are not listed: none has been verified by this project. The size is what
    the server says, and what arrives has to have it; a checksum that the user has is compared, and
    so is what an earlier download has recorded.
    """

    url: str
    paired: bool
    what: str

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return self.url.rpartition("/")[2]


def _list() -> dict[str, PublicData]:
    paired = {
        "facades": "label maps and facades",
        "cityscapes": "label maps and street scenes",
        "maps": "aerial photos and maps",
        "edges2shoes": "edges and shoes",
        "edges2handbags": "edges and handbags",
        "night2day": "night and day",
    }
    unpaired = {
        "apple2orange": "apples and oranges",
        "summer2winter_yosemite": "summer and winter",
        "horse2zebra": "horses and zebras",
        "monet2photo": "Monet's paintings and photos",
        "cezanne2photo": "Cezanne's paintings and photos",
        "ukiyoe2photo": "ukiyo-e prints and photos",
        "vangogh2photo": "van Gogh's paintings and photos",
        "iphone2dslr_flower": "flowers by phone and by camera",
    }
    found = {n: PublicData(f"{_PIX2PIX}{n}.tar.gz", True, what) for n, what in paired.items()}
    return found | {n: PublicData(f"{_CYCLEGAN}{n}.zip", False, w) for n, w in unpaired.items()}


PUBLIC_DATA = _list()
"""Name -> data set."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and those in all, None if nobody knows."""


def download(
    name: str,
    out: Path,
    *,
    mirror: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> tuple[Path, str]:
    """Fetch a data set and unpack it into the folder ``out / name``; check one that is there.

    Args:
        name: A key of ``PUBLIC_DATA``.
        out: The folder to put it in; made if need be. The archive is removed once it is unpacked.
        mirror: Another URL in place of the folder that the archive lies in.
        sha256: What the archive must hash to, in hexadecimal digits.
        progress: Told how far it is.

    Returns:
        The folder, and the archive's SHA-256.

    Raises:
        ConfigError: If there is no such data set, or ``out / name`` is not of an earlier download.
        DataError: If it cannot be fetched, or is not what it should be.
    """
    if name not in PUBLIC_DATA:
        raise ConfigError(f"There is no data set {name!r}: choose one of {', '.join(PUBLIC_DATA)}.")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"sha256 takes 64 hexadecimal digits, got {sha256!r}.")
    data, folder = PUBLIC_DATA[name], out / name
    note = out / f"{name}.download.json"
    known = _read_record(note)
    if folder.exists():
        if known is None:
            raise ConfigError(f"{folder} exists already: remove it to download it again.")
        _check_files(folder, known["files"])
        return folder, known["sha256"]
    out.mkdir(parents=True, exist_ok=True)
    url = data.url if mirror is None else f"{mirror.rstrip('/')}/{data.archive}"
    if not _is_url(url):
        raise ConfigError(f"A mirror is a URL http://... or https://..., not {mirror!r}.")
    archive = out / data.archive
    fetch(url, archive, progress)
    digest = _hash(archive)
    if sha256 is not None and digest != sha256.lower():
        archive.unlink()
        raise DataError(
            f"{url} is not what it should be: its SHA-256 is {digest}, not {sha256.lower()}; it "
            "has been removed, download it again."
        )
    size = archive.stat().st_size
    if sha256 is None and known is not None and digest != known["sha256"]:
        archive.unlink()
        raise DataError(
            f"{url} has {size} bytes of SHA-256 {digest}, and had {known['bytes']} of "
            f"{known['sha256']} when it was downloaded before: remove {note} to take the new ones."
        )
    unpack(archive, folder)
    record = {"url": url, "bytes": size, "sha256": digest, "files": _files(folder)}
    with atomic_write(note) as file:
        file.write(json.dumps(record, indent=1).encode())
    archive.unlink()
    return folder, digest


def recorded(name: str, out: Path) -> tuple[int, str] | None:
    """Bytes and SHA-256 of the archive that was downloaded to ``out``; None if none was.

    Raises:
        DataError: If the record cannot be read.
    """
    known = _read_record(out / f"{name}.download.json")
    return None if known is None else (known["bytes"], known["sha256"])


def _is_url(text: str) -> bool:
    """Whether it can be asked for by HTTP: a host, a port that is a number, and ASCII alone."""
    try:
        parts = urllib.parse.urlsplit(text)
        _ = parts.port  # raises as well
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and text.isascii()


def _files(folder: Path) -> dict[str, list[Any]]:
    """Size and SHA-256 of each file below ``folder``, by its path in there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f.relative_to(folder).as_posix(): [f.stat().st_size, _hash(f)] for f in files}


def _read_record(path: Path) -> dict[str, Any] | None:
    """What an earlier download has recorded.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        files = record["files"].items()
        sizes = {str(name): [int(size), str(digest)] for name, (size, digest) in files}
        return {"bytes": int(record["bytes"]), "sha256": str(record["sha256"]), "files": sizes}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}): remove it and the data set's folder, "
            "and download again."
        ) from None


def _check_files(folder: Path, recorded: dict[str, list[Any]]) -> None:
    """DataError unless all files that were recorded are there as they were."""
    wrong = []
    for name, (size, digest) in recorded.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or _hash(path) != digest:
            wrong.append(name)
    if wrong:
        shown = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise DataError(
            f"{len(wrong)} of {len(recorded)} files in {folder} are missing or not what was "
            f"downloaded ({shown}): remove the folder to download it again."
        )


class _AnotherFile(Exception):
    """The server goes on with something else than what is here."""


def fetch(url: str, path: Path, progress: Progress | None = None) -> None:
    """Download a file; what an earlier try has left in ``path.part`` is not fetched again.

    It goes on only where the server says that the rest is of the same file: by ETag or date, by
    size and by the place at which it begins. Else the download begins again.

    Raises:
        DataError: If the server does not give it, or gives less than it promised.
    """
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    if path.exists():
        return None
    have, tag, size = _read_part(part, note)
    headers = {"User-Agent": "pix2gan"}
    if have and tag:  # without a tag nobody knows whether the rest is of the same file
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            goes_on = answer.status == 206
            if goes_on and "Range" not in headers:
                raise DataError(f"{url} cannot be downloaded: the server gives a part of it only.")
            if goes_on and not _is_the_rest(answer.headers, have, tag, size):
                raise _AnotherFile
            have = have if goes_on else 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length and length.isdigit() else None
            if not goes_on:
                part.unlink(missing_ok=True)  # before the note says that it is of another file
                note.write_text(json.dumps({"tag": _tag(answer.headers), "bytes": total}))
            if total is not None and total - have > shutil.disk_usage(path.parent).free:
                raise DataError(f"{url} has {total} bytes, more than the disk of {path} has left.")
            with part.open("ab") as file:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    have += len(block)
                    if progress is not None:
                        progress(have, total)
    except _AnotherFile:
        part.unlink()
        return fetch(url, path, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and "Range" in headers:  # nothing follows what is here
            if _is_whole(error.headers, have, tag):
                part.replace(path)
                note.unlink()
            else:
                part.unlink()
                fetch(url, path, progress)
            return None
        raise DataError(
            f"{url} cannot be downloaded: the server says {error.code} ({error.reason})."
        ) from None
    except (http.client.HTTPException, TimeoutError, urllib.error.URLError, ConnectionError) as e:
        reason = getattr(e, "reason", None) or str(e) or type(e).__name__
        raise DataError(
            f"{url} cannot be downloaded ({reason}): run the same again to go on."
        ) from None
    if total is not None and have != total:
        raise DataError(f"{url} ended after {have} of {total} bytes: run the same again to go on.")
    part.replace(path)
    note.unlink(missing_ok=True)
    return None


def _read_part(part: Path, note: Path) -> tuple[int, str, int | None]:
    """How much of a file is here, what tells its version from others, and its whole size."""
    have = part.stat().st_size if part.exists() else 0
    try:
        said = json.loads(note.read_bytes())
        return have, str(said["tag"]), None if said["bytes"] is None else int(said["bytes"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or cut off while it was written
        return have, "", None


def _is_the_rest(headers: Message, have: int, tag: str, size: int | None) -> bool:
    """Whether a part of a file is the one behind the first ``have`` bytes of the same version."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", str(headers.get("Content-Range", "")).strip())
    return (
        found is not None
        and int(found[1]) == have
        and (found[2] == "*" or size is None or int(found[2]) == size)
        and _tag(headers) in {"", tag}
    )


def _is_whole(headers: Message, have: int, tag: str) -> bool:
    """Whether the refusal of a range says that the first ``have`` bytes are all of the file."""
    size = str(headers.get("Content-Range", "")).replace(" ", "")
    return size == f"bytes*/{have}" and _tag(headers) in {"", tag}


def _tag(headers: Message) -> str:
    """What tells this version of the file from others; weak tags cannot."""
    tag = str(headers.get("ETag") or "")
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified") or "")


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


# -- unpacking -------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar.gz into ``folder``, which appears when it is complete.

    A single folder at the archive's top, as these data sets have it, is left out. Only regular
    files are written, all of them inside of the folder.

    Raises:
        DataError: If the archive is damaged, and is removed, or names a file outside of the folder.
    """
    making = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        if archive.suffix == ".zip":
            _unpack_zip(archive, making)
        else:
            _unpack_tar(archive, making)
    except BaseException as error:
        shutil.rmtree(making, ignore_errors=True)
        if not _is_damage(error):
            raise
        archive.unlink()
        raise DataError(
            f"{archive} is damaged ({error}): it has been removed, download it again."
        ) from None
    inside = list(making.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        inside[0].replace(folder)
        making.rmdir()
    else:
        making.replace(folder)


def _is_damage(error: BaseException) -> bool:
    """Whether it is the archive that is at fault, not the disk or the user."""
    if isinstance(error, OSError):  # gzip's and bz2's; the system's have a number
        return error.errno is None
    damage = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError)
    return isinstance(error, (*damage, EOFError, ValueError, RuntimeError))


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            is_link = (entry.external_attr >> 16) & 0o170000 == 0o120000
            if not entry.is_dir() and not is_link:
                with source.open(entry) as content:
                    _write(content, _inside(folder, entry.filename, archive))


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "r:*") as source:
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            if content is not None:
                _write(content, _inside(folder, member.name, archive))
        # Checksums of compressed files lie at their end, behind what tarfile reads.
        while source.fileobj is not None and source.fileobj.read(_BLOCK):
            pass


def _inside(folder: Path, name: str, archive: Path) -> Path:
    """Where a file of the archive goes."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if (
        not parts
        or name.startswith(("/", "\\"))
        or ".." in parts
        or ":" in parts[0]
        or "\0" in name
    ):
        raise DataError(f"{archive} names {name!r}, which lies outside of it: do not use it.")
    return folder.joinpath(*parts)


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, _BLOCK)
