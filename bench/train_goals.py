"""What training is to reach against PyTorch + PEFT, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Goal:
    """At least `speed` times as fast in at most `memory` times the memory, in each of `cases` (names, or how they
    begin). `own` and `other` are sides of a case; `planned`: how far the planner may be off."""

    words: str
    cases: tuple[str, ...]
    speed: float
    memory: float
    low: bool = False
    other: str = "fp32"
    planned: float | None = None


FULL: Final = tuple(f"125m-{ctx}-{base}" for ctx in (512, 1024) for base in ("q4_k_m", "q8_0", "f16"))
CHATS: Final = ("125m-chats-q4_k_m", "125m-chats4-q4_k_m")
GOALS: Final = (
    Goal("full rows", FULL, 1.2, 0.5),
    Goal("chats", CHATS, 1.2, 0.65),
    Goal("chats, low memory", CHATS, 0.9, 0.42, low=True),
    Goal("against bf16", (*FULL, *CHATS), 1.0, 0.75, other="bf16"),
    Goal("vocabulary of 152k", ("500m-1024-152k-q4_k_m",), 1.0, 0.4, planned=0.15),
)


@dataclass(frozen=True)
class Judged:
    """A goal in one case: the ratios, None where they were not measured, and the verdict in words."""

    goal: Goal
    case: str
    speed: float | None
    memory: float | None
    verdict: str


def judged(cases: Sequence[dict[str, Any]]) -> list[Judged]:
    """Every goal in every of its cases; bf16 only where it was measured."""
    by_name = {case["name"]: case for case in cases}
    rows = []
    for goal in GOALS:
        for name in goal.cases:
            case = by_name.get(name, {})
            suffix = goal.other + ("_low" if goal.low else "")
            speed, memory = case.get(f"ratio_speed_{suffix}"), case.get(f"ratio_memory_{suffix}")
            if speed is not None or goal.other == "fp32":
                rows.append(Judged(goal, name, speed, memory, _verdict(goal, case, speed, memory)))
    return rows


def _verdict(goal: Goal, case: dict[str, Any], speed: float | None, memory: float | None) -> str:
    if speed is None or memory is None:
        return "not measured"
    missed = [word for word, met in (("speed", speed >= goal.speed), ("memory", memory <= goal.memory)) if not met]
    if goal.planned is not None:
        planned = case.get("planned_mb")
        off = None if planned is None else planned / case["ours"]["peak_rss_mb"] - 1
        if off is None:
            missed.append("no plan")
        elif abs(off) > goal.planned:
            missed.append(f"plan off by {off:+.0%}")
    return f"not met: {', '.join(missed)}" if missed else "met"
