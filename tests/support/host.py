"""A host for tests: it records what a plugin offers and prints, and answers questions from a list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from meton_plugins.host.api import Command, Listener, SlotStore, ToolSpec


class Slots:
    """A SlotStore in memory; `path` names a file that need not exist."""

    def __init__(self, values: dict[str, str], path: Path = Path("config.yaml")) -> None:
        self.values = dict(values)
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def read(self) -> dict[str, str]:
        return dict(self.values)

    def write(self, slot: str, model: str, *, expected: str) -> None:
        if self.values.get(slot) != expected:
            raise AssertionError(f"{slot} holds {self.values.get(slot)!r}, not {expected!r}")
        self.values[slot] = model


@dataclass
class RecordingHost:
    """Implements `Host`. `answers` are given to `ask` in turn, `lines` to `read_line`; when they are used up, nobody
    answers (None).
    """

    data_dir: Path
    conversations_dir: Path | None = None
    slots: SlotStore | None = None
    json: bool = False
    answers: Iterable[bool | None] = ()
    lines: Iterable[str | None] = ()
    name: str = "test"
    width: int = 120
    private: bool = False
    listeners: list[Listener] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    commands: dict[str, Command] = field(default_factory=dict)
    tools: dict[str, ToolSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stream = StringIO()
        self._answers = iter(self.answers)
        self._lines = iter(self.lines)
        self.console = Console(file=self._stream, width=self.width, force_terminal=False, color_system=None)

    @property
    def complaints(self) -> Console:
        return self.console

    def ask(self, question: str) -> bool | None:
        self.asked.append(question)
        return next(self._answers, None)

    def read_line(self, question: str) -> str | None:
        self.asked.append(question)
        return next(self._lines, None)

    def add_command(self, command: Command) -> None:
        self.commands[command.name] = command

    def add_listener(self, listener: Listener) -> None:
        self.listeners.append(listener)

    def add_tool(self, tool: ToolSpec) -> None:
        self.tools[tool.name] = tool

    @property
    def output(self) -> str:
        """Everything printed since the last `clear`."""
        return self._stream.getvalue()

    def clear(self) -> None:
        """Forget what was printed."""
        self._stream.seek(0)
        self._stream.truncate()

    def last_json(self) -> Any:
        """What was printed, read as one JSON document."""
        return json.loads(self.output)


class User:
    """What a user types to one `command`, without its name, and what `host` shows him then."""

    def __init__(self, host: RecordingHost, command: Command) -> None:
        self.host, self.command = host, command

    def __call__(self, line: str, code: int = 0) -> str:
        """The output of `line`."""
        self.host.clear()
        assert self.command.run(line) == code, self.host.output
        return self.host.output

    def refused(self, line: str, code: int = 1) -> str:
        """The one sentence with which `line` is refused."""
        said = self(line, code)
        assert said.startswith("✗ "), said
        assert said.count("\n") == 1, said
        assert re.search(r"[.?]$", said.strip()), said
        return said.strip()

    def json(self, line: str, code: int = 0) -> Any:
        """The output of `line`, read as JSON."""
        self.host.json = True
        try:
            return json.loads(self(line, code))
        finally:
            self.host.json = False
