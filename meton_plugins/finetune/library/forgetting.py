"""What the user wants forgotten: found wherever it is in the library, known again by hash alone, and removed."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..turn import Message, Turn
from .quotes import Quotes
from .records import alone, content_mark, identity

__all__ = ["Forgotten", "bury", "dead", "obeyed", "purge", "seek"]


@dataclass(frozen=True)
class Forgotten:
    """Examples to forget. `marks` are the hashes of their words, `said` their questions and answers by session.

    `copies` are those of the `ids` that nobody named: the same words in other sessions.
    """

    ids: tuple[str, ...]
    copies: tuple[str, ...] = ()
    marks: frozenset[str] = frozenset()
    said: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Stands for these examples wherever a note of their forgetting is kept."""
        return hashlib.sha256(" ".join(sorted(self.ids)).encode()).hexdigest()[:12]

    def quotes(self) -> Quotes:
        """Finds their words in other texts."""
        return Quotes(text for turns in self.said.values() for turn in turns for text in turn)


def seek(connection: sqlite3.Connection, ids: Iterable[str]) -> Forgotten:
    """The examples `ids`, with all others of the same words, and what was said in them."""
    named = set(ids)
    query = "SELECT id, identity, session, question, answer, correction FROM examples"
    rows = {row[0]: row for row in connection.execute(query)}
    contents = {name: _contents(*row[3:]) for name, row in rows.items()}
    found, wanted = [name for name in rows if name in named], set[str]()
    while True:
        wanted |= {mark for name in found for mark in contents[name]}
        more = [name for name in rows if not wanted.isdisjoint(contents[name])]
        if len(more) == len(found):
            break
        found = more
    marks: set[str] = set()
    said: dict[str, list[tuple[str, str]]] = {}
    for name in found:
        _, key, session, question, answer, correction = rows[name]
        texts = [text for text in (answer, correction) if text is not None]
        marks |= {key, *contents[name], *map(alone, texts), *_former(connection, name)}
        said.setdefault(session, []).extend((question, text) for text in texts)
    # A question that was edited is still in the context of what came after it as it was asked then.
    for session, _, messages in _contexts(connection):
        for before, message in pairwise(messages):
            turn = (before.content, message.content)
            if before.role == "user" and content_mark(*turn) in marks and turn not in said.get(session, ()):
                said.setdefault(session, []).append(turn)
    return Forgotten(tuple(found), tuple(name for name in found if name not in named), frozenset(marks), said)


def dead(connection: sqlite3.Connection) -> list[str]:
    """Ids of the examples whose words are to stay forgotten."""
    buried = {row[0] for row in connection.execute("SELECT sha256 FROM tombstones")}
    query = "SELECT id, identity, question, answer, correction FROM examples"
    rows = connection.execute(query) if buried else ()
    return [name for name, key, *words in rows if key in buried or not buried.isdisjoint(_contents(*words))]


def bury(connection: sqlite3.Connection, what: Forgotten, at: str) -> None:
    """Note by hash what no later harvest may bring back, and by id what is to be removed."""
    connection.executemany(
        "INSERT OR IGNORE INTO tombstones VALUES (?, ?)", [(mark, at) for mark in sorted(what.marks)]
    )
    connection.executemany("INSERT OR IGNORE INTO forgetting VALUES (?)", [(name,) for name in what.ids])


def purge(connection: sqlite3.Connection, what: Forgotten) -> tuple[list[str], list[str]]:
    """Delete the examples, and their words from what surrounds others: ids of those others, and of those that still
    quote them in a question, an answer, or what the model or a tool said."""
    connection.executemany("DELETE FROM examples WHERE id = ?", [(name,) for name in what.ids])
    cleaned = set()
    for _, name, messages in list(_contexts(connection)):
        left = _without(messages, what.marks)
        if len(left) < len(messages):
            text = json.dumps([message.model_dump() for message in left], ensure_ascii=False)
            connection.execute("UPDATE examples SET context = ? WHERE id = ?", (text, name))
            # The prompts of its calls showed the model what went before, cut and dressed in many ways.
            connection.execute("UPDATE calls SET prompt = '' WHERE example = ?", (name,))
            cleaned.add(name)
    quotes = what.quotes()
    quoting = set()
    if quotes:
        shown = []
        query = "SELECT example, number, prompt, completion FROM calls"
        for name, number, prompt, completion in connection.execute(query):
            if quotes.within(prompt):
                shown.append((name, number))
            if quotes.within(completion):
                quoting.add(name)
        connection.executemany("UPDATE calls SET prompt = '' WHERE example = ? AND number = ?", shown)
        cleaned |= {name for name, _ in shown}
        columns = "id, question, answer, coalesce(correction, ''), tools, context"
        for name, *texts in connection.execute(f"SELECT {columns} FROM examples"):
            if any(quotes.within(text) for text in texts):
                quoting.add(name)
    connection.execute(
        "DELETE FROM instructions WHERE sha256 NOT IN (SELECT instructions FROM calls WHERE instructions NOTNULL)"
    )
    return sorted(cleaned), sorted(quoting)


def obeyed(connection: sqlite3.Connection, turn: Turn) -> Turn | None:
    """`turn` without what the user had forgotten of the conversation before it; None where it is forgotten itself."""
    if not connection.execute("SELECT 1 FROM tombstones LIMIT 1").fetchone():
        return turn
    own = {identity(turn), content_mark(turn.question, turn.answer)}
    around = {mark for pair in _pairs(turn.context) for mark in pair}
    wanted = sorted(own | around)
    query = f"SELECT sha256 FROM tombstones WHERE sha256 IN ({', '.join('?' * len(wanted))})"
    buried = {row[0] for row in connection.execute(query, wanted)}
    if not buried.isdisjoint(own):
        return None
    left = _without(turn.context, buried)
    if len(left) == len(turn.context):
        return turn
    calls = tuple(call.model_copy(update={"prompt": ""}) for call in turn.calls)
    return turn.model_copy(update={"context": tuple(left), "calls": calls})


def _contents(question: str, answer: str, correction: str | None) -> set[str]:
    return {content_mark(question, text) for text in (answer, correction) if text is not None}


def _former(connection: sqlite3.Connection, name: str) -> Iterator[str]:
    return (row[0] for row in connection.execute("SELECT sha256 FROM former WHERE example = ?", (name,)))


def _contexts(connection: sqlite3.Connection) -> Iterator[tuple[str, str, list[Message]]]:
    """Session, id and earlier messages of each example that has some."""
    for session, name, text in connection.execute("SELECT session, id, context FROM examples WHERE context != '[]'"):
        yield session, name, [Message(role=one["role"], content=one["content"]) for one in json.loads(text)]


def _pairs(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """For each answer: the mark of it with the question before it, and the mark of it alone where there is none."""
    asked: Message | None = None
    for message in messages:
        if message.role == "assistant":
            yield content_mark(asked.content, message.content) if asked else "", "" if asked else alone(message.content)
        asked = message if message.role == "user" else None


def _without(messages: Sequence[Message], marks: Iterable[str]) -> list[Message]:
    """`messages` without the answers that `marks` know, and the questions before them."""
    marks = frozenset(marks)
    left: list[Message] = []
    for message in messages:
        asked = left[-1] if left and left[-1].role == "user" else None
        if message.role == "assistant":
            if asked is not None and content_mark(asked.content, message.content) in marks:
                left.pop()
                continue
            if asked is None and alone(message.content) in marks:
                continue
        left.append(message)
    return left
