"""plugin.toml: what a plugin says it contributes, and whether that is what it really registers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .api import Command, Effect, ToolSpec
from .errors import HostError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Manifest", "differences", "flat_settings", "load", "resolve"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginPart(_Part):
    """[plugin]: `entry_point` is `module:function`, called with the host; `settings` is `module:Model`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    name: str
    version: str
    entry_point: str = Field(pattern=r"^\w+(\.\w+)*:\w+$")
    settings: str = Field(pattern=r"^\w+(\.\w+)*:\w+$")
    data_folder: str
    requires_python: str
    requires: tuple[str, ...]
    platforms: dict[str, str]


class CommandPart(_Part):
    """[[commands]]: a slash command, its verbs and its other words."""

    name: str
    summary: str
    verbs: tuple[str, ...] = ()
    aliases: dict[str, str] = Field(default_factory=dict)


class ToolPart(_Part):
    """[[tools]]: a tool for the agent; `asks` says that the user is asked before anything happens."""

    name: str
    effect: Literal["read", "write", "long-running"]
    asks: bool


class PermissionPart(_Part):
    """[[permissions]]: what the plugin touches, and why."""

    what: str
    reason: str


class SettingPart(_Part):
    """[[settings]]: one setting of the plugin's settings file. `default` is left out where there is none."""

    name: str
    type: str
    default: Any = None
    description: str


class Manifest(_Part):
    """The whole file."""

    schema_version: Literal[1]
    plugin: PluginPart
    commands: tuple[CommandPart, ...]
    tools: tuple[ToolPart, ...]
    permissions: tuple[PermissionPart, ...]
    settings: tuple[SettingPart, ...]


def load(path: Path) -> Manifest:
    """plugin.toml at `path`; HostError in one sentence where it is not one."""
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostError(f"{path} cannot be read as TOML ({error}).") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HostError(f"{path}: {where}: {first['msg']}.") from error


def resolve(name: str) -> Any:
    """The object that `module:attribute` names."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise HostError(f"{name} cannot be imported ({error}).") from error


def flat_settings(model: type[BaseModel], prefix: str = "") -> list[SettingPart]:
    """Every setting of a settings model by its dotted name, as plugin.toml lists it."""
    parts: list[SettingPart] = []
    schema = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            parts += flat_settings(inner, f"{prefix}{name}.")
            continue
        kinds = [entry.get("type", "string") for entry in schema[name].get("anyOf", [schema[name]])]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        text = field.description or ""
        kind = next(k for k in kinds if k != "null")
        parts.append(SettingPart(name=f"{prefix}{name}", type=kind, default=default, description=text))
    return parts


def differences(
    manifest: Manifest, commands: Mapping[str, Command], tools: Mapping[str, ToolSpec], version: str
) -> list[str]:
    """What the manifest says and registration does not, or the other way round; empty where they agree."""
    found = []
    if manifest.plugin.version != version:
        found.append(f"the manifest is of version {manifest.plugin.version}, the package of {version}")
    said = {c.name: (c.summary, c.verbs, c.aliases) for c in manifest.commands}
    made = {c.name: (c.summary, tuple(c.verbs), dict(c.aliases)) for c in commands.values()}
    found += _compare("command", said, made)
    told = {t.name: (Effect(t.effect), t.asks) for t in manifest.tools}
    found += _compare("tool", told, {t.name: (t.effect, t.asks) for t in tools.values()})
    settings = {s.name: s for s in manifest.settings}
    found += _compare("setting", settings, {s.name: s for s in flat_settings(resolve(manifest.plugin.settings))})
    return found


def _compare(what: str, said: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    found = [f"the {what} {name} is in the manifest and not registered" for name in said if name not in made]
    found += [f"the {what} {name} is registered and not in the manifest" for name in made if name not in said]
    found += [
        f"the {what} {name} is {said[name]!r} in the manifest and {made[name]!r} in fact"
        for name in said
        if name in made and said[name] != made[name]
    ]
    return found
