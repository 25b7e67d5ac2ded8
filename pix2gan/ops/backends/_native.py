"""Builds and loads the native kernels of csrc/: ahead of time in setup.py, else at first use.

There is one library for each kind of device, ``CPU`` and ``CUDA``: csrc/binding.cpp with the
kernels of one folder, over LibTorch's stable ABI and without a Python symbol. ``load`` takes the
library that was installed with the package, where it was built from the sources that lie here; else
one from the cache; else it compiles one, which happens once for each version of the sources, of
torch and of the hardware's architecture. Processes that want it at the same time wait for the one
that builds.

setup.py reads this file without importing the package: nothing but the standard library is imported
at the top.

Environment: ``PIX2GAN_CACHE_DIR`` (default ``$XDG_CACHE_HOME/pix2gan`` or ``~/.cache/pix2gan``),
``PIX2GAN_BUILD=0`` (never compile at first use), ``PIX2GAN_BUILD_TIMEOUT`` (seconds, default 300),
``CXX`` (the compiler), ``NVCC`` (the CUDA compiler; else that of ``CUDA_HOME`` or of the PATH).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

logger = logging.getLogger("pix2gan.ops")

HERE = Path(__file__).resolve().parent
STANDARD = "-std=c++17"
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
NVCC_FLAGS = ("-O3", "-Xcompiler=-fPIC,-fvisibility=hidden")
# What a library is built for where no GPU tells: A100, H100 and H200, B200.
CUDA_ARCHITECTURES = ("80", "90", "100")
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


def built_from(library: Path) -> str | None:
    """The hash of the sources that a library was built from; None if it does not tell."""
    found = re.search(_MARKER + rb"([0-9a-f]{16})", library.read_bytes())
    return found[1].decode() if found else None


# ---------------------------------------------------------------------------------------- libraries


class Library:
    """One library: what it is made of, and how. This one is that of the CPU."""

    name = "cpu"  # its folder in csrc/
    title = "the native CPU kernels"
    namespace = "pix2gan_native"  # of its ops in torch.ops
    duration = "about a minute"
    flags: tuple[str, ...] = COMPILE_FLAGS
    linked: tuple[str, ...] = ("c10", "torch", "torch_cpu")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcome: tuple[bool, str] | None = None

    @property
    def prebuilt(self) -> str:
        """The name that setup.py builds under; the suffix depends on the Python."""
        return f"_native_{self.name}"

    def source_files(self, csrc: Path) -> list[Path]:
        """The files to compile, those that take longest first."""
        files = [*csrc.glob("*.cpp"), *(csrc / self.name).glob("*.c*")]
        files = [file for file in files if file.suffix in {".cpp", ".cu"}]
        long = ("isa_", "instance_norm", "upfirdn2d")
        return sorted(files, key=lambda f: (not f.name.startswith(long), f.name))

    def source_hash(self, csrc: Path) -> str:
        """Sixteen digits that change with the sources or the flags."""
        digest = hashlib.sha256(" ".join(self.flags).encode())
        files = [*csrc.glob("*"), *(csrc / self.name).glob("*")]
        for file in sorted(f for f in files if f.suffix in {".cpp", ".cu", ".cuh", ".h"}):
            digest.update(b"\0" + file.relative_to(csrc).as_posix().encode() + b"\0")
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def compile_flags(self, csrc: Path) -> list[str]:
        """What every C++ file is compiled with, besides the language standard."""
        return [*self.flags, f"-DPIX2GAN_SOURCE_HASH={self.source_hash(csrc)}"]

    def tools(self) -> list[list[str]]:
        """The programs that build it, as the starts of command lines; ``BuildError`` where one is
        missing."""
        return [find_compiler(self.title)]

    def hardware(self) -> str:
        """What a build in the cache fits only one of, beside sources and torch."""
        return f"{platform.system()}-{platform.machine()}".lower()

    def compile_command(self, csrc: Path, source: Path, target: Path) -> list[str]:
        flags = [STANDARD, *self.compile_flags(csrc), "-fPIC", f"-I{_torch_folder() / 'include'}"]
        return [*self.tools()[0], *flags, "-c", str(source), "-o", str(target)]

    def link_command(self, objects: Sequence[Path], target: Path) -> list[str]:
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        libraries = [f"-L{_torch_folder() / 'lib'}", *(f"-l{name}" for name in self.linked)]
        command = [*self.tools()[-1], "-shared", *undefined, "-o", str(target)]
        return [*command, *map(str, objects), *libraries]


class CudaLibrary(Library):
    """That of NVIDIA's GPUs: the kernels go through nvcc, for the GPUs of this machine or for
    those of ``TORCH_CUDA_ARCH_LIST``."""

    name = "cuda"
    title = "the CUDA kernels"
    namespace = "pix2gan_cuda"
    duration = "a few minutes"
    flags = (*COMPILE_FLAGS, "-DPIX2GAN_CUDA", "-DUSE_CUDA")
    linked = ("c10", "torch", "torch_cpu", "c10_cuda", "torch_cuda")

    def tools(self) -> list[list[str]]:
        return [find_compiler(self.title), [find_nvcc()]]

    def hardware(self) -> str:
        return f"{super().hardware()}-sm{'-'.join(cuda_architectures())}"

    def compile_command(self, csrc: Path, source: Path, target: Path) -> list[str]:
        if source.suffix != ".cu":
            return super().compile_command(csrc, source, target)
        compiler, nvcc = self.tools()
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in cuda_architectures()]
        flags = [STANDARD, *NVCC_FLAGS, *codes, f"-ccbin={compiler[0]}"]
        return [*nvcc, *flags, "-c", str(source), "-o", str(target)]


CPU = Library()
CUDA = CudaLibrary()


def _torch_folder() -> Path:
    import torch

    return Path(torch.__file__).parent


def cuda_architectures() -> tuple[str, ...]:
    """The architectures to compile for, as ("80", "90")."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if named:
        found = re.findall(r"(\d+)\.(\d+[a-z]?)", named)
        if not found:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST has no architecture such as 9.0 in it: {named!r}"
            )
        return tuple(dict.fromkeys(major + minor for major, minor in found))
    import torch

    if not torch.cuda.is_available():
        return CUDA_ARCHITECTURES
    devices = range(torch.cuda.device_count())
    found = sorted({torch.cuda.get_device_capability(device) for device in devices})
    return tuple(f"{major}{minor}" for major, minor in found)


def find_compiler(title: str) -> list[str]:
    """The C++ compiler as the start of a command line; ``BuildError`` where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(candidate[0]):
            return candidate
    looked_for = f"CXX={named[0]}" if named else "c++, g++ or clang++"
    raise BuildError(
        f"no C++ compiler was found ({looked_for}); install one, e.g. `apt-get install g++`, and "
        f"{title} are built at their next use"
    )


def find_nvcc() -> str:
    """The CUDA compiler; ``BuildError`` where there is none."""
    named = os.environ.get("NVCC")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    in_home = [str(Path(home) / "bin" / "nvcc")] if home else []
    for candidate in [named] if named else [*in_home, "nvcc", "/usr/local/cuda/bin/nvcc"]:
        if shutil.which(candidate):
            return candidate
    looked_for = f"NVCC={named}" if named else "in CUDA_HOME, the PATH and /usr/local/cuda"
    raise BuildError(
        f"no nvcc was found ({looked_for}); install the CUDA toolkit of torch's version, or set "
        "CUDA_HOME to where it is"
    )


# ---------------------------------------------------------------------------------------- compiling


def compile_library(library: Library, csrc: Path, target: Path, deadline: float) -> None:
    """Compiles csrc into the shared library ``target``, which appears when it is complete.

    ``deadline`` is a time of ``time.monotonic()``. Raises ``BuildError``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        work = Path(folder)
        sources = library.source_files(csrc)
        objects = [work / f"{number}.o" for number in range(len(sources))]
        commands = {
            object_file: library.compile_command(csrc, source, object_file)
            for source, object_file in zip(sources, objects, strict=True)
        }
        linked = work / target.name
        commands[linked] = library.link_command(objects, linked)
        _run_ninja(library.title, _build_file(commands, linked), work, deadline)
        linked.replace(target)


def _build_file(commands: dict[Path, list[str]], linked: Path) -> str:
    """What ninja reads: each file and the command that makes it, ``linked`` from all others."""
    text = io.StringIO()
    writer = _ninja().ninja_syntax.Writer(text, width=sys.maxsize)
    writer.rule("run", command="$line", description="$out")
    objects = [str(file) for file in commands if file != linked]
    for file, command in commands.items():
        line = shlex.join(command).replace("$", "$$")
        inputs = objects if file == linked else None
        writer.build(str(file), "run", inputs=inputs, variables={"line": line})
    return text.getvalue()


def _run_ninja(title: str, build_file: str, work: Path, deadline: float) -> None:
    """Builds all of a build file, as many commands at a time as there are processors."""
    (work / "build.ninja").write_text(build_file)
    program = [*_ninja_program(), "--quiet", "-C", str(work), "-j", str(_processors())]
    with (work / "log.txt").open("w+", errors="replace") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise BuildError(
                f"compiling {title} took too long; set PIX2GAN_BUILD_TIMEOUT to more seconds"
            ) from None
        finally:
            _end(process)
        if code != 0:
            log.seek(0)
            raise BuildError(_first_error(title, log.read(), code))


def _ninja() -> ModuleType:
    """The package that brings ninja, and its writer of build files."""
    try:
        import ninja
        import ninja.ninja_syntax
    except ImportError:
        raise BuildError(
            "ninja, which runs the compilers, is missing; `pip install ninja`"
        ) from None
    return ninja


def _ninja_program() -> list[str]:
    """The package's own, whatever stands in the PATH: other versions know other options."""
    return [str(Path(_ninja().BIN_DIR) / "ninja")]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends ninja where it still runs. SIGTERM first: it takes the compilers along, which are
    process groups of their own."""
    for end in (process.terminate, process.kill):
        if process.poll() is None:
            end()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def _first_error(title: str, log: str, code: int) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    program = title
    if lines and lines[0].startswith("FAILED:"):  # and the command, before what the program says
        program = shlex.split(lines[1])[0]
        lines = lines[2:]
    telling = [line for line in lines if re.search(r"\berror\b|undefined|cannot find", line, re.I)]
    reason = (telling or lines or [f"exit status {code}"])[0]
    return f"{program} could not compile {title}: {reason[:300]}"


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
def _locked(title: str, path: Path, deadline: float) -> Iterator[None]:
    """Holds a lock on a file, which the system releases should this process die."""
    try:
        import fcntl
    except ImportError:
        raise BuildError(
            f"compiling at first use is not supported on {sys.platform}; install a wheel that "
            f"has {title}"
        ) from None
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(
                        f"another process has been compiling {title} for too long "
                        f"({path} is locked); end it and start again"
                    ) from None
                time.sleep(0.1)
        yield


def _cached_library(library: Library, csrc: Path) -> Path:
    """Where a build of these sources for this torch and this machine belongs."""
    import torch

    version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    name = f"{library.name}-{library.source_hash(csrc)}-torch{version}-{library.hardware()}.so"
    return cache_folder() / "native" / name


def build_cached(library: Library, csrc: Path) -> Path:
    """The library from the cache, compiled first where it is not there yet; ``BuildError``.

    A failure is remembered, so that it does not cost its time again in every process: until the
    sources, torch or the compiler change.
    """
    cached = _cached_library(library, csrc)
    if cached.is_file():
        return cached
    if os.environ.get("PIX2GAN_BUILD") == "0":
        raise BuildError("they are not built, and PIX2GAN_BUILD=0 forbids compiling at first use")
    tools = [*library.tools(), _ninja_program()]
    deadline = time.monotonic() + _time_limit()
    failure = cached.with_suffix(".failed.json")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with _locked(library.title, cached.with_suffix(".lock"), deadline):
            if cached.is_file():
                return cached  # built by another process meanwhile
            identity = [part for tool in tools for part in (*tool, *_fingerprint(tool[0]))]
            known = _remembered(failure, identity)
            if known:
                raise BuildError(f"{known} (delete {failure} to try again)")
            logger.warning(
                "pix2gan: compiling %s; this happens once and takes %s.",
                library.title,
                library.duration,
            )
            try:
                compile_library(library, csrc, cached, deadline)
            except BuildError as error:
                failure.write_text(json.dumps({"compiler": identity, "reason": str(error)}))
                raise
            failure.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(
            f"the cache cannot be written ({error}); set PIX2GAN_CACHE_DIR to a folder that can"
        ) from None
    return cached


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


def prebuilt_library(library: Library) -> Path | None:
    """The library that was installed with the package, if there is one."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    for ending in (".abi3.so", suffix, ".so"):
        path = HERE / f"{library.prebuilt}{ending}"
        if path.is_file():
            return path
    return None


def load(library: Library) -> tuple[bool, str]:
    """Registers the ops of ``library.namespace``; (False, the reason) where that fails.

    Prebuilt, then cached or compiled now; the answer is kept for the life of the process.
    """
    with library._lock:
        if library._outcome is None:
            library._outcome = _load(library)
        return library._outcome


def _load(library: Library) -> tuple[bool, str]:
    import torch

    problems = []
    try:
        csrc = find_sources()
        prebuilt = prebuilt_library(library)
        if prebuilt is not None:
            if csrc is None or built_from(prebuilt) == library.source_hash(csrc):
                try:
                    torch.ops.load_library(str(prebuilt))
                    return True, ""
                except OSError as error:
                    problems.append(f"{prebuilt.name} cannot be loaded ({_one_line(error)})")
            else:
                problems.append(f"{prebuilt.name} was built from other sources than {csrc}")
        if csrc is None:
            problems.append("their sources are not installed; reinstall pix2gan")
        else:
            torch.ops.load_library(str(build_cached(library, csrc)))
            return True, ""
    except Exception as error:
        # Whatever goes wrong here, the reference does the work; what went wrong must be said.
        problems.append(_one_line(error))
    return False, "; ".join(problems)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
