"""What every chart needs, of text or of lines: where its ticks are, what a long course comes down to, its height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from .course import Point

__all__ = ["labels", "pooled", "smoothed", "span", "thinned", "ticks"]

#: Of raw losses, the part at either end that does not decide how high a chart is: one spike would flatten all else.
TAIL: Final = 0.02
#: A course is smoothed over this part of itself, to either side.
WINDOW: Final = 1 / 50


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from `low` to `high`, evenly apart."""
    if not high > low or most < 1:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5, 10, 20, 50):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [number * step for number in range(first, last + 1)] or [low]
    return [low]


def labels(numbers: Sequence[float]) -> list[str]:
    """`numbers` as an axis names them: with no more places than tell them apart."""
    if not numbers:
        return []
    apart = min((b - a for a, b in pairwise(numbers)), default=abs(numbers[0]) or 1)
    if max(map(abs, numbers)) < 1e-2:
        return [f"{number:.0e}".replace("e-0", "e-") if number else "0" for number in numbers]
    if apart >= 1000:
        return [f"{number / 1000:g}k" if number else "0" for number in numbers]
    places = max(0, -math.floor(math.log10(apart) + 1e-9))
    return [f"{number:.{places}f}" for number in numbers]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """An even course through `points`: each the mean of those around it, so that it does not lag behind a fall."""
    half = max(1, round(len(points) * WINDOW))
    sums = [0.0, *accumulate(y for _, y in points)]
    found = []
    for index, (x, _) in enumerate(points):
        low, high = max(0, index - half), min(len(points), index + half + 1)
        found.append((x, (sums[high] - sums[low]) / (high - low)))
    return found


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` (4 at least) of `points`, in order; first, last and every extreme among them."""
    if len(points) <= most:
        return list(points)
    size = math.ceil((len(points) - 2) / ((most - 2) // 2))
    found = [points[0]]
    for start in range(1, len(points) - 1, size):
        part = points[start : min(start + size, len(points) - 1)]
        ends = {min(part, key=_height), max(part, key=_height)}
        found += sorted(ends)
    return [*found, points[-1]]


def pooled(points: Sequence[Point], most: int) -> list[Point]:
    """Means of `points` that lie side by side, at most `most`."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _height(point: Point) -> float:
    return point[1]


def span(firm: Sequence[Point], raw: Sequence[Point] = ()) -> tuple[float, float]:
    """The heights that a chart shows: all of `firm`, and of `raw` all but its tails; a little room at either end."""
    heights = [y for _, y in firm]
    spread = sorted(y for _, y in raw)
    if spread:
        cut = int(len(spread) * TAIL)
        heights += [spread[cut], spread[-1 - cut]]
    if not heights:
        return 0.0, 1.0
    low, high = min(heights), max(heights)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    # A loss is not negative: no room below nothing.
    return (max(0.0, low - room) if low >= 0 else low - room), high + room
