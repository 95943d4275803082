"""What a plugin and a host say to each other: types only, no behaviour, no heavy imports.

A host (Meton, or our own console) implements `Host`; a plugin's `register(host)` adds commands and tools to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console


class Effect(str, Enum):
    """What an agent tool does to the user's things."""

    READ = "read"
    WRITE = "write"
    LONG_RUNNING = "long-running"


@dataclass(frozen=True)
class Command:
    """A slash command.

    `run` gets the text after the command's word, untouched, and returns an exit code (0 is success). It never raises.
    `verbs` are its sub-words, for completion and help. `aliases` are words that stand for `name` and further words.
    """

    name: str
    summary: str
    run: Callable[[str], int]
    verbs: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolSpec:
    """A tool that the host's agent may call: text in, text out.

    `asks` says that the host's user is asked before anything happens.
    """

    name: str
    description: str
    effect: Effect
    asks: bool
    run: Callable[[str], str]


@dataclass(frozen=True)
class ModelCall:
    """One call of the model: the true prompt and completion. `origin` is `agent`, or who else shared the model."""

    prompt: str
    completion: str
    model: str
    origin: str = "agent"


@dataclass(frozen=True)
class ToolCall:
    """One use of a tool by the host's agent, as the agent saw it."""

    name: str
    input: str
    output: str


@dataclass(frozen=True)
class FinishedTurn:
    """A question and its answer, as they happened. `at` is an ISO time with zone; `context` is (role, text) before it.

    `origin` is `agent` for the user's own chat; turns of sub-agents and of a web UI carry another word.
    """

    session: str
    at: str
    question: str
    answer: str
    success: bool
    model: str
    calls: tuple[ModelCall, ...] = ()
    tools: tuple[ToolCall, ...] = ()
    context: tuple[tuple[str, str], ...] = ()
    origin: str = "agent"


class Listener(Protocol):
    """What a plugin wants to hear of a session. None of these may raise, ask, or take long."""

    def turn(self, turn: FinishedTurn) -> str | None:
        """A turn has ended; a dim line to show below its answer, or None."""

    def notices(self) -> list[str]:
        """Lines to show before the next prompt: each is returned once."""

    def end(self) -> str | None:
        """The session ends; a line to show, or None."""


@runtime_checkable
class SlotStore(Protocol):
    """Where a host keeps the names of its models (config.yaml, and the live session where there is one)."""

    @property
    def path(self) -> Path:
        """The file that holds the slots."""

    def read(self) -> dict[str, str]:
        """Slot name to model name, as they stand now."""

    def write(self, slot: str, model: str, *, expected: str) -> None:
        """Compare and swap: put `model` into `slot`, provided that it still holds `expected`."""


class Host(Protocol):
    """What a plugin may use of the program that it lives in."""

    @property
    def name(self) -> str:
        """`console`, `meton`."""

    @property
    def console(self) -> Console:
        """Where commands print."""

    @property
    def complaints(self) -> Console:
        """Where commands say what went wrong: `console`, or in a shell standard error."""

    @property
    def data_dir(self) -> Path:
        """The plugin's own folder."""

    @property
    def conversations_dir(self) -> Path | None:
        """Where the host saves its conversations; None where it has none."""

    @property
    def slots(self) -> SlotStore | None:
        """None where the host has no configuration to swap models in."""

    @property
    def json(self) -> bool:
        """Whether results are wanted as JSON, for machines."""

    @property
    def private(self) -> bool:
        """Whether the user wants this session kept out of the library (`--private`)."""

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of turns. A host without a chat keeps quiet for ever."""

    def ask(self, question: str) -> bool | None:
        """Ask the user a yes/no question. None where nobody can answer (no terminal, or not the main thread)."""

    def read_line(self, question: str) -> str | None:
        """Ask the user for a line of text; empty where he gives none, None where nobody can answer."""

    def add_command(self, command: Command) -> None:
        """Offer a slash command."""

    def add_tool(self, tool: ToolSpec) -> None:
        """Offer a tool to the agent."""
