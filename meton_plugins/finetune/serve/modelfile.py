"""Ollama's Modelfile: what it holds, read and written by the grammar of Ollama's own parser.

The one difference: that parser drops what Go calls unprintable (no-break spaces, joiners in emoji); this one keeps it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ..errors import ConfigError
from .parameters import METON_SETTINGS, Value, check_parameter, parse_parameter

__all__ = ["Message", "Modelfile", "parameters_overridden_by_meton", "parse", "to_create_request", "write"]

#: A template's FROM: a stand-in that registration replaces by the exported GGUF.
PLACEHOLDER: Final = "."

ROLES: Final = ("system", "user", "assistant")
_TEXTS: Final = ("FROM", "TEMPLATE", "SYSTEM", "RENDERER", "PARSER", "REQUIRES")
_GO_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_INSTRUCTIONS: Final = frozenset((*_TEXTS, "ADAPTER", "DRAFT", "LICENSE", "MESSAGE", "PARAMETER"))


class Message(NamedTuple):
    """One line of an example conversation that is put before each chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Modelfile:
    """What makes a model of a GGUF. None and empty mean that the file does not say."""

    base: str = PLACEHOLDER
    template: str | None = None
    system: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    parameters: dict[str, Value] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()


class _Instruction(NamedTuple):
    line: int
    word: str
    name: str  # of a PARAMETER, or the role of a MESSAGE
    value: str


def parse(text: str, where: str = "Modelfile") -> Modelfile:
    """`text` as a Modelfile; ConfigError names `where` and the line."""
    found: dict[str, Any] = {"parameters": {}, "messages": [], "licenses": []}
    for line, word, name, value in _instructions(text, where):
        try:
            if word in _TEXTS:
                found["base" if word == "FROM" else word.lower()] = value
            elif word == "LICENSE":
                found["licenses"].append(value)
            elif word == "MESSAGE":
                found["messages"].append(Message(name, value))
            elif word == "PARAMETER":
                parameter = parse_parameter(name, value)
                earlier = found["parameters"].get(name)
                if isinstance(earlier, list) and isinstance(parameter, list):
                    parameter = [*earlier, *parameter]
                found["parameters"][name] = parameter
            else:
                raise ConfigError(f"{word} is not used here: a tuned model is one merged GGUF; remove that line.")
        except ConfigError as error:
            raise ConfigError(f"{where}, line {line}: {error}") from error
    if "base" not in found:
        raise ConfigError(f"{where} has no FROM line: begin it with `FROM {PLACEHOLDER}`.")
    found["messages"], found["licenses"] = tuple(found["messages"]), tuple(found["licenses"])
    return Modelfile(**found)


def _instructions(text: str, where: str) -> list[_Instruction]:
    """The instructions of `text`, in order. A `#` is a comment only where an instruction could start."""
    found: list[_Instruction] = []
    at, end = 0, len(text)
    while True:
        at += len(_match(r"[ \t\r\n]*", text, at))
        if at >= end:
            return found
        line = len(re.findall(r"\r\n|\r|\n", text[:at])) + 1
        if text[at] == "#":
            at += len(_match(r"[^\r\n]*", text, at))
            continue
        word = _match(r"[A-Za-z]*", text, at)
        at += len(word)
        word, name = word.upper(), ""
        if word not in _INSTRUCTIONS:
            typed = _match(r"[^\r\n]*", text, at - len(word))[:40]
            raise ConfigError(f"{where}, line {line}: {typed!r} does not begin with an instruction such as "
                              "FROM, SYSTEM, PARAMETER or MESSAGE.")  # fmt: skip
        at = _blank(text, at, word, line, where)
        if word in ("PARAMETER", "MESSAGE"):
            name = _match(r"[A-Za-z0-9_]*" if word == "PARAMETER" else r"[A-Za-z]*", text, at)
            at = _blank(text, at + len(name), f"{word} {name}".strip(), line, where)
            if word == "MESSAGE" and name not in ROLES:
                raise ConfigError(f"{where}, line {line}: a MESSAGE is of {', '.join(ROLES)}, not {name[:40]!r}.")
        value, at = _value(text, at, line, where)
        found.append(_Instruction(line, word, name, value))


def _match(pattern: str, text: str, at: int) -> str:
    found = re.compile(pattern).match(text, at)
    return found.group() if found else ""


def _blank(text: str, at: int, what: str, line: int, where: str) -> int:
    if at >= len(text) or text[at] not in " \t":
        raise ConfigError(f"{where}, line {line}: {what} needs a blank and a value after it.")
    return at + 1


def _value(text: str, at: int, line: int, where: str) -> tuple[str, int]:
    """A value and where it ends: at the first newline (or the end) at which the trimmed text closes its own quote."""
    for newline in re.compile(r"[\r\n]|\Z").finditer(text, at):
        value = _unquoted(_trim(text[at : newline.start()]))
        if value is not None:
            return value, newline.start()
    raise ConfigError(f"{where}, line {line}: the quoted text that begins here is never closed.")


def _trim(text: str) -> str:
    """As Go's strings.TrimSpace; Python's strip would also take U+001C to U+001F."""
    return text.strip(_GO_SPACES)


def _unquoted(text: str) -> str | None:
    for mark in ('"""', '"'):
        if text.startswith(mark):
            closed = len(text) >= 2 * len(mark) and text.endswith(mark)
            return text[len(mark) : len(text) - len(mark)] if closed else None
    return text


def write(modelfile: Modelfile) -> str:
    """The text that `parse` reads back as the same Modelfile; ConfigError where the grammar cannot say it."""
    lines = [f"FROM {_quoted('FROM', modelfile.base)}"]
    for word in _TEXTS[1:]:
        value = getattr(modelfile, word.lower())
        if value is not None:
            lines.append(f"{word} {_quoted(word, value)}")
    for name, value in modelfile.parameters.items():
        for item in value if isinstance(value, list) else [value]:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            lines.append(f"PARAMETER {name} {_quoted(f'PARAMETER {name}', text)}")
    lines += [f"MESSAGE {role} {_quoted(f'MESSAGE {role}', content)}" for role, content in modelfile.messages]
    lines += [f"LICENSE {_quoted('LICENSE', text)}" for text in modelfile.licenses]
    return "\n".join(lines) + "\n"


def _quoted(what: str, value: str) -> str:
    """The first way of quoting that reads back as `value`: a text can then never become an instruction."""
    for text in (value, f'"{value}"', f'"""{value}"""'):
        try:
            if _value(text + "\n", 0, 1, what) == (value, len(text)):
                return text
        except ConfigError:
            continue
    raise ConfigError(
        f"This {what} cannot be written in a Modelfile, whose grammar has no escapes: a line in it ends with "
        "three quotes. Put a full stop or a space and a word after them."
    )


def parameters_overridden_by_meton(modelfile: Modelfile) -> list[str]:
    """One sentence for each PARAMETER that Meton sends anew with each call: what to change instead."""
    return [
        f"PARAMETER {name} {modelfile.parameters[name]} is overridden by Meton with each call: "
        f"set {METON_SETTINGS[name]} in its config.yaml instead."
        for name in sorted(modelfile.parameters)
        if name in METON_SETTINGS
    ]


def to_create_request(modelfile: Modelfile, model: str, files: dict[str, str]) -> dict[str, Any]:
    """The JSON of POST /api/create: `files` are file name to `sha256:…`. Texts travel as JSON strings, never parsed."""
    for name, value in modelfile.parameters.items():
        check_parameter(name, value)
    request: dict[str, Any] = {"model": model, "files": files, "stream": True}
    for word in ("template", "system", "renderer", "parser", "requires"):
        if value := getattr(modelfile, word):
            request[word] = value
    if modelfile.parameters:
        request["parameters"] = dict(sorted(modelfile.parameters.items()))
    if modelfile.messages:
        request["messages"] = [message._asdict() for message in modelfile.messages]
    if modelfile.licenses:
        request["license"] = list(modelfile.licenses)
    return request
