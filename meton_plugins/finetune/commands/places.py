"""What `/model-register` works on: the data folder, the server, the slots and their history, of a host."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..paths import Home
from .edge import note

if TYPE_CHECKING:
    from ...host.api import Host, SlotStore
    from ..serve.history import History
    from ..serve.ollama import Server

__all__ = ["history_of", "home_of", "minute", "server_of", "store_of", "who_of"]


def home_of(host: Host) -> Home:
    """Its data folder."""
    return Home(host.data_dir)


def history_of(host: Host) -> History:
    """The swaps that are recorded there, and where new ones are."""
    from ..serve.history import History

    return History(home_of(host).history, who_of(host))


def who_of(host: Host) -> str:
    """The user, and what he works with: `anna in console`, `anna in meton agent`."""
    import getpass

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have a number alone
        user = "somebody"
    return f"{user} in {host.name}"


def server_of(host: Host) -> Server:
    """The Ollama server that the settings name; a far one is warned about."""
    from ..serve.ollama import Server
    from ..settings import load

    server = Server(load(home_of(host).settings).serve.ollama_host)
    if server.warning:
        note(host, server.warning)
    return server


def store_of(host: Host) -> SlotStore:
    """Its slots; ConfigError where no config.yaml is known."""
    if host.slots is None:
        raise ConfigError(
            "No config.yaml is known here: name it as serve.config in settings.toml, or work inside Meton."
        )
    return host.slots


def minute(when: str) -> str:
    """A UTC time as the user's own clock shows it."""
    return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
