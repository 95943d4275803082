"""`/model-register`: put an exported model on the Ollama server, and into a slot of the host."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...host.api import Command
from .contest import compare
from .edge import guarded
from .explaining import explain
from .form_check import form_check
from .gating import gate
from .options import HelpWanted, split
from .register_options import PARSERS, VERBS, overview
from .registered import models, templates
from .registering import add
from .retiring import retire
from .swapping import history, promote, rollback

if TYPE_CHECKING:
    from ...host.api import Host

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
    return WORK[verb](host, PARSERS[verb]().parse_args(rest))


WORK: Final[dict[str, Callable[[Host, argparse.Namespace], int]]] = {
    "add": add,
    "list": models,
    "templates": templates,
    "check": form_check,
    "compare": compare,
    "gate": gate,
    "explain": explain,
    "promote": promote,
    "rollback": rollback,
    "history": history,
    "retire": retire,
}
