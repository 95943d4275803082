"""`/finetune sweep`: runs that differ in a few settings, and which of them came out best."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ..errors import EngineError, UsageError
from ..paths import check_name
from ..settings import TrainSettings
from .edge import note, say, show_json
from .options import Parser, kind_of, settings_from
from .planning import foresee
from .progress import duration
from .starting import ingredients, reserved, start_flags

if TYPE_CHECKING:
    from rich.table import Table

    from ...host.api import Host
    from ..paths import Home
    from ..train.runs import Run
    from ..train.sweep import Standing

__all__ = ["sweep", "sweep_flags"]

#: More runs than anybody waits for are a slip of the fingers.
MOST: Final = 64
#: Seconds between two looks with --wait.
LOOK: Final = 1.0
#: What an adapter is made of, and keeps.
ADAPTERS_OWN: Final = ("lora_rank", "lora_alpha")
EXAMPLE: Final = "/finetune sweep --learning-rate 1e-5,5e-5,1e-4 --lora-rank 8,16"


def sweep_flags(parser: Parser) -> None:
    """Of `sweep`: those of `start`, and a few more."""
    parser.epilog = (
        "Every setting that is a number takes several, separated by commas: one run is made for each combination, and "
        "all wait in the queue. With no values, or with the word show, the table of a sweep."
    )
    parser.add_argument("what", nargs="?", choices=("show",), help="show: the table of a sweep, best run first")
    parser.add_argument("sweep", nargs="?", help="with show: the sweep (default: the newest)")
    start_flags(parser)
    parser.add_argument("--rank", dest="lora_rank", metavar="N", help="the same as --lora-rank")
    parser.add_argument("--keep-all", action="store_true", help="keep the adapters of all runs, not of the best alone")


def sweep(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Start a sweep, or show one."""
    grid = _grid(options)
    if options.what == "show" or not grid:
        starting = options.base or options.yes or options.wait or options.keep_all
        if starting or any(getattr(options, name) is not None for name in TrainSettings.model_fields):
            raise UsageError(f"A sweep needs a setting with several values, as in {EXAMPLE}.")
        return _show(host, home, options.sweep or options.name)
    return _start(host, home, options, grid)


def _start(host: Host, home: Home, options: argparse.Namespace, grid: dict[str, list[str]]) -> int:
    from ..train.launch import begin_all
    from ..train.planner import check_judged, create_sweep
    from ..train.sweep import free_sweep

    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(points) > MOST:
        raise UsageError(f"That makes {len(points)} runs, and a sweep has {MOST} at most: name fewer values.")
    name = options.name or free_sweep(home.runs)
    _check_names(home, name, len(points))
    fixed = [setting for setting in ADAPTERS_OWN if setting in grid]
    if fixed and getattr(options, "from_run", None):
        flag = f"--{fixed[0].replace('_', '-')}"
        raise UsageError(f"{flag} is the adapter's own: a sweep that goes on from a run cannot vary it.")
    first = argparse.Namespace(**{**vars(options), **points[0]})
    made_of = ingredients(host, home, first)
    check_judged(made_of)
    settings = [settings_from(argparse.Namespace(**point), made_of.settings) for point in points]
    question = f"Train {len(settings)} runs, {name}-1 to {name}-{len(settings)}, one after the other"
    heaviest = max(settings, key=lambda one: (one.ctx_size, one.batch_size, one.lora_rank))
    plan = foresee(host, home, replace(made_of, settings=heaviest))
    if plan.refusal:
        raise EngineError(f"The heaviest run of the sweep cannot be. {plan.refusal}")
    seconds = plan.time.seconds
    total = duration(seconds * sum(one.epochs for one in settings) / heaviest.epochs) if seconds else ""
    if not _agreed(host, options, f"{question}{f', {total} in all' if total else ''}?"):
        say(host, "Nothing was started.")
        return 1
    compute = plan.compute
    runs = begin_all(
        lambda: create_sweep(home, made_of, settings, name, keep_all=options.keep_all, compute=compute), f"sweep {name}"
    )
    say(host, f"The sweep {name}: {len(runs)} runs{f', {total} in all' if total else ''}.", "bold")
    if options.wait:
        _wait(host, home, name, runs)
        return _show(host, home, name)
    if host.json:
        show_json(host, {"sweep": name, "runs": [{"run": run.name, "status": run.status} for run in runs]})
    else:
        note(host, f"They train in the background, one after the other. See them with /finetune sweep show {name}.")
    return 0


def _grid(options: argparse.Namespace) -> dict[str, list[str]]:
    """The settings that were given several values, each value once; UsageError names one that is none."""
    found: dict[str, list[str]] = {}
    for name, field in TrainSettings.model_fields.items():
        text = getattr(options, name)
        if kind_of(field.annotation) not in (int, float) or not isinstance(text, str) or "," not in text:
            continue
        values: dict[Any, str] = {}
        for value in text.split(","):
            if not value.strip():
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} takes numbers separated by commas, as in {flag} 1,2, not {text[:40]!r}.")
            typed = getattr(settings_from(argparse.Namespace(**{name: value}), TrainSettings()), name)
            values.setdefault(typed, value.strip())
        if len(values) == 1:  # the same number twice
            setattr(options, name, next(iter(values.values())))
        else:
            found[name] = list(values.values())
    return found


def _check_names(home: Home, name: str, runs: int) -> None:
    """UsageError where no new sweep can be called `name`."""
    from ..train.planner import check_new
    from ..train.sweep import sweeps

    check_name(name, "sweep")
    if name in (*reserved(), *sweeps(home.runs)):
        taken = "is a command's word" if name in reserved() else "is a sweep already"
        raise UsageError(f"{name!r} {taken}: give the sweep another --name.")
    for number in range(1, runs + 1):
        check_new(home.runs, f"{name}-{number}", ())


def _agreed(host: Host, options: argparse.Namespace, question: str) -> bool:
    if options.yes:
        return True
    answer = host.ask(question)
    if answer is None:
        raise UsageError(f"Nobody can be asked here ({question[:-1]}): add --yes.")
    return answer


def _wait(host: Host, home: Home, name: str, runs: Sequence[Run]) -> None:
    """Stay until every run of the sweep is over and it is tidied up."""
    from ..train.launch import kick
    from ..train.sweep import unsettled

    try:
        while any(run.status in ("queued", "starting", "running") for run in runs) or name in unsettled(home.runs):
            time.sleep(LOOK)
            kick(home.runs)
    except KeyboardInterrupt:
        note(host, f"The sweep goes on. See it with /finetune sweep show {name}.")


def _show(host: Host, home: Home, wanted: str | None) -> int:
    from ..train.launch import kick
    from ..train.sweep import members, standings

    kick(home.runs)
    name, runs = members(home.runs, wanted)
    found = standings(runs)
    if host.json:
        show_json(host, {"sweep": name, "runs": [vars(each) for each in found]})
        return 0
    say(host, f"The sweep {name}", "bold")
    host.console.print(_table(found))
    _verdict(host, found)
    return 0


def _table(found: Sequence[Standing]) -> Table:
    from rich.text import Text

    from .progress import duration
    from .tables import table

    swept = list(found[0].settings)
    grid = table("", "run", *(name.replace("_", " ") for name in swept), "status", "validation loss", "time")
    for each in found:
        loss = "" if each.best_loss is None else f"{each.best_loss:.4f}"
        if loss and each.base_loss is not None:
            loss = f"{each.base_loss:.4f} → {loss}"
        words = [
            "★" if each.winner else "" if each.rank is None else str(each.rank), each.run,
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in each.settings.values()),
            each.status, loss, duration(each.seconds) if each.seconds else "",
        ]  # fmt: skip
        grid.add_row(*map(Text, words), style="bold" if each.winner else "")
    return grid


def _verdict(host: Host, found: Sequence[Standing]) -> None:
    """What the table comes to, in words."""
    for each in found:
        if each.status == "failed":
            say(host, f"{each.run} failed: {each.error or f'see /finetune logs {each.run}'}", "red")
    over = sum(each.status in ("finished", "stopped", "failed") for each in found)
    best = next((each for each in found if each.winner), None)
    if best is not None:
        say(host, f"{best.run} is the best: /export model {best.run} makes a model of it.")
        if best.base_loss is not None and best.best_loss is not None and best.best_loss >= best.base_loss:
            say(host, "No run is better than the base on the validation side.", "yellow")
        if any(each.removed for each in found):
            note(host, "The adapters and checkpoints of the others were removed; their records and logs are kept.")
    elif over == len(found):
        say(host, "No run came as far as a validation: none can be called the best.", "yellow")
    else:
        note(host, f"{over} of {len(found)} runs are over; the best so far is on top.")
