"""Builds and loads the native kernels of csrc/: ahead of time in setup.py, else at first use.

The library is plain C++ over LibTorch's stable ABI, without a Python symbol. ``load`` takes the one
that was installed with the package, where it was built from the sources that lie here; else one
from the cache; else it compiles one, which takes about half a minute and happens once for each
version of the sources, of torch and of the processor's architecture. Processes that want it at the
same time wait for the one that builds.

setup.py reads this file without importing the package: nothing but the standard library is imported
at the top.

Environment: ``PIX2GAN_CACHE_DIR`` (default ``$XDG_CACHE_HOME/pix2gan`` or ``~/.cache/pix2gan``),
``PIX2GAN_BUILD=0`` (never compile at first use), ``PIX2GAN_BUILD_TIMEOUT`` (seconds, default 300),
``CXX`` (the compiler).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("pix2gan.ops")

HERE = Path(__file__).resolve().parent
# The name that setup.py builds under; the suffix depends on the Python.
PREBUILT = "_native_cpu"

# gcc leaves the loops unvectorised at -O2, Debian Python's default: 14 to 17 times slower. Never
# -march=native: every file of csrc/cpu/isa_*.cpp asks for its own instruction set, and the library
# must run on the machine it is copied to. FMA contraction is wanted, and exceptions are not.
COMPILE_FLAGS = (
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wno-psabi",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
)
STANDARD = "-std=c++17"
LIBRARIES = ("c10", "torch", "torch_cpu")
_MARKER = b"PIX2GAN_SOURCE_HASH="


class BuildError(Exception):
    """The library cannot be built here; the message says why and what to do, in one line."""


# ------------------------------------------------------------------------------------------ sources


def find_sources() -> Path | None:
    """csrc/: beside the package in a checkout, within it where it was installed."""
    package = HERE.parents[1]
    for folder in (package.parent / "csrc", package / "csrc"):
        if (folder / "binding.cpp").is_file():
            return folder
    return None


def source_files(csrc: Path) -> list[Path]:
    """The files to compile, those that take longest first."""
    files = [*csrc.glob("*.cpp"), *(csrc / "cpu").glob("*.cpp")]
    return sorted(files, key=lambda f: (not f.name.startswith("isa_"), f.name))


def source_hash(csrc: Path) -> str:
    """Sixteen digits that change with the sources or the flags."""
    digest = hashlib.sha256(" ".join(COMPILE_FLAGS).encode())
    files = [f for f in csrc.rglob("*") if f.suffix in {".cpp", ".h"} and f.parent.name != "cuda"]
    for file in sorted(files):
        digest.update(b"\0" + file.relative_to(csrc).as_posix().encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def compile_flags(csrc: Path) -> list[str]:
    """What every file is compiled with, besides include folders and the language standard."""
    return [*COMPILE_FLAGS, f"-DPIX2GAN_SOURCE_HASH={source_hash(csrc)}"]


def built_from(library: Path) -> str | None:
    """The hash of the sources that a library was built from; None if it does not tell."""
    found = re.search(_MARKER + rb"([0-9a-f]{16})", library.read_bytes())
    return found[1].decode() if found else None


# ---------------------------------------------------------------------------------------- compiling


def find_compiler() -> list[str]:
    """The C++ compiler as the start of a command line; ``BuildError`` where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(candidate[0]):
            return candidate
    looked_for = f"CXX={named[0]}" if named else "c++, g++ or clang++"
    raise BuildError(
        f"no C++ compiler was found ({looked_for}); install one, e.g. `apt-get install g++`, and "
        "the native CPU kernels are built at their next use"
    )


def compile_library(csrc: Path, target: Path, deadline: float) -> None:
    """Compiles csrc into the shared library ``target``, which appears when it is complete.

    ``deadline`` is a time of ``time.monotonic()``. Raises ``BuildError``.
    """
    import torch

    compiler = find_compiler()
    root = Path(torch.__file__).parent
    includes = [f"-I{root / 'include'}"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        work = Path(folder)
        sources = source_files(csrc)
        objects = [work / f"{number}.o" for number in range(len(sources))]
        flags = [STANDARD, *compile_flags(csrc), "-fPIC", *includes]
        _run_all(
            [
                [*compiler, *flags, "-c", str(source), "-o", str(object_file)]
                for source, object_file in zip(sources, objects, strict=True)
            ],
            work,
            deadline,
        )
        linked = work / target.name
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        libraries = [f"-L{root / 'lib'}", *(f"-l{name}" for name in LIBRARIES)]
        link = [*compiler, "-shared", *undefined, "-o", str(linked), *map(str, objects), *libraries]
        _run_all([link], work, deadline)
        linked.replace(target)


def _run_all(commands: Sequence[Sequence[str]], work: Path, deadline: float) -> None:
    """Runs commands side by side, as many as there are processors; the first failure ends all."""
    at_once = max(1, _processors())
    waiting = list(enumerate(commands))
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, command = waiting.pop(0)
                with (work / f"{number}.log").open("wb") as log:
                    running[number] = subprocess.Popen(
                        command, stdout=log, stderr=log, start_new_session=True
                    )
            for number, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[number]
                if code != 0:
                    log_text = (work / f"{number}.log").read_text(errors="replace")
                    raise BuildError(_first_error(commands[number], code, log_text))
            if running and time.monotonic() > deadline:
                raise BuildError(
                    "compiling the native CPU kernels took too long; set PIX2GAN_BUILD_TIMEOUT to "
                    "more seconds"
                )
            time.sleep(0.02)
    finally:
        for process in running.values():
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process with all that it has started: compilers are drivers of others."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def _first_error(command: Sequence[str], code: int, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\berror\b|undefined|cannot find", line, re.I)]
    reason = (telling or lines or [f"exit status {code}"])[0]
    return f"{command[0]} could not compile the native CPU kernels: {reason[:300]}"


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -------------------------------------------------------------------------------------------- cache


def cache_folder() -> Path:
    own = os.environ.get("PIX2GAN_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pix2gan"


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Holds a lock on a file, which the system releases should this process die."""
    try:
        import fcntl
    except ImportError:
        raise BuildError(
            f"compiling at first use is not supported on {sys.platform}; install a wheel that "
            "has the native CPU kernels"
        ) from None
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(
                        "another process has been compiling the native CPU kernels for too long "
                        f"({path} is locked); end it and start again"
                    ) from None
                time.sleep(0.1)
        yield


def _cached_library(csrc: Path) -> Path:
    """Where a build of these sources for this torch and this machine belongs."""
    import torch

    version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    system = f"{platform.system()}-{platform.machine()}".lower()
    return cache_folder() / "native" / f"{source_hash(csrc)}-torch{version}-{system}.so"


def build_cached(csrc: Path) -> Path:
    """The library from the cache, compiled first where it is not there yet; ``BuildError``.

    A failure is remembered, so that it does not cost its time again in every process: until the
    sources, torch or the compiler change.
    """
    library = _cached_library(csrc)
    if library.is_file():
        return library
    if os.environ.get("PIX2GAN_BUILD") == "0":
        raise BuildError("they are not built, and PIX2GAN_BUILD=0 forbids compiling at first use")
    compiler = find_compiler()
    deadline = time.monotonic() + _time_limit()
    failure = library.with_suffix(".failed.json")
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with _locked(library.with_suffix(".lock"), deadline):
            if library.is_file():
                return library  # built by another process meanwhile
            identity = [*compiler, *_fingerprint(compiler[0])]
            known = _remembered(failure, identity)
            if known:
                raise BuildError(f"{known} (delete {failure} to try again)")
            logger.warning(
                "pix2gan: compiling the native CPU kernels; this happens once and takes about half "
                "a minute."
            )
            try:
                compile_library(csrc, library, deadline)
            except BuildError as error:
                failure.write_text(json.dumps({"compiler": identity, "reason": str(error)}))
                raise
            failure.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(
            f"the cache cannot be written ({error}); set PIX2GAN_CACHE_DIR to a folder that can"
        ) from None
    return library


def _time_limit() -> float:
    text = os.environ.get("PIX2GAN_BUILD_TIMEOUT", "300")
    try:
        return float(text)
    except ValueError:
        raise BuildError(f"PIX2GAN_BUILD_TIMEOUT is not a number of seconds: {text!r}") from None


def _fingerprint(program: str) -> list[str]:
    """What changes when a compiler is replaced."""
    path = shutil.which(program)
    if path is None:
        return []
    status = Path(path).stat()
    return [str(Path(path).resolve()), str(status.st_size), str(int(status.st_mtime))]


def _remembered(failure: Path, identity: list[str]) -> str | None:
    try:
        record = json.loads(failure.read_text())
        return str(record["reason"]) if record["compiler"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ------------------------------------------------------------------------------------------ loading

_lock = threading.Lock()
_outcome: tuple[bool, str] | None = None


def prebuilt_library() -> Path | None:
    """The library that was installed with the package, if there is one."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    for name in (f"{PREBUILT}.abi3.so", f"{PREBUILT}{suffix}", f"{PREBUILT}.so"):
        if (HERE / name).is_file():
            return HERE / name
    return None


def load() -> tuple[bool, str]:
    """Registers the ops of ``torch.ops.pix2gan_native``; (False, the reason) where that fails.

    Prebuilt, then cached or compiled now; the answer is kept for the life of the process.
    """
    global _outcome
    with _lock:
        if _outcome is None:
            _outcome = _load()
        return _outcome


def _load() -> tuple[bool, str]:
    import torch

    problems = []
    try:
        csrc = find_sources()
        library = prebuilt_library()
        if library is not None:
            if csrc is None or built_from(library) == source_hash(csrc):
                try:
                    torch.ops.load_library(str(library))
                    return True, ""
                except OSError as error:
                    problems.append(f"{library.name} cannot be loaded ({_one_line(error)})")
            else:
                problems.append(f"{library.name} was built from other sources than {csrc}")
        if csrc is None:
            problems.append("their sources are not installed; reinstall pix2gan")
        else:
            torch.ops.load_library(str(build_cached(csrc)))
            return True, ""
    except Exception as error:
        # Whatever goes wrong here, the reference does the work; what went wrong must be said.
        problems.append(_one_line(error))
    return False, "; ".join(problems)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
