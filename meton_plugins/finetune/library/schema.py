"""The library's tables, and the steps from each version to the next."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from ..errors import DataError

__all__ = ["VERSION", "prepare"]

#: `MIGRATIONS[n]` leads from version n to n+1; a library of an older version is upgraded when it is opened.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE examples (
            id TEXT PRIMARY KEY,
            identity TEXT NOT NULL UNIQUE,
            session TEXT NOT NULL,
            at TEXT NOT NULL,
            source TEXT NOT NULL,
            model TEXT,
            question TEXT NOT NULL,
            answer TEXT NOT NULL,
            context TEXT NOT NULL,
            tools TEXT NOT NULL,
            score INTEGER CHECK (score BETWEEN 1 AND 5),
            correction TEXT,
            rated_at TEXT,
            split TEXT CHECK (split IN ('train', 'validation', 'heldout')),
            added_at TEXT NOT NULL
        )""",
        "CREATE INDEX examples_session ON examples (session, at)",
        "CREATE INDEX examples_at ON examples (at)",
    ),
)
VERSION: Final = len(MIGRATIONS)


def prepare(connection: sqlite3.Connection, where: str) -> None:
    """Bring the library to this version; DataError for one that a newer version wrote."""
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = FULL")
    if _version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again inside the transaction: another process may have upgraded while this one waited.
        found = _version(connection)
        if found > VERSION:
            raise DataError(f"{where} was written by a newer version of meton-finetune: update this one.")
        for step in MIGRATIONS[found:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _write_ahead(connection: sqlite3.Connection) -> None:
    """SQLite's busy timeout does not cover the change to WAL, which two new sessions may try at once."""
    deadline = time.monotonic() + 10
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
