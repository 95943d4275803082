"""Meton's conversation files as turns.

A session leaves many files, each longer than the one before, and `/clear` starts the list anew under the same session:
the session is the union of all files by (session, timestamp, role). Files are not written atomically.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import DataError
from ..formats.encodings import encoding_of
from ..turn import Message, ToolUse, Turn, storable
from .failures import failure

__all__ = ["Conversations", "Problem", "read"]

#: Earlier turns kept with each one; Meton shows its agent five messages at most.
CONTEXT_TURNS: Final = 4

#: Larger than any conversation; a stray dump of this size would be read into memory whole.
MAX_BYTES: Final = 256 * 2**20

#: Braces that are looked at, from the end of a file that was cut off, for the last whole message.
TRIES: Final = 8

ROLES: Final = ("user", "assistant", "tool", "system")


@dataclass(frozen=True)
class Problem:
    """A file, or the part of it on `line`, that could not be used."""

    file: str
    reason: str
    line: int = 0


@dataclass
class Conversations:
    """What a folder of conversation files holds. `rejected` counts turns by reason."""

    turns: list[Turn] = field(default_factory=list)
    files: int = 0
    unreadable: int = 0
    sessions: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


@dataclass
class _Entry:
    at: str
    order: int
    role: str
    content: str
    metadata: dict[str, Any]
    first: bool


def read(folder: Path | Sequence[Path], exports: Path | None = None) -> Conversations:
    """All whole turns in `folder` (or in one file, or in the files named) and in Meton's `exports`, session by session.

    DataError where there is no file at all.
    """
    found = Conversations()
    sessions: dict[str, dict[tuple[str, str], _Entry]] = {}
    exported = sorted(exports.glob("*.json")) if exports is not None and exports.is_dir() else []
    named = folder if not isinstance(folder, Path) else () if exported and not _any(folder) else _files(folder)
    for path in [*named, *exported]:
        found.files += 1
        try:
            data, remark = _load(path)
            conversations = _conversations(data, path)
        except (OSError, ValueError, RecursionError) as error:
            if path in exported and isinstance(error, _NoConversation):
                found.files -= 1  # Meton exports other things there, too
                continue
            found.unreadable += 1
            found.problems.append(Problem(str(path), _reason(error)))
            continue
        if remark:
            found.problems.append(Problem(str(path), remark))
        for session, conversation in conversations:
            _gather(sessions.setdefault(storable(session), {}), conversation, path, found.problems)
    found.sessions = len(sessions)
    for session, entries in sessions.items():
        _turns(session, sorted(entries.values(), key=lambda entry: (entry.at, entry.order)), found)
    return found


class _NoConversation(ValueError):
    """JSON, but of something else."""


def _conversations(data: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The conversations of one file, each under its session: one, or those that were exported together."""
    together = data.get("conversations") if isinstance(data, dict) else None
    found = []
    for number, one in enumerate(together if isinstance(together, list) else [data]):
        if not isinstance(one, dict) or not isinstance(one.get("messages"), list):
            continue
        session = one.get("session_id")
        if not isinstance(session, str) or not session.strip():
            session = path.stem if one is data else f"{path.stem}-{number}"
        found.append((session, one))
    if not found:
        raise _NoConversation("not a conversation of Meton's (no list of messages)")
    return found


def _any(folder: Path) -> bool:
    return folder.is_file() or any(folder.glob("*.json"))


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} with conversations.")
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not paths:
        raise DataError(f"There are no conversation files (*.json) in {folder}.")
    return paths


def _load(path: Path) -> tuple[Any, str | None]:
    """What is in a file, and a remark where that is not all of it."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("larger than any conversation (256 MB)")
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError("empty")
    try:
        text = raw.decode(encoding_of(path) if b"\0" in raw else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode(encoding_of(path))  # somebody's editor wrote it
    try:
        return json.loads(text), None
    except json.JSONDecodeError as error:
        whole = _before_the_cut(text) if _cut(error) else None
        if whole is None:
            raise
        return whole, f"cut off: the first {len(whole['messages'])} messages were read"


def _before_the_cut(text: str) -> Any:
    """The conversation up to its last whole message; None without one."""
    end = len(text)
    for _ in range(TRIES):
        end = text.rfind("}", 0, end)
        if end < 0:
            return None
        try:
            data = json.loads(text[: end + 1] + "]}")
        except ValueError:
            continue  # the brace of a message's metadata
        return data if isinstance(data, dict) and isinstance(data.get("messages"), list) else None
    return None


def _cut(error: json.JSONDecodeError) -> bool:
    """A writer that was cut off leaves an error at the very end, or a string that never closes."""
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start})"
    if isinstance(error, json.JSONDecodeError):
        cut = _cut(error)
        return "cut off: the JSON ends in the middle" if cut else f"not JSON ({error.msg}, line {error.lineno})"
    if isinstance(error, RecursionError):
        return "not a conversation of Meton's (nested too deeply)"
    return str(error)


def _gather(entries: dict[tuple[str, str], _Entry], data: dict[str, Any], path: Path, problems: list[Problem]) -> None:
    """Add a file's messages to its session's, each once."""
    start = data.get("start_time")
    at = start if isinstance(start, str) else ""
    first = True
    for number, message in enumerate(data["messages"], 1):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if role not in ROLES or not isinstance(content, str):
            problems.append(Problem(str(path), f"message {number} is malformed and was left out"))
            continue
        stamp = message.get("timestamp")
        content = storable(content)
        if isinstance(stamp, str) and stamp:
            at, key = storable(stamp), stamp
        else:
            key = hashlib.sha256(content.encode()).hexdigest()
        metadata = message.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        known = entries.get((key, role))
        if known is None:
            entries[(key, role)] = _Entry(at, len(entries), role, content, metadata, first)
        else:
            known.first = known.first or first
        first = False


def _turns(session: str, entries: list[_Entry], found: Conversations) -> None:
    """Pair a session's messages into turns, with the earlier ones as context."""
    context: list[Message] = []
    for question, tools, answer, starts in _exchanges(entries, found.rejected):
        if starts:
            # `/clear`: what was said before was no longer shown to the model.
            context = []
        uses = [ToolUse(name=str(tool.metadata.get("tool_name") or "tool"), output=tool.content) for tool in tools]
        reason = _rejection(question, uses, answer)
        if reason is not None:
            found.rejected[reason] += 1
            continue
        model = answer.metadata.get("model")
        found.turns.append(
            Turn(
                session=session,
                at=question.at,
                question=question.content,
                answer=answer.content,
                context=tuple(context[-2 * CONTEXT_TURNS :]),
                tools=tuple(uses),
                model=storable(model) if isinstance(model, str) else None,
            )
        )
        context += [Message(role="user", content=question.content), Message(role="assistant", content=answer.content)]


def _exchanges(entries: list[_Entry], rejected: Counter[str]) -> Iterator[tuple[_Entry, list[_Entry], _Entry, bool]]:
    """Question, tools, answer, and whether a new stretch of the conversation begins with this question."""
    question: _Entry | None = None
    tools: list[_Entry] = []
    starts = False
    for entry in entries:
        if entry.role == "user":
            if question is not None:
                rejected["no answer"] += 1
            question, tools = entry, []
            starts = starts or entry.first
        elif entry.role == "tool":
            tools.append(entry)
        elif entry.role == "assistant":
            if question is None:
                rejected["an answer without a question"] += 1
            else:
                yield question, tools, entry, starts
            question, tools, starts = None, [], False
    if question is not None:
        rejected["no answer"] += 1


def _rejection(question: _Entry, uses: list[ToolUse], answer: _Entry) -> str | None:
    if not question.content.strip():
        return "the question is empty"
    reason = failure(answer.content, [use.output for use in uses])
    if reason is not None:
        return reason
    if answer.metadata.get("error"):
        return "the agent failed"
    calls = answer.metadata.get("tool_calls")
    if isinstance(calls, int) and calls > 0 and not uses:
        return "incomplete: a tool ran but its output was not saved"
    return None
