"""Files of training data, told apart by what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO, cast

from . import messages, pairs
from .chat import BadRecord, Chat, checked
from .encodings import open_text
from .texts import CHATML, LLAMA, Marked
from .values import values

__all__ = ["CHATS", "FORMATS", "Record", "detect", "read"]

_RECORDS: Final[Mapping[str, Callable[[Mapping[str, Any]], Chat]]] = {
    "messages": messages.read_messages,
    "sharegpt": messages.read_sharegpt,
    "alpaca": pairs.read_alpaca,
    "completion": pairs.read_completion,
    "preference": pairs.read_preference,
    "rating": pairs.read_rating,
}
_TEXTS: Final[Mapping[str, Marked]] = {"chat": CHATML, "llama": LLAMA}

#: Formats whose records `read` gives as chats, by the names that a user types.
CHATS: Final = (*_RECORDS, *_TEXTS)

#: All that can be detected: Meton's own files are read by those who know its sessions.
FORMATS: Final = ("meton", "feedback", *CHATS)

#: Keys under which one object holds the records of a whole file.
HOLDERS: Final = ("data", "examples", "rows", "train", "conversations")

#: Damaged records at a file's beginning that do not hide its format.
LOOK: Final = 20
#: Characters that say whether a file is marked text.
HEAD: Final = 1 << 16


@dataclass(frozen=True)
class Record:
    """What one place of a file holds: a chat in one of the formats, or the reason why it cannot be used.

    `number` counts the records of an object that holds several; 0 elsewhere.
    """

    line: int
    found: Chat | BadRecord
    format: str | None = None
    number: int = 0


def detect(path: Path) -> str | None:
    """The format of `path`, one of `FORMATS`, or None where it is no training data. OSError where it is unreadable."""
    try:
        with open_text(path) as file:
            marked = _marked(file)
            if marked is not None:
                return marked
            for _, value in islice(values(file), LOOK):
                for record in [value, *(_held(value) or ())[:LOOK]]:
                    if (name := _kind(record)) is not None:
                        return name
    except (BadRecord, UnicodeError):
        pass
    return None


def read(path: Path, wanted: str | None = None, tell: Callable[[int], None] | None = None) -> Iterator[Record]:
    """Each record of `path`, which may have several formats in it, or is taken for the one `wanted`.

    Only the record at hand is in memory. `tell` gets the number of bytes read so far. OSError where it is unreadable.
    """
    try:
        with open_text(path) as file:
            marked = _marked(file) if wanted is None else wanted if wanted in _TEXTS else None
            for record in _of_text(file, marked) if marked else _of_values(file, wanted):
                yield record
                if tell is not None:
                    tell(cast(BinaryIO, file.buffer).tell())
    except BadRecord as error:
        yield Record(1, error)
    except UnicodeError:
        yield Record(1, BadRecord("not text in the encoding that its first bytes name"))


def _of_text(file: TextIO, name: str) -> Iterator[Record]:
    for line, found in _TEXTS[name].read(file):
        yield Record(line, _checked(found), name)


def _of_values(file: TextIO, wanted: str | None) -> Iterator[Record]:
    for line, value in values(file):
        held = None if isinstance(value, BadRecord) or _kind(value) else _held(value)
        for number, record in enumerate(held or [value], 1):
            name = wanted or _kind(record)
            yield Record(line, _checked(_chat(record, name)), name, number if held else 0)


def _checked(found: Chat | BadRecord) -> Chat | BadRecord:
    try:
        return found if isinstance(found, BadRecord) else checked(found)
    except BadRecord as error:
        return error


def _chat(record: Any, name: str | None) -> Chat | BadRecord:
    if isinstance(record, BadRecord):
        return record
    if name is None:
        return BadRecord("a record of no known format")
    if name in ("meton", "feedback"):
        return BadRecord("one of Meton's own files among other records: import it as a file of its own")
    if isinstance(record, list):
        record = {"messages": record}
    if not isinstance(record, dict):
        return BadRecord("not a record")
    try:
        return _TEXTS[name].parse(str(record["text"])) if name in _TEXTS else _RECORDS[name](record)
    except KeyError as error:
        return BadRecord(f"no {error.args[0]}")
    except BadRecord as error:
        return error


def _kind(record: Any) -> str | None:
    """The format that the keys of a record say, or None."""
    if isinstance(record, list):
        return "messages" if record and isinstance(record[0], dict) and {"role", "from"} & record[0].keys() else None
    if not isinstance(record, dict):
        return None
    keys = record.keys()
    if {"feedback_type", "query", "response"} <= keys:
        return "feedback"
    if {"chosen", "rejected"} <= keys:
        return "preference"
    if isinstance(record.get("messages"), list):
        return "meton" if {"session_id", "max_history"} & keys else "messages"
    listed = record.get("conversations", record.get("conversation"))
    if isinstance(listed, list):
        if listed and isinstance(listed[0], dict) and "messages" in listed[0]:
            return "meton" if "session_id" in listed[0] else None
        return "sharegpt"
    if {"prompt", "completion"} <= keys:
        return "rating" if "label" in keys else "completion"
    if "instruction" in keys and {"output", "response"} & keys:
        return "alpaca"
    if {"question", "answer"} <= keys:
        return "completion"
    text = record.get("text")
    if isinstance(text, str):
        return next((name for name, marked in _TEXTS.items() if marked.begins.match(text)), None)
    return None


def _held(value: Any) -> list[Any] | None:
    """The records that one object holds together, or None."""
    if not isinstance(value, dict):
        return None
    return next((value[key] for key in HOLDERS if isinstance(value.get(key), list)), None)


def _marked(file: TextIO) -> str | None:
    """The text format whose mark `file` begins with, or None; the file is at its beginning again."""
    head = file.read(HEAD)
    file.seek(0)
    return next((name for name, marked in _TEXTS.items() if marked.begins.match(head)), None)
