"""Sudden rises of a loss that had fallen, told apart from rows that are hard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

__all__ = ["Spike", "spikes"]

#: So many of this many steps in a row must be high: one hard row is no spike, and a loss that truly jumps stays up
#: until the weights have come back.
HIGH: Final = 3
RUN: Final = 5
#: High is what lies above nearly every step of the time before (this quantile), by this part and so many nats.
QUANTILE: Final = 0.95
PART: Final = 1.25
NATS: Final = 0.1
#: Steps that count as the time before: two epochs where that is more, so that every row is among them.
BEFORE: Final = 40
LONGEST: Final = 200
#: The time before is looked at anew after so many steps.
STRIDE: Final = 10
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
    window = min(LONGEST, max(BEFORE, 2 * batches))
    top = max((one for one in losses[: batches or BEFORE] if math.isfinite(one)), default=math.inf)
    found: list[Spike] = []
    #: The usual of the stride, and what is high in it.
    usual = limit = math.inf
    high: list[int] = []
    at = BEFORE // 2
    while at < len(losses):
        if at % STRIDE == 0:
            past = [one for one in losses[max(0, at - window) : at] if math.isfinite(one)]
            if len(past) >= BEFORE // 2:
                past.sort()
                usual = past[len(past) // 2]
                limit = PART * past[min(len(past) - 1, int(QUANTILE * len(past)))] + NATS
        if limit < losses[at] < math.inf:
            high = [one for one in high if one > at - RUN] + [at]
            alone = at >= (batches or BEFORE) and losses[at] > ALONE * top
            if len(high) >= HIGH or alone:
                end = _end(losses, high[0], limit)
                stretch = [one for one in losses[high[0] : end] if math.isfinite(one)]
                back = end - high[0] if end < len(losses) else 0
                found.append(Spike(high[0], usual, max(stretch), back))
                high, at = [], max(end, at + 1)
                continue
        at += 1
    return found


def _end(losses: Sequence[float], start: int, limit: float) -> int:
    """Where the loss is usual again: as many steps in a row as show it."""
    for at in range(start, len(losses) - RUN + 1):
        if median(losses[at : at + RUN]) <= limit:
            return at + 1 if at == start else at
    return len(losses)
