"""Everything that has to be tried on a GPU, in one command, for the day that one is lent.

    python -m benchmarks.gpu --out gpu                      # all parts, on "cuda"
    python -m benchmarks.gpu --out gpu --part conformance --part ops --budget 900
    python -m benchmarks.gpu --out dry --device cpu         # tiny sizes and the interpreter

Each part (``benchmarks/gpu_parts.py``) runs in a process of its own, with a time limit, so that a
kernel that hangs or takes the context with it costs one part. What a part finds is written line by
line to ``OUT/<part>.jsonl`` and survives its end, however it comes; ``OUT/report.json`` has a
summary, brought up to date after each part, and compares the measurements with the figures in
``BARS``. It needs torch, numpy and Triton, and nothing else of what pix2gan
depends on; nvcc and compute-sanitizer are used where they are installed.

The exit code is 1 where a part failed or found something wrong. A bar that is missed is not an
error: it belongs into ``benchmarks/LOG.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

# Seconds that a part may take, in the order in which they run: what is cheap and tells most first.
PARTS = {
    "build": 330,
    "conformance": 600,
    "ops": 900,
    "capture": 420,
    "large": 300,
    "race": 300,
    "generators": 420,
    "sanitizer": 900,
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A figure to reach, by the best backend, in a measurement of the part "ops"."""

    name: str
    least: float
    op: str
    cases: tuple[str, ...]
    value: Callable[[Record, str], float | None]  # of a measurement and a backend


def _share(record: Record, backend: str) -> float | None:
    """Of the device's copy bandwidth."""
    share: float | None = record["results"][backend].get("share")
    return share


def _against(opponent: str) -> Callable[[Record, str], float | None]:
    def ratio(record: Record, backend: str) -> float | None:
        results = record["results"]
        if opponent not in results:
            return None
        return float(results[opponent]["ms"] / results[backend]["ms"])

    return ratio


_FILTERS = ("up 2, 4 taps", "down 2, 4 taps", "filter, 4 taps")
_NORMS = ("relu", "relu, reflect padding 1", "residual, reflect padding 1")
BARS = (
    Bar("bias_act, share of a copy's bandwidth", 0.9, "bias_act", ("lrelu", "swish"), _share),
    Bar("upfirdn2d, share of a copy's bandwidth", 0.75, "upfirdn2d", _FILTERS, _share),
    Bar("instance_norm_act, share of a copy's bandwidth", 0.8, "instance_norm_act", _NORMS, _share),
    Bar(
        "modulated_conv2d 3x3, speed by cuDNN's plain convolution (channels-last)",
        1 / 1.15,
        "modulated_conv2d",
        ("3x3",),
        _against("vendor"),
    ),
    Bar(
        "modulated_conv2d 3x3, speed by the grouped convolution",
        1.5,
        "modulated_conv2d",
        ("3x3",),
        _against("stock"),
    ),
)


def judge(measurements: Sequence[Record]) -> list[Record]:
    """How bfloat16 forward passes compare with ``BARS``, each with its best backend and layout."""
    verdicts = []
    for bar in BARS:
        for case in bar.cases:
            best: tuple[float, str, str] | None = None
            for record in measurements:
                if (record["op"], record["case"]) != (bar.op, case):
                    continue
                if (record["direction"], record["dtype"]) != ("forward", "bfloat16"):
                    continue
                for backend in {"triton", "cuda"} & set(record["results"]):
                    value = bar.value(record, backend)
                    if value is not None and (best is None or value > best[0]):
                        best = (value, backend, record["layout"])
            verdict: Record = {"bar": bar.name, "case": case, "least": round(bar.least, 3)}
            if best is not None:
                value, verdict["backend"], verdict["layout"] = best
                verdict |= {"value": round(value, 3), "met": value >= bar.least}
            verdicts.append(verdict)
    return verdicts


def read_records(path: Path) -> list[Record]:
    """The records of a part; a last line that was cut off is left out."""
    records = []
    if path.exists():
        for line in path.read_text().splitlines():
            with suppress(ValueError):
                records.append(json.loads(line))
    return records


def run_part(part: str, device: str, out: Path, limit: float) -> Record:
    """Runs a part in a process of its own and says how it ended."""
    records = out / f"{part}.jsonl"
    records.unlink(missing_ok=True)
    environment = dict(os.environ, PYTHONPATH=str(REPOSITORY), PYTHONUNBUFFERED="1")
    environment.pop("PIX2GAN_BACKEND", None)
    environment.pop("TRITON_INTERPRET", None)
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part, device, str(records)]
    started = time.monotonic()
    with (out / f"{part}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
            process.wait()
    found = read_records(records)
    bad = [r for r in found if r.get("ok") is False]
    end = "out of time" if code is None else f"exit code {code}" if code else "ended"
    return {
        "part": part,
        "end": end,
        "seconds": round(time.monotonic() - started, 1),
        "records": len(found),
        "wrong": bad[:50],
        "ok": code == 0 and not bad,
    }


def write_report(out: Path, device: str, summaries: Sequence[Record]) -> None:
    report = {
        "device": device,
        "parts": list(summaries),
        "bars": judge([r for r in read_records(out / "ops.jsonl") if "results" in r]),
    }
    temporary = out / "report.json.tmp"
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(out / "report.json")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="default: all")
    parser.add_argument("--budget", type=float, help="seconds for all parts together")
    parser.add_argument("--device", default="cuda", help='"cpu": tiny sizes, interpreted kernels')
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    end = time.monotonic() + (options.budget or float("inf"))
    summaries: list[Record] = []
    for part in options.part or PARTS:
        limit = min(PARTS[part], end - time.monotonic())
        if limit < 5:
            summaries.append({"part": part, "end": "no time was left", "ok": False})
        else:
            summaries.append(run_part(part, options.device, out, limit))
        write_report(out, options.device, summaries)
        summary = summaries[-1]
        print(
            f"{part:12} {'ok' if summary['ok'] else 'FAILED':7} {summary['end']}, "
            f"{summary.get('seconds', 0)} s, {summary.get('records', 0)} records",
            flush=True,
        )
        for wrong in summary.get("wrong", [])[:5]:
            print(f"    {json.dumps(wrong)[:300]}", flush=True)
    return 0 if all(s["ok"] for s in summaries) else 1


if __name__ == "__main__":
    sys.exit(main())
