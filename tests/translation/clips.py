"""Clips whose every frame can be told from the others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

TIMES = [0, 100, 150, 400, 500, 610, 800]  # milliseconds: a variable frame rate
WIDTH, HEIGHT = 96, 64


def write_clip(path, sound=True):
    """Frames whose upper left quarter is white and whose other colour says their number."""
    import av

    is_webm = str(path).endswith("webm")
    coding, rate, form = ("libopus", 48000, "flt") if is_webm else ("aac", 44100, "fltp")
    with av.open(str(path), "w") as made:
        encoder = "libvpx-vp9" if is_webm else "libx264"
        video = made.add_stream(encoder, rate=10, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        audio = made.add_stream(coding, rate=rate, layout="mono") if sound else None
        for number, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            made.mux(video.encode(frame))
        made.mux(video.encode(None))
        if audio is not None:
            wave = np.sin(np.arange(1024 * 30) * 0.05).astype(np.float32)[None]
            for start in range(0, wave.shape[1], 1024):
                part = np.ascontiguousarray(wave[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(part, format=form, layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                made.mux(audio.encode(frame))
            made.mux(audio.encode(None))
    return Path(path)


def picture(number):
    pixels = np.full((HEIGHT, WIDTH, 3), (20 + 30 * number, 100, 220 - 20 * number), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = 255
    return pixels
