"""Modelfile templates: those that ship, the user's own, and what they inherit from the base model."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import ConfigError, FinetuneError, NotFound
from ..paths import Home, check_name, package_data
from .modelfile import Modelfile, parse
from .parameters import KINDS, Value, check_parameter, parse_parameter

if TYPE_CHECKING:
    from .ollama import Show

__all__ = ["TemplateFile", "inherit", "list_templates", "load_template"]

_SUFFIX: Final = ".Modelfile"

#: What Ollama shows for a model without a TEMPLATE: its GGUF's own Jinja template is then used, which is better.
_DEFAULT_TEMPLATE: Final = "{{ .Prompt }}"


class TemplateFile(NamedTuple):
    """Where a template is; `own` where it is the user's."""

    name: str
    path: Path
    own: bool


def list_templates(home: Home | None = None) -> list[TemplateFile]:
    """The user's own templates and the shipped ones; an own one stands before a shipped one of its name."""
    found: dict[str, TemplateFile] = {}
    for folder, own in _folders(home):
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            name = path.name.removesuffix(_SUFFIX)
            found.setdefault(name, TemplateFile(name, path, own))
    return sorted(found.values())


def load_template(name_or_path: str, home: Home | None = None) -> Modelfile:
    """The template of that name, or in that file (a path has a `/` in it, or ends in `.Modelfile`)."""
    if "/" in name_or_path or name_or_path.endswith(_SUFFIX):
        path = Path(name_or_path).expanduser()
    else:
        check_name(name_or_path, "template")
        files = {template.name: template.path for template in list_templates(home)}
        if name_or_path not in files:
            raise NotFound(f"There is no template {name_or_path}: there are {', '.join(files)}.")
        path = files[name_or_path]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(f"There is no template file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The template {path} cannot be read as UTF-8 text ({error}).") from error
    modelfile = parse(text, str(path))
    if modelfile.base != ".":
        raise ConfigError(f"{path}: a template begins with `FROM .`, which stands for the exported GGUF.")
    return modelfile


def _folders(home: Home | None) -> list[tuple[Path, bool]]:
    shipped = [(package_data("templates", "modelfiles"), False)]
    return shipped if home is None else [(home.root / "templates" / "modelfiles", True), *shipped]


def inherit(template: Modelfile, base: Show | None) -> Modelfile:
    """`template` with all that it leaves open taken from the base: TEMPLATE, RENDERER, PARSER, PARAMETERs, LICENSE.

    A template's own words win, but stops add up: without the base's own its answers do not end.
    """
    if base is None:
        return template
    renderer, parser = _renderer_and_parser(base)
    parameters: dict[str, Value] = {**_parameters(base.parameters), **template.parameters}
    stops = [*_stops(_parameters(base.parameters)), *_stops(template.parameters)]
    if stops:
        parameters["stop"] = list(dict.fromkeys(stops))
    own = template.template is not None
    return dataclasses.replace(
        template,
        template=template.template if own else _go_template(base.template),
        renderer=template.renderer or (None if own else renderer),
        parser=template.parser or (None if own else parser),
        parameters=parameters,
        licenses=template.licenses or ((base.license,) if base.license.strip() else ()),
    )


def _stops(parameters: dict[str, Value]) -> list[str]:
    stops = parameters.get("stop")
    return list(stops) if isinstance(stops, list) else []


def _go_template(text: str) -> str | None:
    """`text` where it is a Go template that says more than the default."""
    return text if "{{" in text and text.strip() != _DEFAULT_TEMPLATE and "{%" not in text else None


def _renderer_and_parser(base: Show) -> tuple[str | None, str | None]:
    """RENDERER and PARSER stand only in the Modelfile's text, after texts that may hold any line."""
    text = base.modelfile
    for free in (base.template, base.system):
        if free:
            text = text.replace(free, "", 1)
    found: dict[str, str] = {}
    for line in text.splitlines():
        word, _blank, value = line.partition(" ")
        if word in ("PARAMETER", "LICENSE", "MESSAGE"):
            break
        if word in ("RENDERER", "PARSER") and re.fullmatch(r"[\w.-]+", value.strip().strip('"')):
            found.setdefault(word, value.strip().strip('"'))
    return found.get("RENDERER"), found.get("PARSER")


def _parameters(text: str) -> dict[str, Value]:
    """`show`'s parameters: a name, blanks, and a value as Go writes it. What today's Ollama refuses is left out."""
    found: dict[str, Value] = {}
    for line in text.splitlines():
        name, _blank, written = line.partition(" ")
        written = written.strip()
        if name not in KINDS or not written:
            continue
        try:
            if name == "stop":
                stop = str(ast.literal_eval(written)) if written.startswith('"') else written
                found["stop"] = [*_stops(found), stop]
            elif KINDS[name] is int:
                found[name] = check_parameter(name, int(float(written)))  # Go shows 4e+06 for a large number
            else:
                found[name] = parse_parameter(name, written)
        except (FinetuneError, ValueError, SyntaxError, OverflowError):
            continue
    return found
