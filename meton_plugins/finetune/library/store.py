"""The library: examples in SQLite, written by several sessions at once, never losing an acknowledged rating."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from ..errors import BusyError, DataError, NotFound
from ..paths import private_dir
from ..turn import Turn, storable
from .records import CANDIDATE, GOOD, Counts, Example, Split, identity
from .schema import prepare

__all__ = ["Library"]

#: Longer than any of our own transactions; a second writer waits this long before it gives up.
BUSY_SECONDS: Final = 30.0

#: Hexadecimal digits of an id: short to type, and 100,000 examples still meet a clash only once in 200 libraries.
ID_LENGTH: Final = 10

#: A beginning of an id shorter than this is more likely a slip than a name.
SHORTEST: Final = 4

_COLUMNS: Final = "id, session, at, source, model, question, answer, context, tools, score, correction, rated_at, split"


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
        """Take in turns, each once however often it is given: ids of the new ones, number of those known already."""
        new: list[str] = []
        known = 0
        now = _now()
        with self._writing() as connection:
            for turn in turns:
                turn = turn.with_texts([storable(text) for text in turn.texts()])
                key = identity(turn)
                if connection.execute("SELECT 1 FROM examples WHERE identity = ?", (key,)).fetchone():
                    known += 1
                    continue
                new.append(_insert(connection, turn, key, now))
        return new, known

    def rate(self, ids: Sequence[str], score: int) -> list[Example]:
        """Give examples a score from 1 to 5; NotFound, and nothing rated, where one of them is unknown."""
        with self._writing() as connection:
            found = [_one(connection, name).id for name in ids]
            connection.executemany(
                "UPDATE examples SET score = ?, rated_at = ? WHERE id = ?", [(score, _now(), name) for name in found]
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
                (correction, _now(), example.id),
            )
            return _one(connection, example.id)

    def assign(self, splits: Mapping[str, Split]) -> None:
        """Record the side of the split for each id."""
        with self._writing() as connection:
            connection.executemany(
                "UPDATE examples SET split = ? WHERE id = ?", [(split, name) for name, split in splits.items()]
            )

    def get(self, name: str) -> Example:
        """The example of this id, or of the only id that begins so (four characters or more); NotFound otherwise."""
        with self._reading() as connection:
            return _one(connection, name)

    def find(
        self, *, limit: int | None = None, unrated: bool = False, search: str | None = None, session: str | None = None
    ) -> list[Example]:
        """Examples, newest first. `search` looks in question, answer and correction, whatever the letters' case."""
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
            rows = connection.execute(query, [*values, -1 if limit is None else limit])
            return [_example(row) for row in rows]

    def last_session(self) -> list[Example]:
        """The turns of the session that spoke last, newest first; empty where the library is."""
        with self._reading() as connection:
            row = connection.execute("SELECT session FROM examples ORDER BY at DESC, rowid DESC LIMIT 1").fetchone()
        if row is None:
            return []
        return [example for example in self.find(session=row[0]) if example.session == row[0]]

    def counts(self) -> Counts:
        """How many examples there are of each kind."""
        with self._reading() as connection:
            scores = dict(connection.execute("SELECT score, count(*) FROM examples GROUP BY score"))
            splits = dict(connection.execute("SELECT split, count(*) FROM examples WHERE split NOTNULL GROUP BY split"))
            models = dict(connection.execute("SELECT coalesce(model, 'unknown'), count(*) FROM examples GROUP BY 1"))
            query = "SELECT count(*), count(DISTINCT session), count(correction) FROM examples"
            total, sessions, corrected = connection.execute(query).fetchone()
        unrated = scores.pop(None, 0)
        return Counts(
            examples=total,
            sessions=sessions,
            usable=sum(number for score, number in scores.items() if score >= GOOD),
            candidates=unrated + scores.get(CANDIDATE, 0),
            rejected=sum(number for score, number in scores.items() if score < CANDIDATE),
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
                prepare(connection, str(self.path))
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


def _insert(connection: sqlite3.Connection, turn: Turn, key: str, now: str) -> str:
    length = ID_LENGTH
    while connection.execute("SELECT 1 FROM examples WHERE id = ?", (key[:length],)).fetchone():
        length += 2
    context = [message.model_dump() for message in turn.context]
    tools = [tool.model_dump() for tool in turn.tools]
    connection.execute(
        "INSERT INTO examples (id, identity, session, at, source, model, question, answer, context, tools, added_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key[:length],
            key,
            turn.session,
            turn.at,
            turn.source,
            turn.model,
            turn.question,
            turn.answer,
            json.dumps(context, ensure_ascii=False),
            json.dumps(tools, ensure_ascii=False),
            now,
        ),
    )
    return key[:length]


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


def _example(row: Sequence[Any]) -> Example:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["context"] = json.loads(values["context"])
    values["tools"] = json.loads(values["tools"])
    return Example.model_validate(values)


def _holds(text: str, folded: str) -> bool:
    return folded in text.casefold()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
