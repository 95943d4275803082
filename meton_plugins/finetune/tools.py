"""Tools for the host's agent. They run the same commands as the user types; those that change anything ask him first.

What a model sends is data: only the named arguments are taken, each becomes one quoted word of a command.
"""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..host.api import Effect, ToolSpec

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from ..host.api import Command, Host, Listener, SlotStore

__all__ = ["TOOLS", "Tool", "make"]

#: Longest answer handed to a model, in characters.
LONGEST: Final = 4000
#: Longest value of an argument, in characters: a name, a number, a path.
LONGEST_VALUE: Final = 200
#: An agent sends this where it has nothing to send.
NOTHING: Final = ("", "ANSWER:", "{}", "none", "null")


@dataclass(frozen=True)
class Tool:
    """A tool over one verb. `words` are positional arguments, `flags` are options, by the names a model may use.

    `needs`: the first word must be there; the user is not asked about a command that cannot be run.
    """

    name: str
    description: str
    effect: Effect
    command: str
    verb: str
    words: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    does: str = ""
    needs: bool = False


TOOLS: Final = (
    Tool("dataset_stats", "Count rated and usable answers in the library. No input.", Effect.READ, "/dataset", "stats"),
    Tool("training_status", "Show all training runs. No input.", Effect.READ, "/finetune", "status"),
    Tool(
        "training_show", 'Show one training run. Input: {"run": "run-1"}', Effect.READ, "/finetune", "show",
        words=("run",),
    ),
    Tool(
        "training_compare", 'Compare two training runs. Input: {"a": "run-1", "b": "run-2"}', Effect.READ, "/finetune",
        "compare", words=("a", "b"), needs=True,
    ),
    Tool(
        "training_plan", 'Say what a training run would take. Input: {"epochs": 3} or nothing', Effect.READ,
        "/finetune", "plan", flags=("base", "epochs", "ctx_size"),
    ),
    Tool(
        "training_diagnose", 'Say what went wrong in a training run. Input: {"run": "run-1"}', Effect.READ, "/finetune",
        "diagnose", words=("run",),
    ),
    Tool("training_queue", "Show the runs that wait to train. No input.", Effect.READ, "/finetune", "queue"),
    Tool(
        "model_explain", 'Say what is wrong with a tuned model. Input: {"model": "run-1"}', Effect.READ,
        "/model-register", "explain", words=("model",),
    ),
    Tool("models_list", "List the tuned models. No input.", Effect.READ, "/model-register", "list"),
    Tool(
        "rate_answer", 'Rate the last answer, if the user wants it. Input: {"score": "1..5"}', Effect.WRITE, "/dataset",
        "rate", words=("score",), does="rate the last answer", needs=True,
    ),
    Tool(
        "dataset_build", 'Freeze rated answers into a dataset. Input: {"filter_keyword": "..."} or nothing',
        Effect.WRITE, "/dataset", "build", flags=("filter_keyword", "name"), does="build a dataset",
    ),
    Tool(
        "training_start", 'Start a training run. Input: {"epochs": 3, "name": "..."} or nothing', Effect.LONG_RUNNING,
        "/finetune", "start", flags=("base", "epochs", "learning_rate", "name"),
        does="train a model in the background, which takes this machine's CPU for a long time",
    ),
    Tool(
        "training_stop", 'Stop a training run. Input: {"run": "run-1"}', Effect.WRITE, "/finetune", "stop",
        words=("run",), does="stop the training",
    ),
    Tool(
        "training_delete", 'Delete a training run for good. Input: {"run": "run-1"}', Effect.WRITE, "/finetune",
        "delete", words=("run",), switches=("--yes",), does="delete a training run and its adapters for good",
        needs=True,
    ),
    Tool(
        "model_export", 'Write a run\'s tuned model as GGUF. Input: {"run": "run-1", "quant": "base"}',
        Effect.LONG_RUNNING, "/export", "model", words=("run",), flags=("quant",), does="write a model file",
    ),
    Tool(
        "model_register", 'Make an Ollama model of a run. Input: {"run": "run-1"}', Effect.LONG_RUNNING,
        "/model-register", "add", words=("run",), does="make an Ollama model", needs=True,
    ),
    Tool(
        "model_promote", 'Put a model into a slot. Input: {"model": "name:tag", "slot": "primary"}', Effect.WRITE,
        "/model-register", "promote", words=("model",), flags=("slot",), switches=("--yes",),
        does="change the model that answers you", needs=True,
    ),
    Tool(
        "model_retire", 'Remove a tuned model nobody uses. Input: {"model": "name:tag"}', Effect.WRITE,
        "/model-register", "retire", words=("model",), switches=("--yes",),
        does="remove a model from the Ollama server", needs=True,
    ),
    Tool(
        "model_rollback", 'Put the model before back into a slot. Input: {"slot": "primary"}', Effect.WRITE,
        "/model-register", "rollback", flags=("slot",), does="change the model that answers you",
    ),
)  # fmt: skip


def make(host: Host, commands_for: Callable[[Host], Mapping[str, Command]]) -> list[ToolSpec]:
    """The tools for `host`. `commands_for(host)`: the commands that print on it, by name."""

    def spec(tool: Tool) -> ToolSpec:
        asks = tool.effect is not Effect.READ
        return ToolSpec(
            tool.name, tool.description, tool.effect, asks, lambda text: _use(host, tool, text, commands_for)
        )

    return [spec(tool) for tool in TOOLS]


def _use(host: Host, tool: Tool, text: str, commands_for: Callable[[Host], Mapping[str, Command]]) -> str:
    try:
        line = f"{tool.verb} {shlex.join(_words(tool, text))}".strip()
    except ValueError as error:
        return f"✗ {error}"
    if tool.effect is not Effect.READ:
        agreed = host.ask(f"The assistant wants to {tool.does} ({tool.command} {line}). Do it?")
        if agreed is None:
            return "Not done: nobody is there to agree. The user can type it: " + f"{tool.command} {line}"
        if not agreed:
            return "Not done: the user said no."
    quiet = _Captured(host)
    code = commands_for(quiet)[tool.command].run(line)
    said = quiet.said() or "Done."
    said = said if len(said) <= LONGEST else f"{said[: LONGEST - 2]} …"
    # An agent tries again what begins with this mark, so only input that it can mend keeps it.
    return said if code == 2 else said.removeprefix("✗ ")


def _words(tool: Tool, text: str) -> list[str]:
    given = {name: str(value) for name, value in _arguments(tool, text).items() if value not in (None, "")}
    for name, value in given.items():
        # The user is shown these words and agrees to them: they must be what they seem.
        if len(value) > LONGEST_VALUE or not value.isprintable():
            raise ValueError(f"{tool.name} takes a short {name} in one line.")
        if name in tool.words and value.startswith("-"):
            raise ValueError(f"{tool.name} takes {', '.join(tool.words)}, not an option.")
    if tool.needs and tool.words[0] not in given:
        raise ValueError(f"{tool.name} needs {tool.words[0]}: {tool.description.partition('Input: ')[2]}.")
    words = [given[name] for name in tool.words if name in given]
    flags = [f"--{name.replace('_', '-')}={given[name]}" for name in tool.flags if name in given]
    return [*words, *flags, *tool.switches]


def _arguments(tool: Tool, text: str) -> dict[str, Any]:
    """What a model meant: JSON, JSON in a code fence, or the bare value of the first argument."""
    bare = re.sub(r"^```\w*|```$", "", text.strip()).strip()
    known = (*tool.words, *tool.flags)
    if bare.lower() in [word.lower() for word in NOTHING] or not known:
        return {}
    if bare.startswith("{"):
        try:
            values = json.loads(bare)
        except ValueError as error:
            raise ValueError(f"{tool.name} takes JSON with {', '.join(known)}: {error}.") from error
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(f"{tool.name} takes {', '.join(known)}, not {unknown[0]!r}.")
        if any(isinstance(value, bool | list | dict) for value in values.values()):
            raise ValueError(f"{tool.name} takes plain values for {', '.join(known)}.")
        return dict(values)
    return {known[0]: bare.strip("\"'")}


class _Captured:
    """The same host, printing into a string and without a user to ask: a tool has asked already."""

    def __init__(self, host: Host) -> None:
        from rich.console import Console

        self._host = host
        self._text = io.StringIO()
        self.console: Console = Console(file=self._text, width=100, color_system=None, force_terminal=False)
        self.complaints = self.console
        self.json = False

    def said(self) -> str:
        """What was printed."""
        return self._text.getvalue().strip()

    @property
    def name(self) -> str:
        # The history says that it was the assistant, though the user agreed.
        return f"{self._host.name} agent"

    @property
    def data_dir(self) -> Path:
        return self._host.data_dir

    @property
    def conversations_dir(self) -> Path | None:
        return self._host.conversations_dir

    @property
    def slots(self) -> SlotStore | None:
        return self._host.slots

    def ask(self, question: str) -> bool | None:
        return None

    def read_line(self, question: str) -> str | None:
        return None

    def add_command(self, command: Command) -> None:
        self._host.add_command(command)

    @property
    def private(self) -> bool:
        return self._host.private

    def add_listener(self, listener: Listener) -> None:
        self._host.add_listener(listener)

    def add_tool(self, tool: ToolSpec) -> None:
        self._host.add_tool(tool)
