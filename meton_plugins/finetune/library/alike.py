"""What the library remembers of comparing its examples, so that a build compares only what is new."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

__all__ = ["Change", "Compared", "Pair", "keep", "known", "pairs"]


class Compared(NamedTuple):
    """An example that was compared. `mark` stands for its words then; where they are others now, it counts no more.

    `head` is the first example that says the same when folded: it stands for all of them in the pairs.
    """

    example: str
    head: str
    mark: bytes
    print: bytes


class Pair(NamedTuple):
    """Two heads whose questions and answers are alike, 0 to 100 each."""

    one: str
    other: str
    question: float
    answer: float


class Change(NamedTuple):
    """What is to be remembered: `fresh` and `found` are new, what was known of `stale` (ids) is over."""

    stale: Collection[str]
    fresh: Sequence[Compared]
    found: Sequence[Pair]


def known(connection: sqlite3.Connection) -> list[Compared]:
    """All that was compared."""
    return [Compared(*row) for row in connection.execute("SELECT example, head, mark, print FROM compared")]


def pairs(connection: sqlite3.Connection) -> list[Pair]:
    """All that was found alike."""
    return [Pair(*row) for row in connection.execute("SELECT a, b, question, answer FROM alike ORDER BY a, b")]


def keep(connection: sqlite3.Connection, change: Change) -> None:
    """Write `change` down; what belongs to an example that was forgotten meanwhile is left out."""
    for name in change.stale:
        connection.execute("DELETE FROM compared WHERE example = ? OR head = ?", (name, name))
        connection.execute("DELETE FROM alike WHERE a = ? OR b = ?", (name, name))
    there = {row[0] for row in connection.execute("SELECT id FROM examples")}
    connection.executemany(
        "INSERT OR REPLACE INTO compared (example, head, mark, print) VALUES (?, ?, ?, ?)",
        [row for row in change.fresh if row.example in there and row.head in there],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO alike (a, b, question, answer) VALUES (?, ?, ?, ?)",
        [pair for pair in change.found if pair.one in there and pair.other in there],
    )
