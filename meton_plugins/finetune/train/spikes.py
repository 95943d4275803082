"""Sudden rises of a loss that had fallen, told apart from rows that are hard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

__all__ = ["Spike", "spikes"]

#: So many of this many steps in a row must be high: hard rows are no spike (that four of the hardest thirtieth meet in
#: six steps happens once in 100,000), and a loss that truly jumps stays up until the weights have come back.
HIGH: Final = 4
RUN: Final = 6
#: High is what lies above nearly every step of the time before (this quantile), by this part and so many nats.
QUANTILE: Final = 0.97
PART: Final = 1.25
NATS: Final = 0.1
#: Steps that count as the time before: two epochs where that is more, so that every row is among them.
BEFORE: Final = 40
LONGEST: Final = 120
#: The time before is looked at anew after so many steps.
STRIDE: Final = 20
#: A single step that is so many times as high as any of the first epoch is one by itself.
ALONE: Final = 2.0


class Spike(NamedTuple):
    """Positions in the losses, from 0. `before`: the usual loss by then; `lasts`: steps until it was usual again.

    `lasts` is 0 where that never came.
    """

    start: int
    before: float
    peak: float
    lasts: int


def spikes(losses: Sequence[float], batches: int = 0) -> list[Spike]:
    """The sudden rises in `losses`; `batches`: steps in an epoch. What is no number is no spike: it is the end."""
    told = [one if math.isfinite(one) else -math.inf for one in losses]
    window = min(LONGEST, max(BEFORE, 2 * batches))
    first = batches or BEFORE
    top = ALONE * max(told[:first], default=math.inf)
    found: list[Spike] = []
    high: list[int] = []
    at = BEFORE // 2
    while at < len(told):
        past = sorted(told[max(0, at - window) : at])
        limit = PART * past[min(len(past) - 1, int(QUANTILE * len(past)))] + NATS
        stride = told[at : at + STRIDE]
        start, at = at, at + STRIDE
        if max(stride) <= limit:  # the usual case: nothing to look at one by one
            continue
        for step in (start + offset for offset, one in enumerate(stride) if one > limit):
            high = [*(one for one in high if one > step - RUN), step]
            if len(high) >= HIGH or (step >= first and told[step] > top):
                end = _end(told, high[0], limit)
                back = end - high[0] if end < len(told) else 0
                found.append(Spike(high[0], past[len(past) // 2], max(told[high[0] : end]), back))
                high, at = [], max(end, step + 1)
                break
    return found


def _end(losses: Sequence[float], start: int, limit: float) -> int:
    """Where the loss is usual again: as many steps in a row as show it."""
    for at in range(start, len(losses) - RUN + 1):
        if median(losses[at : at + RUN]) <= limit:
            return at + 1 if at == start else at
    return len(losses)
