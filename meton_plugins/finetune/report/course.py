"""The way of a run, as its events tell it: losses, validations, what happened; each line is read once, as it comes."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["Course", "Point", "Step", "Validation"]

Point = tuple[float, float]

#: What happened beside steps: a run that pauses every hour for a year has no more.
LAST: Final = 10_000
#: Of an event, what makes a `Step`.
FIELDS: Final = ("loss", "learning_rate", "gradient_norm", "tokens_per_s")


class Step(NamedTuple):
    """One update. NaN where an older version did not say."""

    loss: float
    rate: float
    norm: float
    speed: float


class Validation(NamedTuple):
    """A look at the validation side; `epoch` is the one that was done."""

    loss: float
    epoch: int
    best: bool


class Course:
    """What events.jsonl in `folder` says so far. A step that was repeated after a kill counts as it was done last."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"
        self._forget()

    def _forget(self) -> None:
        self.steps: dict[int, Step] = {}
        self.validations: dict[int, Validation] = {}
        #: Everything but the steps, in order.
        self.others: deque[dict[str, Any]] = deque(maxlen=LAST)
        self._read = 0

    @classmethod
    def of(cls, folder: Path) -> Course:
        """All that there is."""
        course = cls(folder)
        course.read()
        return course

    def read(self) -> bool:
        """Take in what was written since; whether there was anything."""
        try:
            if self.path.stat().st_size == self._read:
                return False
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._read:  # a restored run: another file under the same name
                    self._forget()
                file.seek(self._read)
                whole, _, _ = file.read().rpartition(b"\n")
        except OSError:
            return False
        if not whole:
            return False
        self._read += len(whole) + 1
        for line in whole.split(b"\n"):
            self._take(line)
        return True

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
            if kind == "step":
                self.steps[int(event["step"])] = Step(*(float(event.get(name, math.nan)) for name in FIELDS))
                return
            if kind == "validation":
                best = bool(event.get("best"))
                self.validations[int(event["step"])] = Validation(float(event["loss"]), int(event["epoch"]), best)
            self.others.append(event)
        except (ValueError, TypeError, KeyError):  # a line that a full disk cut short
            return

    def points(self, what: str = "loss") -> list[Point]:
        """Step and value of a field of `Step`, in order, where it is a number."""
        index = Step._fields.index(what)
        return [(step, facts[index]) for step, facts in sorted(self.steps.items()) if math.isfinite(facts[index])]

    @property
    def validated(self) -> list[Point]:
        """Step and validation loss, in order; step 0 is the base."""
        return [(step, each.loss) for step, each in sorted(self.validations.items()) if math.isfinite(each.loss)]
