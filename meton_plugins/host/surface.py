"""Everything of Meton that this package relies on, each with the reason, and what of it a given Meton lacks."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["MODULES", "NEEDS", "Need", "in_source", "missing", "missing_live"]


class Need(NamedTuple):
    """`owner.name` in `module` (no owner: the module's own name). `live`: its dotted path from a running MetonCLI."""

    module: str
    owner: str
    name: str
    why: str
    live: str = ""

    @property
    def label(self) -> str:
        """As a message names it: `cli.MetonCLI.initialize`."""
        return ".".join(part for part in (self.module, self.owner, self.name) if part)


NEEDS: Final = (
    Need("cli", "", "main", "starts the chat"),
    Need("cli", "", "Prompt", "notices are shown before its next question"),
    Need("cli", "MetonCLI", "initialize", "the plugin is attached when it has succeeded"),
    Need("cli", "MetonCLI", "handle_command", "slash commands"),
    Need("cli", "MetonCLI", "display_help", "the plugin's table goes below"),
    Need("cli", "MetonCLI", "process_query", "a swap made elsewhere is applied before, a hint is shown after"),
    Need("cli", "MetonCLI", "shutdown", "the session's summary"),
    Need("cli", "MetonCLI", "console", "commands print there", "console.print"),
    Need("cli", "MetonCLI", "config", "names of the models in use", "config.config.models"),
    Need("cli", "MetonCLI", "model_manager", "the model in use", "model_manager"),
    Need("cli", "MetonCLI", "conversation", "session and messages", "conversation"),
    Need("cli", "MetonCLI", "agent", "answers questions, calls tools", "agent"),
    Need("cli", "MetonCLI", "subagent_manager", "holds a copy of the configuration", "subagent_manager"),
    Need("core.agent", "MetonAgent", "run", "a turn begins and ends"),
    Need("core.agent", "MetonAgent", "add_tool", "tools for the agent", "agent.add_tool"),
    Need("core.agent", "MetonAgent", "conversation", "the turn's session and messages", "agent.conversation"),
    Need("core.agent", "MetonAgent", "model_manager", "the turn's model", "agent.model_manager"),
    Need("core.agent", "MetonAgent", "config", "a copy of the configuration", "agent.config.config.models"),
    Need("core.models", "ModelManager", "get_llm", "prompt and completion of each model call"),
    Need("core.models", "ModelManager", "config", "a copy of the configuration", "model_manager.config.config.models"),
    Need("core.models", "ModelManager", "current_model", "the model in use", "model_manager.current_model"),
    Need("core.models", "ModelManager", "_llm_cache", "emptied by a swap", "model_manager._llm_cache"),
    Need("core.conversation", "ConversationManager", "session_id", "the session's name", "conversation.session_id"),
    Need("core.conversation", "ConversationManager", "messages", "where a turn begins", "conversation.messages"),
    Need("core.conversation", "ConversationManager", "get_messages", "what was said", "conversation.get_messages"),
    Need("core.conversation", "ConversationManager", "save_path", "saved conversations", "conversation.save_path"),
    Need("core.config", "ConfigLoader", "config_path", "the file that holds the slots", "config.config_path"),
    Need(
        "agents.subagent_spawner", "SubAgentManager", "spawner", "a copy of the configuration",
        "subagent_manager.spawner.config.config.models",
    ),
)  # fmt: skip

#: The modules that hold all of it; `cli` imports the others.
MODULES: Final = tuple(dict.fromkeys(need.module for need in NEEDS))


def missing(module: Callable[[str], Any]) -> list[str]:
    """What the imported classes lack, by name. `module(name)` gives a module, or None."""
    return [need.label for need in NEEDS if not _there(module(need.module), need)]


def _there(module: Any, need: Need) -> bool:
    if module is None:
        return False
    if not need.owner:
        return hasattr(module, need.name)
    owner = getattr(module, need.owner, None)
    # What `__init__` makes is looked for in the living object.
    return owner is not None and (bool(need.live) or callable(getattr(owner, need.name, None)))


def missing_live(cli: Any) -> list[str]:
    """What a running `cli`, after its initialize, lacks."""
    return [need.label for need in NEEDS if need.live and not _reached(cli, need.live)]


def _reached(thing: Any, path: str) -> bool:
    for name in path.split("."):
        thing = getattr(thing, name, None)
        if thing is None:
            return False
    return True


def in_source(checkout: Path) -> dict[Need, bool]:
    """Whether each need is in a checkout's source. Imports nothing, so that any interpreter can look."""
    trees = {module: _parsed(checkout, module) for module in MODULES}
    return {need: _defined(trees[need.module], need) for need in NEEDS}


def _parsed(checkout: Path, module: str) -> ast.Module | None:
    try:
        return ast.parse(checkout.joinpath(*module.split(".")).with_suffix(".py").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _defined(tree: ast.Module | None, need: Need) -> bool:
    if tree is None:
        return False
    if not need.owner:
        return need.name in set(_names(tree.body))
    owner = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == need.owner), None)
    return owner is not None and (need.name in set(_names(owner.body)) or need.name in set(_own(owner)))


def _names(body: Iterable[ast.stmt]) -> Iterable[str]:
    """Names that statements bind: functions, classes, imports, assignments."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _own(owner: ast.ClassDef) -> Iterable[str]:
    """Names set as `self.NAME` anywhere in a class."""
    for node in ast.walk(owner):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
