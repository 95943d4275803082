"""`/finetune status`, `runs`, `watch`, `logs`, `show`, `compare`: looking at runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from ..errors import UsageError
from .edge import note, say, show_json
from .options import Parser
from .run_views import compared, logged, shown

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..train.runs import Run

__all__ = [
    "compare",
    "compare_flags",
    "found",
    "logs",
    "logs_flags",
    "meant",
    "meant_flag",
    "run_flag",
    "runs",
    "show",
    "status",
    "watch",
]

NONE: Final = "No run yet. Rate answers, /dataset build, then /finetune start."


def run_flag(parser: Parser) -> None:
    """The run that a verb is about."""
    parser.add_argument("run", nargs="?", help="the run (default: the newest)")


def meant_flag(parser: Parser) -> None:
    """The run that a verb is about which has to do with the training that goes on."""
    parser.add_argument("run", nargs="?", help="the run (default: the one that trains, or the newest)")


def compare_flags(parser: Parser) -> None:
    """Of `compare`."""
    for one in ("a", "b"):
        parser.add_argument(one, metavar=one.upper(), help="a run")


def logs_flags(parser: Parser) -> None:
    """Of `logs`."""
    run_flag(parser)
    parser.add_argument("--lines", type=int, default=30, metavar="N", help="last lines to show (default: 30)")


def found(home: Home, options: argparse.Namespace) -> Run:
    """The run that was named, or the newest."""
    from ..train.runs import find_run

    return find_run(home.runs, options.run)


def meant(home: Home, options: argparse.Namespace) -> Run:
    """The run that was named, or the one that trains, or the newest: with a queue, the newest may only wait."""
    from ..train.lock import who_trains
    from ..train.runs import Run

    busy = None if options.run else who_trains()
    ours = busy is not None and busy.parent.resolve() == home.runs.resolve()
    return Run(busy) if busy is not None and ours else found(home, options)


def status(host: Host, home: Home, options: argparse.Namespace) -> int:
    """One line a run, those at work first."""
    from ..train.launch import kick
    from ..train.runs import all_runs
    from .run_lists import standing

    kick(home.runs)
    runs = [found(home, options)] if options.run else all_runs(home.runs)
    if host.json:
        show_json(host, [{"run": r.name, **r.state.model_dump(), "status": r.status} for r in runs])
    elif not runs:
        say(host, NONE)
    else:
        standing(host, runs)
        if not options.run:
            _fresh(host, home)
    return 0


def _fresh(host: Host, home: Home) -> None:
    """Say when enough was rated since the last run to go on with it."""
    from ..train.fresh import rated_since

    found = rated_since(home)
    if found is not None and found.worth:
        many = f"{found.number:,} answers were rated good or fixed since {found.run.name}"
        note(host, f"{many}: /finetune refresh {found.run.name} goes on with them.")


def runs(host: Host, home: Home, options: argparse.Namespace) -> int:
    """What each run is made of, what came of it, and which it continues."""
    from ..train.runs import all_runs
    from .run_lists import listed, summary

    there = all_runs(home.runs)
    if host.json:
        show_json(host, [summary(run).as_dict() for run in there])
    elif not there:
        say(host, NONE)
    else:
        listed(host, there)
    return 0


def show(host: Host, home: Home, options: argparse.Namespace) -> int:
    """A run's base, data, settings and result."""
    run = found(home, options)
    if host.json:
        show_json(host, _whole(run))
    else:
        shown(host, run)
    return 0


def _whole(run: Run) -> dict[str, Any]:
    """A run for machines."""
    from ..report.foreseen import foreseen
    from ..train.lineage import lineage
    from ..train.notes import notes

    record, state = run.record, run.state
    return {
        **record.model_dump(),
        "state": {**state.model_dump(), "status": run.status},
        "lineage": [one.name for one in lineage(run)],
        "foreseen": [one._asdict() for one in foreseen(record, state)],
        "notes": [one._asdict() for one in notes(run)],
    }


def compare(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Two runs side by side."""
    from ..report import compare as service
    from ..train.runs import find_run

    table = service.compare(find_run(home.runs, options.a), find_run(home.runs, options.b))
    if host.json:
        show_json(host, table.as_dict())
    else:
        compared(host, table)
    return 0


def watch(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Follow a run live."""
    from . import watch as view

    return view.watch(host, meant(home, options))


def logs(host: Host, home: Home, options: argparse.Namespace) -> int:
    """What happened in a run."""
    run = found(home, options)
    if options.lines < 1:
        raise UsageError("--lines takes a number from 1 up.")
    events = run.events()[-options.lines :]
    if host.json:
        show_json(host, events)
        return 0
    logged(host, events)
    note(host, f"The engine's own log: {run.folder / 'engine.log'}")
    return 0
