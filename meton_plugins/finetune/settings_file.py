"""One setting changed in settings.toml, everything else in it left as the user wrote it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .paths import private_dir, replacing
from .settings import Settings, load, validated

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["switch"]


def switch(path: Path, table: str, key: str, value: bool) -> None:
    """Set `table`.`key` in the settings file at `path`; ConfigError, and nothing written, where that cannot be done.

    No library here writes TOML and keeps comments. So one line is changed or added, and what comes out is read again:
    only where it differs from the old in this one setting does it take the old one's place.
    """
    load(path)
    path = path.resolve()  # the user may keep it elsewhere, and a link must stay one
    old = path.read_bytes().decode("utf-8") if path.exists() else ""
    word = "true" if value else "false"
    new = _changed(old, table, key, word)
    wanted: dict[str, Any] = tomllib.loads(old)
    wanted.setdefault(table, {})[key] = value
    if not _says(new, wanted):
        raise ConfigError(
            f"{path} is written in a way that cannot be changed safely: set {key} = {word} under [{table}]."
        )
    validated(Settings, wanted, str(path))
    private_dir(path.parent)
    with replacing(path) as file:
        file.write(new.encode("utf-8"))


def _changed(text: str, table: str, key: str, word: str) -> str:
    line = r"[ \t]*=[ \t]*)(?:true|false)"
    dotted = re.compile(rf"(?m)^([ \t]*{table}[ \t]*\.[ \t]*{key}{line}")
    if dotted.search(text):
        return dotted.sub(rf"\g<1>{word}", text, count=1)
    end = "\r\n" if "\r\n" in text else "\n"
    head = re.search(rf"(?m)^[ \t]*\[[ \t]*{table}[ \t]*\][^\n]*(?:\n|\Z)", text)
    if head is None:
        gap = "" if not text else end if text.endswith("\n") else 2 * end
        return f"{text}{gap}[{table}]{end}{key} = {word}{end}"
    before, body = text[: head.end()], text[head.end() :]
    after = re.search(r"(?m)^[ \t]*\[", body)
    own = body[: after.start()] if after else body
    entry = re.compile(rf"(?m)^([ \t]*{key}{line}")
    if entry.search(own):
        return before + entry.sub(rf"\g<1>{word}", own, count=1) + body[len(own) :]
    return f"{before}{'' if before.endswith(chr(10)) else end}{key} = {word}{end}{body}"


def _says(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return bool(tomllib.loads(text) == wanted)
    except tomllib.TOMLDecodeError:
        return False
