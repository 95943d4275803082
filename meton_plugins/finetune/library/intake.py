"""How a turn becomes rows of the library's tables."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final

from pydantic import BaseModel

from ..form import tools_in
from ..turn import AGENT, Call, Turn, storable
from .forgetting import obeyed
from .records import identity

__all__ = ["Offered", "digest", "now", "steps_of", "take"]

#: Hexadecimal digits of an id: short to type, and 100,000 examples still meet a clash only once in 200 libraries.
ID_LENGTH: Final = 10


def take(connection: sqlite3.Connection, turn: Turn) -> tuple[str | None, bool]:
    """The id of `turn`, and whether it was new; None where the user had it forgotten."""
    allowed = obeyed(connection, turn.with_texts([storable(text) for text in turn.texts()]))
    if allowed is None:
        return None, False
    turn = allowed
    key = identity(turn)
    row = connection.execute("SELECT id FROM examples WHERE identity = ?", (key,)).fetchone()
    if row is None:
        name = _insert(connection, turn, key)
        _insert_calls(connection, name, turn.calls)
        return name, True
    name = str(row[0])
    if turn.calls and not connection.execute("SELECT 1 FROM calls WHERE example = ?", (name,)).fetchone():
        # It was read from a file before the session could write it: files hold neither calls nor what tools were given.
        _insert_calls(connection, name, turn.calls)
        connection.execute("UPDATE examples SET tools = ? WHERE id = ?", (_json(turn.tools), name))
    return name, False


def _insert(connection: sqlite3.Connection, turn: Turn, key: str) -> str:
    length = ID_LENGTH
    while connection.execute("SELECT 1 FROM examples WHERE id = ?", (key[:length],)).fetchone():
        length += 2
    values = {
        "id": key[:length],
        "identity": key,
        "session": turn.session,
        "at": turn.at,
        "source": turn.source,
        "model": turn.model,
        "question": turn.question,
        "answer": turn.answer,
        "context": _json(turn.context),
        "tools": _json(turn.tools),
        "origin": turn.origin,
        "failure": turn.failure,
        "added_at": now(),
    }
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO examples ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
    return key[:length]


def _insert_calls(connection: sqlite3.Connection, name: str, calls: Sequence[Call]) -> None:
    for number, call in enumerate(calls):
        instructions = digest(call.instructions) if call.instructions else None
        if instructions:
            # The same 56,000 characters in call after call: once in the library.
            connection.execute("INSERT OR IGNORE INTO instructions VALUES (?, ?)", (instructions, call.instructions))
        connection.execute(
            "INSERT INTO calls (example, number, instructions, prompt, completion, model, origin)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (name, number, instructions, call.prompt, call.completion, call.model, call.origin),
        )


def steps_of(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """The completions of the agent's own calls, in order, by the example that they belong to."""
    found: dict[str, list[str]] = {}
    query = "SELECT example, completion FROM calls WHERE origin = ? ORDER BY example, number"
    for name, completion in connection.execute(query, (AGENT,)):
        found.setdefault(name, []).append(completion)
    return {name: tuple(texts) for name, texts in found.items()}


class Offered:
    """Which tools each example's model was told of; where that is not known, those of the newest call in the library.

    The instructions are read once for each hash: they are 56,000 characters long.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        texts = connection.execute("SELECT sha256, text FROM instructions")
        names = {sha256: tools_in(text) for sha256, text in texts}
        query = "SELECT example, instructions FROM calls WHERE origin = ? AND instructions NOTNULL ORDER BY rowid"
        self._of = {example: names[sha256] for example, sha256 in connection.execute(query, (AGENT,))}
        self._newest = next(reversed(self._of.values()), ())

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self._of.get(name, self._newest)


def _json(parts: Sequence[BaseModel]) -> str:
    return json.dumps([part.model_dump() for part in parts], ensure_ascii=False)


def digest(text: str) -> str:
    """What stands for a text where the text itself is stored elsewhere, or not at all."""
    return hashlib.sha256(storable(text).encode()).hexdigest()


def now() -> str:
    """This moment, as the library writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
