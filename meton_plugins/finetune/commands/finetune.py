"""`/finetune`: set the engine up, start runs, look at them, steer them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from ...host.api import Command
from ..errors import UsageError
from ..paths import Home
from .edge import guarded
from .following import compare, compare_flags, logs, logs_flags, run_flag, show, status, watch
from .options import Parser, split, verbs_wanted
from .preparing import doctor, doctor_flags, setup, setup_flags
from .starting import start, start_flags
from .steering import pause, resume, resume_flags, stop

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
    words = split(line)
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
    "start": Verb("start a run in the background", start, start_flags),
    "status": Verb("one line a run", status, run_flag),
    "watch": Verb("follow a run live; any key leaves", watch, run_flag),
    "logs": Verb("what happened in a run", logs, logs_flags),
    "pause": Verb("save and free the memory", pause, run_flag),
    "resume": Verb("go on with a paused, failed or interrupted run", resume, resume_flags),
    "stop": Verb("end a run, keep the best so far", stop, run_flag),
    "runs": Verb("one line a run", status, lambda parser: None),
    "show": Verb("a run's base, data, settings and result", show, run_flag),
    "compare": Verb("two runs side by side: what differs, and what came of it", compare, compare_flags),
}
