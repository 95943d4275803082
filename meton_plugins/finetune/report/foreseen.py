"""What a run's plan foresaw, beside what came of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..train.record import RunRecord, State

__all__ = ["Foreseen", "foreseen"]


class Foreseen(NamedTuple):
    """A number that was foreseen and what it really was, in `unit`; None for what is not known."""

    what: str
    unit: str
    planned: float
    real: float | None

    @property
    def off(self) -> float | None:
        """What it really was against the plan, as a part of that: 0.1 for a tenth more than was foreseen."""
        return None if self.real is None else self.real / self.planned - 1


def foreseen(record: RunRecord, state: State) -> list[Foreseen]:
    """Peak memory and time. A run that did not come to its end has no real time yet."""
    plan = record.plan or {}
    whole = state.status == "finished" and bool(state.steps) and state.step == state.steps
    rows = (
        ("peak memory", "MB", _number(plan, "memory", "peak"), state.peak_rss_mb),
        ("time", "s", _number(plan, "time", "seconds"), state.trained_seconds if whole else None),
    )
    return [Foreseen(what, unit, planned, real) for what, unit, planned, real in rows if planned is not None]


def _number(plan: dict[str, Any], part: str, name: str) -> float | None:
    """A number of `plan.Plan`; None where another version wrote something else, or nothing was measured."""
    inside = plan.get(part)
    value = inside.get(name) if isinstance(inside, dict) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else None
