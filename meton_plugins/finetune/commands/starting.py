"""`/finetune start`: what is trained on what, and a worker that does it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, UsageError
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
    parser.add_argument("--f16-copy", action="store_true", help="make an F16 copy of a BF16 base, without asking")
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
    plan = agreed(host, home, made_of, yes=options.yes)
    if plan is None:
        return 0
    foreseen, workers = plan.model_dump(mode="json"), plan.time.threads
    run, state = begin(lambda: create(home, made_of, options.name, workers=workers, plan=foreseen))
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
        base = _base(host, settings, options, parent)
        with bar(host) as tell:
            path = _trainable(home, base, tell)
            record = base_record(path, base.name, lambda done, total: tell("reading the base", done, total))
    if parent:
        check_same_base(parent, record)
    made_of = Ingredients(record, dataset, train, system, parent, replay, options.recipe)
    told(host, made_of, found)
    return made_of


def reserved() -> tuple[str, ...]:
    """What no run may be called: commands take a run's name where they take these words."""
    from . import dataset, export, finetune, model_register

    return (*finetune.VERBS, *dataset.VERBS, *export.VERBS, *model_register.VERBS, "latest")


def _base(host: Host, settings: Settings, options: argparse.Namespace, parent: Run | None) -> Base:
    """What the user wants to train on, by default what `parent` was; where that is BF16, he has agreed to a copy."""
    from ..gguf.inspect import inspect
    from ..serve.bases import resolve_base
    from ..serve.ollama import Server
    from ..train.bases import needs_f16_copy

    wanted = options.base or (parent.record.base.path if parent else settings.base)
    if not wanted:
        raise UsageError("Say what to train on: --base with a GGUF file or the name of an Ollama model.")
    with Server(settings.serve.ollama_host) as server:
        base = resolve_base(wanted, server)
    info = inspect(base.path)
    if needs_f16_copy(info) and not options.f16_copy:
        size = f"{2 * info.parameters / 2**30:.1f} GB"
        question = f"{base.path.name} is BF16, which cannot be trained on. Make an F16 copy ({size})?"
        if not host.ask(question):
            raise ModelError(f"A BF16 base needs an F16 copy ({size}): add --f16-copy to make one.")
    return base


def _trainable(home: Home, base: Base, tell: Callable[[str, int, int], None]) -> Path:
    """The file itself, or for a BF16 base its F16 copy."""
    from ..gguf.inspect import inspect
    from ..train.bases import f16_copy_of, needs_f16_copy

    if not needs_f16_copy(inspect(base.path)):
        return base.path
    return f16_copy_of(home, base.path, lambda done, total: tell("copying to F16", done, total))
