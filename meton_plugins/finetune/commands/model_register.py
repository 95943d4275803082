"""`/model-register`: put an exported model on the Ollama server, and into a slot of the host."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...host.api import Command
from ..errors import ServerError, UsageError
from ..paths import Home
from ..serve.exported import load_export
from ..serve.history import History
from ..serve.ollama import Server
from ..serve.register import Registered, list_registered, register
from ..serve.slots import SLOTS, Swapped, promote, rollback
from ..serve.templates import inherit, list_templates, load_template
from ..settings import load
from .edge import guarded, note, say, show_json
from .options import HelpWanted, Parser, split
from .register_view import Bars, print_table

if TYPE_CHECKING:
    from ...host.api import Host, SlotStore

__all__ = ["VERBS", "make"]

VERBS: Final = ("add", "list", "templates", "promote", "rollback", "history")


def make(host: Host) -> Command:
    """The command, for `host`."""
    return Command(
        name="model-register",
        summary="Register an exported model with Ollama and swap it into a slot, or back.",
        run=lambda line: guarded(host, lambda: _run(host, line)),
        verbs=VERBS,
    )


def _run(host: Host, line: str) -> int:
    words = split(line)
    if not words or words[0] in ("-h", "--help"):
        raise HelpWanted(_overview())
    verb, rest = (words[0], words[1:]) if words[0] in VERBS else ("add", words)
    given = _PARSERS[verb]().parse_args(rest)
    return _VERBS[verb](host, given)


def _overview() -> str:
    lines = ["/model-register <run or gguf>: the same as `add`. Each takes --help.", ""]
    return "\n".join(lines + [f"  {verb:10} {_PARSERS[verb]().description}" for verb in VERBS])


def _parser(verb: str, description: str) -> Parser:
    return Parser(prog=f"/model-register {verb}", description=description)


def _add_parser() -> Parser:
    parser = _parser("add", "register an exported run, or a GGUF file, under meton-<name>")
    parser.add_argument("source", metavar="RUN|GGUF")
    parser.add_argument("--name", help="name of the model (default: the run's, or the file's)")
    parser.add_argument("--quant", help="which of a run's exports (default: the newest)")
    parser.add_argument("--template", help="Modelfile template (default: the one that the run was trained with)")
    parser.add_argument("--slot", choices=SLOTS, help="then put it into this slot")
    parser.add_argument("--yes", action="store_true", help="put it into the slot without asking")
    return parser


def _promote_parser() -> Parser:
    parser = _parser("promote", "put a registered model into a slot, after asking")
    parser.add_argument("model", metavar="NAME:TAG")
    parser.add_argument("slot", choices=SLOTS, nargs="?", default=SLOTS[0])
    parser.add_argument("--why", default="promoted", help="a word for the history")
    parser.add_argument("--yes", action="store_true", help="without asking")
    return parser


def _rollback_parser() -> Parser:
    parser = _parser("rollback", "give a slot back what it held before")
    parser.add_argument("slot", choices=SLOTS, nargs="?", default=SLOTS[0])
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="how many swaps back (default: 1)")
    return parser


def _templates_parser() -> Parser:
    parser = _parser("templates", "show the Modelfile templates, or one of them whole")
    parser.add_argument("template", nargs="?")
    return parser


_PARSERS: Final[dict[str, Callable[[], Parser]]] = {
    "add": _add_parser,
    "list": lambda: _parser("list", "show the registered models"),
    "templates": _templates_parser,
    "promote": _promote_parser,
    "rollback": _rollback_parser,
    "history": lambda: _parser("history", "show every swap of a slot"),
}


def _add(host: Host, given: argparse.Namespace) -> int:
    home, server = _home(host), _server(host)
    path, expected, base_name, name, trained, notes = _source(home, given.source, given.quant)
    template = given.template or trained or "basic"
    server.check()
    base = server.show(base_name) if base_name and server.exists(base_name) else None
    modelfile = inherit(load_template(template, home), base)
    store = _store(host) if given.slot else None
    with Bars(host) as bars:
        made = register(
            server,
            home,
            path,
            given.name or name,
            modelfile,
            base=base,
            expected_sha=expected,
            notes={**notes, "template": template},
            hashing=bars.track("Reading"),
            uploading=bars.track("Uploading"),
        )
    warnings = [*made.warnings]
    if trained and template != trained:
        warnings.append(
            f"The run was trained with the SYSTEM of {trained}, so answers may differ from what was learned."
        )
    if base is None:
        warnings.append("The server does not have the base model, so stops and tools come from the GGUF alone.")
    swapped = _promote_asked(host, store, server, made.tag, given.slot, "registered", given.yes) if store else None
    if host.json:
        show_json(host, {"model": made.model_dump(mode="json"), "warnings": warnings, "swap": _swap_json(swapped)})
        return 0 if store is None or swapped else 1
    say(host, f"{'Registered' if made.fresh else 'Already registered:'} {made.tag} (also {made.alias})", "green")
    for line in (*made.overridden, *warnings):
        note(host, line)
    if swapped:
        _say_swapped(host, swapped)
    elif store is None:
        note(host, f"Put it to use: /model-register promote {made.tag} primary")
    return 0 if store is None or swapped else 1


def _source(
    home: Home, source: str, quant: str | None
) -> tuple[Path, str | None, str | None, str, str | None, dict[str, Any]]:
    """GGUF, its SHA-256, the base's name, a name for the model, the run's template, and notes."""
    path = Path(source).expanduser()
    if path.is_file():
        if quant:
            raise UsageError("--quant chooses among a run's exports; a file is what it is.")
        return path.resolve(), None, None, path.stem.lower(), None, {"file": str(path.resolve())}
    exported = load_export(home, source)
    file = exported.pick(quant)
    gguf = Path(file.path)
    if not gguf.is_file():
        raise UsageError(f"The exported file {gguf} is gone: type `/export model {source} --quant {file.quant}`.")
    notes = {**exported.model_dump(mode="json", exclude={"files", "template"}), "quant": file.quant}
    return gguf, file.sha256, exported.base.name, exported.run, exported.template, notes


def _list(host: Host, _given: argparse.Namespace) -> int:
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
        print_table(host, "Registered models", rows)
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
        print_table(host, "Templates", [{**row, "system": " ".join(row["system"].split())[:80]} for row in rows])
        note(host, f"Your own go into {home.root / 'templates' / 'modelfiles'}, as NAME.Modelfile.")
    return 0


def _promote(host: Host, given: argparse.Namespace) -> int:
    with _server(host) as server:
        swapped = _promote_asked(host, _store(host), server, given.model, given.slot, given.why, given.yes)
    if swapped is None:
        return 1
    show_json(host, _swap_json(swapped)) if host.json else _say_swapped(host, swapped)
    return 0


def _promote_asked(
    host: Host, store: SlotStore, server: Server, model: str, slot: str, why: str, yes: bool
) -> Swapped | None:
    """The swap, once the user agreed; None where he said no."""
    if not yes:
        old = store.read().get(slot)
        answer = host.ask(f"Put {model} into {slot} of {store.path}, in place of {old}?")
        if answer is None:
            raise UsageError(f"Nobody can be asked here whether {slot} may change: add --yes to do it.")
        if not answer:
            say(host, f"{slot} keeps {old}.")
            return None
    return promote(store, server, History(_home(host).history), model, slot, why)


def _rollback(host: Host, given: argparse.Namespace) -> int:
    store, history = _store(host), History(_home(host).history)
    try:
        with _server(host) as server:
            server.version()
            swapped = rollback(store, history, given.slot, given.steps, server)
    except ServerError:
        # The way back must not depend on the server.
        swapped = rollback(store, history, given.slot, given.steps)
    show_json(host, _swap_json(swapped)) if host.json else _say_swapped(host, swapped)
    return 0


def _history(host: Host, _given: argparse.Namespace) -> int:
    swaps = History(_home(host).history).swaps()
    rows = [swap.model_dump(mode="json", exclude={"id", "undoes"}) for swap in swaps]
    if host.json:
        show_json(host, rows)
    elif not rows:
        say(host, "No slot was ever swapped.")
    else:
        print_table(host, "Swaps", rows)
    return 0


def _say_swapped(host: Host, swapped: Swapped) -> None:
    if swapped.changed:
        say(host, f"{swapped.slot}: {swapped.old} → {swapped.new}", "green")
    else:
        say(host, f"{swapped.slot} already holds {swapped.new}.")
    if swapped.note:
        note(host, swapped.note)


def _swap_json(swapped: Swapped | None) -> dict[str, Any] | None:
    return None if swapped is None else swapped._asdict()


def _home(host: Host) -> Home:
    return Home(host.data_dir)


def _server(host: Host) -> Server:
    server = Server(load(_home(host).settings).serve.ollama_host)
    if server.warning:
        note(host, server.warning)
    return server


def _store(host: Host) -> SlotStore:
    if host.slots is None:
        raise UsageError(
            "No config.yaml is known here: name it as serve.config in settings.toml, or work inside Meton."
        )
    return host.slots


_VERBS: Final[dict[str, Callable[[Host, argparse.Namespace], int]]] = {
    "add": _add,
    "list": _list,
    "templates": _templates,
    "promote": _promote,
    "rollback": _rollback,
    "history": _history,
}
