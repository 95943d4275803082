"""`/finetune refresh`: a dataset of what was rated since a run, and a run that goes on from it."""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from ..errors import DataError, UsageError
from ..settings import load
from .continuing import origin, replay_of
from .edge import note, say, show_json
from .options import Parser
from .starting import reserved, start, start_flags

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..train.refresh import Since

__all__ = ["refresh", "refresh_flags"]

#: Old examples for each new one: enough that the old is not forgotten, few enough that the new is learned.
REPLAY: Final = "0.5"


def refresh_flags(parser: Parser) -> None:
    """Of `refresh`: those of `start`, and its own."""
    parser.add_argument("run", nargs="?", help="the run to go on from (default: the newest that has an adapter)")
    parser.add_argument("--check", action="store_true", help="say what is new since the run, and do nothing")
    start_flags(parser)
    parser.set_defaults(replay=REPLAY)


def refresh(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Build what the library holds now as the run's dataset was built, and go on from the run."""
    from ..library import Library
    from ..train import refresh as service
    from ..train.lineage import adapter_of
    from ..train.planner import check_new

    if options.from_run is not None or options.dataset != "latest":
        raise UsageError("/finetune refresh RUN goes on from RUN and builds the dataset itself: leave out the flag.")
    run = service.to_refresh(home.runs, options.run)
    options.from_run = run.name
    if not options.check:
        # All that can be said before the library is gone through.
        check_new(home.runs, options.name, reserved())
        replay_of(options)
        adapter_of(run)
        origin(home, load(home.settings), options)
    with Library(home.library) as library:
        found = service.since(library, run)
        if options.check:
            return _checked(host, found)
        if not found.new:
            raise DataError(
                f"Nothing is new since {run.name}, which knows all {found.old} examples that a dataset built like its "
                "own would hold now: rate or fix more answers first."
            )
        if not found.worth and not options.yes:
            from ..units import many

            question = (
                f"Only {many(found.new, 'example')} new since {run.name}, {service.WORTH} are worth a run. Go on?"
            )
            answer = host.ask(question)
            if answer is None:
                raise UsageError(f"{question} Nobody is there to say so: add --yes.")
            if not answer:
                note(host, "Nothing was built.")
                return 1
        manifest = service.freeze(library, home.datasets, found)
    _built(host, found, manifest.id)
    options.dataset = manifest.id
    return start(host, home, options)


def _checked(host: Host, found: Since) -> int:
    from ..train.refresh import WORTH
    from ..units import many

    name = found.run.name
    if host.json:
        show_json(host, {"run": name, "new": found.new, "old": found.old, "worth": found.worth, "worth_from": WORTH})
    elif not found.new:
        say(host, f"Nothing new since {name}, which knows all {found.old} examples that would train now.")
    else:
        say(host, f"{many(found.new, 'example')} new since {name}, {found.old} known to it.")
        if found.worth:
            note(host, f"Go on from it with /finetune refresh {name}")
        else:
            note(host, f"{WORTH} and more are worth a run: rate {WORTH - found.new} more answers good, or fix them.")
    return 0


def _built(host: Host, found: Since, dataset: str) -> None:
    """The funnel in a line: what was there, what each stage left out, where the rest lies."""
    from .tables import SIDES

    stages = found.plan.funnel.stages
    steps = [f"{stages[0].kept:,} {stages[0].name}"] if stages else []
    for before, stage in pairwise(stages):
        if stage.kept < before.kept:
            steps.append(f"{stage.kept:,} {stage.name}")
    note(host, " → ".join(steps))
    sides = ", ".join(f"{len(found.plan.side(side)):,} {label}" for side, label in SIDES)
    say(host, f"Dataset {dataset}, built like that of {found.run.name}: {sides}; {found.new} new.")
