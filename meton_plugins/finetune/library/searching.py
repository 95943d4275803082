"""Search: which examples hold some words, the best first, each with the place where they stand."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from .index import SHORTEST, candidates
from .records import Example

__all__ = ["Hit", "Match", "Piece", "search"]

#: So many matches, the newest ones, are ranked: a word that is everywhere would otherwise read the whole library.
POOL: Final = 300
#: Rows fetched at a time.
BATCH: Final = 100
#: Characters shown before what was found; twice as many after it.
AROUND: Final = 60

FIELDS: Final = ("question", "answer", "correction")

#: Rank, number of the field, and the row: id and fields.
_Found = tuple[float, int, tuple[str, ...]]


class Piece(NamedTuple):
    """A stretch of an example's text, and where in it the words stand (start and end of each)."""

    text: str
    marks: list[tuple[int, int]]


class Match(NamedTuple):
    """An example by id, and the field in which the words are found best."""

    name: str
    field: str
    piece: Piece


@dataclass(frozen=True)
class Hit:
    """An example that was found: `piece` of its `field` holds the words, all or most."""

    example: Example
    field: str
    piece: Piece


def search(connection: sqlite3.Connection, words: Sequence[str], limit: int) -> list[Match]:
    """At most `limit` of the examples that hold all of `words`, the best first."""
    folded = [word.casefold() for word in words]
    found: list[_Found] = []
    if len(words) > 1 and min(map(len, words)) < SHORTEST:
        # The index does not know the short one alone, but it knows it beside the others.
        found = _found(_rows(connection, [" ".join(words)]), folded)
    if len(found) < limit:
        found = _found(_rows(connection, words), folded)
    # They come newest first, and sorting keeps that order among equals.
    best = sorted(found, key=lambda match: -match[0])[:limit]
    patterns = [re.compile(re.escape(word), re.IGNORECASE) for word in words]
    phrase = re.compile(r"\s+".join(re.escape(word) for word in words), re.IGNORECASE)
    return [Match(row[0], FIELDS[field], _piece(row[1 + field], phrase, patterns)) for _, field, row in best]


def _found(rows: Iterable[tuple[str, ...]], words: Sequence[str]) -> list[_Found]:
    """Those of `rows` that do hold all of `words`, at most POOL."""
    found: list[_Found] = []
    for row in rows:
        texts = [text.casefold() for text in row[1:]]
        if all(any(word in text for text in texts) for word in words):
            ranks = [_rank(field, text, words) for field, text in enumerate(texts)]
            found.append((max(ranks), ranks.index(max(ranks)), row))
            if len(found) == POOL:
                break
    return found


def _rows(connection: sqlite3.Connection, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Id, question, answer and correction of the examples to look at, newest first."""
    columns = "id, question, answer, coalesce(correction, '')"
    names = candidates(connection, words)
    if names is None:
        holds = "(holds(question, ?) OR holds(answer, ?) OR holds(coalesce(correction, ''), ?))"
        query = (
            f"SELECT {columns} FROM examples WHERE {' AND '.join([holds] * len(words))} ORDER BY at DESC, rowid DESC"
        )
        yield from connection.execute(query, [word.casefold() for word in words for _ in FIELDS])
        return
    while batch := list(islice(names, BATCH)):
        query = f"SELECT {columns} FROM examples WHERE id IN ({', '.join('?' * len(batch))})"
        rows = {row[0]: row for row in connection.execute(query, batch)}
        yield from (rows[name] for name in batch if name in rows)


def _rank(field: int, text: str, words: Sequence[str]) -> float:
    """How well `text` answers: words that it holds, together or not, whole or not; a question says what it is about."""
    counts = [text.count(word) for word in words]
    if not any(counts):
        return 0.0
    rank = 2 * sum(count > 0 for count in counts) / len(counts) + math.log1p(sum(counts)) / 4
    phrase = " ".join(words)
    place = text.find(phrase)
    if place >= 0:
        rank += 2 + _edge(text, place) + _edge(text, place + len(phrase))
    return rank + (0.5 if field == 0 else 0.0)


def _edge(text: str, place: int) -> float:
    """Whole words are more likely meant than parts of them."""
    inside = 0 < place < len(text) and text[place - 1].isalnum() and text[place].isalnum()
    return 0.0 if inside else 0.5


def _piece(text: str, phrase: re.Pattern[str], patterns: Sequence[re.Pattern[str]]) -> Piece:
    # Where folding made other letters of it (ß is ss), the words are there and have no place: its beginning is shown.
    found = phrase.search(text) or next((match for pattern in patterns if (match := pattern.search(text))), None)
    place = found.start() if found else 0
    start, end = max(0, place - AROUND), place + 2 * AROUND
    cut = " ".join(text[start:end].split())
    cut = f"{'… ' if start else ''}{cut}{' …' if end < len(text) else ''}"
    return Piece(cut, sorted({match.span() for pattern in patterns for match in pattern.finditer(cut)}))
