"""`on_exists="rename"`: outputs beside those that are there already, `a-2.png` beside `a.png`.

Every run that comes to its end writes new names. One that was interrupted is another matter: run
again, it has to finish the names that it had chosen, or it would translate twice what it had done.
So a run writes its choice down before its first output, in a hidden file of the output folder, and
removes it when it has ended. The next run of the same job finds it and goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pix2gan.file_io import atomic_write
from pix2gan.translation.targets import Job, Plan, check_sources_survive

_KIND = "pix2gan: names of an interrupted translation"


def choose_names(plan: Plan, chosen: Mapping[Path, Path]) -> list[Job]:
    """The jobs with names that are free, "-2" and so on behind the stem where need be.

    Args:
        plan: What would be done if there were no outputs yet.
        chosen: What an interrupted run has chosen already: from target to target.
    """
    taken = {job.target for job in plan.jobs}.union(chosen.values())
    result = []
    for job in plan.jobs:
        target, number = chosen.get(job.target, job.target), 2
        while job.target not in chosen and os.path.lexists(target):
            wish = job.target.with_name(f"{job.target.stem}-{number}{job.target.suffix}")
            number += 1
            if wish not in taken and wish.name not in plan.reserved.get(wish.parent, ()):
                target = wish
        taken.add(target)
        result.append(Job(job.source, target))
    check_sources_survive(result)
    return result


class NameJournal:
    """The names that a run has chosen, for as long as it has not ended.

    Args:
        out: The output folder.
        key: Tells this job from others with the same folder, in hexadecimal digits.
    """

    def __init__(self, out: Path, key: str) -> None:
        self.out = out
        self.path = out / f".pix2gan-names-{key[:16]}.json"

    def read(self) -> dict[Path, Path]:
        """From target to chosen target; empty if no run of this job was interrupted."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self.path.read_text("utf-8"))
            if found["kind"] == _KIND:
                return {self.out / plan: self.out / name for plan, name in found["names"].items()}
        return {}

    def write(self, planned: Sequence[Job], chosen: Sequence[Job]) -> None:
        names = {
            os.fspath(plan.target.relative_to(self.out)): os.fspath(
                job.target.relative_to(self.out)
            )
            for plan, job in zip(planned, chosen, strict=True)
        }
        with atomic_write(self.path) as file:
            file.write(json.dumps({"kind": _KIND, "names": names}).encode())

    def choose(self, plan: Plan) -> list[Job]:
        """The plan's jobs under their chosen names, which are written down."""
        jobs = choose_names(plan, self.read())
        self.write(plan.jobs, jobs)
        return jobs

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
