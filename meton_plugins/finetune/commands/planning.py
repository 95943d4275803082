"""`/finetune plan`, and what `start` shows and asks before a night is spent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EngineError, FinetuneError
from ..settings import load
from .edge import say, show_json
from .options import Parser
from .progress import bar

if TYPE_CHECKING:
    from ...host.api import Host
    from ..gguf.chat_template import ChatTemplate
    from ..gguf.inspect import GgufInfo
    from ..paths import Home
    from ..serve.ollama import Server
    from ..serve.parity import Parity
    from ..train.plan import Plan
    from ..train.planner import Ingredients

__all__ = ["agreed", "foresee", "plan", "plan_flags"]


def plan_flags(parser: Parser) -> None:
    """Of `plan`: those of `start`, which it plans."""
    from .starting import start_flags

    start_flags(parser)


def plan(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Show what a run would take; 1 where it cannot be."""
    from .plan_view import planned
    from .starting import ingredients

    found = foresee(host, home, ingredients(host, home, options), again=options.remeasure)
    if host.json:
        show_json(host, {**found.model_dump(), "trainable_percent": found.percent})
    else:
        planned(host, found)
        if found.refusal:
            say(host, f"✗ {found.refusal}", "red")
    return 1 if found.refusal else 0


def agreed(host: Host, home: Home, made_of: Ingredients, *, yes: bool, again: bool = False) -> Plan | None:
    """The plan of a run that may begin, or None where the user says no. EngineError where it cannot be.

    Where nobody can answer, it may: so it is with scripts and agents.
    """
    from .plan_view import planned_in_short

    found = foresee(host, home, made_of, again=again)
    if found.refusal:
        raise EngineError(found.refusal)
    planned_in_short(host, found)
    slow = found.compute is not None and found.compute.reason is not None
    question = "Start all the same, with the slower pass?" if slow else "Start?"
    if yes or host.json or host.ask(question) is not False:
        return found
    say(host, "Nothing was started.")
    return None


def foresee(host: Host, home: Home, made_of: Ingredients, *, again: bool = False, free_mb: float | None = None) -> Plan:
    """The plan of a run of `made_of`, measured on this machine where that was not done before, or `again`."""
    from ..gguf.chat_template import template_for
    from ..gguf.inspect import inspect
    from ..serve.ollama import Server
    from ..train.lock import who_trains
    from ..train.measure import cost_of, known_cost, lengths_of
    from ..train.memory import RESERVE_MB, available_mb
    from ..train.plan import make_plan

    info = inspect(Path(made_of.base.path))
    template = template_for(info, made_of.settings.chat_template)
    free = available_mb() if free_mb is None else free_mb
    with bar(host) as tell:
        sides = lengths_of(home, made_of, lambda done, total: tell("reading the dataset", done, total))
        rows = [row for side in sides.values() for row in side.rows]
        nothing = not any(row[1] <= made_of.settings.ctx_size and row[2] for row in rows)
        busy = who_trains() is not None
        if busy or nothing:
            measured = known_cost(home, made_of, rows)
        else:
            measured = cost_of(
                home, made_of, rows, free - RESERVE_MB, again=again,
                progress=lambda done, total: tell("measuring a few steps", done, total),
            )  # fmt: skip
    with Server(load(home.settings).serve.ollama_host) as server:
        found = make_plan(home, made_of, info, sides, measured, free, ollama=_held(server), ahead=busy)
        if not found.refusal:
            checked = _parity(home, made_of, info, template, server, free)
            found.parity = [one._asdict() for one in checked]
    return found


def _held(server: Server) -> dict[str, float]:
    """MB of this machine's memory that Ollama holds, by model; nothing where no server answers."""
    if server.warning:  # it is another machine
        return {}
    try:
        return {name: held / 2**20 for name, held in server.loaded().items()}
    except FinetuneError:
        return {}


def _parity(
    home: Home, made_of: Ingredients, info: GgufInfo, template: ChatTemplate, server: Server, free_mb: float
) -> list[Parity]:
    """How the tuned model will be asked, against how it is trained."""
    from ..serve.parity import Parity, base_parity, file_parity, modelfile_parity
    from ..serve.templates import load_template
    from ..train.kept import keep, kept_file, read_kept

    title, name = made_of.settings.template, made_of.base.name
    modelfile = load_template(title, home)
    found = []
    if modelfile.template is None and made_of.settings.chat_template:
        found.append(file_parity(info, template))
    if name is None:
        own = modelfile_parity(None, None, template, modelfile, title)
        return [*found, own] if own else found
    try:
        show, version = server.show(name), server.version()
    except FinetuneError as error:
        return [*found, Parity(f"served template of {name}", "unknown", error.sentence)]
    traits = (made_of.base.sha256, name, show.modelfile, version, template.source, modelfile.template)
    file = kept_file(home, "parity", *traits)
    known = read_kept(file)
    if isinstance(known, list):
        return [*found, *(Parity(*one) for one in known)]
    if not server.warning and info.size / 2**20 > free_mb:
        return [*found, Parity(f"served template of {name}", "unknown", "the server has no memory to load it now")]
    asked = [base_parity(server, name, template), modelfile_parity(server, name, template, modelfile, title)]
    said = [one for one in asked if one is not None]
    if all(one.verdict != "unknown" for one in said):
        keep(file, [list(one) for one in said])
    return [*found, *said]
