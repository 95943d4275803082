"""Charts of text: every width, every alphabet."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from meton_plugins.finetune.curate.statistics import bins
from meton_plugins.finetune.report.histogram import bars, gauge

ROWS = [
    ("python", 1200),
    ("日本語のとても長い札" * 3, 7),
    ("none", 0),
    ("e\u0301", 1),
    ("a very long label indeed " * 4, 600),
]


@pytest.mark.parametrize("width", [20, 40, 41, 80, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_bars_fit_and_stand_in_line(width: int, ascii_only: bool) -> None:
    lines = bars(ROWS, width, ascii_only=ascii_only)
    assert len(lines) == len(ROWS)
    assert max(map(cell_len, lines)) <= width
    ends = set()
    for line, (_, number) in zip(lines, ROWS, strict=True):
        before, shown, bar = line.rstrip("#█▏▎▍▌▋▊▉ ").rpartition(f"{number:,}")
        assert bar == ""
        ends.add(cell_len(before + shown))
    assert len(ends) == 1, "numbers end in one column"
    sign = "#" if ascii_only else "█"
    assert abs(lines[0].count(sign) - 2 * lines[4].count(sign)) <= 1, "half the number, half the bar"
    assert lines[2].endswith(" 0"), "nothing has no bar"
    assert lines[3].endswith(("#", "▏")), "one of a thousand is seen"


def test_no_rows_no_lines() -> None:
    assert bars([], 80) == []
    assert bars([("a", 0)], 80) == ["a  0"]


@pytest.mark.parametrize(("part", "bar"), [(1, "▏"), (4, "▌"), (12, "█▌"), (160, "█" * 20), (320, "█" * 40)])
def test_eighths(part: int, bar: str) -> None:
    shown = bars([("x", part), ("y", 320)], 60)[0]
    assert shown == f"x  {part:>3}  {bar}"


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(("value", "notch", "full"), [(0, True, 0), (10, True, 2), (100, False, 19), (900, False, 38)])
def test_gauge(value: int, notch: bool, full: int, ascii_only: bool) -> None:
    shown = gauge(value, (50, 200), 40, ascii_only=ascii_only)
    assert cell_len(shown) == 40
    assert ("|" if ascii_only else "│") in shown if notch else ("|" if ascii_only else "│") not in shown
    assert abs(shown.count("#" if ascii_only else "█") - full) <= 1
    assert shown.isascii() is ascii_only


@pytest.mark.parametrize(
    ("numbers", "lows", "last"),
    [
        ([7], [0], 9),
        ([1, 9, 10, 4500], [0, 10, 20, 50, 100, 200, 500, 1000, 2000], 4999),
        ([400, 460, 790], [400, 450, 500, 550, 600, 650, 700, 750], 799),
        ([100, 100], [100], 109),
        ([0, 0, 3], [0], 9),
    ],
    ids=["one", "rising", "even", "equal", "zeros"],
)
def test_bins(numbers: list[int], lows: list[int], last: int) -> None:
    found = bins({number: numbers.count(number) for number in numbers})
    assert [each.low for each in found] == lows
    assert [each.high for each in found] == [*(low - 1 for low in lows[1:]), last], "no gap, nothing twice"
    for each in found:
        assert each.count == sum(each.low <= number <= each.high for number in numbers)
    assert sum(each.count for each in found) == len(numbers)


def test_no_numbers_no_bins() -> None:
    assert bins({}) == []
