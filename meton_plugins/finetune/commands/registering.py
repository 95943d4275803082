"""`/model-register add`: an export, or any GGUF file, becomes a model of the server."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from ...host.errors import HostError
from ..errors import ModelError
from .edge import note, say, show_json
from .fallback import mend_fallback
from .places import home_of, server_of, store_of
from .progress import bar
from .swapping import promote_asked, show_swap

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..serve.exported import Source
    from ..serve.ollama import Server
    from ..serve.register import Registered

__all__ = ["add"]


def add(host: Host, given: argparse.Namespace) -> int:
    """Make an Ollama model, and put it into a slot where one is named."""
    from ..serve.exported import find_source
    from ..serve.slots import holder

    source = find_source(home_of(host), given.source, given.quant)
    store = store_of(host) if given.slot else None
    if store is not None:
        holder(store, given.slot)
    with server_of(host) as server:
        made, warnings = _registered(host, server, source, given)
        swapped = promote_asked(host, store, server, made.tag, given) if store else None
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
            show_swap(host, swapped)
    if swapped:
        mend_fallback(host, swapped, asking=not given.yes)
    return 0 if store is None or swapped else 1


def _registered(host: Host, server: Server, source: Source, given: argparse.Namespace) -> tuple[Registered, list[str]]:
    """The model that was made (or found) of `source`, and what the user should know about it."""
    from ..serve.licences import reminder, said_in
    from ..serve.names import full_name
    from ..serve.register import register
    from ..serve.templates import inherit, load_template

    home = home_of(host)
    template = given.template or source.template or "basic"
    modelfile = load_template(template, home)
    if source.system is not None and template == source.template:
        # The template may have been edited since: what was trained with is what must be served.
        modelfile = dataclasses.replace(modelfile, system=source.system)
    server.check()
    base = server.show(full_name(source.base)) if source.base and server.exists(full_name(source.base)) else None
    whole = inherit(modelfile, base)
    with bar(host, in_bytes=("reading", "uploading")) as tell:
        made = register(
            server,
            home,
            source.path,
            given.name or source.name,
            whole,
            base=base,
            expected_sha=source.sha256,
            notes={**source.notes, "template": template},
            check=lambda tag: _written_as_trained(home, server, source, tag),
            in_slots=_in_slots(host),
            hashing=lambda done, total: tell("reading", done, total),
            uploading=lambda done, total: tell("uploading", done, total),
        )
    warnings = list(made.warnings)
    if source.template and template != source.template:
        learned = source.template
        warnings.append(f"The run was trained with the SYSTEM of {learned}: answers may differ from what it learned.")
    if base is None:
        warnings.append("The server does not have the base model, so template and stops come from the GGUF alone.")
    text = "\n".join(whole.licenses)
    if asked := reminder(text, "" if text.strip() else said_in(source.path)):
        warnings.append(asked)
    return made, warnings


def _written_as_trained(home: Home, server: Server, source: Source, tag: str) -> str | None:
    """ModelError where the server writes a chat for `tag` otherwise than training did; a warning where it cannot say.

    Of a file that comes from no run nothing is known, and nothing is said.
    """
    from ..gguf.chat_template import template_for
    from ..gguf.inspect import inspect
    from ..serve.parity import base_parity
    from ..serve.subject import template_of
    from ..train.runs import Run

    run = Run(home.runs / str(source.notes.get("run")))
    if not (run.folder / "run.json").is_file():
        return None
    trained = template_for(inspect(source.path), template_of(run))
    found = base_parity(server, tag, trained)
    if found.verdict == "differs":
        raise ModelError(
            f"The server would write chats for {tag} otherwise than it was trained ({found.detail}), so it was removed "
            "again: use a template without a TEMPLATE of its own."
        )
    return f"Whether the server writes chats as training did is not known: {found.detail}." if found.detail else None


def _in_slots(host: Host) -> tuple[str, ...]:
    """The models that answer somewhere; none where the configuration cannot be read, which promoting complains of."""
    try:
        return tuple(host.slots.read().values()) if host.slots is not None else ()
    except HostError:
        return ()
