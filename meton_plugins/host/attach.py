"""Attaches a plugin to an unmodified Meton: `cli.MetonCLI` becomes a subclass of itself, which `cli.main` makes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import surface
from .errors import HostError
from .meton import MetonHost
from .recorder import Recorder
from .repair import give_json
from .session import Session

__all__ = ["attach", "begin", "data_dir"]


def attach(module: Any, checkout: str | Path, plugin: Mapping[str, Any]) -> None:
    """Make the imported `cli` start with `plugin` (id, entry_point, data_folder, private), or raise HostError."""
    lacks = surface.missing(sys.modules.get)
    if lacks:
        raise HostError(f"this Meton lacks {', '.join(lacks)}")
    module.MetonCLI = _with_plugin(module, module.MetonCLI, Path(checkout), plugin)


def _with_plugin(module: Any, base: Any, checkout: Path, plugin: Mapping[str, Any]) -> Any:
    # Plugins may be stacked: each has an attribute of its own.
    attribute = f"plugin_{plugin['id']}"

    class MetonCLI(base):  # type: ignore[misc]
        """Meton's, with a plugin."""

        def initialize(self) -> bool:
            done = bool(super().initialize())
            if done:
                session = begin(self, checkout, plugin)
                setattr(self, attribute, session)
                if session:
                    module.Prompt = _noticing(module.Prompt, session)
            return done

        def handle_command(self, command: str) -> bool:
            session: Session | None = getattr(self, attribute, None)
            original = super().handle_command
            return bool(session.command(command, original) if session else original(command))

        def process_query(self, query: str) -> None:
            session: Session | None = getattr(self, attribute, None)
            original = super().process_query
            session.query(query, original) if session else original(query)

        def display_help(self) -> None:
            super().display_help()
            session: Session | None = getattr(self, attribute, None)
            if session:
                session.help()

        def shutdown(self) -> None:
            super().shutdown()
            session: Session | None = getattr(self, attribute, None)
            if session:
                session.end()

    return MetonCLI


def _noticing(prompt: Any, session: Session) -> Any:
    class Prompt(prompt):  # type: ignore[misc]
        """Meton's, with the plugin's notices above the loop's question."""

        @classmethod
        def ask(cls, *given: Any, **named: Any) -> Any:
            session.before_prompt()
            return super().ask(*given, **named)

    return Prompt


def begin(cli: Any, checkout: Path, plugin: Mapping[str, Any]) -> Session | None:
    """The session of a `cli` that has initialized; None, with one line on the screen, where the plugin cannot live."""
    recorder = None
    try:
        lacks = surface.missing_live(cli)
        if lacks:
            raise HostError(f"this Meton lacks {', '.join(lacks)}")
        agents, models = sys.modules["core.agent"], sys.modules["core.models"]
        folder = data_dir(checkout, plugin)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        private = bool(plugin.get("private")) or os.environ.get(f"METON_{_upper(plugin)}_PRIVATE") == "1"
        host = MetonHost(cli, checkout, folder, private=private)
        session = Session(host)
        entry, _, function = str(plugin["entry_point"]).partition(":")
        getattr(importlib.import_module(entry), function)(host)
        host.give_tools()
        recorder = Recorder(session.turn, lambda error: host.failed("recorder", error))
        recorder.main = cli.agent
        recorder.wrap(agents.MetonAgent, models.ModelManager)
        if give_json(agents, agents.MetonAgent):
            _tell_once(host, "told-json", "core/agent.py uses json without importing it, so answers after a file read "
                       "were lost: lent it the name, in memory.")  # fmt: skip
        return session
    except Exception as error:
        if recorder is not None:
            recorder.unwrap()
        text = " ".join(f"! {plugin.get('id')} was not loaded ({error}). Meton goes on without it.".split())
        cli.console.print(text, style="yellow", markup=False, emoji=False, highlight=False, soft_wrap=True)
        return None


def data_dir(checkout: Path, plugin: Mapping[str, Any]) -> Path:
    """Inside the checkout, which takes it along when it is deleted; or where the user wants it."""
    named = os.environ.get(f"METON_{_upper(plugin)}_HOME")
    return Path(named).expanduser().resolve() if named else checkout / str(plugin["data_folder"])


def _upper(plugin: Mapping[str, Any]) -> str:
    return str(plugin["id"]).upper().replace("-", "_")


def _tell_once(host: MetonHost, name: str, text: str) -> None:
    mark = host.data_dir / name
    if not mark.exists():
        mark.touch(mode=0o600)
        host.say(text)
