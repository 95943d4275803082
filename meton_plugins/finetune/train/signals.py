"""The numbers of a run that a diagnosis looks at, read fast: a notice at the start of a chat must not be felt."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from .record import RunRecord, State
from .runs import Run

__all__ = ["Check", "Side", "Signals", "read"]

#: Of every step the loss is read, of so many steps, evenly chosen, all else: a median of more says no more, and to
#: read 5,000 whole steps takes ten times as long.
SAMPLE: Final = 100

#: Events whose message says why it did not simply go on.
_FAILURES: Final = ("failed", "paused", "restarted")
_STEP: Final = b'"event": "step"'
_NUMBER: Final = b'"step": '
_LOSS: Final = b'"loss": '


class Check(NamedTuple):
    """A validation. `epoch`: how often the rows were gone through by then, with a part of one within an epoch.

    `loss` counts what the run's validation loss counts, `learned` all learned tokens, as the training loss does, `form`
    those of Meton's form, where there are some.
    """

    step: int
    epoch: float
    loss: float
    learned: float
    form: float | None = None


@dataclass(frozen=True)
class Side:
    """The rows of one side as they were trained on; `learned` and `longest` in tokens, `skipped`: reasons."""

    rows: int = 0
    learned: int = 0
    longest: int = 0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signals:
    """A run in numbers: those of now, where it is still at work. `losses` has one number for each of `steps`."""

    name: str
    record: RunRecord
    state: State
    status: str
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    #: Some of the steps whole, in order.
    sample: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    #: Steps in an epoch.
    batches: int = 0
    train: Side | None = None
    validation: Side | None = None
    failures: tuple[str, ...] = ()
    #: Attempts that ended without a word, and the steps that had to be done again.
    broken: int = 0
    repeated: int = 0

    @property
    def over(self) -> bool:
        """Whether it came to its end, by itself or because it was stopped."""
        return self.status in ("finished", "stopped")

    @property
    def early(self) -> bool:
        """Whether it ended by itself before its last step, because nothing got better."""
        return self.status == "finished" and bool(self.steps) and self.steps[-1] < self.total

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    @cached_property
    def epochs(self) -> list[float]:
        """The mean training loss of each whole epoch: the same rows each time, so that these can be compared."""
        if not self.batches:
            return []
        means = []
        for before in range(0, self.steps[-1] if self.steps else 0, self.batches):
            start = bisect_right(self.steps, before)
            part = self.losses[start : bisect_right(self.steps, before + self.batches)]
            if len(part) == self.batches and math.isfinite(total := sum(part)):
                means.append(total / self.batches)
        return means

    @cached_property
    def judged(self) -> list[Check]:
        """The validations after training began, of those that gave a number."""
        return [check for check in self.checks if check.step > 0 and math.isfinite(check.loss)]

    @property
    def base_loss(self) -> float | None:
        """The validation loss before the first step."""
        return next((check.loss for check in self.checks if check.step == 0), None)

    def level(self, last: bool = True) -> float | None:
        """The training loss at the end, or at the beginning: an epoch's mean, or where there are not two whole epochs
        the median of a third of the steps."""
        if len(self.epochs) >= 2:
            return self.epochs[-1 if last else 0]
        part = max(1, len(self.losses) // 3)
        some = [loss for loss in (self.losses[-part:] if last else self.losses[:part]) if math.isfinite(loss)]
        return median(some) if some else None

    def values(self, name: str) -> list[float]:
        """What the sample of steps says of `name`; only numbers."""
        found = [step.get(name) for step in self.sample]
        return [float(value) for value in found if isinstance(value, (int, float)) and math.isfinite(value)]


def read(run: Run) -> Signals:
    """The signals of `run`, also of one that is at work; DataError where its run.json cannot be read."""
    lines = _lines(run.folder / "events.jsonl")
    steps = [line for line in lines if _STEP in line]
    others = [event for line in lines if _STEP not in line and (event := _event(line)) is not None]
    losses = _losses(steps)
    state = run.state
    begin: dict[str, Any] = next((event for event in reversed(others) if event["event"] == "begin"), {})
    total = int(begin.get("steps", state.steps))
    batches = int(begin.get("batches", 0))
    picked = steps[:: max(1, len(steps) // SAMPLE)]
    if steps and picked[-1] is not steps[-1]:
        picked.append(steps[-1])
    return Signals(
        run.name, run.record, state, run.status, steps=list(losses), losses=list(losses.values()),
        checks=_checks(others, batches), sample=[event for line in picked if (event := _event(line)) is not None],
        total=total, batches=batches, train=_side(others, "train"), validation=_side(others, "validation"),
        failures=tuple(str(event.get("message", "")) for event in others if event["event"] in _FAILURES),
        broken=_broken(others, state.attempt, run.status), repeated=len(steps) - len(losses),
    )  # fmt: skip


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:  # its worker has not come up yet
        return []


def _event(line: bytes) -> dict[str, Any] | None:
    """The event on a line; None for one that a kill cut short."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _losses(lines: Sequence[bytes]) -> dict[int, float]:
    """The loss of each step, in order; of one that was repeated after a kill, the last."""
    found: dict[int, float] = {}
    for line in lines:
        try:
            found[int(_after(line, _NUMBER))] = float(_after(line, _LOSS))
        except ValueError:  # half a line
            continue
    return dict(sorted(found.items()))


def _after(line: bytes, key: bytes) -> bytes:
    """The number behind `key`; ValueError where there is none, or nothing ends it. Three times as fast as JSON."""
    start = line.index(key) + len(key)
    return line[start : line.index(b",", start)]


def _checks(events: Sequence[dict[str, Any]], batches: int) -> list[Check]:
    found: dict[int, Check] = {}
    for event in events:
        if event["event"] == "validation":
            step, loss = int(event["step"]), event["loss"]
            epoch = step / batches if batches else float(event.get("epoch", 0))
            # Events of older versions have one loss: it counted all learned tokens.
            learned, form = event.get("learned_loss", loss), event.get("form_loss")
            found[step] = Check(
                step, epoch, math.nan if loss is None else float(loss), math.nan if learned is None else float(learned),
                None if form is None else float(form),
            )  # fmt: skip
    return [found[step] for step in sorted(found)]


def _side(events: Sequence[dict[str, Any]], side: str) -> Side | None:
    """What the newest attempt made of the examples of `side`."""
    for event in reversed(events):
        if event["event"] == "rows" and event.get("side") == side:
            reasons = tuple(str(each.get("reason", "")) for each in event.get("skipped", ()))
            return Side(event["rows"], event["learned"], event["longest"], reasons)
    return None


def _broken(events: Sequence[dict[str, Any]], attempts: int, status: str) -> int:
    """How many attempts ended without a word; a run that is at work, or was just begun, has one that goes on."""
    said = {
        int(event.get("attempt", 0))
        for event in events
        if event["event"] in ("paused", "stopped", "finished", "failed")
    }
    silent = sum(attempt not in said for attempt in range(1, attempts + 1))
    return silent - (silent > 0 and status in ("starting", "running"))
