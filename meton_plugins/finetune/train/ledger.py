"""What a worker writes of its run: state.json and events.jsonl, made of what its engine says."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from typing import Any, Final

from ..engine.compute import ComputeConfig
from ..paths import append_json, replacing, write_json
from .record import State
from .runs import Run

__all__ = ["Ledger"]

#: state.json is written at most so often for steps, in seconds: a fast model steps hundreds of times a second.
WRITE_EVERY: Final = 0.25
#: Steps over which the trend of the loss is taken.
TREND: Final = 20
#: Bytes kept free, so that on a full disk there is room to say so.
ROOM: Final = 32 << 10
#: What events tell of how good the training is.
_LOSSES: Final = (
    "base_loss", "start_loss", "best_loss", "best_step", "since_best", "base_form_loss", "best_form_loss"
)  # fmt: skip


class Ledger:
    """The files of one attempt at a run. OSError where they cannot be written."""

    def __init__(self, run: Run) -> None:
        self.run = run
        before = run.state
        self.state = before.model_copy(
            update={"status": "starting", "attempt": before.attempt + 1, "pid": os.getpid(), "error": None}
        )
        #: The step of the newest checkpoint that was told of; a new engine goes on from there.
        self.saved = 0
        self._events = run.folder / "events.jsonl"
        self._room = run.folder / "room"
        self._losses: list[float] = []
        self._written = 0.0

    def open(self) -> None:
        """Say that a worker is at work."""
        self._write()
        self._end_line()
        with replacing(self._room) as file:
            file.write(os.urandom(ROOM))  # some file systems keep no zeros

    def close(self) -> None:
        """Give back what was kept free."""
        self._room.unlink(missing_ok=True)

    def _end_line(self) -> None:
        """End a line that a kill cut short, which would take the next one with it."""
        if self._events.exists() and self._events.stat().st_size:
            with self._events.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")

    def take(self, event: dict[str, Any]) -> None:
        """Record what the engine said, or the worker itself."""
        kind = event["event"]
        if kind == "sync":
            self._sync()
            return
        append_json(self._events, {**event, "attempt": self.state.attempt, "at": _now()})
        if kind == "step":
            self._take_step(event)
            if time.monotonic() - self._written < WRITE_EVERY:
                return
        else:
            self._take_other(kind, event)
        if kind in ("finished", "stopped"):
            self.close()
        self._write()
        if kind in ("finished", "stopped"):
            write_json(self.run.folder / "done", {"status": kind, "at": _now()})

    def note(self, message: str) -> None:
        """Tell the user of something, though the run goes on."""
        self.take({"event": "note", "message": message})

    def end(self, status: str, sentence: str) -> None:
        """The run has `failed`, or `paused` by itself; `sentence` says why and what to do."""
        self.close()
        self._update(status=status, error=sentence)
        last = {"event": status, "step": self.state.step, "message": sentence}
        # On a disk without any room the lock is let go of, and status says interrupted.
        with contextlib.suppress(OSError):
            self._write()
        with contextlib.suppress(OSError):
            append_json(self._events, {**last, "attempt": self.state.attempt, "at": _now()})

    def _sync(self) -> None:
        """After a power cut, no event may be missing before a checkpoint that is there."""
        if self._events.exists():
            with self._events.open("rb") as file:
                os.fsync(file.fileno())

    def _take_step(self, event: dict[str, Any]) -> None:
        self._losses = [*self._losses, event["loss"]][-2 * TREND :]
        half = len(self._losses) // 2
        late, early = self._losses[half:], self._losses[:half]
        trend = sum(late) / len(late) - sum(early) / half if half else None
        same = ("step", "steps", "epoch", "epochs", "loss", "tokens_per_s", "seconds_left")
        self._update(
            status="running", loss_trend=trend, peak_rss_mb=max(event["rss_mb"], self.state.peak_rss_mb or 0),
            trained_seconds=self.state.trained_seconds + event["seconds"], **{name: event[name] for name in same},
        )  # fmt: skip

    def _take_other(self, kind: str, event: dict[str, Any]) -> None:
        losses = {name: event[name] for name in _LOSSES if name in event}
        match kind:
            case "rows":
                already = self.state.skipped if event["side"] != "train" else 0
                self._update(skipped=already + len(event["skipped"]))
            case "resumed":
                self.saved = event["step"]
            case "begin":
                self._update(
                    status="running", step=event["step"], steps=event["steps"], epochs=event["epochs"], **losses
                )
            case "validation":
                self._update(validation_loss=event["loss"], **losses)
            case "checkpoint":
                self.saved = event["step"]
            case "compute":
                self.run.record_compute(ComputeConfig.model_validate(event["compute"]))
            case "note" | "early":
                notes = [self.state.note] if self.state.note else []
                if event["message"] not in "; ".join(notes):
                    self._update(note="; ".join([*notes, event["message"]]))
            case "finished" | "stopped":
                peak = max(event["peak_rss_mb"], self.state.peak_rss_mb or 0)
                self._update(status=kind, step=event["step"], seconds_left=0.0, peak_rss_mb=peak, **losses)
            case "paused":
                self._update(status="paused", step=event["step"])
            case _:  # of what else is told, the log alone knows
                return

    def _update(self, **changes: Any) -> None:
        self.state = State.model_validate({**self.state.model_dump(), **changes})

    def _write(self) -> None:
        self._update(updated=_now())
        write_json(self.run.folder / "state.json", self.state.model_dump(mode="json"))
        self._written = time.monotonic()


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
