"""The full-text index: which examples may hold a text, found without reading them all.

It knows each example by every three characters in a row that it holds, so that parts of words are found, and words of
languages without spaces. It keeps no positions, which makes it small: what it names is looked at before it is believed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["SHORTEST", "candidates", "keep_index", "tidy"]

#: Characters of the shortest text that the index can look for.
SHORTEST: Final = 3

#: A pasted page is as well known by so many of its threes as by all of them.
MOST: Final = 48

#: `places` numbers the examples: the row ids that SQLite gives them may change when the file is compacted.
TABLES: Final = (
    "CREATE TABLE places (number INTEGER PRIMARY KEY, example TEXT NOT NULL UNIQUE)",
    """CREATE VIEW words AS
        SELECT number, question, answer, coalesce(correction, '') AS correction
        FROM places JOIN examples ON id = example""",
    """CREATE VIRTUAL TABLE found USING fts5 (
        question, answer, correction,
        content = 'words', content_rowid = 'number', tokenize = 'trigram', detail = none, columnsize = 0
    )""",
)
_GONE: Final = """INSERT INTO found (found, rowid, question, answer, correction)
    SELECT 'delete', number, old.question, old.answer, coalesce(old.correction, '')
    FROM places WHERE example = old.id"""
_NEW: Final = """INSERT INTO found (rowid, question, answer, correction)
    SELECT number, new.question, new.answer, coalesce(new.correction, '') FROM places WHERE example = new.id"""
TRIGGERS: Final = {
    "found_new": f"AFTER INSERT ON examples BEGIN INSERT INTO places (example) VALUES (new.id); {_NEW}; END",
    "found_changed": f"AFTER UPDATE OF question, answer, correction ON examples BEGIN {_GONE}; {_NEW}; END",
    "found_gone": f"BEFORE DELETE ON examples BEGIN {_GONE}; DELETE FROM places WHERE example = old.id; END",
}


def keep_index(connection: sqlite3.Connection) -> None:
    """Have the index follow the examples from now on, filled from them where it did not until now.

    Where this SQLite has none, the index rests: it is filled anew by the next one that has it.
    """
    wanted = len(TRIGGERS) if _able(connection) else 0
    if _kept(connection) == wanted:
        return
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN IMMEDIATE")
    try:
        # Looked at again: another session may have filled it while this one waited.
        if _kept(connection) != wanted:
            for name in TRIGGERS:
                connection.execute(f"DROP TRIGGER IF EXISTS {name}")
            if wanted:
                _fill(connection)
        if own:
            connection.execute("COMMIT")
    except BaseException:
        if own and connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _kept(connection: sqlite3.Connection) -> int:
    """How many of the triggers are there that keep the index."""
    names = ", ".join("?" * len(TRIGGERS))
    query = f"SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name IN ({names})"
    return int(connection.execute(query, tuple(TRIGGERS)).fetchone()[0])


def _fill(connection: sqlite3.Connection) -> None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'found'").fetchone():
        for statement in TABLES:
            connection.execute(statement)
    connection.execute("DELETE FROM places")
    connection.execute("INSERT INTO places (example) SELECT id FROM examples ORDER BY at, id")
    connection.execute("INSERT INTO found (found) VALUES ('rebuild')")
    for name, does in TRIGGERS.items():
        connection.execute(f"CREATE TRIGGER {name} {does}")


def candidates(connection: sqlite3.Connection, words: Sequence[str]) -> Iterator[str] | None:
    """Ids of the examples that may hold all of `words`, the newest first; None where the index cannot say.

    What the user typed is only ever a quoted string of the query, so that nothing in it is an operator.
    """
    threes = dict.fromkeys(word[i : i + 3] for word in words for i in range(len(word) - SHORTEST + 1))
    # SQL ends a string at a NUL.
    threes = {three: None for three in threes if "\0" not in three}
    if not threes or not _able(connection):
        return None
    step = -(-len(threes) // MOST)
    quoted = ['"{}"'.format(three.replace('"', '""')) for three in list(threes)[::step]]
    query = (
        "SELECT example FROM found JOIN places ON number = found.rowid WHERE found MATCH ? ORDER BY found.rowid DESC"
    )
    return (row[0] for row in connection.execute(query, (" AND ".join(quoted),)))


def tidy(connection: sqlite3.Connection) -> None:
    """Write the index anew without what was deleted: until then its pages still name it."""
    if _able(connection):
        connection.execute("INSERT INTO found (found) VALUES ('optimize')")


def _able(connection: sqlite3.Connection) -> bool:
    """Whether this SQLite has the index: FTS5 may be left out of it, and older ones do not know `trigram`."""
    new = sqlite3.sqlite_version_info >= (3, 34)
    return new and bool(connection.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0])
