"""`/finetune start`: what is trained on what, and a worker that does it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..settings import Settings, TrainSettings, load
from .continuing import base_of, check_same_base, origin, origin_flags, replay_of, told
from .edge import note, say, show_json
from .options import Parser, flags_of
from .progress import bar, left_out, run_line
from .queueing import say_place, wait_for_turn

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..serve.bases import Base
    from ..train.planner import Ingredients
    from ..train.runs import Run

__all__ = ["ingredients", "reserved", "start", "start_flags"]


def start_flags(parser: Parser) -> None:
    """Of `start`."""
    parser.add_argument("--base", help="GGUF file or Ollama model to train on (default: settings.toml's)")
    parser.add_argument("--dataset", default="latest", help="dataset to train on (default: the newest)")
    parser.add_argument("--name", help="name of the run (default: run-1, run-2, ...)")
    # Once needed for BF16 bases, which are trained as they are now: scripts may still say it.
    parser.add_argument("--f16-copy", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--remeasure", "--measure", action="store_true", help="decide anew how this machine computes, and measure it"
    )
    parser.add_argument("--yes", action="store_true", help="start without asking")
    parser.add_argument("--wait", action="store_true", help="stay until the run is over")
    origin_flags(parser)
    flags_of(parser, TrainSettings)


def start(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Start a run in the background."""
    from ..train.launch import begin
    from ..train.planner import check_new, create
    from .planning import agreed
    from .watch import watch  # before anything starts: Ctrl-C is the watch's from then on

    check_new(home.runs, options.name, reserved())
    made_of = ingredients(host, home, options)
    plan = agreed(host, home, made_of, yes=options.yes, again=options.remeasure)
    if plan is None:
        return 0
    foreseen, compute = plan.model_dump(mode="json"), plan.compute
    run, state = begin(lambda: create(home, made_of, options.name, compute=compute, plan=foreseen))
    waits = run.status == "queued"
    if waits:
        say_place(host, home, run)
    if options.wait and state.status != "failed" and (not waits or wait_for_turn(host, home, run)):
        code = watch(host, run)
    else:
        code = 1 if state.status == "failed" else 0
        if not waits:
            say(host, run_line(run), "red" if code else "")
        left_out(host, run)
    if host.json:
        show_json(host, {"run": run.name, **run.state.model_dump(), "status": run.status})
    elif waits:
        note(host, "It starts by itself, also when you leave. See who waits with /finetune queue list.")
    elif not options.wait and not code:
        note(host, f"It trains in the background, also when you leave. See it with /finetune watch {run.name}.")
    return code


def ingredients(host: Host, home: Home, options: argparse.Namespace) -> Ingredients:
    """What the flags of `start` name: base, dataset, settings; each is checked, nothing is made yet."""
    from ..curate.dataset import resolve
    from ..engine.package import installed
    from ..serve.templates import load_template
    from ..train.planner import Ingredients, base_record

    settings = load(home.settings)
    replay, found = replay_of(options), origin(home, settings, options)
    train, parent = found.settings, found.parent
    installed()
    dataset = resolve(home, options.dataset)
    if parent and options.template is None and train.template == parent.record.template:
        system = parent.record.system  # the template may say something else by now
    else:
        system = load_template(train.template, home).system or ""
    if Path(train.template).suffix == ".Modelfile" or "/" in train.template:
        # Registering reads it again, perhaps from another folder.
        train = train.model_copy(update={"template": str(Path(train.template).expanduser().resolve())})
    record = base_of(parent) if parent and not options.base else None
    if record is None:
        base = _base(settings, options, parent)
        with bar(host) as tell:
            record = base_record(base.path, base.name, lambda done, total: tell("reading the base", done, total))
    if parent:
        check_same_base(parent, record)
    made_of = Ingredients(record, dataset, train, system, parent, replay, options.recipe)
    told(host, made_of, found)
    return made_of


def reserved() -> tuple[str, ...]:
    """What no run may be called: commands take a run's name where they take these words."""
    from . import dataset, export, finetune, model_register

    return (*finetune.VERBS, *dataset.VERBS, *export.VERBS, *model_register.VERBS, "latest")


def _base(settings: Settings, options: argparse.Namespace, parent: Run | None) -> Base:
    """What the user wants to train on, by default what `parent` was."""
    from ..serve.bases import resolve_base
    from ..serve.ollama import Server

    wanted = options.base or (parent.record.base.path if parent else settings.base)
    if not wanted:
        raise UsageError("Say what to train on: --base with a GGUF file or the name of an Ollama model.")
    with Server(settings.serve.ollama_host) as server:
        return resolve_base(wanted, server)
