"""The same run over a Ray cluster: the same bytes, report and exit code, whatever machine dies."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pix2gan.errors import ConfigError, Pix2ganError
from pix2gan.translation import Translator, ray_engine
from pix2gan.translation.folder_options import FolderOptions

from .image_trees import translate, tree, write

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[data]")


# Without a cluster: what is sent to it and comes back


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does in this process, last things first, what a cluster would do."""
    from contextlib import contextmanager

    @contextmanager
    def cluster() -> Iterator[None]:
        yield None

    def results(
        _: None, translator: Translator, chunks: list[str], out: Path, options: FolderOptions
    ) -> Iterator[dict[str, Any]]:
        sent = {**asdict(options), "report": None}
        there = ray_engine.ChunkTranslator(
            translator, os.fspath(out), sent, os.fspath(Path.cwd()), torch.get_num_threads()
        )
        for chunk in reversed(chunks):
            yield json.loads(there({"chunk": chunk})["result"])

    monkeypatch.setattr(ray_engine, "_cluster", cluster)
    monkeypatch.setattr(ray_engine, "_results", results)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_writes_and_reports_what_a_local_run_does(
    unet: Translator, photos: Path, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pix2gan.translation.folder_options._BATCHES_PER_CHUNK", 2)
    monkeypatch.chdir(tmp_path)
    (photos / "deep" / "12.png").write_text("broken")
    (photos / os.fsdecode(b"name \xff.png")).write_bytes((photos / "0.png").read_bytes())
    reports = []
    for engine in ("local", "ray"):
        out = Path("out")  # the same name, so that the reports can be compared
        first = translate(
            unet, Path("photos"), out,
            engine=engine, batch_size=batch_size, report=f"{engine}.jsonl", glob="**/*.png",
        )  # fmt: skip
        second = translate(
            unet, Path("photos"), out,
            engine=engine, batch_size=batch_size, report=f"{engine}2.jsonl",
        )  # fmt: skip
        again = translate(
            unet, Path("photos"), out, engine=engine, batch_size=batch_size, on_exists="rename"
        )
        reports.append((first.images, second.images, again.images, first.exit_code))
        out.rename(engine)
    assert reports[0] == reports[1]
    assert reports[0][3] == 1
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    for number in ("", "2"):
        assert Path(f"ray{number}.jsonl").read_bytes() == Path(f"local{number}.jsonl").read_bytes()


@pytest.mark.usefixtures("one_process")
def test_stop_and_a_full_disk(
    unet: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pix2gan.translation.folder_options._BATCHES_PER_CHUNK", 2)
    (photos / "deep" / "12.png").write_text("broken")
    options: dict[str, Any] = {"engine": "ray", "batch_size": 1}
    report = translate(unet, photos, tmp_path / "a", on_error="stop", **options)
    assert [path.name for path, _ in report.failed] == ["12.png"]
    assert 0 < report.done == len(tree(tmp_path / "a"))
    assert report.left > 0

    def full(temporary: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(Pix2ganError, match="No space left on device"):
            translate(unet, photos, tmp_path / "b", **options)
    assert translate(unet, photos, tmp_path / "b", **options).done == 29


@pytest.mark.usefixtures("one_process")
def test_nothing_to_do_asks_no_cluster(
    unet: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate(unet, photos, tmp_path / "out", engine="ray")
    monkeypatch.delattr(ray_engine, "_cluster")
    report = translate(unet, photos, tmp_path / "out", engine="ray")
    assert (report.done, report.skipped) == (0, 30)


def test_ray_leaves_the_signal_that_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, before = types.ModuleType("ray"), signal.getsignal(signal.SIGTERM)
    ray.data = types.ModuleType("ray.data")  # type: ignore[attr-defined]
    ray.is_initialized = lambda: False  # type: ignore[attr-defined]
    ray.init = lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN)  # type: ignore[attr-defined]
    ray.shutdown = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    try:
        with ray_engine._cluster():
            assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_that_is_not_installed(
    unet: Translator, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine=ray needs Ray, .*: pip install 'pix2gan\[ray\]"):
        translate(unet, photos, tmp_path / "out", engine="ray")


# On a cluster


@pytest.fixture
def ray_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "600")  # this machine may be busy


@pytest.mark.stress
@pytest.mark.timeout(1800)
@needs_ray
def test_two_machines_one_of_which_is_killed(
    unet: Translator, tmp_path: Path, ray_settings: None
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(600):
        write(source / f"{i % 7}" / f"{i}.png", 16 + i % 3, 16, seed=i)
    (source / "3" / "10.png").write_text("broken")
    expected = translate(unet, source, out, batch_size=2, report=tmp_path / "local.jsonl")
    out.rename(tmp_path / "local")

    machine = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    victim = cluster.add_node(**machine)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    done_before: list[int] = []
    ended = threading.Event()

    def kill_one_midway() -> None:
        while not ended.wait(0.05):
            done = sum(1 for _ in out.rglob("[0-9]*.png"))
            if done >= 60:
                cluster.remove_node(victim, allow_graceful=False)
                done_before.append(done)
                return

    killer = threading.Thread(target=kill_one_midway)
    killer.start()
    try:
        report = translate(
            unet, source, out, batch_size=2, engine="ray", report=tmp_path / "ray.jsonl"
        )
    finally:
        ended.set()
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    assert done_before
    assert done_before[0] < 599
    assert report.images == expected.images
    assert report.exit_code == 1
    assert tree(out) == tree(tmp_path / "local")
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()


@pytest.mark.stress
@pytest.mark.timeout(900)
@needs_ray
def test_a_worker_has_the_lanes_of_a_local_run(
    unet: Translator, tmp_path: Path, ray_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's threads are counted by each thread for itself, and it is Ray that chooses in which
    one a worker is made and called; their number decides the lanes, and so the last bits."""
    import ray

    for i in range(40):
        write(tmp_path / "in" / f"{i}.png", 32, 40 + i % 2, seed=i)
    notes = tmp_path / "notes"
    notes.mkdir()

    class Noting(ray_engine.ChunkTranslator):
        def __init__(self, translator: Any, *arguments: Any) -> None:
            super().__init__(ray.get(translator), *arguments)

        def __call__(self, row: dict[str, str]) -> dict[str, str]:
            from pix2gan.translation.lanes import Lanes

            with Lanes(self.translator.device) as lanes:
                share = lanes.submit(torch.get_num_threads).result()
            note = f"{torch.get_num_threads()} threads, {lanes.count} lanes of {share}"
            (notes / note).touch()
            return super().__call__(row)

    monkeypatch.setattr(ray_engine, "_RemoteChunkTranslator", Noting)
    monkeypatch.setattr("pix2gan.translation.folder_options._BATCHES_PER_CHUNK", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    ray.init(
        num_cpus=4,
        object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        for engine in ("local", "ray"):
            report = translate(unet, tmp_path / "in", tmp_path / engine, engine=engine)
            assert report.done == 40
    finally:
        ray.shutdown()
        torch.set_num_threads(before)
    assert {path.name for path in notes.iterdir()} == {"4 threads, 2 lanes of 2"}
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
