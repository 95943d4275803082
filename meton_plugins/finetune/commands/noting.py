"""`/finetune note`: what the user learned from a run, kept with it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .edge import note as dim
from .edge import say, show_json
from .following import found
from .options import Parser

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home

__all__ = ["note", "note_flags", "note_words"]


def note_flags(parser: Parser) -> None:
    """Of `note`."""
    parser.add_argument("run", help="the run, or latest")
    parser.add_argument("text", nargs="?", help="what to keep, as you type it; without it, all notes are shown")


def note_words(rest: str) -> list[str]:
    """The run and the text behind it as one word, exactly as typed: an apostrophe in it opens no quote."""
    from .ratings import unquoted

    run, *text = rest.split(maxsplit=1)[:2] or [""]
    if run in ("", "-h", "--help"):
        return [run] if run else []
    # A text may begin with a dash.
    return [run, "--", unquoted(text[0].strip())] if text else [run]


def note(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Keep a note, or show those there are."""
    from ..train.notes import add, notes

    run = found(home, options)
    if options.text is not None:
        made = add(run, options.text)
        if host.json:
            show_json(host, {"run": run.name, **made._asdict()})
        else:
            say(host, f"Noted with {run.name}.")
        return 0
    kept = notes(run)
    if host.json:
        show_json(host, {"run": run.name, "notes": [one._asdict() for one in kept]})
    elif not kept:
        dim(host, f"No notes yet: /finetune note {run.name} and what you learned.")
    else:
        for one in kept:
            say(host, f"{one.at[:16].replace('T', ' '):16}  {one.text}")
    return 0
