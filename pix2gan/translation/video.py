"""Videos through PyAV: every frame translated, the sound copied as it is.

Frames keep their times, so a variable frame rate stays one. A turned video (as phones make them)
comes out upright. The same input gives the same bytes, a generator with styles having one style for
all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pix2gan import __version__
from pix2gan.errors import ConfigError, DataError
from pix2gan.file_io import atomic_write
from pix2gan.translation.processing import Array
from pix2gan.translation.provenance import DIGITAL_SOURCE_TYPE

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""The containers that can be written, by suffix."""

VIDEO_SUFFIXES = frozenset({*CONTAINERS, ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
"""Suffixes (lower case) of files that are taken for videos."""

CODECS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
"""Video codecs that can be asked for, each with its encoder; h264 is usual, and vp9 in WebM."""

_SOUND_OF_WEBM = ("opus", "libopus", "vorbis", "libvorbis")
# What lets an encoder make equal bytes of equal frames, whatever the machine does meanwhile.
_STEADY = {
    # With its macroblock tree it makes others now and then, depending on what memory held before.
    # How many threads it starts, which its bytes depend on, would be a matter of the machine.
    "libx264": {"x264-params": "mbtree=0:threads=4:lookahead-threads=1"},
    # The same; and its sample-adaptive offset reads what the stack held before.
    "libx265": {"x265-params": "cutree=0:sao=0:frame-threads=1:pools=none:log-level=error"},
}
# What a container says about itself and not about its content.
_OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "comment"}
_BT709, _BT601 = 1, 6  # AVColorSpace
_HD_LINES = 720  # from here on, a video that does not say so has the colours of HD


def translate_video(
    translator: Translator,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    codec: str | None = None,
    quality: int = 95,
    resize: str | None = None,
    seed: int | None = None,
    tile: int | str | None = "auto",
    tile_statistics: str = "exact",
    provenance: bool = True,
    progress: Callable[[float], None] | None = None,
) -> int:
    """Translate a video into another; returns how many frames it has.

    Args:
        translator: What to translate with; its model makes 1 or 3 channels.
        source: The video; its first video stream is translated, all audio is copied.
        out: Its suffix chooses the container: .mp4, .m4v, .mov, .mkv or .webm.
        batch_size, resize, seed, tile, tile_statistics: As of `Translator.__call__`.
        codec: "h264", "hevc", "vp9" or "av1"; h264 if not given, and vp9 in WebM. 8 bits a channel.
        quality: 1 to 100.
        provenance: Let the container's comment say that a trained algorithm made it, and which.
        progress: Told how much has been translated, from 0 to 1, where the length is known.

    Raises:
        ConfigError: If an option makes no sense, or PyAV is missing.
        DataError: If the source is no video, or damaged. Nothing is written then.
    """
    av, source, out = _find_av(), Path(source), Path(out)
    encoder = _check(translator, source, out, codec, quality)
    options = {
        "batch_size": batch_size,
        "resize": resize,
        "seed": seed,
        "tile": tile,
        "tile_statistics": tile_statistics,
    }
    try:
        with (
            av.open(os.fspath(source)) as video,
            atomic_write(out, "wb+") as file,
            av.open(
                file,
                "w",
                format=CONTAINERS[out.suffix.lower()],
                options={"fflags": "+bitexact"},  # or Matroska draws numbers for its streams
            ) as made,
        ):
            if not video.streams.video:
                raise DataError(f"{source} holds no video: name a video")
            _check_sound(video, source, out)
            kept = {k: v for k, v in video.metadata.items() if k.lower() not in _OF_THE_FILE}
            made.metadata.update(kept)
            if provenance:
                made.metadata["comment"] = _comment(translator)
            writer = _Writer(made, video.streams.video[0], encoder, quality)
            work = _Translation(translator, writer, options)
            sound = {s.index: made.add_stream_from_template(s) for s in video.streams.audio}
            length = float(video.duration / av.time_base) if video.duration else 0.0
            for packet in video.demux(video.streams.video[0], *video.streams.audio):
                if packet.stream.index in sound:
                    if packet.dts is not None:
                        packet.stream = sound[packet.stream.index]
                        writer.mux(packet)
                    continue
                for frame in packet.decode():
                    work.take(frame)
                    if progress is not None and length and frame.time is not None:
                        progress(min(max(frame.time / length, 0.0), 1.0))
            work.finish()
            if work.frames == 0:
                raise DataError(f"{source} has no frame: restore or re-export it")
            return work.frames
    except av.error.FFmpegError as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"There is no file {source}: check the path") from None
        detail = " ".join(str(error.strerror or error).split())[:120]
        raise DataError(
            f"{source} cannot be translated, it is damaged or no video ({detail}): restore or "
            "re-export it"
        ) from error


class _Translation:
    """Frames, translated in batches and handed on in their order."""

    def __init__(self, translator: Translator, writer: _Writer, options: dict[str, Any]) -> None:
        from pix2gan.translation.translator import check_batch_size

        self.translator, self.writer, self.options = translator, writer, options
        self.most = check_batch_size(options["batch_size"])
        self.waiting: list[Any] = []
        self.frames = 0

    def take(self, frame: Any) -> None:
        self.waiting.append(frame)
        if len(self.waiting) == self.most:
            self._translate()

    def finish(self) -> None:
        self._translate()
        self.writer.finish()

    def _translate(self) -> None:
        if not self.waiting:
            return
        pixels = [_upright(frame) for frame in self.waiting]
        results = self.translator(pixels, output="numpy", **self.options)
        for frame, result in zip(self.waiting, results, strict=True):
            self.writer.write(result, frame.pts, frame.time_base)
        self.frames += len(self.waiting)
        self.waiting = []


class _Writer:
    """The video stream of the output, which is made when its first frame shows its size."""

    def __init__(self, made: Any, original: Any, encoder: str, quality: int) -> None:
        self.made, self.original, self.encoder, self.quality = made, original, encoder, quality
        rate = original.average_rate or original.guessed_rate or Fraction(25)
        # Before the audio: players expect the first stream to be the video.
        self.stream = made.add_stream(encoder, rate=rate)
        self.is_open = False
        self.held: list[Any] = []  # sound: with the first packet the container opens its streams

    def mux(self, packet: Any) -> None:
        if self.is_open:
            self.made.mux(packet)
        else:
            self.held.append(packet)

    def write(self, pixels: Array, pts: int | None, time_base: Fraction) -> None:
        av = _find_av()
        if not self.is_open:
            self._open(pixels.shape[0], pixels.shape[1], time_base)
        pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format=self.stream.pix_fmt, dst_colorspace=self.colours)
        frame.pts, frame.time_base = pts, time_base
        for packet in self.stream.encode(frame):
            self.made.mux(packet)

    def finish(self) -> None:
        if self.is_open:
            for packet in self.stream.encode(None):
                self.made.mux(packet)

    def _open(self, height: int, width: int, time_base: Fraction) -> None:
        stream, context = self.stream, self.stream.codec_context
        stream.height, stream.width = height, width
        even = height % 2 == 0 and width % 2 == 0
        stream.pix_fmt = "yuv420p" if even else "yuv444p"  # half as many colours need pairs
        stream.time_base = context.time_base = time_base
        stream.options = {"crf": str(_rate_factor(self.quality, self.encoder))}
        stream.options |= _STEADY.get(self.encoder, {})
        if self.encoder == "libvpx-vp9":
            stream.bit_rate = 0  # or crf is only a lower bound
        if self.encoder == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "0")  # it tells nothing that FFmpeg does not
        hd = height >= _HD_LINES
        self.colours = "ITU709" if hd else "ITU601"
        context.colorspace = _BT709 if hd else _BT601
        try:
            context.open()
        except _find_av().error.FFmpegError as error:
            (codec,) = (name for name, encoder in CODECS.items() if encoder == self.encoder)
            raise ConfigError(
                f"The encoder of {codec} does not take frames of {width} x {height} pixels "
                f"({error.strerror}): choose another size or codec"
            ) from None
        self.is_open = True
        for packet in self.held:
            self.made.mux(packet)
        self.held = []


def _rate_factor(quality: int, encoder: str) -> int:
    """What encoders call crf, 0 is best: of quality 95 eyes see no difference to the frames."""
    worst = 51 if encoder in ("libx264", "libx265") else 63
    return min(worst, round(worst * (0.2 + 0.8 * (100 - quality) / 100)))


def _upright(frame: Any) -> Array:
    """The frame as it is shown, uint8 [H, W, 3]."""
    hd = frame.colorspace == _BT709 or (frame.colorspace == 2 and frame.height >= _HD_LINES)
    colours = "ITU709" if hd else "ITU601"
    pixels: Array = frame.reformat(format="rgb24", src_colorspace=colours).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _comment(translator: Translator) -> str:
    config = translator.config
    model = " ".join(filter(None, (config.name or config.architecture["name"], config.version)))
    return f"Made by a trained algorithm ({DIGITAL_SOURCE_TYPE}): {model}, pix2gan {__version__}"


def _check(translator: Translator, source: Path, out: Path, codec: str | None, quality: int) -> str:
    """The encoder; ConfigError for what makes no sense."""
    suffix = check_container(out)
    if codec is not None and codec not in CODECS:
        raise ConfigError(f"codec must be one of {', '.join(CODECS)}, not {codec!r}")
    codec = codec or ("vp9" if suffix == ".webm" else "h264")
    if suffix == ".webm" and codec in ("h264", "hevc"):
        raise ConfigError(f"WebM cannot hold {codec}: use vp9 or av1, or another container")
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality must be between 1 and 100, not {quality}")
    if translator.config.out_channels not in (1, 3):
        raise ConfigError(
            f"A video cannot hold the {translator.config.out_channels} channels of this model"
        )
    check_source_survives(source, out)
    return CODECS[codec]


def check_source_survives(source: Path, out: Path) -> None:
    if out.exists() and source.exists() and out.samefile(source):
        raise ConfigError(f"The output {out} would overwrite the input: choose another name")


def check_container(out: Path) -> str:
    """The suffix of a video that is to be written, in lower case; ConfigError if it cannot be."""
    suffix = out.suffix.lower()
    if suffix not in CONTAINERS:
        raise ConfigError(
            f"The video {out} cannot be written: let its name end in {', '.join(CONTAINERS)}"
        )
    return suffix


def _check_sound(video: Any, source: Path, out: Path) -> None:
    """ConfigError if the container cannot hold the sound as it is."""
    if CONTAINERS[out.suffix.lower()] != "webm":
        return
    for stream in video.streams.audio:
        if stream.codec_context.name not in _SOUND_OF_WEBM:
            raise ConfigError(
                f"WebM cannot hold the sound of {source}, which is {stream.codec_context.name}: "
                "let the output end in .mkv or .mp4"
            )


def _find_av() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError("Videos need PyAV: pip install 'pix2gan[video]'") from None
    return av
