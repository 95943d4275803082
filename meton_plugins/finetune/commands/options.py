"""Words and flags of a command: argparse that never ends the process, with flags made from the settings models."""

from __future__ import annotations

import argparse
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel

from ..errors import ConfigError, UsageError
from ..settings import kind_of, validated

__all__ = ["HelpWanted", "Parser", "flags_of", "kind_of", "settings_from", "split", "verbs_wanted"]

M = TypeVar("M", bound=BaseModel)

#: Python refuses these in every path. \udc80 to \udcff are the bytes of a file's name that is not UTF-8.
_NAMELESS: Final = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


class HelpWanted(Exception):
    """`--help` was typed; the text is the help."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UsageError and whose help is HelpWanted: neither prints, neither exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; a word that nobody takes is named together with the verb that does not take it."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            prog = f"{self.prog} {getattr(found, 'verb', '')}".strip()
            raise UsageError(f"{prog} does not take {' '.join(rest)}; see {prog} --help.")
        return found

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if action.type is not int:
            return super()._get_value(action, arg_string)
        try:
            return int(arg_string)
        except ValueError:
            name = "/".join(action.option_strings) or self.prog
            raise UsageError(f"{name} takes a whole number, not {arg_string[:40]!r}.") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            there = ", ".join(str(choice) for choice in action.choices)
            if isinstance(action, argparse._SubParsersAction):
                raise UsageError(f"{self.prog} has no word {str(value)[:40]!r}: it has {there}.")
            name = "/".join(action.option_strings) or self.prog
            raise UsageError(f"{name} takes {there}, not {str(value)[:40]!r}.")

    def print_help(self, file: Any = None) -> None:
        raise HelpWanted(self.format_help())

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError((message or "stopped").strip())


def verbs_wanted(command: str, words: Sequence[str], verbs: Mapping[str, str]) -> None:
    """HelpWanted, with what each verb does, where no verb was typed."""
    if words and words[0] not in ("-h", "--help", "help"):
        return
    width = max(map(len, verbs)) + 2
    lines = [f"  {verb:{width}}{summary}" for verb, summary in verbs.items()]
    raise HelpWanted("\n".join([f"usage: {command} VERB ...", "", *lines, "", f"{command} VERB --help tells more."]))


def split(line: str) -> list[str]:
    """The words of a command line, as a shell would split them; UsageError for an open quote."""
    if _NAMELESS.search(line):
        raise UsageError("That line holds a character that no name has (NUL, or half of one): type it anew.")
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(
            f"That line cannot be split into words ({error}): close the quote or write \\' for it."
        ) from error


def flags_of(parser: argparse.ArgumentParser, model: type[BaseModel], *, only: Sequence[str] | None = None) -> None:
    """Give `parser` one flag for each field of `model` (`ctx_size` is `--ctx-size`), help and default shown."""
    group = parser.add_argument_group(model.__doc__.split(".")[0] if model.__doc__ else model.__name__)
    for name, field in model.model_fields.items():
        if only is not None and name not in only:
            continue
        kind = kind_of(field.annotation)
        default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        text = f"{field.description}" + ("" if default is None else f" (default: {default})")
        text = text.replace("%", "%%")
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif typing.get_origin(kind) is typing.Literal:
            group.add_argument(flag, dest=name, choices=typing.get_args(kind), default=None, help=text)
        else:
            metavar = {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
            group.add_argument(flag, dest=name, metavar=metavar, default=None, help=text)


def settings_from(namespace: argparse.Namespace, base: M) -> M:
    """`base` with every flag that was given laid over it, validated; the error names the flag."""
    given: dict[str, Any] = {}
    for name, field in type(base).model_fields.items():
        value = getattr(namespace, name, None)
        if value is None:
            continue
        if typing.get_origin(kind_of(field.annotation)) is tuple and isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        given[name] = value
    try:
        return validated(type(base), {**base.model_dump(), **given}, "flags")
    except ConfigError as error:
        sentence = error.sentence.removeprefix("flags: ").removeprefix("value: ")
        name = next((name for name in type(base).model_fields if sentence.startswith(name)), "")
        raise UsageError(f"--{name.replace('_', '-')}{sentence[len(name) :]}" if name else sentence) from error
