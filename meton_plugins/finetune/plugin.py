"""The one place where commands and tools are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import tools
from .commands import dataset, export, finetune, model_register
from .paths import Home

if TYPE_CHECKING:
    from ..host.api import Command, Host

__all__ = ["commands_for", "register"]


def commands_for(host: Host) -> Mapping[str, Command]:
    """The slash commands for `host`, by name."""
    home = Home(host.data_dir)
    made = (dataset.make(host, home), finetune.make(host, home), export.make(host, home), model_register.make(host))
    return {command.name: command for command in made}


def register(host: Host) -> None:
    """Offer the plugin's commands and tools to `host`. Imports nothing heavy, touches no file."""
    for command in commands_for(host).values():
        host.add_command(command)
    for tool in tools.make(host, commands_for):
        host.add_tool(tool)
