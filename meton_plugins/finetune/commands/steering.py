"""`/finetune pause`, `resume`, `stop`: asking the worker of a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .edge import say, show_json
from .following import found, meant, run_flag
from .options import Parser
from .progress import bar, run_line
from .queueing import say_next, say_place

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..train.runs import Run

__all__ = ["pause", "resume", "resume_flags", "stop"]


def pause(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Save a checkpoint and free the memory."""
    return _ask(host, home, options, "pause", "{run} saves a checkpoint and frees the memory.")


def stop(host: Host, home: Home, options: argparse.Namespace) -> int:
    """End a run; the best so far is kept."""
    return _ask(host, home, options, "stop", "{run} stops after this step and keeps the best so far.")


def _ask(host: Host, home: Home, options: argparse.Namespace, want: str, said: str) -> int:
    from ..train.launch import ask, drop

    run = meant(home, options)
    if run.status == "queued" and drop(run.folder):
        say(host, f"{run.name} is out of the queue: /finetune queue add {run.name} puts it back.")
    else:
        ask(run, want)
        say(host, said.format(run=run.name))
        say_next(host)
    if host.json:
        show_json(host, {"run": run.name, "asked": want})
    return 0


def resume_flags(parser: Parser) -> None:
    """Of `resume`."""
    run_flag(parser)
    parser.add_argument("--base", help="where the run's base lies now, where it was moved: a GGUF file or Ollama model")


def resume(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Go on with a run."""
    from ..train.launch import start

    run = found(home, options)
    if options.base:
        _move_base(host, home, run, options.base)
        if run.done:
            say(host, f"{run.name} finds its base in {options.base} now; it is {run.status}, and stays so.")
            return 0
    state = start(run)
    waits = run.status == "queued"
    failed = state.status == "failed" and not waits
    if waits:
        say_place(host, home, run)
    else:
        say(host, run_line(run), "red" if failed else "")
    if host.json:
        show_json(host, {"run": run.name, **run.state.model_dump(), "status": run.status})
    return 1 if failed else 0


def _move_base(host: Host, home: Home, run: Run, wanted: str) -> None:
    """Let `run` read its base from where it lies now."""
    from ..serve.bases import resolve_base
    from ..serve.ollama import Server
    from ..settings import load

    with Server(load(home.settings).serve.ollama_host) as server:
        base = resolve_base(wanted, server)
    with bar(host) as tell:
        run.move_base(base.path, lambda done, total: tell("reading the base", done, total))
