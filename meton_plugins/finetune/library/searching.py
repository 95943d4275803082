"""Search: which examples hold some words, the best first, each with the place where they stand."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .index import candidates
from .records import Example

__all__ = ["Hit", "Match", "Piece", "search"]

#: So many matches, the newest ones, are ranked: a word that is everywhere would otherwise read the whole library.
POOL: Final = 300
#: Rows fetched at a time.
BATCH: Final = 60
#: Characters shown before and after what was found.
AROUND: Final = 60

FIELDS: Final = ("question", "answer", "correction")


class Piece(NamedTuple):
    """A stretch of an example's text, and where in it the words stand (start and end of each)."""

    text: str
    marks: list[tuple[int, int]]


@dataclass(frozen=True)
class Match:
    """An example by id, and the field in which the words are found best."""

    name: str
    field: str
    piece: Piece
    rank: float


@dataclass(frozen=True)
class Hit:
    """An example that was found: `piece` of its `field` holds the words, all or most."""

    example: Example
    field: str
    piece: Piece


def search(connection: sqlite3.Connection, words: Sequence[str], limit: int) -> list[Match]:
    """At most `limit` of the examples that hold all of `words`, the best first."""
    patterns = [re.compile(re.escape(word), re.IGNORECASE) for word in words]
    phrase = re.compile(r"\s+".join(re.escape(word) for word in words), re.IGNORECASE)
    matches: list[Match] = []
    for name, *texts in _rows(connection, words):
        whole = "\0".join(texts).casefold()
        if all(word.casefold() in whole for word in words):
            matches.append(_match(name, texts, patterns, phrase))
            if len(matches) == POOL:
                break
    # They come newest first, and sorting keeps that order among equals.
    return sorted(matches, key=lambda match: -match.rank)[:limit]


def _rows(connection: sqlite3.Connection, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Id, question, answer and correction of the examples to look at, newest first."""
    columns = "id, question, answer, coalesce(correction, '')"
    names = candidates(connection, words)
    if names is None:
        marks = " AND ".join(
            ["(holds(question, ?) OR holds(answer, ?) OR holds(coalesce(correction, ''), ?))"] * len(words)
        )
        values = [word.casefold() for word in words for _ in FIELDS]
        yield from connection.execute(f"SELECT {columns} FROM examples WHERE {marks} ORDER BY at DESC", values)
        return
    while batch := [name for _, name in zip(range(BATCH), names, strict=False)]:
        query = f"SELECT {columns} FROM examples WHERE id IN ({', '.join('?' * len(batch))})"
        rows = {row[0]: row for row in connection.execute(query, batch)}
        yield from (rows[name] for name in batch if name in rows)


def _match(name: str, texts: Sequence[str], patterns: Sequence[re.Pattern[str]], phrase: re.Pattern[str]) -> Match:
    best = Match(name, FIELDS[0], Piece(texts[0][: 2 * AROUND], []), -1.0)
    for field, text in zip(FIELDS, texts, strict=True):
        counts = [sum(1 for _ in pattern.finditer(text)) for pattern in patterns]
        held = sum(count > 0 for count in counts) / len(counts)
        together = phrase.search(text)
        rank = 2 * held + math.log1p(sum(counts)) / 4
        if together:
            rank += 2
            # Whole words are more likely meant than parts of them.
            rank += _edge(text, together.start()) + _edge(text, together.end())
        rank += 0.5 if field == "question" and held else 0.0
        if held and rank > best.rank:
            first = together or next(found for pattern in patterns if (found := pattern.search(text)))
            best = Match(name, field, _piece(text, first.start(), patterns), rank)
    return best


def _edge(text: str, place: int) -> float:
    inside = 0 < place < len(text) and text[place - 1].isalnum() and text[place].isalnum()
    return 0.0 if inside else 0.5


def _piece(text: str, place: int, patterns: Sequence[re.Pattern[str]]) -> Piece:
    start = max(0, place - AROUND)
    cut = " ".join(text[start : place + 2 * AROUND].split())
    if start:
        cut = f"… {cut}"
    if place + 2 * AROUND < len(text):
        cut = f"{cut} …"
    return Piece(cut, sorted({found.span() for pattern in patterns for found in pattern.finditer(cut)}))
