"""`/finetune delete`: runs that are no longer wanted, or only their checkpoints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..units import size
from .edge import note, say, show_json
from .options import Parser
from .progress import run_line

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..train.deletion import Doomed

__all__ = ["delete", "delete_flags"]


def delete_flags(parser: Parser) -> None:
    """Of `delete`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs to delete")
    parser.add_argument("--checkpoints", action="store_true", help="only the checkpoints: adapters and record stay")
    parser.add_argument("--force", action="store_true", help="also a run that others continue, or could go on with")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def delete(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Delete runs, after showing what goes and asking."""
    from ..train.deletion import check, doomed
    from ..train.deletion import delete as carry_out
    from ..train.runs import find_run

    runs = [find_run(home.runs, name) for name in dict.fromkeys(options.runs)]
    runs = list({run.name: run for run in runs}.values())  # `latest` may be one that was named, too
    check(runs, checkpoints=options.checkpoints, force=options.force)
    gone = [doomed(run) for run in runs]
    if not options.yes and not _agreed(host, gone, options.checkpoints):
        if host.json:
            show_json(host, {"deleted": [], "freed": 0})
        else:
            say(host, "Nothing was deleted.")
        return 1
    freed = carry_out(runs, checkpoints=options.checkpoints, force=options.force)
    names = [run.name for run in runs]
    kept = [] if options.checkpoints else [str(home.models / name) for name in names if (home.models / name).is_dir()]
    if host.json:
        what = {"checkpoints_of" if options.checkpoints else "deleted": names}
        show_json(host, {**what, "freed": freed, "models_kept": kept})
        return 0
    said = "Freed the checkpoints of" if options.checkpoints else "Deleted"
    say(host, f"{said} {', '.join(names)}: {size(freed)}.")
    for folder in kept:
        note(host, f"the model that was made of it stays, also in its slot: {folder}")
    return 0


def _agreed(host: Host, gone: list[Doomed], checkpoints: bool) -> bool:
    """Whether the user, having seen what would go, wants it."""
    width = max(len(one.run.name) for one in gone)
    for one in gone:
        say(host, run_line(one.run, width))
        note(host, f"{'':{width}}  {size(one.checkpoints if checkpoints else one.bytes)}  {one.run.folder}")
    many = gone[0].run.name if len(gone) == 1 else f"these {len(gone)} runs"
    what = f"the checkpoints of {many}" if checkpoints else f"{many}, adapters and record,"
    answer = host.ask(f"Delete {what} for good?")
    if answer is None:
        raise UsageError("Nobody can be asked here, and deleting cannot be undone: add --yes.")
    return answer
