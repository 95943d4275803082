"""Exact duplicates: the same question with the same answer, whatever case, width and white space."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

from ..library import Example

__all__ = ["Key", "clusters", "fold", "key", "unique"]

#: Question and answer apart: the same question with another answer is no duplicate.
Key = tuple[bytes, bytes]


def fold(text: str) -> str:
    """`text` as it is compared: NFKC, case folded, white space to single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key(example: Example) -> Key:
    """Equal for duplicates only."""
    return _digest(example.question), _digest(example.target)


def unique(examples: Iterable[Example]) -> list[Example]:
    """One of each set of duplicates, in the order given: the best rated, then the longest, then the newest."""
    best: dict[Key, Example] = {}
    order: list[Key] = []
    for example in examples:
        mark = key(example)
        known = best.get(mark)
        if known is None:
            order.append(mark)
        if known is None or _rank(example) > _rank(known):
            best[mark] = example
    return [best[mark] for mark in order]


def clusters(examples: Sequence[Example]) -> dict[Key, list[str]]:
    """Ids of the examples under each key."""
    found: dict[Key, list[str]] = {}
    for example in examples:
        found.setdefault(key(example), []).append(example.id)
    return found


def _rank(example: Example) -> tuple[int, int, str, str]:
    return example.score or 0, len(example.question) + len(example.target), example.at, example.id


def _digest(text: str) -> bytes:
    return hashlib.blake2b(fold(text).encode("utf-8", "replace"), digest_size=16).digest()
