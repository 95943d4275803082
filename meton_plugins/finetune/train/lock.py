"""Who is at work. A worker holds its run's lock and the machine's for as long as it lives, so a held lock is a living
worker and nothing needs to be tidied up after a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from ..errors import BusyError
from ..paths import private_dir, training_lock, write_json

__all__ = ["WAIT", "alone", "held", "machine_lock", "run_lock", "say_who_trains", "start_lock", "who_trains"]

#: A session looks whether a lock is held by taking it for a moment: a worker that starts just then waits so long.
WAIT: Final = 10.0


def run_lock(folder: Path) -> FileLock:
    """The lock of the run in `folder`."""
    return FileLock(folder / "worker.lock", mode=0o600)


def machine_lock() -> FileLock:
    """The lock of this machine: one training at a time."""
    private_dir(training_lock().parent)
    return FileLock(training_lock(), mode=0o600)


def start_lock() -> FileLock:
    """Held by a session from its look at who trains until its worker is up."""
    private_dir(training_lock().parent)
    return FileLock(training_lock().with_name("start.lock"), mode=0o600)


@contextmanager
def alone(patience: float) -> Iterator[None]:
    """Nobody else starts a run, deletes one, or changes the queue; BusyError where someone does so for `patience`
    seconds.
    """
    lock = start_lock()
    try:
        # A worker takes its lock a second after it is started: two sessions would both see a free machine.
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise BusyError("Another session is starting a run just now: try again in a moment.") from error
    try:
        yield
    finally:
        lock.release()


def held(lock: FileLock) -> bool:
    """Whether some worker holds `lock` now."""
    try:
        with lock.acquire(timeout=0.05, poll_interval=0.01):  # another session may be looking too
            return False
    except Timeout:
        return True


def say_who_trains(folder: Path) -> None:
    """Note for others which run holds the machine's lock."""
    write_json(training_lock().with_suffix(".json"), {"run": str(folder)})


def who_trains() -> Path | None:
    """The run that trains on this machine now, or None."""
    if not held(machine_lock()):
        return None
    try:
        return Path(json.loads(training_lock().with_suffix(".json").read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return Path("unknown")
