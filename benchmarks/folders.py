"""What a folder costs beyond the network: images a second, from files to files.

    python -m benchmarks.folders                        # 1,000 JPEGs, a minute on two cores
    python -m benchmarks.folders --images 300 --rounds 5

JPEG files of 256x256 pixels, made for this, go through the bundled model into JPEG files: read,
decoded, brought to the network's input, translated, encoded, flushed to the disk and renamed. The
opponent puts the same images, prepared and in memory, through the same network in the same batches
and keeps nothing; batch after batch on all cores, and side by side in lanes as a folder does, and
the faster of the two counts. So ``ratio`` is the share of the network's rate that a folder reaches,
``alone_ms`` and ``lanes_ms`` are the two ways; ``ms`` and
``opponent_ms`` are those of one image. ``file_ms`` is what one image's decoding, preparing and
encoding take together when nothing else runs: on a CPU they need the cores that the network needs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from pix2gan.data.image_io import encode_image, open_image_with_info, save_image
from pix2gan.ops.timing import Timing
from pix2gan.translation import Translator, translate_folder
from pix2gan.translation.inputs import as_unit_range
from pix2gan.translation.lanes import Lanes
from pix2gan.translation.outputs import finish_output
from pix2gan.translation.processing import Prepared

SIDE = 256


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEGs with the detail of photos, which decides how long decoding takes: 38 kB each at quality
    95, where photos, paintings and facades scaled to this size have 22 to 39, and those of public
    data sets, saved at lower qualities, 15."""
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = rng.random((24, 24, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 0.005, (SIDE, SIDE, 3))
        path = folder / f"{number}.jpg"
        save_image(path, np.clip((smooth + grain) * 255, 0, 255).astype(np.uint8))
        paths.append(path)
    return paths


def run_folder(
    translator: Translator, name: str, folder: Path, *, images: int, rounds: int, batch_size: int
) -> Row:
    """Time all of them in turns, each over all of the images."""
    paths = write_images(folder / "in", images)
    prepared = [_prepare(translator, path) for path in paths]
    batches = [prepared[i : i + batch_size] for i in range(0, images, batch_size)]
    run_alone(translator, batches[:2])
    run_in_lanes(translator, batches[:4])
    alone, lanes, files = [], [], []
    for number in range(rounds):
        for times, run in ((alone, run_alone), (lanes, run_in_lanes)):
            start = time.perf_counter()
            run(translator, batches)
            times.append((time.perf_counter() - start) * 1e3 / images)
        start = time.perf_counter()
        # Each into a folder of its own: ext4 makes files more slowly for a while after many were
        # deleted, and who translates a folder has not just deleted its outputs.
        out = folder / f"out-{number}"
        report = translate_folder(
            translator, folder / "in", out, batch_size=batch_size, progress=False
        )
        files.append((time.perf_counter() - start) * 1e3 / images)
        if report.done != images:
            raise RuntimeError(f"{report.done} of {images} images were translated")
    timing, one, several = Timing.of(files), Timing.of(alone), Timing.of(lanes)
    return make_row(
        "folders",
        f"{name} {images} JPEGs {SIDE}x{SIDE} batch {batch_size}",
        translator.dtype,
        "cpu",
        shape=f"{images} files of {SIDE}x{SIDE}",
        timing=timing,
        opponent=min(one, several, key=lambda timed: timed.ms),
        opponent_name="the network alone, images prepared and in memory",
        alone_ms=one.ms,
        lanes_ms=several.ms,
        images_per_second=1e3 / timing.ms,
        file_ms=_file_ms(translator, paths[: min(images, 100)]),
    )


def run_alone(translator: Translator, batches: Sequence[Sequence[Prepared]]) -> None:
    """The network, one batch after the other."""
    for batch in batches:
        translator.run(batch)


def run_in_lanes(translator: Translator, batches: Sequence[Sequence[Prepared]]) -> None:
    """The network, batches side by side."""

    def run(batch: Sequence[Prepared]) -> None:
        translator.run(batch)  # and keeps nothing

    with Lanes(translator.device) as lanes:
        for running in [lanes.submit(run, batch) for batch in batches]:
            running.result()


def _prepare(translator: Translator, path: Path) -> Prepared:
    pixels, _ = open_image_with_info(path)
    return translator.processing.prepare(as_unit_range(pixels, None), str(path))


def _file_ms(translator: Translator, paths: Sequence[Path]) -> float:
    """Decoding, preparing and encoding of one image, without the network and the disk."""
    (result,) = translator.run([_prepare(translator, paths[0])])
    start = time.perf_counter()
    for path in paths:
        pixels, info = open_image_with_info(path)
        item = translator.processing.prepare(as_unit_range(pixels, None), str(path))
        image, kept = finish_output(translator.processing, result, item, info, path)
        encode_image(image, "JPEG", **kept)
    return (time.perf_counter() - start) * 1e3 / len(paths)


def main() -> None:
    """Measure, print and keep the row."""
    parser = argparse.ArgumentParser(description="Time a folder against the network alone.")
    parser.add_argument("--model", default="sketch2motorbike")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--out", type=Path, default=results_path("cpu"))
    options = parser.parse_args()
    translator = Translator.from_pretrained(options.model, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        row = run_folder(
            translator,
            options.model,
            Path(folder),
            images=options.images,
            rounds=options.rounds,
            batch_size=options.batch_size,
        )
    merge_rows(options.out, [row])
    print(format_rows([row]))
    print(f"{row['images_per_second']} images/s; files alone {row['file_ms']} ms an image")


if __name__ == "__main__":
    main()
