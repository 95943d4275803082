"""Charts of text: bars and a gauge, as lines that any terminal of any width can show."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

__all__ = ["bars", "gauge"]

#: An eighth of a cell each, so that small differences show.
EIGHTHS: Final = " ▏▎▍▌▋▊▉"
FULL: Final = "█"
#: Longer bars tell no more, and a calm page is narrow.
LONGEST: Final = 40
#: A bar shorter than this tells nothing: the labels give way first.
SHORTEST: Final = 8


def bars(rows: Sequence[tuple[str, int]], width: int, *, ascii_only: bool = False) -> list[str]:
    """One line for each (label, number): label, number, bar. No line is wider than `width` cells (20 at least).

    The longest bar stands for the largest number; a number above 0 always has some bar.
    """
    if not rows:
        return []
    numbers = [f"{number:,}" for _, number in rows]
    wide = max(map(len, numbers))
    room = max(4, width - wide - 4 - SHORTEST)
    label = min(room, max(_cells(text) for text, _ in rows))
    longest = max(1, min(LONGEST, width - label - wide - 4))
    most = max(1, max(number for _, number in rows))
    return [
        f"{_fit(text, label, ascii_only)}  {shown:>{wide}}  {_bar(number / most, longest, ascii_only)}".rstrip()
        for (text, number), shown in zip(rows, numbers, strict=True)
    ]


def gauge(value: int, marks: Sequence[int], width: int, *, ascii_only: bool = False) -> str:
    """How far `value` is on the way to the last of the rising `marks`, in `width` cells; earlier marks are notches."""
    cells = max(SHORTEST, min(LONGEST, width) - 2)
    end = marks[-1]
    line = list(_bar(min(1.0, value / end), cells, ascii_only).ljust(cells, "." if ascii_only else "·"))
    for mark in marks[:-1]:
        at = min(cells - 1, round(cells * mark / end))
        if value < mark:
            line[at] = "|" if ascii_only else "│"
    left, right = "[]" if ascii_only else "▕▏"
    return f"{left}{''.join(line)}{right}"


def _bar(part: float, cells: int, ascii_only: bool) -> str:
    if part <= 0:
        return ""
    if ascii_only:
        return "#" * max(1, round(part * cells))
    eighths = max(1, round(part * cells * 8))
    return (FULL * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def _fit(text: str, cells: int, ascii_only: bool) -> str:
    if _cells(text) > cells:
        end = "~" if ascii_only else "…"
        while text and _cells(text) > cells - 1:
            text = text[:-1]
        text += end
    return text + " " * (cells - _cells(text))


def _cells(text: str) -> int:
    """Columns that a terminal needs for `text`: two for a wide letter, none for a mark on the one before."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
