"""One chat with a plugin: what happens around Meton's commands, questions and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .api import FinishedTurn
from .asking import private_files
from .errors import HostError
from .meton import SHARED

if TYPE_CHECKING:
    from .meton import MetonHost

__all__ = ["Session"]

T = TypeVar("T")


class Session:
    """Stands between a MetonCLI and its plugin. Nothing here raises into the chat."""

    def __init__(self, host: MetonHost) -> None:
        self.host = host
        self._depth = 0
        self._waiting: list[FinishedTurn] = []
        self._busy = False

    def command(self, line: str, original: Callable[[str], bool]) -> bool:
        """Run a slash command: ours, or by `original` Meton's."""
        with self._inside():
            found = self.host.find(line)
            if found is not None:
                self.host.run(*found)
                return True
            done = original(line)
            bare = self.host.commands.get(line.strip().lower())
            if bare is not None and bare.name in SHARED:
                self.host.run(bare, "")
            return done

    def query(self, text: str, original: Callable[[str], None]) -> None:
        """Let Meton answer; then tell the listeners, and show their lines."""
        with self._inside():
            original(text)

    def turn(self, turn: FinishedTurn) -> None:
        """A turn has ended. Within a query or a command it waits until the answer is on the screen."""
        self._waiting.append(turn)
        if not self._depth:
            self._hear()

    def help(self) -> None:
        """Print the plugin's commands as a table like Meton's."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Plugin Commands", show_header=True, header_style="bold cyan")
        table.add_column("Command", style="yellow", width=25)
        table.add_column("Description", style="white")
        for command in self.host.commands.values():
            table.add_row(Text(command.name), Text(command.summary))
            table.add_row("", Text(", ".join(command.verbs), style="dim"))
            for alias, stands in command.aliases.items():
                table.add_row(Text(alias), Text(f"short for {command.name} {stands}"))
        self.host.console.print(table)
        self.host.console.print()

    def before_prompt(self) -> None:
        """Show what is new, above the next question of Meton's loop; questions inside a command don't count."""
        if self._depth:
            return
        for listener in self.host.listeners:
            for line in self._told("notices", listener.notices) or ():
                self.host.say(line)

    def end(self) -> None:
        """Show the summary. A signal may have interrupted the plugin itself, which holds locks: then nothing."""
        if self._busy:
            return
        for listener in self.host.listeners:
            line = self._told("end", listener.end)
            if line:
                self.host.say(line)

    def _hear(self) -> None:
        turns, self._waiting = self._waiting, []
        for turn in turns:
            for listener in self.host.listeners:
                line = self._told("turn", partial(listener.turn, turn))
                if line:
                    self.host.say(line)

    def _told(self, what: str, tell: Callable[[], T]) -> T | None:
        self._busy = True
        try:
            with private_files():
                return tell()
        except Exception as error:
            self.host.failed(what, error)
            return None
        finally:
            self._busy = False

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if not self._depth:
            self._refresh()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            # Also when Ctrl-C ends the chat just after the answer.
            if not self._depth:
                self._hear()

    def _refresh(self) -> None:
        """Before a query, and before a command that would write Meton's copy of the configuration over a swap."""
        try:
            for slot, old, new in self.host.slots.refresh():
                self.host.say(f"models.{slot} was changed elsewhere: {old} → {new}, used from now on.")
        except HostError as error:
            self.host.say(error.sentence, "yellow")
        except Exception as error:
            self.host.failed("refresh", error)
