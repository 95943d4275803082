"""Secrets that are known by the name before them: `api_key = "..."`, `the token is ...`.

A name alone proves little: `key` and `token` are everywhere in code. So the value must look as if a machine had made
it; only what is called a password may also be a person's invention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .secret_forms import HARMLESS

__all__ = ["NAMES", "find_named"]

#: Words that make a name a secret's, in lower case; the second set is enough for values that people invent.
_STRONG: Final = ("passw", "pwd", "passphrase", "passcode")
NAMES: Final = ("key", "token", "secret", "auth", "access", "credential", "creds", "client", "api", "pat=", *_STRONG)

#: After the word: the rest of the name, what closes it, an operator, and the value, in quotes or not.
_VALUE: Final = re.compile(
    r"(?P<rest>[\w.-]{0,30}(?: (?:id|key|token|secret|password|credential)){0,2})"
    r"(?P<closed>\\?[\"'`]?\]?\)?)"
    r"(?P<operator>\s{0,4}(?::\s?(?:str|string|String|SecretStr)\s?=|\sstring\s?=|:{0,3}=|=>|[?.+|]=|[:>,=])\s{0,12}"
    r"|\svalue\s?=\s?|\s(?:is|was|to)\s{1,3})"
    r"(?:(?P<quote>[bfr]?\\?[\"'`])(?P<quoted>(?:[^\s\"'`\\<>]|\\[^nrtu\s]){6,200}?)(?P=quote)"
    r"|(?P<bare>[\w+/.~!@^*-]{8,300}={0,2}))"
)
_IDS: Final = re.compile(r"(?i)client[_ -]?id|api[_ -]?(?:id|key|token)|access[_ -]?id|access[_ -]?key")
#: A reference, a call, a template, a file or plain words: no value.
_REFERENCE: Final = re.compile(
    r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*\W?$|[A-Za-z]+(?:[_-][A-Za-z]+)*$|\$[A-Za-z_{(]|.*(?:\$\{|\{\w*\}|%\(|%[sdr\d])|[/.]{1,2}\w"
)
_ARGUMENT: Final = re.compile(r"\(\\?[\"'][\w.-]{0,40}$")
_OPEN_KEY: Final = re.compile(r"(?i)(?:public.{0,5}|websocket-)$")
_DIGEST: Final = re.compile(r"(?i)sha\d|md5|hash|digest|checksum|finger|blob")
_CHANGES: Final = re.compile(r"(?<=[A-Za-z])\d|(?<=\d)[A-Za-z]")
_NUMBERS: Final = re.compile(r"\d+")
_WORDS: Final = re.compile(r"[A-Z][a-z]{2,}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9]{10,}")


def find_named(text: str, folded: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of each named value; `folded` is `text` in lower case, character by character."""
    for name in NAMES:
        at = folded.find(name)
        while at >= 0:
            after = at + len(name)
            found = _VALUE.match(text, after)
            if found:
                kind = "PASSWORD" if name in _STRONG else "SECRET"
                if kind == "PASSWORD" or name not in ("client", "api") or _IDS.match(text, at):
                    group = "quoted" if found["quoted"] is not None else "bare"
                    end = _end(text, found, group, kind)
                    if end and _named(text, at, found):
                        yield found.start(group), end, kind
            at = folded.find(name, after)


def _named(text: str, at: int, found: re.Match[str]) -> bool:
    """Whether the word at `at` is in a name that a value can follow."""
    before = text[max(0, at - 40) : at]
    if found["operator"].strip() == "," and not _ARGUMENT.search(before):
        return False  # two words of a list
    # A WebSocket's key is sent in the open, and is another each time.
    return not _OPEN_KEY.search(before) and not _DIGEST.search(found["rest"])


def _end(text: str, found: re.Match[str], group: str, kind: str) -> int:
    """Where the value ends; 0 where it is none."""
    value, operator = found[group], found["operator"].strip()
    end = found.end(group)
    if group == "bare":
        kept = value.rstrip(".,!?;:&#")
        end -= len(value) - len(kept)
        value = kept
        # A name of the program's own, a call, an element, a list of arguments.
        if text[end : end + 1] in ("(", "[", "{", "%", "\\") and text[end : end + 2] not in ("\\n", "\\r", "\\t"):
            return 0
        if operator == "," or (operator == ">" and "</" not in text[end : end + 40]):
            return 0
    elif operator == "," and not found["closed"]:
        return 0
    if kind == "PASSWORD" and operator != ",":
        fits = group == "quoted" or _invented(value)
    else:
        fits = made_by_machine(value)
    return end if fits and not HARMLESS.search(value) and not _REFERENCE.match(value) else 0


def _invented(value: str) -> bool:
    """Whether an unquoted value can be a password at all: letters and digits, and nothing of an expression."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and not re.search(r"[=&]|\.\w*\.", value)


def made_by_machine(value: str) -> bool:
    """Whether letters and digits are mixed as chance does it: names and versions change between them rarely."""
    if len(value) < 10:
        return False
    if value.isdigit():
        return len(value) >= 16
    if len(set(value)) < 6:
        return False
    changes = len(_CHANGES.findall(value))
    if len(value) >= 20 and changes >= len(value) * 0.2:
        return True
    return any(
        len(_CHANGES.findall(segment)) >= 2 + (len(segment) > 24) and not _is_class(segment)
        for segment in _SEGMENT.findall(value)
    )


def _is_class(segment: str) -> bool:
    """Whether it reads like the name of a class with a number in it."""
    return len(_NUMBERS.findall(segment)) == 1 and 2 * sum(map(len, _WORDS.findall(segment))) >= len(segment)
