"""The commands without Meton: a REPL with completion and history, and one command from the shell."""

from __future__ import annotations

import difflib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .api import Command, Listener, SlotStore, ToolSpec

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from rich.console import Console

__all__ = ["ConsoleHost"]


class ConsoleHost:
    """A `Host` on a terminal. `config` is the config.yaml whose slots are swapped, where the user named one."""

    name = "console"

    def __init__(
        self, data_dir: Path, *, conversations_dir: Path | None = None, config: Path | None = None, json: bool = False
    ) -> None:
        self.data_dir = data_dir
        self.conversations_dir = conversations_dir
        self.json = json
        self.commands: dict[str, Command] = {}
        self.tools: dict[str, ToolSpec] = {}
        self._config = config
        self._console: Console | None = None
        self._complaints: Console | None = None
        self._reads = False

    @property
    def console(self) -> Console:
        """Standard output."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(highlight=False)
        return self._console

    @property
    def complaints(self) -> Console:
        """Standard error. While lines are read, an answer stays where the other answers are."""
        if self._reads:
            return self.console
        if self._complaints is None:
            from rich.console import Console

            self._complaints = Console(highlight=False, stderr=True)
        return self._complaints

    @property
    def slots(self) -> SlotStore | None:
        """The slots of the config.yaml that the user named."""
        if self._config is None:
            return None
        from .config_file import ConfigFile

        return ConfigFile(self._config)

    def ask(self, question: str) -> bool | None:
        """Ask on the terminal; None where there is none."""
        from .asking import ask

        return None if self.json else ask(self.console, question)

    def read_line(self, question: str) -> str | None:
        """Ask for a line on the terminal; None where there is none."""
        from .asking import read_line

        return None if self.json else read_line(self.console, question)

    def add_command(self, command: Command) -> None:
        """Keep `command` under its name and its other words."""
        self.commands[command.name] = command

    @property
    def private(self) -> bool:
        """The console has no chat to keep private."""
        return False

    def add_listener(self, listener: Listener) -> None:
        """The console has no chat to listen to."""

    def add_tool(self, tool: ToolSpec) -> None:
        """Keep `tool`; the console has no agent that would call it."""
        self.tools[tool.name] = tool

    def run(self, line: str) -> int:
        """Run one line, its first word with or without the slash; the exit code."""
        word, rest = [*line.split(maxsplit=1), "", ""][:2]
        name = "/" + word.lstrip("/")
        for command in self.commands.values():
            if name == command.name:
                return command.run(rest.strip())
            if name in command.aliases:
                return command.run(f"{command.aliases[name]} {rest}".strip())
        if name in ("/help", "/?"):
            return self.help()
        close = difflib.get_close_matches(name, self.commands, n=1)
        hint = f"did you mean {close[0]}?" if close else "type help for the commands."
        self._refuse(f"There is no command {word[:60]!r}: {hint}")
        return 2

    def _refuse(self, sentence: str) -> None:
        if self.json:
            self.console.print(json.dumps({"error": sentence}), markup=False, emoji=False, soft_wrap=True)
        else:
            self.complaints.print(f"✗ {sentence}", style="red", markup=False, emoji=False, soft_wrap=True)

    def help(self) -> int:
        """Print every command, its verbs and its short forms."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        for command in self.commands.values():
            table.add_row(Text(command.name, style="bold"), Text(command.summary))
            table.add_row("", Text(" ".join(command.verbs), style="dim"))
            for alias, stands in command.aliases.items():
                table.add_row("", Text(f"{alias} is {command.name} {stands}", style="dim"))
        self.console.print(table)
        self.console.print("COMMAND --help tells more. In the REPL: exit, or Ctrl-D.", style="dim", markup=False)
        return 0

    def repl(self, history: Path) -> int:
        """Read commands until the end. Where nobody types (a script), the exit code of the last that failed."""
        self._reads = True
        if sys.stdin is None or not sys.stdin.isatty():
            return self._script(sys.stdin or ())
        self.console.print("meton-finetune: type help for the commands, exit to leave.", style="dim", markup=False)
        read = self._reader(history)
        while True:
            try:
                line = read()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return 0
            if _leaves(line):
                return 0
            if line.strip():
                self.run(line)

    def _script(self, lines: Iterable[str]) -> int:
        code = 0
        for line in lines:
            if _leaves(line):
                break
            if line.strip() and not line.lstrip().startswith("#"):
                code = self.run(line) or code
        return code

    def _reader(self, history: Path) -> Callable[[], str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory

        os.close(os.open(history, os.O_CREAT | os.O_RDWR, 0o600))
        session: PromptSession[str] = PromptSession(history=FileHistory(str(history)), completer=self._completer())
        return lambda: session.prompt("finetune> ")

    def _completer(self) -> Completer:
        from prompt_toolkit.completion import NestedCompleter

        words: dict[str, dict[str, None] | None] = {}
        for command in self.commands.values():
            for name in (command.name, command.name.lstrip("/")):
                words[name] = dict.fromkeys(command.verbs)
            words.update(dict.fromkeys(command.aliases))
        return NestedCompleter.from_nested_dict({**words, "help": None, "exit": None})

    def once(self, words: Sequence[str]) -> int:
        """Run one command given as words, as a shell hands them over; the exit code."""
        return self.run(f"{words[0]} {shlex.join(words[1:])}")


def _leaves(line: str) -> bool:
    return line.strip().lstrip("/") in ("exit", "quit", "q")
