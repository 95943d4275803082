"""Start a worker, or have its run wait for the machine; start the next when one is over; ask one to pause or stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from filelock import Timeout

from ..engine.process import bootstrap
from ..errors import BusyError, EngineError, FinetuneError
from .lock import WAIT, alone, held, machine_lock, start_lock, who_trains
from .queue import put, take_out, waiting
from .record import State
from .runs import AT_WORK, Run
from .sweep import settle, unsettled

__all__ = ["add", "ask", "begin", "begin_all", "drop", "hand_over", "kick", "start", "trains"]

#: How long a worker may take to say that it lives, in seconds.
PATIENCE: Final = 20.0
#: Less than this, in bytes, and a worker cannot even write that it lives.
ROOM: Final = 64 << 10
#: How long a worker that is over waits to start the next, in seconds: some session forgets words meanwhile, or starts.
LONG: Final = 600.0
#: How long one waits who would start a run while another does so: that may take all of its patience, in seconds.
BRIEF: Final = PATIENCE + WAIT
#: How long a session that looks waits for the run that it started by the way, in seconds.
GLANCE: Final = 2.0


def begin(create: Callable[[], Run]) -> tuple[Run, State]:
    """`create` a run and start it, or have it wait in the queue where one trains, or others wait before it."""
    with alone(BRIEF):
        run = create()
        put([run.folder], "start")
        try:
            _next([run])
        except (FinetuneError, OSError):
            take_out(run.folder)  # the user is told now
            raise
    return run, _come_up(run)


def begin_all(create: Callable[[], Sequence[Run]], by: str) -> Sequence[Run]:
    """`create` runs, put all of them in the queue, and start the first where nobody trains."""
    with alone(BRIEF):
        runs = create()
        put([run.folder for run in runs], by)
        _next(runs)
    return runs


def start(run: Run) -> State:
    """Start, or go on with, `run` in a detached worker, before those that wait; where one trains, have it wait too.

    Its state once the worker lives.
    """
    with alone(BRIEF):
        _check(run)
        if trains() is None:
            _launch(run)
            take_out(run.folder)
        else:
            put([run.folder], "resume")
    return _come_up(run)


def add(runs: Sequence[Run]) -> None:
    """Have `runs` wait behind all others; the first that waits is started where nobody trains."""
    with alone(BRIEF):
        for run in runs:
            _check(run)
        put([run.folder for run in runs], "queue add")
        _next()


def drop(folder: Path) -> bool:
    """Have the run in `folder` wait no longer; whether it did."""
    with alone(BRIEF):
        return take_out(folder)


def trains() -> Path | None:
    """The run that trains on this machine, or None. One that is over and frees its memory is waited for."""
    busy = who_trains()
    return None if busy is None or _ended(Run(busy)) else busy


def hand_over(run: Run) -> None:
    """What the worker of `run` does last, its locks released: tidy up the sweep, and start the next in the queue.

    Not where the run paused by itself: what stopped it, such as a full disk, would stop the others too.
    """
    with contextlib.suppress(FinetuneError, OSError), alone(LONG):
        state, sweep = run.state, run.record.sweep
        if sweep is not None:
            with contextlib.suppress(OSError):
                settle(run.folder.parent, sweep)
        if not (state.status == "paused" and state.error):
            _next()


def kick(runs: Path, patience: float = GLANCE) -> None:
    """Do what a worker could not do that was killed, or the machine with it: start the next, tidy up sweeps in `runs`.

    Cheap where there is nothing to do; otherwise it goes on beside the session after `patience` seconds.
    """
    if not (waiting() or unsettled(runs)) or held(machine_lock()):
        return
    work = threading.Thread(target=_kick, args=(runs,))
    work.start()
    work.join(patience)


def _kick(runs: Path) -> None:
    lock = start_lock()
    # Who holds the lock does it, or is about to.
    with contextlib.suppress(Timeout, FinetuneError, OSError), lock.acquire(timeout=0):
        for sweep in unsettled(runs):
            settle(runs, sweep)
        _next()


def _check(run: Run) -> None:
    """FinetuneError where `run` is over, BusyError where it is at work."""
    if run.done:
        raise FinetuneError(f"The run {run.name} is {run.state.status}: start a new one.")
    if run.alive and not _ended(run):
        raise BusyError(f"The run {run.name} is at work already: see /finetune watch {run.name}.")


def _ended(run: Run) -> bool:
    """Whether the worker of `run`, having said its last word, is gone; freeing a large model takes it a moment."""
    deadline = time.monotonic() + WAIT
    while run.state.status not in AT_WORK:
        if not run.alive:
            return True
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return False


def _next(mine: Sequence[Run] = ()) -> None:
    """Where nobody trains, start the first that waits, or the one after it where its worker does not come up.

    Where the worker of one that is `mine` does not, that is the error. The start lock is held.
    """
    own = [run.folder.resolve() for run in mine]
    if trains() is not None:
        return
    for entry in waiting():
        try:
            _launch(Run(entry.folder))
        except (FinetuneError, OSError):
            if entry.folder in own:
                raise
            continue
        take_out(entry.folder)
        return


def _launch(run: Run) -> None:
    """Start a worker, and wait until it has the machine, or is over. The start lock is held."""
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
        if state.attempt > before and (state.status != "starting" or over or who_trains() == run.folder):
            return
        if over:
            break
        time.sleep(0.05)
    if run.state.attempt > before:
        return
    if shutil.disk_usage(run.folder).free < ROOM:
        raise EngineError(f"The disk of {run.folder} is full: make room, then resume.")
    raise EngineError(f"The worker did not come up: see {run.folder / 'worker.log'}.")


def _come_up(run: Run) -> State:
    """The state of `run` once its worker has said more than that it starts; a large base may load for longer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = run.state
        if state.status != "starting" or not run.alive:
            break
        time.sleep(0.05)
    return run.state


def ask(run: Run, want: str) -> None:
    """Ask the worker of `run` to `stop` (keep the best so far) or `pause`; it does so after the step it is in."""
    if not run.alive:
        raise FinetuneError(f"The run {run.name} is not training (it is {run.status}).")
    run.control(want)
