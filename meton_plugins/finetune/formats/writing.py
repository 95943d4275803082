"""Chats written for other trainers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, Final

from . import messages, pairs
from .chat import BadRecord, Chat
from .texts import CHATML, LLAMA, Marked

__all__ = ["WRITES", "write"]

_RECORDS: Final[Mapping[str, Callable[[Chat], dict[str, Any]]]] = {
    "messages": messages.write_messages,
    "sharegpt": messages.write_sharegpt,
    "alpaca": pairs.write_alpaca,
    "completion": pairs.write_completion,
    "preference": pairs.write_preference,
    "rating": pairs.write_rating,
}
_TEXTS: Final[Mapping[str, Marked]] = {"chat": CHATML, "llama": LLAMA}

#: The formats that can be written, by the names that a user types.
WRITES: Final = ("llama", "alpaca", "chat", "messages", "sharegpt", "completion", "preference", "rating")


def write(file: IO[bytes], chats: Iterable[Chat], name: str, *, as_list: bool = False) -> tuple[int, Counter[str]]:
    """Write `chats` to `file` in the format `name` as UTF-8: how many, and how many were left out, by reason.

    JSON formats are one record a line, or one list of them. Left out is what the format could not give back.
    """
    left: Counter[str] = Counter()
    written = 0
    listed = as_list and name in _RECORDS
    for chat in chats:
        try:
            text = _TEXTS[name].write(chat) if name in _TEXTS else _line(_RECORDS[name](chat))
        except BadRecord as error:
            left[str(error)] += 1
            continue
        if listed:
            text = f"{',' if written else '['}\n{text[:-1]}"
        file.write(text.encode("utf-8"))
        written += 1
    if listed:
        file.write(b"\n]\n" if written else b"[]\n")
    return written, left


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
