"""The library's tables, and the steps from each version to the next."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from ..errors import DataError
from ..paths import replacing_path
from .index import keep_index

__all__ = ["VERSION", "backup_of", "copies", "prepare"]

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
    (
        "ALTER TABLE examples ADD COLUMN origin TEXT NOT NULL DEFAULT 'agent'",
        "ALTER TABLE examples ADD COLUMN failure TEXT",
        "CREATE TABLE instructions (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL)",
        """CREATE TABLE calls (
            example TEXT NOT NULL REFERENCES examples (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            instructions TEXT REFERENCES instructions (sha256),
            prompt TEXT NOT NULL,
            completion TEXT NOT NULL,
            model TEXT,
            origin TEXT NOT NULL,
            PRIMARY KEY (example, number)
        )""",
        # By hash: that a private session was there is all that may be known of it.
        "CREATE TABLE private_sessions (sha256 TEXT PRIMARY KEY)",
        "CREATE TABLE taken_feedback (id TEXT PRIMARY KEY)",
    ),
    (
        """CREATE TABLE tags (
            example TEXT NOT NULL REFERENCES examples (id) ON DELETE CASCADE,
            tag TEXT NOT NULL,
            PRIMARY KEY (example, tag)
        )""",
        # What the user had forgotten, by the hash of its words: a later harvest or import leaves it out.
        "CREATE TABLE tombstones (sha256 TEXT PRIMARY KEY, at TEXT NOT NULL)",
        # Near-duplicates: which examples were compared, by the hash of what was compared, and what was alike. `head`
        # is the example that stands for all with the same words: when it goes, the others are compared anew.
        """CREATE TABLE compared (
            example TEXT PRIMARY KEY REFERENCES examples (id) ON DELETE CASCADE,
            head TEXT NOT NULL REFERENCES examples (id) ON DELETE CASCADE,
            mark BLOB NOT NULL,
            print BLOB NOT NULL
        )""",
        """CREATE TABLE alike (
            a TEXT NOT NULL REFERENCES examples (id) ON DELETE CASCADE,
            b TEXT NOT NULL REFERENCES examples (id) ON DELETE CASCADE,
            question REAL NOT NULL,
            answer REAL NOT NULL,
            PRIMARY KEY (a, b)
        )""",
        "CREATE INDEX alike_b ON alike (b)",
        "CREATE INDEX compared_head ON compared (head)",
        # What an example said before its question was edited, by hash: forgetting it means those words, too.
        """CREATE TABLE former (
            example TEXT NOT NULL REFERENCES examples (id) ON DELETE CASCADE,
            sha256 TEXT NOT NULL,
            PRIMARY KEY (example, sha256)
        )""",
        # Examples whose forgetting has begun: where it was killed, the next one finishes it.
        "CREATE TABLE forgetting (example TEXT PRIMARY KEY)",
    ),
)
VERSION: Final = len(MIGRATIONS)


def backup_of(path: Path, version: int) -> Path:
    """Where the library at `path` is kept as it was in `version`, before it is upgraded."""
    return path.with_name(f"{path.stem}.v{version}{path.suffix}")


def copies(path: Path) -> list[Path]:
    """Copies beside the library at `path`: those of older versions, and what a killed upgrade or backup left."""
    old, left = f"{path.stem}.v*{path.suffix}*", f".{path.stem}.*.tmp*"
    return sorted([*path.parent.glob(old), *path.parent.glob(left)])


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the library at `path` to this version, an older one copied first; DataError where a newer one wrote it."""
    _write_ahead(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    # What is deleted or written over is zeroed: a correction that was thought better of, an example forgotten.
    connection.execute("PRAGMA secure_delete = ON")
    if _version(connection) == VERSION:
        keep_index(connection)
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again inside the transaction: another process may have upgraded while this one waited.
        found = _version(connection)
        if found > VERSION:
            raise DataError(f"{path} was written by a newer version of meton-finetune: update this one.")
        if found:
            _keep(path, found)
        for step in MIGRATIONS[found:]:
            for statement in step:
                connection.execute(statement)
        keep_index(connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _keep(path: Path, version: int) -> None:
    """Copy what is committed. The caller's transaction keeps writers out, and has changed nothing yet."""
    with (
        replacing_path(backup_of(path, version)) as copy,
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


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
