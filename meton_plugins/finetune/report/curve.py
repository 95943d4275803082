"""Courses as lines of text: braille dots, four to a row and two to a column of a cell, with axes and a few ticks.

Our own and small: of the libraries, plotext 6 takes a quarter of a second to load and plotille writes a number with
nine places on every line; neither has a chart for a terminal that knows ASCII alone, which ours must.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .course import Point
from .scale import labels, pooled, span, ticks

__all__ = ["Series", "Span", "chart"]

#: A piece of a line, and the style that it is shown in.
Span = tuple[str, str]
#: Bits of a braille sign, by row and column of its dots.
DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BRAILLE: Final = 0x2800
#: Smaller charts tell nothing.
SMALLEST: Final = (16, 3)
#: Cells between two labels of the axis below, from middle to middle.
APART: Final = 12


@dataclass(frozen=True)
class Series:
    """Points to draw: as a `line`, as `faint` dots that may lie out of sight, or each as its `mark` (two: ASCII's)."""

    points: Sequence[Point]
    kind: str
    style: str = ""
    mark: str = "●o"


def chart(
    series: Sequence[Series], width: int, height: int, steps: int, *, ascii_only: bool = False
) -> list[list[Span]]:
    """`height` lines of at most `width` cells, of all `series` from step 0 to `steps`; later series lie on top.

    Empty where there is nothing to draw or no room for it.
    """
    firm = [point for each in series if each.kind != "faint" for point in each.points]
    raw = [point for each in series if each.kind == "faint" for point in each.points]
    if not firm or width < SMALLEST[0] or height < SMALLEST[1]:
        return []
    low, high = span(firm, raw)
    rows = height - 2
    at = ticks(low, high, max(3, rows // 3))
    names = labels(at)
    left = max(map(len, names)) + 2
    # Half a label stands out on the right of the last tick.
    plot = _Plot(width - left - 2, rows, (0.0, float(max(steps, 1))), (low, high), ascii_only)
    for each in series:
        plot.draw(each)
    named = {plot.row(number): name for number, name in zip(at, names, strict=True)}
    bend, bar, knot = "+|+" if ascii_only else "└│┤"
    lines: list[list[Span]] = []
    for row, cells in enumerate(plot.lines()):
        lines.append([(f"{named.get(row, ''):>{left - 2}} {knot if row in named else bar}", "dim"), *cells])
    return [*lines, *_below(plot, left, bend, ascii_only)]


def _below(plot: _Plot, left: int, bend: str, ascii_only: bool) -> Iterator[list[Span]]:
    """The axis of the steps, and its labels."""
    line, knot = "-+" if ascii_only else "─┴"
    at = ticks(0.0, plot.x[1], max(3, plot.columns // APART + 1))
    rule, text = [line] * plot.columns, [" "] * (plot.columns + left + 2)
    for number, name in zip(at, labels(at), strict=True):
        column = plot.column(number)
        start = min(left + column - len(name) // 2, len(text) - len(name))
        if number:
            rule[column] = knot
        if all(sign == " " for sign in text[max(0, start - 1) : start + len(name) + 1]):
            text[start : start + len(name)] = name
    yield [(" " * (left - 1) + bend + "".join(rule), "dim")]
    yield [("".join(text).rstrip(), "dim")]


class _Plot:
    """A field of cells. In ASCII a cell has one dot."""

    def __init__(self, columns: int, rows: int, x: Point, y: Point, ascii_only: bool) -> None:
        self.columns, self.rows, self.x, self.y, self.ascii = columns, rows, x, y, ascii_only
        self.wide, self.high = (1, 1) if ascii_only else (2, 4)
        self._cells: dict[tuple[int, int], tuple[int, int, str, str]] = {}  # rank, bits, mark, style
        self._rank = 0

    def column(self, x: float) -> int:
        """Of the cell at `x`."""
        return self._dot((x, self.y[0]))[0] // self.wide

    def row(self, y: float) -> int:
        """Of the cell at `y`; 0 is on top."""
        return self._dot((self.x[0], y))[1] // self.high

    def _dot(self, point: Point) -> tuple[int, int]:
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        down = (self.y[1] - point[1]) / (self.y[1] - self.y[0])
        return round(across * (self.columns * self.wide - 1)), round(down * (self.rows * self.high - 1))

    def draw(self, series: Series) -> None:
        """On top of what is there."""
        self._rank += 1
        if series.kind == "line":
            dots = [self._dot(point) for point in pooled(series.points, self.columns * self.wide)]
            for one, two in zip(dots, dots[1:] or dots, strict=False):
                for dot in _between(one, two):
                    self._set(dot, "*", series.style)
            return
        for point in series.points:
            mark = series.mark[-1 if self.ascii else 0] if series.kind == "mark" else ""
            self._set(self._dot(point), mark or ".", series.style, whole=bool(mark))

    def _set(self, dot: tuple[int, int], mark: str, style: str, *, whole: bool = False) -> None:
        cell = dot[0] // self.wide, dot[1] // self.high
        if not (0 <= cell[0] < self.columns and 0 <= cell[1] < self.rows):
            return
        bits = 0 if self.ascii or whole else DOTS[dot[1] % 4][dot[0] % 2]
        rank, before, *_ = self._cells.get(cell, (0, 0))
        # A cell has one colour: what lies below gives way.
        self._cells[cell] = (self._rank, bits | (before if rank == self._rank else 0), mark, style)

    def lines(self) -> Iterator[list[Span]]:
        """What was drawn, from top to bottom."""
        for row in range(self.rows):
            spans: list[Span] = []
            for column in range(self.columns):
                _, bits, mark, style = self._cells.get((column, row), (0, 0, " ", ""))
                sign = chr(BRAILLE | bits) if bits else mark
                if spans and spans[-1][1] == style:
                    spans[-1] = (spans[-1][0] + sign, style)
                else:
                    spans.append((sign, style))
            yield spans


def _between(one: tuple[int, int], two: tuple[int, int]) -> Iterator[tuple[int, int]]:
    far = max(abs(two[0] - one[0]), abs(two[1] - one[1]), 1)
    for part in range(far + 1):
        yield one[0] + round((two[0] - one[0]) * part / far), one[1] + round((two[1] - one[1]) * part / far)
