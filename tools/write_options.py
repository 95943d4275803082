"""Write docs/options.md anew: each setting with its flag, type, default, bounds and meaning, from the models."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meton_plugins.finetune.settings import Settings

OPTIONS: Final = Path(__file__).resolve().parent.parent / "docs" / "options.md"
#: The command whose flags are the settings of a table.
COMMANDS: Final = {"train": "/finetune start", "build": "/dataset build"}
#: Settings outside of those tables that have a flag of their own.
SINGLE: Final = {"base": "/finetune start", "harvest.conversations_dir": "/dataset harvest"}
KINDS: Final = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", tuple: "list"}
SIGNS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
HEAD: Final = """\
# Every option

Written by `make manifest` from `meton_plugins/finetune/settings.py`; a test holds it to that.

A setting stands in `settings.toml`, in the folder that `METON_FINETUNE_HOME` names (or in the plugin's data folder), in
the table that its heading names. A flag of the command overrides it for once. `/dataset preview` and `/dataset stats`
take those flags of `/finetune start` that decide what a row is: `--ctx-size`, `--chat-template`, `--template`.
"""


class Option(NamedTuple):
    """One setting. `command` is the one that takes `flag`; both are empty where there is none."""

    key: str
    command: str
    flag: str
    kind: str
    default: str
    bounds: str
    text: str


def options(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Option]:
    """Every option of `model` by its dotted name, in order."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from options(kind, f"{key}.")
            continue
        command = SINGLE.get(key) or COMMANDS.get(key.rpartition(".")[0], "")
        flag = "--" + name.replace("_", "-") if command else ""
        yield Option(key, command, flag, _kind(kind), _default(field), _bounds(field), field.description or "")


def document() -> str:
    """docs/options.md, whole."""
    parts = [HEAD]
    tables: dict[str, list[Option]] = {}
    for option in options():
        tables.setdefault(option.key.rpartition(".")[0], []).append(option)
    for name, found in tables.items():
        field = Settings.model_fields.get(name)
        kind = field.annotation if field else None
        about = (getattr(kind, "__doc__", "") or "").strip().split("\n")[0] if field else "Above all tables."
        parts.append(f"## {f'`[{name}]`' if name else '`settings.toml`'}\n\n{about}\n")
        parts.append("| setting | flag | type | default | bounds | meaning |\n|---|---|---|---|---|---|")
        parts += [_row(option) for option in found]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _row(option: Option) -> str:
    flag = f"`{option.command} {option.flag}`" if option.flag else ""
    cells = (f"`{option.key}`", flag, option.kind, option.default, option.bounds, option.text)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(annotation: Any) -> Any:
    """The type under Optional and Annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return _plain(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation


def _kind(annotation: Any) -> str:
    plain = _plain(annotation)
    if typing.get_origin(plain) is typing.Literal:
        return ", ".join(map(str, typing.get_args(plain)))
    base = typing.get_origin(plain) or plain
    return KINDS.get(base, getattr(base, "__name__", str(base)))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bounds(field: FieldInfo) -> str:
    # A shared type such as `Fraction` brings its bounds inside an Annotated.
    found = [*field.metadata]
    for part in typing.get_args(field.annotation):
        found += getattr(part, "__metadata__", ())
    shown = []
    for constraint in found:
        for inner in getattr(constraint, "metadata", None) or [constraint]:
            shown += [
                f"{sign} {getattr(inner, name)}"
                for name, sign in SIGNS.items()
                if getattr(inner, name, None) is not None
            ]
    return ", ".join(dict.fromkeys(shown))


if __name__ == "__main__":
    OPTIONS.write_text(document(), encoding="utf-8")
