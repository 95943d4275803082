"""`/model-register list` and `templates`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ServerError
from .edge import note, say, show_json
from .places import home_of, minute, server_of
from .register_view import print_table

if TYPE_CHECKING:
    from ...host.api import Host
    from ..serve.register import Registered

__all__ = ["models", "templates"]


def models(host: Host, _given: argparse.Namespace) -> int:
    """The registered models, and the slots that hold them."""
    from ..serve.register import list_registered

    registered = list_registered(home_of(host))
    holders = _holders(host)
    try:
        with server_of(host) as server:
            there: set[str] | None = {model.name for model in server.models()}
    except ServerError as error:
        there = None
        note(host, error.sentence)
    rows = [_row(made, there, holders) for made in registered]
    if host.json:
        show_json(host, rows)
    elif not rows:
        say(host, "No model is registered yet: type /model-register add RUN.")
    else:
        print_table(host, "Registered models", [{**row, "when": minute(row["when"])} for row in rows])
    return 0


def _row(made: Registered, there: set[str] | None, holders: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "model": made.tag,
        "run": made.notes.get("run", ""),
        "quant": made.notes.get("quant", ""),
        "MB": round(made.bytes / 1e6, 1),
        "when": made.when,
        "slot": ", ".join(holders.get(made.tag, [])),
        "server": "retired" if made.retired else "unknown" if there is None else "yes" if made.tag in there else "gone",
    }


def _holders(host: Host) -> dict[str, list[str]]:
    holders: dict[str, list[str]] = {}
    if host.slots is not None:
        for slot, model in host.slots.read().items():
            holders.setdefault(model, []).append(slot)
    return holders


def templates(host: Host, given: argparse.Namespace) -> int:
    """The Modelfile templates, or one of them whole."""
    from ..serve.templates import list_templates, load_template

    home = home_of(host)
    if given.template:
        load_template(given.template, home)
        files = {template.name: template.path for template in list_templates(home)}
        path = files.get(given.template, Path(given.template).expanduser())
        text = path.read_text(encoding="utf-8-sig")
        show_json(host, {"template": given.template, "text": text}) if host.json else say(host, text.rstrip())
        return 0
    rows = []
    for template in list_templates(home):
        system = load_template(str(template.path)).system or ""
        rows.append({"template": template.name, "from": "you" if template.own else "shipped", "system": system})
    if host.json:
        show_json(host, rows)
    else:
        print_table(host, "Templates", [{**row, "system": _first_sentence(row["system"])} for row in rows])
        note(host, f"Your own go into {home.root / 'templates' / 'modelfiles'}, as NAME.Modelfile.")
    return 0


def _first_sentence(text: str) -> str:
    sentence, dot, _rest = " ".join(text.split()).partition(". ")
    return sentence + dot.strip()
