"""What can be asked of the library."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ..errors import NotFound
from ..turn import AGENT, Call, storable
from . import alike, searching
from .file import LibraryFile
from .intake import Offered, digest, steps_of
from .records import CANDIDATE, GOOD, IMPORTED, Counts, Example

__all__ = ["FIELDS", "STATUS", "Reading", "one"]

#: A beginning of an id shorter than this is more likely a slip than a name.
SHORTEST: Final = 4

FIELDS: Final = (
    "id", "session", "at", "source", "model", "question", "answer", "context", "tools", "score", "correction",
    "rated_at", "split", "origin", "failure",
)  # fmt: skip
_COLUMNS: Final = (
    ", ".join(FIELDS) + ", (SELECT group_concat(tag, char(10)) FROM tags WHERE example = examples.id) AS tags"
)

#: As `Example.status` has it.
STATUS: Final = f"""CASE
    WHEN failure NOTNULL AND correction ISNULL THEN 'rejected'
    WHEN score ISNULL OR score = {CANDIDATE} THEN 'candidate'
    WHEN score >= {GOOD} THEN 'usable'
    ELSE 'rejected' END"""


class Reading(LibraryFile):
    """The library as readers know it."""

    def get(self, name: str) -> Example:
        """The example of this id, or of the only id that begins so (four characters or more); NotFound otherwise."""
        with self._reading() as connection:
            return one(connection, name)

    def find(
        self,
        *,
        limit: int | None = None,
        unrated: bool = False,
        search: str | None = None,
        session: str | None = None,
        tag: str | None = None,
        before: str | None = None,
        steps: bool = False,
    ) -> list[Example]:
        """Examples, newest first, with their `steps` and `offered` tools where `steps` are wanted.

        `search` looks in question, answer and correction, whatever the letters' case; `session` is the beginning of
        one; `before` an ISO time, which examples without a time are never before.
        """
        where, values = _where(unrated, search, session, tag, before)
        query = f"SELECT {_COLUMNS} FROM examples WHERE {where} ORDER BY at DESC, rowid DESC LIMIT ?"
        with self._reading() as connection:
            rows = connection.execute(query, [*values, -1 if limit is None else limit]).fetchall()
            if not steps:
                return [_example(row) for row in rows]
            said, offered = steps_of(connection), Offered(connection)
            return [_example(row, said.get(row[0], ()), offered[row[0]]) for row in rows]

    def count(self, *, unrated: bool = False, search: str | None = None, tag: str | None = None) -> int:
        """How many examples `find` would give of these without a limit."""
        where, values = _where(unrated, search, None, tag, None)
        with self._reading() as connection:
            return int(connection.execute(f"SELECT count(*) FROM examples WHERE {where}", values).fetchone()[0])

    def search(self, text: str, limit: int = 20) -> list[searching.Hit]:
        """The examples that hold every word of `text`, or parts of words, the best match first."""
        words = storable(text).split()
        if not words:
            return []
        with self._reading() as connection:
            found = searching.search(connection, words, limit)
            return [searching.Hit(one(connection, match.name), match.field, match.piece) for match in found]

    def calls(self, name: str) -> tuple[Call, ...]:
        """The model calls of an example, as they happened."""
        query = (
            "SELECT prompt, completion, coalesce(text, '') AS instructions, model, origin"
            " FROM calls LEFT JOIN instructions ON sha256 = instructions WHERE example = ? ORDER BY number"
        )
        with self._reading() as connection:
            rows = connection.execute(query, (one(connection, name).id,))
            fields = [column[0] for column in rows.description]
            return tuple(Call.model_validate(dict(zip(fields, row, strict=True))) for row in rows)

    def newest_instructions(self) -> str | None:
        """The constant part of the newest call of the agent's model; None where none was heard."""
        query = (
            "SELECT text FROM calls JOIN instructions ON sha256 = instructions WHERE origin = ?"
            " ORDER BY calls.rowid DESC LIMIT 1"
        )
        with self._reading() as connection:
            row = connection.execute(query, (AGENT,)).fetchone()
        return None if row is None else str(row[0])

    def same(self, question: str, answer: str) -> Example | None:
        """The newest example with these very words, or None."""
        where = "trim(question, char(9, 10, 13, 32)) = ? AND trim(answer, char(9, 10, 13, 32)) = ?"
        query = f"SELECT {_COLUMNS} FROM examples WHERE {where} ORDER BY at DESC, rowid DESC LIMIT 1"
        with self._reading() as connection:
            row = connection.execute(query, (question.strip(), answer.strip())).fetchone()
        return None if row is None else _example(row)

    def last_session(self) -> list[Example]:
        """The turns of the session that spoke last, newest first. What was imported did not speak."""
        query = "SELECT session FROM examples WHERE session NOT GLOB ? ORDER BY at DESC, rowid DESC LIMIT 1"
        with self._reading() as connection:
            row = connection.execute(query, (IMPORTED + "*",)).fetchone()
        if row is None:
            return []
        return [example for example in self.find(session=row[0]) if example.session == row[0]]

    def kept_out(self, sessions: Iterable[str]) -> set[str]:
        """Those of `sessions` that are to be kept out."""
        with self._reading() as connection:
            hashes = {row[0] for row in connection.execute("SELECT sha256 FROM private_sessions")}
        return {session for session in sessions if digest(session) in hashes}

    def taken_feedback(self) -> set[str]:
        """Ids of the foreign ratings that were taken in."""
        with self._reading() as connection:
            return {row[0] for row in connection.execute("SELECT id FROM taken_feedback")}

    def tagged(self, tag: str) -> set[str]:
        """Ids of the examples with this tag."""
        with self._reading() as connection:
            return {row[0] for row in connection.execute("SELECT example FROM tags WHERE tag = ?", (tag,))}

    def compared(self) -> tuple[list[alike.Compared], list[alike.Pair]]:
        """Which examples were compared with all others, and which pairs were found alike."""
        with self._reading() as connection:
            return alike.known(connection), alike.pairs(connection)

    def tags(self) -> dict[str, int]:
        """Each tag, and how many examples have it."""
        with self._reading() as connection:
            return dict(connection.execute("SELECT tag, count(*) FROM tags GROUP BY tag ORDER BY tag"))

    def counts(self) -> Counts:
        """How many examples there are of each kind."""
        with self._reading() as connection:
            scores = dict(connection.execute("SELECT score, count(*) FROM examples GROUP BY score"))
            stands = dict(connection.execute(f"SELECT {STATUS}, count(*) FROM examples GROUP BY 1"))
            splits = dict(connection.execute("SELECT split, count(*) FROM examples WHERE split NOTNULL GROUP BY split"))
            models = dict(connection.execute("SELECT coalesce(model, 'unknown'), count(*) FROM examples GROUP BY 1"))
            query = "SELECT count(*), count(DISTINCT session), count(correction) FROM examples"
            total, sessions, corrected = connection.execute(query).fetchone()
        unrated = scores.pop(None, 0)
        return Counts(
            examples=total,
            sessions=sessions,
            usable=stands.get("usable", 0),
            candidates=stands.get("candidate", 0),
            rejected=stands.get("rejected", 0),
            unrated=unrated,
            corrected=corrected,
            scores=scores,
            splits=splits,
            models=models,
        )


def _where(
    unrated: bool, search: str | None, session: str | None, tag: str | None, before: str | None
) -> tuple[str, list[str | int]]:
    """What `find` and `count` ask for, in SQL, and the values in it."""
    where = ["1"]
    values: list[str | int] = []
    if unrated:
        where.append("score IS NULL")
    if search:
        where.append("(holds(question, ?) OR holds(answer, ?) OR holds(coalesce(correction, ''), ?))")
        values += [search.casefold()] * 3
    if session is not None:
        where.append("substr(session, 1, ?) = ?")
        values += [len(session), session]
    if tag is not None:
        where.append("EXISTS (SELECT 1 FROM tags WHERE example = id AND tag = ?)")
        values.append(tag)
    if before is not None:
        where.append("at != '' AND at < ?")
        values.append(before)
    return " AND ".join(where), values


def one(connection: sqlite3.Connection, name: str) -> Example:
    """As `Reading.get`, within a transaction."""
    # A range over the key's index, not a pattern: a rating reads one row of a large library, not all of them.
    query = f"SELECT {_COLUMNS} FROM examples WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 2"
    name = storable(name).lower()
    rows = connection.execute(query, (name, name + "~")).fetchall() if len(name) >= SHORTEST else []
    if len(rows) > 1 and rows[0][0] != name:
        raise NotFound(f"More than one example begins with {name[:40]!r}: type more of its id.")
    if not rows:
        raise NotFound(f"There is no example {name[:40]!r} in the library: see /dataset list.")
    return _example(rows[0])


def _example(row: Sequence[Any], steps: tuple[str, ...] = (), offered: tuple[str, ...] = ()) -> Example:
    values: dict[str, Any] = dict(zip((*FIELDS, "tags"), row, strict=True), steps=steps, offered=offered)
    values["context"] = json.loads(values["context"])
    values["tools"] = json.loads(values["tools"])
    values["tags"] = tuple(sorted((values["tags"] or "").split()))
    return Example.model_validate(values)
