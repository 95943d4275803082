"""`/finetune`: set the engine up, start runs, look at them, steer them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from ...host.api import Command
from ..errors import UsageError
from ..paths import Home
from .deleting import delete, delete_flags
from .diagnosing import diagnose
from .edge import guarded
from .following import compare, compare_flags, logs, logs_flags, meant_flag, run_flag, runs, show, status, watch
from .noting import note, note_flags, note_words
from .options import Parser, split, verbs_wanted
from .planning import plan, plan_flags
from .preparing import doctor, doctor_flags, setup, setup_flags
from .queueing import queue, queue_flags
from .recipes import recipes, recipes_flags
from .refreshing import refresh, refresh_flags
from .starting import start, start_flags
from .steering import pause, resume, resume_flags, stop
from .sweeping import sweep, sweep_flags

if TYPE_CHECKING:
    from ...host.api import Host

__all__ = ["VERBS", "Verb", "make"]

SUMMARY: Final = "train a LoRA on your rated answers, in the background"


class Verb(NamedTuple):
    """What a word does, in words and as a function; `flags` gives its parser what may follow the word."""

    summary: str
    run: Callable[[Host, Home, argparse.Namespace], int]
    flags: Callable[[Parser], None]


def make(host: Host, home: Home) -> Command:
    """The command."""
    return Command("/finetune", SUMMARY, lambda line: guarded(host, lambda: _run(host, home, line)), tuple(VERBS))


def _run(host: Host, home: Home, line: str) -> int:
    typed = line.split(maxsplit=1)
    taken = AS_TYPED.get(typed[0]) if typed else None
    words = [typed[0], *taken("".join(typed[1:]))] if taken else split(line)
    verbs_wanted("/finetune", words, {name: verb.summary for name, verb in VERBS.items()})
    name, *rest = words
    if name not in VERBS:
        raise UsageError(f"/finetune has no word {name[:40]!r}: it has {', '.join(VERBS)}.")
    verb = VERBS[name]
    parser = Parser(prog=f"/finetune {name}", description=verb.summary)
    verb.flags(parser)
    return verb.run(host, home, parser.parse_args(rest))


VERBS: Final[dict[str, Verb]] = {
    "setup": Verb("install the training engine (llama.cpp), once", setup, setup_flags),
    "doctor": Verb("look at engine, machine, server and host, and say what to do", doctor, doctor_flags),
    "plan": Verb("what a run would take: memory, time, disk, what is left out", plan, plan_flags),
    "start": Verb("start a run in the background", start, start_flags),
    "status": Verb("one line a run, those at work first", status, run_flag),
    "watch": Verb("follow a run live; any key leaves", watch, meant_flag),
    "logs": Verb("what happened in a run", logs, logs_flags),
    "pause": Verb("save and free the memory", pause, meant_flag),
    "resume": Verb("go on with a paused, failed or interrupted run", resume, resume_flags),
    "stop": Verb("end a run, keep the best so far", stop, meant_flag),
    "queue": Verb("runs that wait for the machine: add, list, drop", queue, queue_flags),
    "sweep": Verb("a run for each of several settings, and which came out best", sweep, sweep_flags),
    "runs": Verb("what each run is made of, what came of it, which it continues", runs, lambda parser: None),
    "show": Verb("a run's base, data, settings and result", show, run_flag),
    "diagnose": Verb("what the numbers of a run say, and what to change", diagnose, run_flag),
    "note": Verb("keep what you learned with a run", note, note_flags),
    "compare": Verb("two runs side by side: what differs, and what came of it", compare, compare_flags),
    "delete": Verb("runs that are no longer wanted, or only their checkpoints", delete, delete_flags),
    "refresh": Verb("build what was rated since a run, and go on from it", refresh, refresh_flags),
    "recipes": Verb("settings for a strategy, with their reasons: list, show, copy", recipes, recipes_flags),
}

#: Verbs with a text of the user's, and how the rest of the line becomes words: quotes in it are letters.
AS_TYPED: Final[dict[str, Callable[[str], list[str]]]] = {"note": note_words}
