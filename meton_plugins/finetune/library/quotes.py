"""Whether a text quotes others: many are looked for at once, also where only their beginning is quoted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from .records import settled

__all__ = ["Quotes"]

#: Meton shows its agent 200 characters of an earlier message; what is looked for must lie within them.
PIECE: Final = 160
#: A shorter text is found everywhere: "yes" quotes nobody.
SHORTEST: Final = 16
#: Words of a piece from which on its longest one is looked for first; pieces of fewer may lie inside other words.
WORDS: Final = 4

_PLACEHOLDER: Final = re.compile(r"<[A-Z_]+_\d+>")


class Quotes:
    """Knows the beginnings of `texts`. Texts of a few characters are left out."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_word: dict[str, list[str]] = {}
        self._plain: list[str] = []
        for piece in {_piece(text) for text in texts}:
            # The words at its edges may be glued to others where it is quoted.
            inner = piece.split()[1:-1]
            if len(piece) < SHORTEST:
                continue
            if len(inner) < WORDS:
                self._plain.append(piece)
            else:
                self._by_word.setdefault(max(inner, key=len), []).append(piece)

    def __bool__(self) -> bool:
        return bool(self._by_word or self._plain)

    def within(self, text: str) -> bool:
        """Whether `text` holds the beginning of one of them, whatever case and white space."""
        if not self or len(text) < SHORTEST:
            return False
        if not self._plain and text.isascii() and self._by_word.keys().isdisjoint(text.lower().split()):
            return False
        text = settled(text)
        if any(piece in text for piece in self._plain):
            return True
        words = self._by_word.keys() & set(text.split())
        return any(piece in text for word in words for piece in self._by_word[word])


def _piece(text: str) -> str:
    """The part to look for: a secret is a placeholder here and itself elsewhere, so it lies between those."""
    parts = [settled(part) for part in _PLACEHOLDER.split(text[: 8 * PIECE])]
    return max(parts, key=lambda part: min(len(part), PIECE))[:PIECE].strip()
