"""The one place where commands, tools and the listener are made."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..host.errors import HostError
from . import tools
from .collect.live import LiveTurns
from .commands import dataset, export, finetune, model_register
from .paths import Home

if TYPE_CHECKING:
    from ..host.api import Command, Host
    from .library import Library

__all__ = ["commands_for", "register"]


def commands_for(host: Host, live: LiveTurns | None = None) -> Mapping[str, Command]:
    """The slash commands for `host`, by name; ratings mean the turns that `live` heard."""
    home = Home(host.data_dir)
    made = (
        dataset.make(host, home, live), finetune.make(host, home), export.make(host, home), model_register.make(host),
    )  # fmt: skip
    return {command.name: command for command in made}


def register(host: Host) -> None:
    """Offer the plugin's commands and tools to `host`, and listen to its chat. Touches no file."""
    live = listener_for(host)
    for command in commands_for(host, live).values():
        host.add_command(command)
    for tool in tools.make(host, lambda quiet: commands_for(quiet, live)):
        host.add_tool(tool)
    host.add_listener(live)


def listener_for(host: Host) -> LiveTurns:
    """What hears the turns of `host`."""
    home = Home(host.data_dir)

    def scrub(texts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
        from .curate.secrets import scrub

        return scrub(texts)

    def news() -> list[str]:
        # Nothing is imported above the first prompt of somebody who never trained, or never swapped.
        lines: list[str] = []
        if home.runs.is_dir():
            from .train.news import news

            lines += news(home)
        if home.history.exists() and host.slots is not None:
            from .serve.probation import new_doubts

            with contextlib.suppress(HostError):  # a broken config.yaml is told of where it matters
                lines += new_doubts(home, host.slots.path, host.slots.read())
        return lines

    def minutes(library: Library) -> str | None:
        from .train.news import time_to_train

        return time_to_train(home, library)

    return LiveTurns(host, home, scrub, news=news, minutes=minutes)
