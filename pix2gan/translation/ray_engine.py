"""`engine="ray"`: the same run over the machines of a Ray cluster (Ray Data, https://docs.ray.io).

What is spread is chunks of the sorted list, whose batches are planned together. So each batch has
the companions that it has in a run on one machine, and the outputs are the same, to the byte, on
machines of one kind. All of them see the source and the output folder under the same paths, as on
a network file system.

A chunk whose machine is lost is done again elsewhere; what that machine had written already exists
and is skipped, as by any repeated run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pix2gan.errors import ConfigError, Pix2ganError
from pix2gan.translation.engine import Engine
from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import FAILED, LEFT, SKIPPED, TRANSLATED, Outcome
from pix2gan.translation.folder_run import FolderRun
from pix2gan.translation.progress import FolderProgress
from pix2gan.translation.targets import Job

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator


class RayRun(Engine):
    """As `FolderRun`, on the machines of a cluster: that of `ray.init` where it has been called,
    else the one that `RAY_ADDRESS` names, else this machine alone."""

    def run(self) -> None:
        chunks = list(self._chunks())
        if not chunks:
            return
        with _cluster() as ray:
            for result in _results(ray, self.translator, chunks, self.out, self.options):
                self._settle(result)
                if result["fatal"]:
                    raise Pix2ganError(result["fatal"])
                if result["stopped"]:
                    break

    def _chunks(self) -> Iterator[str]:
        """Those with something to do, as JSON; what is there already is counted here."""
        length = self.options.chunk
        for start in range(0, len(self.jobs), length):
            chunk = self.jobs[start : start + length]
            there = 0
            for index, job in enumerate(chunk, start):
                if self.options.on_exists != "overwrite" and os.path.lexists(job.target):
                    self.outcomes[index] = Outcome(job.source, job.target, SKIPPED)
                    there += 1
            if there:
                self.progress.advance(there, skipped=True)
            if there < len(chunk):
                names = [(os.fspath(job.source), os.fspath(job.target)) for job in chunk]
                yield json.dumps({"start": start, "names": names})

    def _settle(self, result: dict[str, Any]) -> None:
        for index, (status, error) in enumerate(result["outcomes"], result["start"]):
            outcome = self.outcomes[index]
            if outcome.status == SKIPPED or status == LEFT:
                continue
            # "skipped" over there: made since this run began, by a machine that was lost.
            status = FAILED if status == FAILED else TRANSLATED
            self.outcomes[index] = replace(outcome, status=status, error=error)
            self.progress.advance(failed=status == FAILED)


class ChunkTranslator:
    """Does chunks, one after the other, in a process of the cluster.

    Args:
        translator: What to translate with.
        out: The folder that nothing is written outside of.
        options: Those of the run.
        folder: Where the run was started; paths may start there.
        threads: What torch computes with: as many as where the run was started, for the number
            may change the last bits.
    """

    def __init__(
        self,
        translator: Translator,
        out: str,
        options: dict[str, Any],
        folder: str,
        threads: int,
    ) -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        os.chdir(folder)
        self.translator = translator
        self.out = Path(out)
        self.options = FolderOptions(**options)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """One of `RayRun._chunks` -> what became of its images, as JSON."""
        chunk = json.loads(row["chunk"])
        jobs = [Job(Path(source), Path(target)) for source, target in chunk["names"]]
        silent = FolderProgress(len(jobs), show=False)
        run = FolderRun(self.translator, jobs, self.out, self.options, silent)
        fatal = ""
        try:
            run.run()
        except Pix2ganError as error:
            fatal = str(error)
        result = {
            "start": chunk["start"],
            "outcomes": [(outcome.status, outcome.error) for outcome in run.outcomes],
            "stopped": run.stopped,
            "fatal": fatal,
        }
        return {"result": json.dumps(result)}


class _RemoteChunkTranslator(ChunkTranslator):
    """The same, with a translator that is fetched from the cluster's object store."""

    def __init__(self, translator: Any, *arguments: Any) -> None:
        import ray

        super().__init__(ray.get(translator), *arguments)


def _results(
    ray: Any, translator: Translator, chunks: list[str], out: Path, options: FolderOptions
) -> Iterator[dict[str, Any]]:
    """What becomes of the chunks, in the order in which they get done."""
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False  # FolderProgress counts the images
    threads = torch.get_num_threads()
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = min(threads, *(int(machine.get("CPU", threads)) or threads for machine in machines))
    gpus = 1 if translator.device.type == "cuda" else 0
    room = sum(
        int(machine.get("GPU", 0)) if gpus else int(machine.get("CPU", 0)) // cpus
        for machine in machines
    )
    arguments = (
        ray.put(translator),
        os.fspath(out),
        {**asdict(options), "report": None},
        os.fspath(Path.cwd()),
        threads,
    )
    rows = ray.data.from_items(
        [{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks)
    )
    done = rows.map(
        _RemoteChunkTranslator,
        fn_constructor_args=arguments,
        compute=ActorPoolStrategy(min_size=1, max_size=max(1, min(room, len(chunks)))),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for row in done.iter_rows():
        yield json.loads(row["result"])


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected to a cluster; ConfigError if it is not installed."""
    alone = "RAY_ADDRESS" not in os.environ and "ray" not in sys.modules
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # these are read at import
    if alone:  # all of Ray's own connections through the loopback device, as on a Mac
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError(
            "engine=ray needs Ray, which is not installed: pip install 'pix2gan[ray]'"
        ) from None
    connects = not ray.is_initialized()
    if connects:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if alone:
            options |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
        on_term = signal.getsignal(signal.SIGTERM)
        ray.init(**options)
        with suppress(ValueError):  # of another thread, where Ray has not touched it either
            signal.signal(signal.SIGTERM, on_term)
    try:
        yield ray
    finally:
        if connects:
            ray.shutdown()
