"""The library: examples in SQLite, written by several sessions at once, never losing an acknowledged rating."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ..errors import BusyError, DataError, NotFound
from ..paths import private_dir
from ..turn import AGENT, Call, Turn, storable
from . import alike
from .intake import Offered, digest, now, steps_of, take
from .records import CANDIDATE, GOOD, IMPORTED, Counts, Example, Split
from .schema import prepare

__all__ = ["Library"]

#: Longer than any of our own transactions; a second writer waits this long before it gives up.
BUSY_SECONDS: Final = 30.0

#: A beginning of an id shorter than this is more likely a slip than a name.
SHORTEST: Final = 4

_FIELDS: Final = (
    "id", "session", "at", "source", "model", "question", "answer", "context", "tools", "score", "correction",
    "rated_at", "split", "origin", "failure",
)  # fmt: skip
_COLUMNS: Final = (
    ", ".join(_FIELDS) + ", (SELECT group_concat(tag, char(10)) FROM tags WHERE example = examples.id) AS tags"
)

#: As `Example.status` has it.
_STATUS: Final = f"""CASE
    WHEN failure NOTNULL AND correction ISNULL THEN 'rejected'
    WHEN score ISNULL OR score = {CANDIDATE} THEN 'candidate'
    WHEN score >= {GOOD} THEN 'usable'
    ELSE 'rejected' END"""


class Library:
    """The examples at `path`. The file is opened, made or upgraded when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: sqlite3.Connection | None = None

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the library opens it again when needed."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def add(self, turns: Iterable[Turn]) -> tuple[list[str], int]:
        """Take in turns, each once however often it is given: ids of the new ones, number of those known already.

        A known one that was read from a file gains the model calls of a turn that was heard as it happened.
        """
        with self._writing() as connection:
            found = [take(connection, turn) for turn in turns]
        new = [name for name, fresh in found if fresh]
        return new, len(found) - len(new)

    def take(self, turn: Turn) -> str:
        """Like `add` for one turn: its id, whether it is new or was known."""
        with self._writing() as connection:
            return take(connection, turn)[0]

    def keep_out(self, session: str) -> None:
        """Never take in what a later harvest finds of `session`."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO private_sessions VALUES (?)", (digest(session),))

    def kept_out(self, sessions: Iterable[str]) -> set[str]:
        """Those of `sessions` that are to be kept out."""
        with self._reading() as connection:
            hashes = {row[0] for row in connection.execute("SELECT sha256 FROM private_sessions")}
        return {session for session in sessions if digest(session) in hashes}

    def taken_feedback(self) -> set[str]:
        """Ids of the foreign ratings that were taken in."""
        with self._reading() as connection:
            return {row[0] for row in connection.execute("SELECT id FROM taken_feedback")}

    def take_feedback(self, name: str) -> None:
        """Note that a foreign rating was taken in."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO taken_feedback VALUES (?)", (name,))

    def rate(self, ids: Sequence[str], score: int) -> list[Example]:
        """Give examples a score from 1 to 5; NotFound, and nothing rated, where one of them is unknown."""
        with self._writing() as connection:
            found = [_one(connection, name).id for name in ids]
            connection.executemany(
                "UPDATE examples SET score = ?, rated_at = ? WHERE id = ?", [(score, now(), name) for name in found]
            )
            return [_one(connection, name) for name in found]

    def fix(self, name: str, text: str) -> Example:
        """Make `text` the target of an example; the answer stays as the rejected one.

        The score becomes 5, because it is the target that is scored and the words are now the user's own.
        """
        text = storable(text).strip()
        if not text:
            raise DataError("A correction needs some text.")
        with self._writing() as connection:
            example = _one(connection, name)
            if text == example.target.strip():
                raise DataError("The correction says what the answer says already, so nothing was changed.")
            correction = None if text == example.answer.strip() else text
            connection.execute(
                "UPDATE examples SET correction = ?, score = 5, rated_at = ? WHERE id = ?",
                (correction, now(), example.id),
            )
            return _one(connection, example.id)

    def assign(self, splits: Mapping[str, Split]) -> None:
        """Record the side of the split for each id."""
        with self._writing() as connection:
            connection.executemany(
                "UPDATE examples SET split = ? WHERE id = ?", [(split, name) for name, split in splits.items()]
            )

    def tagged(self, tag: str) -> set[str]:
        """Ids of the examples with this tag."""
        with self._reading() as connection:
            return {row[0] for row in connection.execute("SELECT example FROM tags WHERE tag = ?", (tag,))}

    def compared(self) -> tuple[list[alike.Compared], list[alike.Pair]]:
        """Which examples were compared with all others, and which pairs were found alike."""
        with self._reading() as connection:
            return alike.known(connection), alike.pairs(connection)

    def keep_compared(self, change: alike.Change) -> None:
        """Remember new comparisons, and forget those of words that are no more."""
        with self._writing() as connection:
            alike.keep(connection, change)

    def get(self, name: str) -> Example:
        """The example of this id, or of the only id that begins so (four characters or more); NotFound otherwise."""
        with self._reading() as connection:
            return _one(connection, name)

    def find(
        self,
        *,
        limit: int | None = None,
        unrated: bool = False,
        search: str | None = None,
        session: str | None = None,
        steps: bool = False,
    ) -> list[Example]:
        """Examples, newest first, with their `steps` and `offered` tools where `steps` are wanted.

        `search` looks in question, answer and correction, whatever the letters' case.
        """
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
        query = f"SELECT {_COLUMNS} FROM examples WHERE {' AND '.join(where)} ORDER BY at DESC, rowid DESC LIMIT ?"
        with self._reading() as connection:
            rows = connection.execute(query, [*values, -1 if limit is None else limit]).fetchall()
            if not steps:
                return [_example(row) for row in rows]
            said, offered = steps_of(connection), Offered(connection)
            return [_example(row, said.get(row[0], ()), offered[row[0]]) for row in rows]

    def calls(self, name: str) -> tuple[Call, ...]:
        """The model calls of an example, as they happened."""
        query = (
            "SELECT prompt, completion, coalesce(text, '') AS instructions, model, origin"
            " FROM calls LEFT JOIN instructions ON sha256 = instructions WHERE example = ? ORDER BY number"
        )
        with self._reading() as connection:
            rows = connection.execute(query, (_one(connection, name).id,))
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

    def counts(self) -> Counts:
        """How many examples there are of each kind."""
        with self._reading() as connection:
            scores = dict(connection.execute("SELECT score, count(*) FROM examples GROUP BY score"))
            stands = dict(connection.execute(f"SELECT {_STATUS}, count(*) FROM examples GROUP BY 1"))
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

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            private_dir(self.path.parent)
            # Made before SQLite opens it: the texts are never readable to others, and -wal and -shm take its mode.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                connection.create_function("holds", 2, _holds, deterministic=True)
                prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._open = connection
        return self._open

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _explained(self.path):
            yield self._connection()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _explained(self.path):
            connection = self._connection()
            # IMMEDIATE: a transaction that reads first and writes later would fail at once beside another writer.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite itself has rolled back already after a full disk.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise BusyError(f"Another program has kept {path} locked for too long: try again.") from error
        raise DataError(f"The library {path} cannot be used ({error}).") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is damaged or not a library ({error}).") from error


def _one(connection: sqlite3.Connection, name: str) -> Example:
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
    values: dict[str, Any] = dict(zip((*_FIELDS, "tags"), row, strict=True), steps=steps, offered=offered)
    values["tags"] = tuple(sorted((values["tags"] or "").split()))
    values["context"] = json.loads(values["context"])
    values["tools"] = json.loads(values["tools"])
    return Example.model_validate(values)


def _holds(text: str, folded: str) -> bool:
    return folded in text.casefold()
