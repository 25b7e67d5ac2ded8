"""The command ``pix2gan``: parses, calls, prints.

Nothing of weight is imported before a command runs, so that ``pix2gan --help`` answers at once.
Exit codes: 0 done; 1 some inputs failed and the rest is done; 2 the request cannot be carried out
(usage, configuration, a bad model, ...), with one sentence on standard error; 130 stopped by
Ctrl-C, 143 by SIGTERM. ``PIX2GAN_DEBUG=1`` shows tracebacks.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NoReturn, get_args

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Dict

from pix2gan import __version__
from pix2gan.data_commands import data_app
from pix2gan.errors import ConfigError, Pix2ganError
from pix2gan.ops_commands import ops_app
from pix2gan.training.config import TrainConfig, check_names, read_yaml
from pix2gan.training.method_options import CUTConfig, CycleGANConfig, FastCUTConfig, Pix2PixConfig
from pix2gan.training.method_registry import find_method, list_methods, locate_method

DONE, SOME_FAILED, CANNOT = 0, 1, 2
# 128 + SIGINT, SIGPIPE, SIGTERM, as shells count
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143

_NAMED_BY = {"--model", "--out", "SOURCE"}  # not a Path, and yet never empty


def _refuse_empty_paths(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """ConfigError for -o '' and the like, which ``Path`` takes for the current folder."""
    for argument in arguments:
        takes_path = Path in (argument.hint, *get_args(argument.hint))
        if (takes_path or argument.name in _NAMED_BY) and any(
            token.value == "" for token in argument.tokens
        ):
            raise ConfigError(f'{argument.name} is empty: name a path, "." for the current folder.')


app = App(
    name="pix2gan",
    help="Turn images of one kind into images of another: sketches into photos, and back.",
    version=__version__,
    help_flags=["--help", "-h"],
    version_flags=["--version"],
    config=_refuse_empty_paths,
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)


def _layer_config_file(command: App, names: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what the command line leaves open, from the file behind ``--config``.

    With ``--resume`` and no such file it is the one that the run in ``--out`` has left.
    """
    last = {argument.name: argument.tokens[-1] for argument in arguments if argument.tokens}
    given = {name: token.value for name, token in last.items()}
    path = given.get("--config")
    if path is None and "--resume" in last and last["--resume"].keyword != "--no-resume":
        left = Path(given.get("--out", "")) / "config.yaml"
        path = str(left) if "--out" in given and left.is_file() else None
    if path is None:
        return
    values = read_yaml(path)
    method = names[-1]
    if values.get("method", method) != method:
        raise ConfigError(
            f"{path} is for the method {values['method']}: give it to pix2gan train "
            f"{values['method']}."
        )
    check_names(_offered[method], values, path)
    if "--steps" in given or "--epochs" in given:  # two ways to say the same thing
        values = {k: v for k, v in values.items() if k not in ("steps", "epochs")}
    values = {name: value for name, value in values.items() if value is not None}
    # Below the names of its commands: on its own "data" would be taken for pix2gan data.
    nested: dict[str, object] = dict(values)
    for name in reversed(names):
        nested = {name: nested}
    Dict(nested, source=path)(command, names, arguments)


TRAIN_OPTIONS: dict[str, type[TrainConfig]] = {
    "pix2pix": Pix2PixConfig,
    "cyclegan": CycleGANConfig,
    "cut": CUTConfig,
    "fastcut": FastCUTConfig,
}
_offered: dict[str, type[TrainConfig]] = {}  # by the commands of pix2gan train
_Flat = Parameter(name="*")
_DryRun = Annotated[
    bool,
    Parameter(
        negative="",
        help="Take a few steps, print what the training would need, and write nothing.",
    ),
]
_ConfigFile = Annotated[
    Path | None,
    Parameter(
        help="YAML file with options of the same names; what is given on the command line wins."
    ),
]

train_app = App(
    name="train",
    help="Train a translator on your own images.",
    config=(_layer_config_file, _refuse_empty_paths),
    sort_key=2,
)
app.command(train_app)
app.command(data_app)
app.command(ops_app)


@app.command(sort_key=0)
def demo(*, out: Path = Path("pix2gan-demo")) -> None:
    """Turn the bundled drawings into photos and show where they are.

    Parameters
    ----------
    out
        Folder to write to; files of an earlier demo are replaced.
    """
    from pix2gan.demo import run_demo

    print(f"The drawings and their photos, side by side: {run_demo(out)}")


@app.command(sort_key=1)
def translate(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],  # for a single one
    /,
    *more: Annotated[str, Parameter(show=False)],
    model: Annotated[str, Parameter(alias="-m")],
    out: Annotated[str, Parameter(alias="-o", allow_leading_hyphen=True)],  # "new.d/" is a folder
    recursive: bool = True,
    glob: str | None = None,
    batch_size: int = 4,
    suffix: str = "",
    format: Literal["png", "jpg", "webp", "tiff", "npy"] | None = None,
    quality: int = 95,
    on_exists: Literal["skip", "overwrite", "rename"] = "skip",
    on_error: Literal["skip", "stop"] = "skip",
    resize: Literal["none", "fit"] | None = None,
    seed: int | None = None,
    jobs: Annotated[int | None, Parameter(alias="-j")] = None,
    shard: str | None = None,
    engine: Literal["local", "ray"] = "local",
    watch: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    report: Path | None = None,
    progress: bool | None = None,
    provenance: bool = True,
    c2pa_certificate: Path | None = None,
    c2pa_key: Path | None = None,
    tile: int | Literal["auto", "none"] = "auto",
    tile_statistics: Literal["exact", "fast"] = "exact",
    codec: Literal["h264", "hevc", "vp9", "av1"] | None = None,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    direction: Literal["AtoB", "BtoA"] | None = None,
    statistics: Literal["running", "image"] | None = None,
    dropout: bool | None = None,
    trust_code: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Translate a file, a folder or a glob; what is there already is skipped.

    Parameters
    ----------
    source
        An image, a folder with images, or a glob in quotes, as in `"photos/**/*.jpg"`; - reads one
        image from standard input.
    model
        A bundled model (see pix2gan models), a model's or training run's folder, a .safetensors
        file, the .pth file of an original repository, the .onnx or .pt2 file of an export, or a
        hub id org/name.
    out
        Folder for the outputs, which mirrors the source; for a single image also a file name, or -
        for standard output.
    recursive
        Sub-folders, too.
    glob
        Of a folder only the images whose name matches, as `"*.jpg"`; with a slash in it, those
        whose path in the folder does, as `"2024/**/*.jpg"`.
    batch_size
        Images of equal size that go through the network at once.
    suffix
        Put behind the stem of every output's name: _photo makes a.png a_photo.png.
    format
        Format of the outputs; JPEG and WebP stay what they are and all else becomes PNG if not
        given, or TIFF where PNG cannot hold it.
    quality
        Of JPEG and WebP, 1 to 100.
    on_exists
        What to do with outputs that are there already: leave them (skip), make them again
        (overwrite), or write new ones beside them, a-2.png beside a.png (rename).
    on_error
        Go on after an image that failed (skip), or stop.
    resize
        Run the network at the image's resolution (none) or at the one it was trained at (fit); as
        the model's config says if not given.
    seed
        Style of the outputs, for models with a modulated generator; each seed gives another photo
        of the same drawing.
    jobs
        Threads that decode and encode; of the network, on a CPU, if not given.
    shard
        Do one part of the work: 2/5 is the second of five, which may run at the same time, on other
        machines too, and write what one run without would have written.
    engine
        ray spreads the work over a Ray cluster whose machines all see source and out; pip install
        "pix2gan[ray]".
    watch
        Go on with images that come into the folder, each as soon as it is complete, until Ctrl-C.
    dry_run
        Print which output each image would get, and write nothing.
    report
        File for one line of JSON an image: input, output, status, error, and the model.
    progress
        A bar on a terminal and lines elsewhere, if not given.
    provenance
        Let outputs say that a trained algorithm made them, and which (XMP).
    c2pa_certificate
        PEM file with the certificate to sign outputs with (C2PA), followed by those that vouch for
        it; pip install "pix2gan[c2pa]".
    c2pa_key
        PEM file with its private key.
    tile
        Work in tiles where an image does not fit into memory (auto) or has more pixels than the
        square of this number; none never does.
    tile_statistics
        What norms use in tiles: the exact statistics of the whole image, which makes the result the
        untiled one, or fast those of a sample of it.
    codec
        Of a video: h264 if not given, and vp9 in WebM.
    device
        cpu, cuda, cuda:1, ...; the GPU where there is one if not given.
    dtype
        Precision of the network's arithmetic; float32 if not given.
    direction
        Which of two models is meant, as CycleGAN's.
    statistics
        What batch norms use, if not as the model's config says.
    dropout
        Whether dropout goes on, if not as the model's config says; --seed chooses the masks. On in
        models of the original pix2pix, as in its tests.
    trust_code
        Open a model that can execute code (.pt2), because whoever made it is trusted.
    """
    from pix2gan.translation import Translator

    if source.startswith("-") and source != "-":
        raise ConfigError(f"there is no option {source}: a file of that name is ./{source}.")
    if more:
        raise ConfigError(
            f"one source at a time, and here are {1 + len(more)}: put a glob in quotes, as in "
            f"'photos/*.jpg', so that pix2gan and not the shell expands it."
        )
    translator = Translator.from_pretrained(
        model,
        device=device,
        dtype=dtype,
        direction=direction,
        statistics=statistics,
        dropout=dropout,
        trust_code=trust_code,
    )
    to_stdout = out == "-"
    if to_stdout and sys.stdout.isatty():
        raise ConfigError("the image would go to the terminal: add > photo.png, or a program.")
    with _termination_interrupts():
        result = translator.translate_paths(
            sys.stdin.buffer if source == "-" else source,
            sys.stdout.buffer if to_stdout else out,
            recursive=recursive,
            glob=glob,
            batch_size=batch_size,
            suffix=suffix,
            format=format,
            quality=quality,
            on_exists=on_exists,
            on_error=on_error,
            resize=resize,
            seed=seed,
            jobs=jobs,
            shard=shard,
            engine=engine,
            watch=watch,
            dry_run=dry_run,
            report=report,
            progress=progress,
            provenance=provenance,
            c2pa_certificate=c2pa_certificate,
            c2pa_key=c2pa_key,
            tile=None if tile == "none" else tile,
            tile_statistics=tile_statistics,
            codec=codec,
        )
    if not to_stdout:
        print(result)
    elif result.failed:
        print(result, file=sys.stderr)
    return SOME_FAILED if result.failed else DONE


def _offer_method(name: str, kind: type[TrainConfig], text: str) -> None:
    """Make ``pix2gan train NAME`` a command that takes the options of ``kind``."""

    def command(options: TrainConfig, *, config: Path | None = None, dry_run: bool = False) -> None:
        _train(name, options, dry_run)

    command.__annotations__ = {
        "options": Annotated[kind, _Flat],
        "config": _ConfigFile,
        "dry_run": _DryRun,
        "return": None,
    }
    train_app.command(command, name=name, help=text)
    _offered[name] = kind


for _name, _text in {
    "pix2pix": "Train on pairs of images: conditional GAN and L1 (Isola et al., 2017).",
    "cyclegan": "Train on unpaired images, both ways: cycle consistency (Zhu et al., 2017).",
    "cut": "Train on unpaired images, one way: contrasts of patches (Park et al., 2020).",
    "fastcut": "Train as with cut, faster and with less memory: FastCUT (Park et al., 2020).",
}.items():
    _offer_method(_name, TRAIN_OPTIONS[_name], _text)


def _offer_methods_of_others(asked_for: str | None) -> None:
    """Add the methods of other packages to ``pix2gan train``.

    They are listed without being imported; only the one that is asked for is.
    """
    for name in sorted(set(list_methods()) - set(TRAIN_OPTIONS)):
        if name in train_app:  # of an earlier call of main
            del train_app[name]
        text = f"From another package: {locate_method(name)}."
        if name == asked_for:
            found = find_method(name)
            _offer_method(name, found.options, (found.__doc__ or text).strip().partition("\n")[0])
        else:
            _offer_method(name, TrainConfig, text)


def _train(method: str, options: TrainConfig, dry_run: bool) -> None:
    from pix2gan.training import train

    if options.method == getattr(type(options), "method", None):
        options = replace(options, method=method)  # it may take those of another method
    if options.method != method:
        raise ConfigError(
            f"pix2gan train {method} was told --method {options.method}: leave it out."
        )
    if dry_run:
        from pix2gan.training.dry_run import dry_run as estimate

        found = estimate(options)
        if os.environ.get("RANK", "0") == "0":
            print(found)
    else:
        train(options)


@app.command(sort_key=3)
def evaluate(
    outputs: Path,
    /,
    *,
    against: Path,
    unpaired: Annotated[bool, Parameter(negative="")] = False,
    features: Path | None = None,
    lpips: Path | None = None,
    lpips_layers: Path | None = None,
    report: Path | None = None,
    page: Path | None = None,
    inputs: Path | None = None,
    split: str = "",
    model: str | None = None,
    direction: Literal["AtoB", "BtoA"] | None = None,
    seed: int = 0,
) -> None:
    """Score translated images against the real ones: PSNR, SSIM, L1, sliced Wasserstein distance.

    Parameters
    ----------
    outputs
        The translated images, a folder or a file.
    against
        The real images of the same names and sizes.
    unpaired
        Compare two sets of images of any names: sliced Wasserstein distance, FID and KID.
    features
        The network of FID and KID: a state dict of Inception v3 (pt_inception-2015-12-05), or an
        ONNX file that makes features of images.
    lpips
        The network of LPIPS: a state dict of AlexNet or VGG-16, or an ONNX file that makes feature
        maps.
    lpips_layers
        The weights of LPIPS's layers, where not those that torchmetrics brings.
    report
        Write the scores of every image to this JSON file.
    page
        Write scores and the worst, usual and best pairs to this HTML file.
    inputs
        What was translated, to be shown on the page: images of the same names.
    split
        The part of the data that this is, for the report.
    model
        The model that made the outputs, as translate --model takes it: its hash goes into the
        report.
    direction
        Which of two models is meant, as CycleGAN's.
    seed
        Seed of the sliced Wasserstein distance's patches and projections, and of KID's subsets.
    """
    from rich.console import Console
    from rich.progress import Progress

    from pix2gan.evaluation.report import evaluate_folders

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("Scoring")
        result = evaluate_folders(
            outputs,
            against,
            unpaired=unpaired,
            features=features,
            lpips=lpips,
            lpips_layers=lpips_layers,
            report=report,
            page=page,
            inputs=inputs,
            split=split,
            model=model,
            direction=direction,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(result.summary())


@app.command(sort_key=3)
def convert(
    model: str,
    out: Path,
    /,
    *,
    to: Literal["pix2gan", "original"] = "pix2gan",
    dtype: Literal["float32", "float16"] | None = None,
    direction: Literal["AtoB", "BtoA"] | None = None,
    statistics: Literal["running", "image"] | None = None,
    dropout: bool | None = None,
    overwrite: bool = False,
) -> None:
    """Convert a checkpoint of the original repositories into a model folder, or back.

    Parameters
    ----------
    model
        The .pth file of a generator of pix2pix, CycleGAN, CUT or pix2pixHD, the folder that holds
        it, or a model of pix2gan.
    out
        The folder to write (to pix2gan), or the .pth file (to original).
    to
        pix2gan: model.safetensors and config.json. original: the names and the layout of the
        original repository, for use with its code.
    dtype
        How weights are stored; as they were if not given.
    direction
        Which of two generators is meant, as CycleGAN's G_A (AtoB) and G_B (BtoA).
    statistics
        What batch norms are to use in translation: the running statistics of training, or each
        image's own, as the original repositories test.
    dropout
        Whether dropout goes on in translation; as the original repositories test if not given.
    overwrite
        Replace what is there already.
    """
    from pix2gan.checkpoints import load_model, resolve_model, save_legacy, save_model
    from pix2gan.checkpoints.exported import require_weights

    target = out / "config.json" if to == "pix2gan" else out
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} is there already: give another path, or --overwrite.")
    generator, config = load_model(
        resolve_model(model, direction),
        direction=direction,
        statistics=statistics,
        dropout=dropout,
    )
    require_weights(generator, config)
    dtype = dtype or config.weights_dtype  # type: ignore[assignment]
    config = replace(config, weights_dtype=str(dtype))
    if to == "pix2gan":
        save_model(out, generator, config, dtype=config.weights_dtype)
    else:
        save_legacy(out, generator, config)
    shown = config.architecture
    size = sum(p.numel() for p in generator.parameters()) / 1e6
    print(
        f"{out}: {shown['name']} of width {shown['width']}, {shown['norm']} norm, "
        f"{config.in_channels} to {config.out_channels} channels, {size:.3g} M parameters, "
        f"{config.direction}"
    )


@app.command(sort_key=3)
def export(
    model: Annotated[str, Parameter(name=["--model", "-m"])],
    *,
    to: Literal["onnx", "torch", "aoti"] = "onnx",
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    direction: Literal["AtoB", "BtoA"] | None = None,
    statistics: Literal["running", "image"] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model for another runtime: ONNX, torch.export or compiled code.

    The file takes any batch and any size, is compared with the original before it is in place, and
    is a model for pix2gan translate, too.

    Parameters
    ----------
    model
        A bundled model, a model's or training run's folder, a .safetensors file, the .pth file of
        an original repository, or a hub id org/name.
    to
        onnx: for ONNX Runtime, OpenVINO and others. torch: an archive of torch.export (.pt2). aoti:
        code that AOTInductor compiles for this machine's processor (.pt2; needs a C++ compiler).
    out
        The file; the model's name in the current folder if not given.
    direction
        Which of two models is meant, as CycleGAN's.
    statistics
        What batch norms use, if not as the model's config says.
    overwrite
        Replace a file that is there already.
    """
    from pix2gan.export import export_model

    print(
        export_model(
            model, to, out, direction=direction, statistics=statistics, overwrite=overwrite
        )
    )


@app.command(sort_key=5)
def models(pattern: str = "*", /) -> None:
    """List the bundled models and the generators that can be trained.

    Parameters
    ----------
    pattern
        Show only names that match, as in "*unet*".
    """
    from fnmatch import fnmatchcase

    from pix2gan.checkpoints import list_pretrained
    from pix2gan.models import list_models

    bundled = [name for name in list_pretrained() if fnmatchcase(name, pattern)]
    generators = list_models(pattern)
    if not bundled and not generators:
        raise ConfigError(f"no model is called {pattern!r}; pix2gan models shows all of them.")
    for title, names in (("bundled models", bundled), ("generators to train", generators)):
        for line in [f"{title}:", *(f"  {name}" for name in names)] if names else []:
            print(line)


@app.command(sort_key=6)
def doctor() -> None:
    """Show versions, devices, backends and why one is missing; paste it into a bug report."""
    from pix2gan.doctor import report

    print(report())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (``sys.argv`` if none is given) and return its exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr: a file's name may be no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words[:1] == ["train"]:
            _offer_methods_of_others(words[1] if len(words) > 1 else None)
        result = app(words)
        sys.stdout.flush()
        return result if isinstance(result, int) else DONE
    except KeyboardInterrupt as end:
        print("pix2gan: stopped", file=sys.stderr)
        return TERMINATED if isinstance(end, _Terminated) else INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (CycloptsError, Pix2ganError, OSError) as error:
        if os.environ.get("PIX2GAN_DEBUG"):
            raise
        print(f"pix2gan: error: {_sentence(error)}", file=sys.stderr)
        return CANNOT


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers send it: it ends what Ctrl-C ends, and as carefully."""


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    def interrupt(*_: object) -> NoReturn:
        raise _Terminated

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may ask for signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "get access, or choose another place"
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room and run the same again"),
}


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        names = [os.fspath(n) for n in (error.filename, error.filename2) if n is not None]
        what = f"{' -> '.join(map(str, names))}: {error.strerror}" if names else error.strerror
        remedy = _REMEDIES.get(error.errno or 0)
        return f"{what}; {remedy}" if remedy else what
    if isinstance(error, Pix2ganError):  # some list files, one an indented line
        return re.sub(r"\s*\n(?!  )\s*", " ", str(error)).strip()
    return " ".join(str(error).split()) or type(error).__name__
