"""Stretches of a text that are to be replaced: where words begin, what JSON escapes, who has a place first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["Hit", "Taken", "begins", "unescaped"]

#: Start, end and kind of what is to be replaced.
Hit = tuple[int, int, str]


class Taken:
    """Stretches that do not overlap: who comes first has it."""

    def __init__(self, hits: Sequence[Hit] = ()) -> None:
        self.hits: list[Hit] = list(hits)

    def add(self, start: int, end: int, kind: str) -> None:
        """Take a stretch, where nobody has any of it."""
        place = bisect_left(self.hits, (start, end, kind))
        if start >= end or (place and self.hits[place - 1][1] > start):
            return
        if place < len(self.hits) and self.hits[place][0] < end:
            return
        self.hits.insert(place, (start, end, kind))


def begins(text: str, at: int) -> bool:
    """Whether a word begins at `at`; the n of an escaped newline is no part of one."""
    if not at:
        return True
    before = text[at - 1]
    if before.isalnum() or before == "_":
        return before in "nrt" and at > 1 and text[at - 2] == "\\"
    return True


def unescaped(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without the half of an escape at its ends: JSON would break where it is cut through."""
    if _escaped(text, start):
        start += 5 if text[start] == "u" else 1
    if _escaped(text, end):
        end -= 1
    return start, end


def _escaped(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to a backslash before it."""
    count = at
    while count and text[count - 1] == "\\":
        count -= 1
    return (at - count) % 2 == 1 and at < len(text) and text[at] in 'nrtbfu"\\/'
