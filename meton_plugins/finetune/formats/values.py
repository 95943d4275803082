"""JSON values of a file one by one: lines, a list, or one value after another. Damage costs the value it is in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, TextIO

from .chat import BadRecord
from .encodings import damaged

__all__ = ["LONGEST", "values"]

#: Characters: longer than any record; without a limit, one missing quote would read a whole dump into memory.
LONGEST: Final = 256 * 2**20

CHUNK: Final = 1 << 18
#: An error this close to the end of what was read may only mean that the rest was not read yet.
NEAR: Final = 16

_GAP: Final = re.compile(r"[\s,]*")
#: Where the next value may begin after something that is none.
_NEXT_LINE: Final = re.compile(r"\n")
_NEXT: Final = re.compile(r"\n|(?=[{\[])")
_NEXT_OPENS: Final = re.compile(r"\n\s*(?=[{\[])")
_NEXT_INSIDE: Final = re.compile(r"\n|(?=[]{\[])")
_MARKS: Final = re.compile(r'"(?:[^"\\\n]|\\.)*(?:"|\n|\Z)|[][{}]')


def values(file: TextIO) -> Iterator[tuple[int, Any]]:
    """Each value with the line it begins on, counted from 1; a `BadRecord` in the place of one that is damaged.

    A list at the top gives its elements. Only the value at hand is in memory.
    """
    reader = _Reader(file)
    while first := reader.peek():
        if first == "[" and not reader.inside:
            reader.enter()
        else:
            yield reader.line, reader.value()


class _Reader:
    """What was read and not yet given: `text` from `at` on; `line` is the line of `at`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        #: Within the list at the top: lists one after the other, as `cat` leaves them, are one.
        self.inside = False
        self._text = ""
        self._at = 0
        self._end = False
        self.line = 1
        #: Column of `at`, as far as only white space and the list's own bracket stand before it; else None.
        self._indent: int | None = 0

    def peek(self) -> str:
        """The first character of the next value; empty at the end of the file."""
        while True:
            gap = _GAP.match(self._text, self._at)
            self._go(gap.end() if gap else self._at)
            if self._at < len(self._text):
                if not (self.inside and self._text[self._at] == "]"):
                    return self._text[self._at]
                self._go(self._at + 1)
                self.inside = False
                continue
            if not self._more():
                return ""

    def enter(self) -> None:
        """Step over the bracket that begins a list."""
        self.inside = True
        self._at += 1
        if self._indent is not None:
            self._indent += 1

    def value(self) -> Any:
        """The value at `at`; a BadRecord, and the place of the next one found, where it is none."""
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                near = error.pos >= len(self._text) - NEAR or error.msg.startswith("Unterminated string")
                if near and len(self._text) - self._at > LONGEST:
                    return self._bad(f"longer than {LONGEST >> 20} MB")
                if near and self._more():
                    continue
                cut = error.pos >= len(self._text.rstrip()) or error.msg.startswith("Unterminated string")
                return self._bad("cut off: the JSON ends in the middle" if cut else f"not JSON ({error.msg})")
            except RecursionError:
                return self._bad("nested too deeply")
            except ValueError:
                return self._bad("not JSON (a number too long)")
            if end == len(self._text) and not isinstance(value, dict | list) and self._more():
                continue  # a number may go on
            strange = damaged(self._text[self._at : end])
            self._go(end)
            return BadRecord("holds bytes that are not UTF-8 text") if strange else value

    def _bad(self, reason: str) -> BadRecord:
        """Find where the next value may begin."""
        indent = self._indent
        if self._text[self._at] not in "{[":
            self._go(self._at + 1)
            self._skip_to(_NEXT_INSIDE if self.inside else _NEXT_LINE if indent is not None else _NEXT)
        elif indent is None:
            self._skip_brackets()
        else:
            # A line that is indented no more than this value's own begins the next one.
            self._skip_to(re.compile(rf"\n[ \t]{{0,{indent}}}(?=[{{\[])"))
        return BadRecord(reason)

    def _skip_to(self, start: re.Pattern[str]) -> None:
        while True:
            found = start.search(self._text, self._at)
            if found is not None and (found.end() < len(self._text) or self._end):
                return self._go(found.end())
            # All but the last line can be let go of.
            self._go(max(self._at, self._text.rfind("\n", self._at)))
            if not self._more():
                return self._go(len(self._text))

    def _skip_brackets(self) -> None:
        """Past the bracket that closes the first one. A line's end closes a string: JSON has none that goes over it."""
        depth, place = 0, self._at
        while True:
            for mark in _MARKS.finditer(self._text, place):
                if mark.end() == len(self._text) and not self._end:
                    break
                place = mark.end()
                depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(mark.group(), 0)
                if depth <= 0 and mark.group() in "}]":
                    # The list's own end is still to be seen.
                    return self._go(place if depth == 0 else place - 1)
            kept = place - self._at
            if kept > LONGEST or not self._more():
                # It never closes: what begins a line may be the next value.
                start = _NEXT_OPENS.search(self._text, self._at)
                return self._go(start.end() if start else len(self._text))
            place = self._at + kept

    def _go(self, to: int) -> None:
        passed = self._text.count("\n", self._at, to)
        if passed:
            self.line += passed
            before = self._text[self._text.rfind("\n", 0, to) + 1 : to]
            self._indent = len(before) if not before.strip() else None
        elif to > self._at and self._text[self._at : to].strip():
            self._indent = None
        elif self._indent is not None:
            self._indent += to - self._at
        self._at = to

    def _more(self) -> bool:
        """Read on, at least as much as is held already, so that a long value is not tried too often."""
        if self._end:
            return False
        held = len(self._text) - self._at
        new = self._file.read(max(CHUNK, held))
        self._end = not new
        self._text = self._text[self._at :] + new
        self._at = 0
        return bool(new)
