"""The detached worker: outlives the session, owns the run, keeps an engine at work on it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from filelock import Timeout

from ..engine import gpu
from ..engine.jobs import threads
from ..engine.package import Engine, installed
from ..engine.process import Child
from ..errors import DiskFull, EngineError, FinetuneError, ModelError
from ..gguf.inspect import fingerprint
from .identity import lost
from .launch import hand_over
from .ledger import Ledger
from .lock import WAIT, machine_lock, run_lock, say_who_trains
from .memory import RESERVE_MB, available_mb
from .record import RunRecord
from .runs import CHAT_TEMPLATE, START, Run

__all__ = ["main"]

#: How often a session's wish is looked for, in seconds.
POLL: Final = 0.2
#: A killed engine is started again so often without having got further than its last checkpoint.
RESTARTS: Final = 3
#: Seconds before that, for memory to become free.
REST: Final = 3.0
#: What the system says where a file cannot grow.
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> int:
    """Train the run whose folder is the first argument; the exit code."""
    os.umask(0o077)  # also the engine's files are the user's alone, whatever the host's own are
    run = Run(Path(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with run_lock(run.folder).acquire(timeout=WAIT):
            worker = Worker(run)
            code = worker.work()
    except Timeout:  # another worker has this run: exactly one may write
        return 3
    if not worker.terminated:  # else the machine goes down
        hand_over(run)
    return code


class Worker:
    """One attempt at a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ledger = Ledger(run)
        self.terminated = False
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, _signal: int, _frame: Any) -> None:
        self.terminated = True  # a shutdown: pause at the next step, so that nothing is lost

    def work(self) -> int:
        """Hold the machine's lock and train; the exit code."""
        if self.run.done:
            return 0
        try:
            self.ledger.open()
            with machine_lock().acquire(timeout=1):
                say_who_trains(self.run.folder)
                self._train(self.run.record)
        except Timeout:
            self.ledger.end("failed", "Another run trains on this machine: wait for it, or stop it, then resume.")
        except DiskFull as error:
            self.ledger.end("paused", error.sentence)
        except FinetuneError as error:
            self.ledger.end("failed", error.sentence)
        except OSError as error:
            full = error.errno in NO_ROOM
            what = "The disk is full" if full else f"Writing the run failed: {error.strerror or error}"
            self.ledger.end("paused" if full else "failed", f"{what} ({self.run.folder}): make room, then resume.")
        self.ledger.close()
        return 1 if self.ledger.state.status == "failed" else 0

    def _train(self, record: RunRecord) -> None:
        check_base(record)
        _check_start(self.run, record)
        engine, cores = installed(), threads()
        device = gpu.describe() if record.settings.gpu_layers else None
        if changed := lost(record, engine, cores, device):
            self.ledger.note(changed)
        settings = record.settings.model_dump(mode="json")
        if (self.run.folder / CHAT_TEMPLATE).is_file():
            settings["chat_template"] = str(self.run.folder / CHAT_TEMPLATE)
        start = self.run.folder / START
        job = {
            "kind": "train", "folder": str(self.run.folder), "base": record.base.path, "system": record.system,
            "learned": record.learned, "settings": settings, "loss_counts": record.loss_counts,
            "cores": cores, "threads": record.threads,
            "room_mb": max(0.0, available_mb() - RESERVE_MB), "created": record.created,
            "nice": record.settings.nice, "start": str(start) if start.is_file() else None,
        }  # fmt: skip
        tries, before = 0, -1
        while (death := self._attend({**job, "compute": _compute(self.run)}, engine)) is not None:
            tries = tries + 1 if self.ledger.saved <= before else 1
            before = self.ledger.saved
            if tries > RESTARTS:
                raise EngineError(
                    f"The engine was killed {tries} times without getting past step {before}, most likely because "
                    "memory ran out: close other programs and resume, or start a new run with a smaller --ctx-size "
                    f"(now {record.settings.ctx_size}) or a smaller base."
                ) from death
            said = "the engine was killed, most likely because memory ran out: it begins again"
            self.ledger.take(
                {
                    "event": "restarted",
                    "step": before,
                    "message": f"{said} at step {before} (try {tries} of {RESTARTS})",
                }
            )
            if not self._rest(REST):
                self.ledger.take({"event": "paused", "step": before})
                return

    def _attend(self, job: dict[str, Any], engine: Engine) -> EngineError | None:
        """Record what an engine does until it ends; its error where it was killed, which is worth another try."""
        # Inherited: a shutdown asks both, and the engine must live to save what it has.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with Child(job, log=self.run.folder / "engine.log", engine=engine) as child:
            signal.signal(signal.SIGTERM, self._on_term)
            over = threading.Event()
            asking = threading.Thread(target=self._pass_on, args=(child, over), daemon=True)
            asking.start()
            try:
                for event in child:
                    self.ledger.take(event)
            except EngineError as error:
                if child.process.poll() == -signal.SIGKILL:
                    return error
                raise
            finally:
                over.set()
                asking.join()
        return None

    def _rest(self, seconds: float) -> bool:
        """Wait, unless a pause or a stop is wanted; whether to go on with an engine."""
        end = time.monotonic() + seconds
        while (wish := self._wish()) is None and time.monotonic() < end:
            time.sleep(POLL)
        return wish != "pause"

    def _wish(self) -> str | None:
        wish = "pause" if self.terminated else self.run.wanted(self.ledger.state.attempt)
        return wish if wish in ("stop", "pause") else None

    def _pass_on(self, child: Child, over: threading.Event) -> None:
        """Hand a session's wish to the child, once."""
        while not over.wait(POLL):
            if wish := self._wish():
                child.send(wish)
                return


def _compute(run: Run) -> dict[str, Any] | None:
    """How `run` computes, as recorded by now; None where its engine is to decide."""
    compute = run.record.compute
    return compute.model_dump(mode="json") if compute else None


def check_base(record: RunRecord) -> None:
    """ModelError where the base is gone or is no longer the file that the run began with."""
    path = Path(record.base.path)
    if not path.is_file():
        raise ModelError(
            f"The base {path} is gone: put it back, or name where it is now with /finetune resume {record.name} --base."
        )
    facts = path.stat()
    same = (facts.st_size, facts.st_mtime_ns) == (record.base.size, record.base.mtime_ns)
    if not same and fingerprint(path) != record.base.sha256:
        raise ModelError(f"The base {path} has changed since the run began: put the old one back, or start a new run.")


def _check_start(run: Run, record: RunRecord) -> None:
    """ModelError where the adapter is gone that `run` was to begin with: it would learn from nothing, unnoticed."""
    first = run.folder / START
    if record.parent is None or first.is_file() or any(run.folder.glob("checkpoints/step_*/position.json")):
        return
    raise ModelError(
        f"The adapter of {record.parent}, with which {run.name} was to begin, is gone from {first}: put it back, "
        "or start a new run."
    )
