"""Runs that are no longer wanted, or their checkpoints: gone for good, and never half of one left under its name."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import BusyError, DataError, UsageError
from ..paths import sync_dir
from .lock import WAIT, alone
from .runs import Run, all_runs

__all__ = ["Doomed", "check", "delete", "doomed"]

#: Ends the name of what is being deleted: a killed deletion is finished by the next.
MARK: Final = ".deleted"
CHECKPOINTS: Final = "checkpoints"
#: In these a run has a worker, or will get one.
AT_WORK: Final = ("starting", "running", "queued")


class Doomed(NamedTuple):
    """A run and what deleting it frees, in bytes; of this, its `checkpoints`."""

    run: Run
    bytes: int
    checkpoints: int


def doomed(run: Run) -> Doomed:
    """`run` with what it takes on the disk."""
    return Doomed(run, _size(run.folder), _size(run.folder / CHECKPOINTS))


def check(runs: Sequence[Run], *, checkpoints: bool = False, force: bool = False) -> None:
    """Nothing, where `runs` can be deleted (or only their `checkpoints`).

    BusyError for one that is at work or waits for it; UsageError for one that others continue, or that could not be
    resumed without its checkpoints, unless `force`.
    """
    names = {run.name for run in runs}
    for run in runs:
        if run.alive and run.status not in AT_WORK:
            raise BusyError(f"The worker of {run.name} is just beginning or ending: try again in a moment.")
        if run.status in AT_WORK:
            raise BusyError(f"The run {run.name} is {run.status}: type /finetune stop {run.name}, then delete it.")
        if force:
            continue
        if checkpoints:
            if not run.done and _size(run.folder / CHECKPOINTS):
                raise UsageError(
                    f"The run {run.name} is {run.status}, and without its checkpoints it could only begin anew: "
                    f"/finetune resume {run.name} ends it; or add --force."
                )
            continue
        following = [other.name for other in all_runs(run.folder.parent) if _parent(other) == run.name]
        following = [name for name in following if name not in names]
        if following:
            raise UsageError(
                f"{', '.join(following)} went on from {run.name}: delete these too, or add --force (they keep what "
                "they began with, but not where it came from)."
            )


def delete(runs: Sequence[Run], *, checkpoints: bool = False, force: bool = False) -> int:
    """Delete `runs`, or only their `checkpoints`, for good; the bytes that this freed. Raises as `check` does.

    Killed at any moment, a run is whole or gone, and what is left of it goes with the next deletion.
    """
    freed = sum(one.checkpoints if checkpoints else one.bytes for one in map(doomed, runs))
    with alone(WAIT):
        check(runs, checkpoints=checkpoints, force=force)
        _sweep({run.folder.parent for run in runs})
        gone = [path for run in runs if (path := _set_aside(run.folder / CHECKPOINTS if checkpoints else run.folder))]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return freed


def _set_aside(path: Path) -> Path | None:
    """Take the name from a folder, in one step; where it lies now, or None where it was not there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{MARK}")
    try:
        path.rename(aside)
    except FileNotFoundError:  # a run without checkpoints
        return None
    sync_dir(path.parent)
    return aside


def _sweep(folders: set[Path]) -> None:
    """Finish what was killed: nobody else deletes now."""
    for folder in folders:
        for pattern in (f".*{MARK}", f"*/.{CHECKPOINTS}.*{MARK}"):
            for path in folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _parent(run: Run) -> str | None:
    try:
        return run.record.parent
    except DataError:  # damaged, which keeps nothing else from being deleted
        return None


def _size(folder: Path) -> int:
    """Bytes on the disk; a file that goes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            facts = path.lstat()
        except OSError:
            continue
        total += 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size
    return total
