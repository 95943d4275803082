"""`/finetune queue`: the runs that wait for this machine, in their order."""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import NotFound, UsageError
from .edge import note, say, show_json
from .options import Parser

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..train.queue import Entry
    from ..train.runs import Run

__all__ = ["queue", "queue_flags", "say_next", "say_place", "wait_for_turn"]

#: Seconds between two looks at whether a run's turn has come.
LOOK: Final = 1.0


def queue_flags(parser: Parser) -> None:
    """Of `queue`."""
    words = "add: have RUN wait, behind all others; list: who waits; drop: have RUN wait no longer (default: list)"
    parser.add_argument("what", nargs="?", choices=("add", "list", "drop"), default="list", help=words)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run; of another folder, its path")


def queue(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Runs that wait for the machine."""
    if options.what == "list":
        if options.runs:
            raise UsageError("/finetune queue list takes no run; /finetune status RUN shows one.")
        return _list(host, home)
    if not options.runs:
        raise UsageError(f"Say which run: /finetune queue {options.what} RUN.")
    return _add(host, home, options.runs) if options.what == "add" else _drop(host, home, options.runs)


def say_place(host: Host, home: Home, run: Run) -> None:
    """Where `run` stands in the queue, and for whom it waits, in one line."""
    from ..train.launch import trains

    busy, place = trains(), run.place
    who = "it starts as soon as the machine is free" if busy is None else f"{_called(home, busy)} trains now"
    say(host, f"{run.name} waits in the queue, place {place}: {who}." if place else f"{run.name} starts now.")


def say_next(host: Host) -> None:
    """Who starts once the machine is free, where somebody waits."""
    from ..train.queue import waiting

    for entry in waiting()[:1]:
        note(host, f"Then {entry.folder.name} starts, the next in the queue.")


def wait_for_turn(host: Host, home: Home, run: Run) -> bool:
    """Stay while `run` waits in the queue; False where the user would not."""
    from ..train.launch import kick

    try:
        while run.status == "queued":
            time.sleep(LOOK)
            kick(home.runs)
    except KeyboardInterrupt:
        note(host, f"{run.name} keeps its place. See it with /finetune queue list.")
        return False
    return True


def _list(host: Host, home: Home) -> int:
    from ..train.launch import kick, trains
    from ..train.queue import waiting

    kick(home.runs)
    entries, busy = waiting(), trains()
    if host.json:
        shown = [{"place": number, "run": entry.folder.name, **vars(entry)} for number, entry in enumerate(entries, 1)]
        show_json(host, {"trains": busy, "waiting": shown})
        return 0
    if busy is not None:
        say(host, f"{_called(home, busy)} trains now.")
    if not entries:
        say(host, "Nothing waits in the queue.")
        return 0
    from rich.text import Text

    from .tables import table

    grid = table("place", "run", "waits since", "by")
    for number, entry in enumerate(entries, 1):
        grid.add_row(*(Text(word) for word in (str(number), _called(home, entry.folder), _when(entry), entry.by)))
    host.console.print(grid)
    return 0


def _add(host: Host, home: Home, names: list[str]) -> int:
    from ..train.launch import add
    from ..train.runs import find_run
    from .progress import run_line

    runs = [find_run(home.runs, name) for name in names]
    add(runs)
    for run in runs:
        if run.status == "queued":
            say_place(host, home, run)
        else:
            say(host, run_line(run))
    if host.json:
        show_json(host, [{"run": run.name, "status": run.status, "place": run.place} for run in runs])
    return 0


def _drop(host: Host, home: Home, names: list[str]) -> int:
    from ..train.launch import drop
    from ..train.queue import waiting

    there = {entry.folder: _called(home, entry.folder) for entry in waiting()}
    known = {called: folder for folder, called in there.items()}
    unknown = [name for name in names if name not in known]
    if unknown:
        waits = f"there wait {', '.join(known)}" if known else "nothing waits"
        raise NotFound(f"{unknown[0][:80]!r} does not wait in the queue: {waits}.")
    dropped = [name for name in names if drop(known[name])]
    for name in dropped:
        say(host, f"{name} is out of the queue.")
    if host.json:
        show_json(host, {"dropped": dropped})
    return 0


def _called(home: Home, folder: Path) -> str:
    """A run's name, or, of another folder, its path: as the user can name it."""
    return folder.name if folder.resolve().parent == home.runs.resolve() else str(folder)


def _when(entry: Entry) -> str:
    """In the time of the place where it is read."""
    try:
        return datetime.datetime.fromisoformat(entry.at).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:  # somebody wrote into the file
        return entry.at
