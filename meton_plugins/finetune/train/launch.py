"""Start a worker, and ask one to pause or stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import Timeout

from ..engine.process import bootstrap
from ..errors import BusyError, EngineError, FinetuneError
from .lock import WAIT, start_lock, who_trains
from .record import State
from .runs import Run

__all__ = ["ask", "begin", "check_free", "start"]

#: How long a worker may take to say that it lives, in seconds.
PATIENCE: Final = 20.0
#: Less than this, in bytes, and a worker cannot even write that it lives.
ROOM: Final = 64 << 10


def check_free(runs: Path) -> None:
    """BusyError where a run trains on this machine; `runs` is the folder of those that the user can name."""
    busy = who_trains()
    if busy is None or _ended(Run(busy)):
        return
    if busy.parent.resolve() == runs.resolve():
        raise BusyError(
            f"The run {busy.name} is training on this machine: wait for it, or type /finetune stop {busy.name}."
        )
    raise BusyError(f"A run of another folder is training on this machine ({busy}): wait for it, or stop it there.")


def begin(runs: Path, create: Callable[[], Run]) -> tuple[Run, State]:
    """`create` a run in the folder `runs` and start it; BusyError, and nothing created, where one trains already."""
    with _alone(runs):
        run = create()
        return run, _launch(run)


def start(run: Run) -> State:
    """Start, or go on with, `run` in a detached worker; its state once the worker lives."""
    if run.done:
        raise FinetuneError(f"The run {run.name} is {run.state.status}: start a new one.")
    if run.alive and not _ended(run):
        raise BusyError(f"The run {run.name} is at work already: see /finetune watch {run.name}.")
    with _alone(run.folder.parent):
        return _launch(run)


def _ended(run: Run) -> bool:
    """Whether the worker of `run`, having said its last word, is gone; freeing a large model takes it a moment."""
    deadline = time.monotonic() + WAIT
    while run.state.status in ("paused", "stopped", "failed", "finished"):
        if not run.alive:
            return True
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return False


@contextmanager
def _alone(runs: Path) -> Iterator[None]:
    """Nobody trains on this machine, and nobody else starts to."""
    lock = start_lock()
    try:
        # A worker takes its lock a second after it is started: two sessions would both see a free machine.
        lock.acquire(timeout=PATIENCE + WAIT)
    except Timeout as error:
        raise BusyError("Another session is starting a run just now: try again in a moment.") from error
    try:
        check_free(runs)
        yield
    finally:
        lock.release()


def _launch(run: Run) -> State:
    before = run.state.attempt
    log = os.open(run.folder / "worker.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        # A session of its own: neither Ctrl-C nor the terminal's end reaches it.
        worker = subprocess.Popen(
            [*bootstrap("meton_plugins.finetune.train.worker"), str(run.folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=run.folder, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)
    # A session that stays would otherwise keep the ended worker as a zombie.
    threading.Thread(target=worker.wait, daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        over = worker.poll() is not None
        state = run.state
        if state.attempt > before and (state.status != "starting" or over):
            return state
        if over:
            break
        time.sleep(0.05)
    state = run.state
    if state.attempt > before:
        return state  # a large base may still be loading
    if shutil.disk_usage(run.folder).free < ROOM:
        raise EngineError(f"The disk of {run.folder} is full: make room, then resume.")
    raise EngineError(f"The worker did not come up: see {run.folder / 'worker.log'}.")


def ask(run: Run, want: str) -> None:
    """Ask the worker of `run` to `stop` (keep the best so far) or `pause`; it does so after the step it is in."""
    if not run.alive:
        raise FinetuneError(f"The run {run.name} is not training (it is {run.status}).")
    run.control(want)
