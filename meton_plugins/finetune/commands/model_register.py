"""`/model-register`: put an exported model on the Ollama server, and into a slot of the host."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...host.api import Command
from ..errors import ConfigError, ServerError, UsageError
from ..paths import Home
from .edge import guarded, note, say, show_json
from .fallback import mend_fallback
from .options import HelpWanted, split
from .progress import bar
from .register_options import PARSERS, VERBS, overview
from .register_view import print_table

if TYPE_CHECKING:
    from ...host.api import Host, SlotStore
    from ..serve.exported import Source
    from ..serve.history import History
    from ..serve.ollama import Server
    from ..serve.register import Registered
    from ..serve.slots import Swapped

__all__ = ["VERBS", "make"]


def make(host: Host) -> Command:
    """The command, for `host`."""
    return Command(
        name="/model-register",
        summary="make an Ollama model of an export, swap it into a slot, or back",
        run=lambda line: guarded(host, lambda: _run(host, line)),
        verbs=VERBS,
    )


def _run(host: Host, line: str) -> int:
    words = split(line)
    if not words or words[0] in ("-h", "--help"):
        raise HelpWanted(overview())
    verb, rest = (words[0], words[1:]) if words[0] in VERBS else ("add", words)
    given = PARSERS[verb]().parse_args(rest)
    return _VERBS[verb](host, given)


def _add(host: Host, given: argparse.Namespace) -> int:
    from ..serve.exported import find_source

    source = find_source(_home(host), given.source, given.quant)
    store = _store(host) if given.slot else None
    with _server(host) as server:
        made, warnings = _registered(host, server, source, given)
        swapped = _promote_asked(host, store, server, made.tag, given.slot, "registered", given.yes) if store else None
    if host.json:
        swap = None if swapped is None else swapped._asdict()
        show_json(host, {"model": made.model_dump(mode="json"), "warnings": warnings, "swap": swap})
    else:
        say(host, f"{'Registered' if made.fresh else 'Already registered:'} {made.tag} (also {made.alias})", "green")
        for line in (*made.overridden, *warnings):
            note(host, line)
        if store is None:
            note(host, f"Put it to use: /model-register promote {made.tag} --slot primary")
        elif swapped:
            _show_swap(host, swapped)
    if swapped:
        mend_fallback(host, swapped, asking=not given.yes)
    return 0 if store is None or swapped else 1


def _registered(host: Host, server: Server, source: Source, given: argparse.Namespace) -> tuple[Registered, list[str]]:
    """The model that was made (or found) of `source`, and what the user should know about it."""
    from ..serve.names import full_name
    from ..serve.register import register
    from ..serve.templates import inherit, load_template

    home = _home(host)
    template = given.template or source.template or "basic"
    modelfile = load_template(template, home)
    if source.system is not None and template == source.template:
        # The template may have been edited since: what was trained with is what must be served.
        modelfile = dataclasses.replace(modelfile, system=source.system)
    server.check()
    base = server.show(full_name(source.base)) if source.base and server.exists(full_name(source.base)) else None
    with bar(host) as tell:
        made = register(
            server,
            home,
            source.path,
            given.name or source.name,
            inherit(modelfile, base),
            base=base,
            expected_sha=source.sha256,
            notes={**source.notes, "template": template},
            hashing=lambda done, total: tell("reading", done, total),
            uploading=lambda done, total: tell("uploading", done, total),
        )
    warnings = list(made.warnings)
    if source.template and template != source.template:
        learned = source.template
        warnings.append(f"The run was trained with the SYSTEM of {learned}: answers may differ from what it learned.")
    if base is None:
        warnings.append("The server does not have the base model, so template and stops come from the GGUF alone.")
    return made, warnings


def _list(host: Host, _given: argparse.Namespace) -> int:
    from ..serve.register import list_registered

    models = list_registered(_home(host))
    holders = _holders(host)
    try:
        with _server(host) as server:
            there: set[str] | None = {model.name for model in server.models()}
    except ServerError as error:
        there = None
        note(host, error.sentence)
    rows = [_row(made, there, holders) for made in models]
    if host.json:
        show_json(host, rows)
    elif not rows:
        say(host, "No model is registered yet: type /model-register add RUN.")
    else:
        print_table(host, "Registered models", [{**row, "when": _minute(row["when"])} for row in rows])
    return 0


def _row(made: Registered, there: set[str] | None, holders: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "model": made.tag,
        "run": made.notes.get("run", ""),
        "quant": made.notes.get("quant", ""),
        "MB": round(made.bytes / 1e6, 1),
        "when": made.when,
        "slot": ", ".join(holders.get(made.tag, [])),
        "server": "unknown" if there is None else "yes" if made.tag in there else "gone",
    }


def _holders(host: Host) -> dict[str, list[str]]:
    holders: dict[str, list[str]] = {}
    if host.slots is not None:
        for slot, model in host.slots.read().items():
            holders.setdefault(model, []).append(slot)
    return holders


def _templates(host: Host, given: argparse.Namespace) -> int:
    from ..serve.templates import list_templates, load_template

    home = _home(host)
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


def _check(host: Host, given: argparse.Namespace) -> int:
    from .form_check import form_check

    return form_check(host, given)


def _promote(host: Host, given: argparse.Namespace) -> int:
    with _server(host) as server:
        swapped = _promote_asked(host, _store(host), server, given.model, given.slot, given.why, given.yes)
    if swapped is None:
        return 1
    _show_swap(host, swapped)
    mend_fallback(host, swapped, asking=not given.yes)
    return 0


def _promote_asked(
    host: Host, store: SlotStore, server: Server, model: str, slot: str, why: str, yes: bool
) -> Swapped | None:
    """The swap, once the user agreed; None where he said no."""
    from ..serve.slots import promote

    if not yes:
        old = store.read().get(slot)
        answer = host.ask(f"Put {model} into {slot} of {store.path}, in place of {old}?")
        if answer is None:
            raise UsageError(f"Nobody can be asked here whether {slot} may change: add --yes to do it.")
        if not answer:
            say(host, f"{slot} keeps {old}.")
            return None
    return promote(store, server, _past(host), model, slot, why)


def _rollback(host: Host, given: argparse.Namespace) -> int:
    from ..serve.slots import rollback

    store, history = _store(host), _past(host)
    try:
        with _server(host) as server:
            server.version()
            swapped = rollback(store, history, given.slot, given.steps, server)
    except ServerError:
        # The way back must not depend on the server.
        swapped = rollback(store, history, given.slot, given.steps)
    _show_swap(host, swapped)
    return 0


def _history(host: Host, _given: argparse.Namespace) -> int:
    swaps = _past(host).swaps()
    rows = [swap.model_dump(mode="json", exclude={"id", "undoes"}) for swap in swaps]
    if host.json:
        show_json(host, rows)
    elif not rows:
        say(host, "No slot was ever swapped.")
    for swap in () if host.json else swaps:
        # Lines, for two names of models side by side are wider than most terminals.
        state = "" if swap.state == "done" else f", {swap.state}"
        say(host, f"{_minute(swap.when)}  {swap.slot:8}  {swap.old} → {swap.new}  ({swap.why}{state})")
    return 0


def _show_swap(host: Host, swapped: Swapped) -> None:
    if host.json:
        show_json(host, swapped._asdict())
    elif swapped.changed:
        say(host, f"{swapped.slot}: {swapped.old} → {swapped.new}", "green")
    else:
        say(host, f"{swapped.slot} already holds {swapped.new}.")
    if swapped.note:
        note(host, swapped.note)


def _minute(when: str) -> str:
    """A UTC time as the user's own clock shows it."""
    return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")


def _first_sentence(text: str) -> str:
    sentence, dot, _rest = " ".join(text.split()).partition(". ")
    return sentence + dot.strip()


def _home(host: Host) -> Home:
    return Home(host.data_dir)


def _past(host: Host) -> History:
    from ..serve.history import History

    return History(_home(host).history)


def _server(host: Host) -> Server:
    from ..serve.ollama import Server
    from ..settings import load

    server = Server(load(_home(host).settings).serve.ollama_host)
    if server.warning:
        note(host, server.warning)
    return server


def _store(host: Host) -> SlotStore:
    if host.slots is None:
        raise ConfigError(
            "No config.yaml is known here: name it as serve.config in settings.toml, or work inside Meton."
        )
    return host.slots


_VERBS: Final[dict[str, Callable[[Host, argparse.Namespace], int]]] = {
    "add": _add,
    "list": _list,
    "templates": _templates,
    "check": _check,
    "promote": _promote,
    "rollback": _rollback,
    "history": _history,
}
