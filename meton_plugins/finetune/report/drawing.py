"""Courses as inline SVG. It fills what width there is: the strokes keep their width, and the words stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .course import Point
from .scale import labels, smoothed, span, thinned, ticks

__all__ = ["Drawing", "Tick", "draw"]

#: The drawing's own units; a screen shows it as wide as it is and as high as the page says.
WIDE, HIGH = 1000.0, 400.0
#: Points of a course: more than a screen has columns, and a page that is quick to open.
MOST: Final = 1000


@dataclass(frozen=True)
class Tick:
    """A label of an axis; `at` in hundredths from the left, or from the top."""

    at: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """A chart in pieces: paths as SVG wants them, and the labels of both axes."""

    title: str
    raw: str
    line: str
    dots: str
    best: str
    x: list[Tick]
    y: list[Tick]
    steps: float
    low: float
    high: float
    #: The highest and lowest value that the chart cuts off, in words.
    cut: str


def draw(
    title: str, raw: Sequence[Point], marks: Sequence[Point] = (), best: int | None = None, *, steps: int,
    smooth: bool = True, height: int = 5,
) -> Drawing | None:  # fmt: skip
    """`raw` values over steps with their even course, `marks` as dots, one of them the `best`; None without points.

    `height`: at most so many labels beside it.
    """
    even = smoothed(raw) if smooth else list(raw)
    if not even and not marks:
        return None
    low, high = span([*even, *marks], raw)
    frame = _Frame(float(max(steps, 1)), low, high)
    highest = max((value for _, value in raw), default=high)
    return Drawing(
        title=title,
        raw=frame.path(thinned(raw, MOST)) if smooth and len(raw) > 1 else "",
        line=frame.path(thinned(even, MOST)),
        dots=frame.dots(marks),
        best=frame.dots([point for point in marks if point[0] == best]),
        x=[Tick(100 * at / frame.steps, name) for at, name in _named(0.0, frame.steps, 6)],
        y=[Tick(frame.y(at) / HIGH * 100, name) for at, name in _named(low, high, height)],
        steps=frame.steps,
        low=low,
        high=high,
        cut=f"Single steps reach up to {highest:.3g}." if highest > high else "",
    )


def _named(low: float, high: float, most: int) -> list[tuple[float, str]]:
    at = ticks(low, high, most)
    return list(zip(at, labels(at), strict=True))


class _Frame:
    def __init__(self, steps: float, low: float, high: float) -> None:
        self.steps, self.low, self.high = steps, low, high

    def y(self, value: float) -> float:
        return HIGH * (self.high - value) / (self.high - self.low)

    def _at(self, point: Point) -> str:
        return f"{WIDE * point[0] / self.steps:.1f} {self.y(point[1]):.1f}"

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(map(self._at, points)) if points else ""

    def dots(self, points: Sequence[Point]) -> str:
        """Lines without length, whose round ends are dots that no stretching spoils."""
        return "".join(f"M{self._at(point)}h0" for point in points)
