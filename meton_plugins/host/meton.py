"""A `Host` over a running Meton: its console, its conversations, its slots, its agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .api import Command, Listener, ToolSpec
from .asking import ask, interruptible, private_files, read_line
from .live_slots import LiveSlots

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["SHARED", "MetonHost"]

#: Commands that Meton has too: it keeps all but our own verbs.
SHARED: Final = ("/export",)


class MetonHost:
    """`cli` is a MetonCLI after its initialize, `checkout` the folder that it was started from."""

    name = "meton"
    json = False

    def __init__(self, cli: Any, checkout: Path, data_dir: Path, *, private: bool = False) -> None:
        self.cli = cli
        self.data_dir = data_dir
        self.private = private
        self.conversations_dir: Path | None = checkout / Path(cli.conversation.save_path)
        self.slots = LiveSlots(cli, checkout / Path(cli.config.config_path))
        self.commands: dict[str, Command] = {}
        self.tools: dict[str, ToolSpec] = {}
        self.listeners: list[Listener] = []

    @property
    def console(self) -> Console:
        """Meton's own."""
        console: Console = self.cli.console
        return console

    @property
    def complaints(self) -> Console:
        """The chat has one screen."""
        return self.console

    def ask(self, question: str) -> bool | None:
        """Ask in the terminal, above Meton's spinner; None where nobody can answer."""
        return ask(self.console, question)

    def read_line(self, question: str) -> str | None:
        """Ask for a line in the terminal; None where nobody can answer."""
        return read_line(self.console, question)

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of turns."""
        self.listeners.append(listener)

    def add_command(self, command: Command) -> None:
        """Offer a slash command."""
        self.commands[command.name] = command

    def add_tool(self, tool: ToolSpec) -> None:
        """Keep `tool` for `give_tools`: a plugin that fails half-way leaves nothing behind."""
        self.tools[tool.name] = tool

    def give_tools(self) -> None:
        """Hand the tools to Meton's agent."""
        from .agent_tools import agent_tool

        for tool in self.tools.values():
            self.cli.agent.add_tool(agent_tool(tool, self._use))

    def find(self, line: str) -> tuple[Command, str] | None:
        """The command that a typed line names, and the text after it; None where the line is Meton's."""
        word, text = [*line.split(maxsplit=1), "", ""][:2]
        word = word.lower()  # as Meton reads its own
        for command in self.commands.values():
            if word in command.aliases:
                return command, f"{command.aliases[word]} {text}".strip()
            if word == command.name:
                mine = word not in SHARED or text.split(maxsplit=1)[:1] in [[verb] for verb in command.verbs]
                return (command, text) if mine else None
        return None

    def run(self, command: Command, text: str) -> None:
        """Run a command. Whatever happens inside, the chat goes on."""
        try:
            with interruptible(), private_files():
                command.run(text)
        except KeyboardInterrupt:
            self.say("Interrupted.")
        except BaseException as error:  # SystemExit, too, would end the chat
            self.failed(f"{command.name}", error)
            self.say(f"✗ {command.name} failed unexpectedly ({type(error).__name__}).", "red")

    def say(self, text: str, style: str = "dim") -> None:
        """Print `text` exactly as it is."""
        self.console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def failed(self, what: str, error: BaseException) -> None:
        """Keep an error of the plugin's where Meton keeps its own; the screen stays calm."""
        logger = getattr(self.cli, "logger", None)
        if logger is not None:
            logger.error(f"plugin: {what}: {type(error).__name__}: {error}", exc_info=error)

    def _use(self, spec: ToolSpec, text: str) -> str:
        try:
            with private_files():
                return spec.run(text)
        except Exception as error:
            self.failed(spec.name, error)
            return f"{spec.name} failed unexpectedly ({type(error).__name__})."
