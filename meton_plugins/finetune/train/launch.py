"""Start a worker, and ask one to pause or stop."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Final

from ..engine.process import bootstrap
from ..errors import BusyError, EngineError, UsageError
from .lock import who_trains
from .record import State
from .runs import Run

__all__ = ["ask", "check_free", "start"]

#: How long a worker may take to say that it lives, in seconds.
PATIENCE: Final = 20.0


def check_free() -> None:
    """BusyError where a run trains on this machine."""
    busy = who_trains()
    if busy is not None:
        raise BusyError(
            f"The run {busy.name} is training on this machine: wait for it, or type /finetune stop {busy.name}."
        )


def start(run: Run) -> State:
    """Start, or go on with, `run` in a detached worker; its state once the worker lives."""
    if run.done:
        raise UsageError(f"The run {run.name} is {run.state.status}: start a new one.")
    if run.alive:
        raise BusyError(f"The run {run.name} is at work already: see /finetune watch {run.name}.")
    check_free()
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
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = run.state
        if state.attempt > before and (state.status != "starting" or worker.poll() is not None):
            return state
        if worker.poll() is not None:
            break
        time.sleep(0.05)
    state = run.state
    if state.attempt > before:
        return state  # a large base may still be loading
    raise EngineError(f"The worker did not come up: see {run.folder / 'worker.log'}.")


def ask(run: Run, want: str) -> None:
    """Ask the worker of `run` to `stop` (keep the best so far) or `pause`; it does so after the step it is in."""
    if not run.alive:
        raise UsageError(f"The run {run.name} is not training (it is {run.status}).")
    run.control(want)
