"""The detached worker: outlives the session, owns the run, makes state.json and events.jsonl of the engine's events."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from filelock import Timeout

from ..engine.process import Child
from ..errors import FinetuneError, ModelError
from ..gguf.inspect import fingerprint
from ..paths import append_json, write_json
from .launch import hand_over
from .lock import WAIT, machine_lock, run_lock, say_who_trains
from .record import RunRecord, State
from .runs import CHAT_TEMPLATE, START, Run

__all__ = ["main"]

#: How often a session's wish is looked for, in seconds.
POLL: Final = 0.2
#: state.json is written at most so often for steps, in seconds: a fast model steps hundreds of times a second.
WRITE_EVERY: Final = 0.25
#: Steps over which the trend of the loss is taken.
TREND: Final = 20


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
        before = run.state
        self.state = before.model_copy(
            update={"status": "starting", "attempt": before.attempt + 1, "pid": os.getpid(), "error": None}
        )
        self.losses: list[float] = []
        self.written = 0.0
        self.terminated = False
        # Inherited by the engine: a shutdown asks both, and the engine must live to save what it has.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _on_term(self, _signal: int, _frame: Any) -> None:
        self.terminated = True  # a shutdown: pause at the next step, so that nothing is lost

    def work(self) -> int:
        """Hold the machine's lock and train; the exit code."""
        self._write()
        if self.run.done:
            return 0
        try:
            self._end_line()
            with machine_lock().acquire(timeout=1):
                say_who_trains(self.run.folder)
                self._train(self.run.record)
        except Timeout:
            self._fail("Another run trains on this machine: wait for it, or stop it, then resume.")
        except FinetuneError as error:
            self._fail(error.sentence)
        except OSError as error:
            self._fail(f"Writing the run failed: {error.strerror or error}: make room, then resume.")
        return 1 if self.state.status == "failed" else 0

    def _train(self, record: RunRecord) -> None:
        check_base(record)
        _check_start(self.run, record)
        settings = record.settings.model_dump(mode="json")
        if (self.run.folder / CHAT_TEMPLATE).is_file():
            settings["chat_template"] = str(self.run.folder / CHAT_TEMPLATE)
        job = {
            "kind": "train", "folder": str(self.run.folder), "base": record.base.path, "system": record.system,
            "learned": record.learned, "settings": settings, "threads": record.threads, "created": record.created,
        }  # fmt: skip
        with Child(job, log=self.run.folder / "engine.log") as child:
            signal.signal(signal.SIGTERM, self._on_term)
            over = threading.Event()
            asking = threading.Thread(target=self._pass_on, args=(child, over), daemon=True)
            asking.start()
            try:
                for event in child:
                    self._take(event)
            finally:
                over.set()
                asking.join()

    def _end_line(self) -> None:
        """End a line that a full disk or a kill cut short, which would take the next one with it."""
        path = self.run.folder / "events.jsonl"
        if path.exists() and path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")

    def _pass_on(self, child: Child, over: threading.Event) -> None:
        """Hand a session's wish to the child, once."""
        while not over.wait(POLL):
            want = "pause" if self.terminated else self.run.wanted(self.state.attempt)
            if want in ("stop", "pause"):
                child.send(want)
                return

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        append_json(self.run.folder / "events.jsonl", {**event, "attempt": self.state.attempt, "at": _now()})
        if kind == "step":
            self._take_step(event)
            if time.monotonic() - self.written < WRITE_EVERY:
                return
        else:
            self._take_other(kind, event)
        self._write()
        if kind in ("finished", "stopped"):
            write_json(self.run.folder / "done", {"status": kind, "at": _now()})

    def _take_step(self, event: dict[str, Any]) -> None:
        self.losses = [*self.losses, event["loss"]][-2 * TREND :]
        half = len(self.losses) // 2
        trend = sum(self.losses[half:]) / (len(self.losses) - half) - sum(self.losses[:half]) / half if half else None
        same = ("step", "steps", "epoch", "epochs", "loss", "tokens_per_s", "seconds_left")
        self._update(
            status="running", loss_trend=trend, peak_rss_mb=max(event["rss_mb"], self.state.peak_rss_mb or 0),
            trained_seconds=self.state.trained_seconds + event["seconds"], **{name: event[name] for name in same},
        )  # fmt: skip

    def _take_other(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "rows":
            already = self.state.skipped if event["side"] != "train" else 0
            self._update(skipped=already + len(event["skipped"]))
        elif kind == "begin":
            self._update(status="running", steps=event["steps"], epochs=event["epochs"])
        elif kind == "validation":
            changes: dict[str, Any] = {"validation_loss": event["loss"]}
            if event["step"] == 0:
                changes["base_loss"] = event["loss"]
            elif event.get("best"):
                changes |= {"best_loss": event["loss"], "best_step": event["step"]}
            self._update(**changes)
        elif kind in ("finished", "stopped"):
            same = ("step", "best_loss", "best_step", "base_loss", "peak_rss_mb")
            self._update(status=kind, seconds_left=0.0, **{name: event[name] for name in same})
        elif kind == "paused":
            self._update(status="paused", step=event["step"])

    def _fail(self, sentence: str) -> None:
        self._update(status="failed", error=sentence)
        try:
            append_json(
                self.run.folder / "events.jsonl",
                {"event": "failed", "message": sentence, "attempt": self.state.attempt, "at": _now()},
            )
            self._write()
        except OSError:  # the disk is full: the lock is let go of, and status says interrupted
            return

    def _update(self, **changes: Any) -> None:
        self.state = State.model_validate({**self.state.model_dump(), **changes})

    def _write(self) -> None:
        self._update(updated=_now())
        write_json(self.run.folder / "state.json", self.state.model_dump(mode="json"))
        self.written = time.monotonic()


def check_base(record: RunRecord) -> None:
    """ModelError where the base is gone or is no longer the file that the run began with."""
    path = Path(record.base.path)
    if not path.is_file():
        raise ModelError(f"The base {path} is gone: put it back, and try again.")
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


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
