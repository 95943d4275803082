"""`/finetune`: set the engine up, start runs, look at them, steer them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...host.api import Command
from ..errors import ModelError, UsageError
from ..paths import Home
from ..settings import Settings, TrainSettings, load
from .edge import guarded, note, say, show_json
from .options import Parser, flags_of, settings_from, split, verbs_wanted
from .progress import bar, left_out, run_line
from .run_views import compared, examined, logged, shown

if TYPE_CHECKING:
    from ...host.api import Host
    from ..serve.bases import Base
    from ..train.runs import Run

__all__ = ["VERBS", "make"]

SUMMARY: Final = "train a LoRA on your rated answers, in the background"


def make(host: Host, home: Home) -> Command:
    """The command."""
    return Command("/finetune", SUMMARY, lambda line: guarded(host, lambda: _run(host, home, line)), tuple(VERBS))


def _parser() -> Parser:
    parser = Parser(prog="/finetune", description=SUMMARY)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="|".join(VERBS))
    made = {verb: verbs.add_parser(verb, description=summary, help=summary) for verb, (_, summary) in VERBS.items()}
    made["setup"].add_argument("--from", dest="source", type=Path, metavar="FILE", help="install from this tarball")
    made["setup"].add_argument("--again", action="store_true", help="install even where it is in place")
    made["doctor"].add_argument("--meton", type=Path, metavar="PATH", help="only look at what this Meton checkout has")
    start = made["start"]
    start.add_argument("--base", help="GGUF file or Ollama model to train on (default: settings.toml's)")
    start.add_argument("--dataset", default="latest", help="dataset to train on (default: the newest)")
    start.add_argument("--name", help="name of the run (default: run-1, run-2, ...)")
    start.add_argument("--f16-copy", action="store_true", help="make an F16 copy of a BF16 base, without asking")
    start.add_argument("--wait", action="store_true", help="stay until the run is over")
    flags_of(start, TrainSettings)
    for verb in ("watch", "logs", "pause", "resume", "stop", "show", "status"):
        made[verb].add_argument("run", nargs="?", help="the run (default: the newest)")
    for one in ("a", "b"):
        made["compare"].add_argument(one, metavar=one.upper(), help="a run")
    made["logs"].add_argument("--lines", type=int, default=30, metavar="N", help="last lines to show (default: 30)")
    return parser


def _run(host: Host, home: Home, line: str) -> int:
    words = split(line)
    verbs_wanted("/finetune", words, {verb: summary for verb, (_, summary) in VERBS.items()})
    options = _parser().parse_args(words)
    return VERBS[options.verb][0](host, home, options)


def _found(home: Home, options: argparse.Namespace) -> Run:
    from ..train.runs import find_run

    return find_run(home.runs, options.run)


def _setup(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..engine.setup import setup

    engine, done = setup(lambda text: say(host, f"… {text}", "dim"), source=options.source, again=options.again)
    if host.json:
        show_json(host, {"version": engine.version, "backend": engine.backend, "installed": done, **engine.proof})
        return 0
    say(host, f"✓ Engine {engine.version} {'installed' if done else 'is in place'} ({engine.backend}).", "green")
    proof = engine.proof
    note(host, f"Its own proof: loss {proof['first_loss']:.3f} → {proof['last_loss']:.3f} in two steps.")
    return 0


def _doctor(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..report.health import examine, surface

    if options.meton:
        rows = surface(options.meton)
    else:
        rows = examine(home, load(home.settings), host.name, host.slots.path if host.slots else None)
    if host.json:
        show_json(host, [row._asdict() for row in rows])
    else:
        examined(host, rows)
    return 1 if any(row.verdict == "bad" for row in rows) else 0


def _start(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..curate.dataset import resolve
    from ..engine.package import installed
    from ..serve.templates import load_template
    from ..train.launch import begin, check_free
    from ..train.planner import base_record, check_new, create

    settings = load(home.settings)
    train = settings_from(options, settings.train)
    installed()
    check_new(home.runs, options.name, _words())
    check_free(home.runs)
    dataset = resolve(home, options.dataset)
    system = load_template(train.template, home).system or ""
    if Path(train.template).suffix == ".Modelfile" or "/" in train.template:
        # Registering reads it again, perhaps from another folder.
        train = train.model_copy(update={"template": str(Path(train.template).expanduser().resolve())})
    base = _base(host, settings, options)
    with bar(host) as tell:
        path = _trainable(home, base, tell)
        record = base_record(path, base.name, lambda done, total: tell("reading the base", done, total))
    run, state = begin(
        home.runs,
        lambda: create(home, base=record, dataset=dataset, settings=train, system=system, name=options.name),
    )
    if options.wait and state.status != "failed":
        from .watch import watch

        code = watch(host, run)
    else:
        code = 1 if state.status == "failed" else 0
        say(host, run_line(run), "red" if code else "")
        left_out(host, run)
    if host.json:
        show_json(host, {"run": run.name, **run.state.model_dump(), "status": run.status})
    elif not options.wait and not code:
        note(host, f"It trains in the background, also when you leave. See it with /finetune watch {run.name}.")
    return code


def _words() -> tuple[str, ...]:
    """What no run may be called: commands take a run's name where they take these words."""
    from . import dataset, export, model_register

    return (*VERBS, *dataset.VERBS, *export.VERBS, *model_register.VERBS, "latest")


def _base(host: Host, settings: Settings, options: argparse.Namespace) -> Base:
    """What the user wants to train on; where that is BF16, he has agreed to a copy."""
    from ..gguf.inspect import inspect
    from ..serve.bases import resolve_base
    from ..serve.ollama import Server
    from ..train.bases import needs_f16_copy

    wanted = options.base or settings.base
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


def _status(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..train.runs import all_runs

    runs = [_found(home, options)] if getattr(options, "run", None) else all_runs(home.runs)
    if host.json:
        show_json(host, [{"run": r.name, **r.state.model_dump(), "status": r.status} for r in runs])
    elif not runs:
        say(host, "No run yet. Rate answers, /dataset build, then /finetune start.")
    width = max(len(run.name) for run in runs) if len(runs) > 1 else 0
    for run in runs:
        say(host, run_line(run, width))
    return 0


def _show(host: Host, home: Home, options: argparse.Namespace) -> int:
    run = _found(home, options)
    if host.json:
        show_json(host, {**run.record.model_dump(), "state": {**run.state.model_dump(), "status": run.status}})
    else:
        shown(host, run)
    return 0


def _compare(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..report.compare import compare
    from ..train.runs import find_run

    table = compare(find_run(home.runs, options.a), find_run(home.runs, options.b))
    if host.json:
        show_json(host, table.as_dict())
    else:
        compared(host, table)
    return 0


def _watch(host: Host, home: Home, options: argparse.Namespace) -> int:
    from .watch import watch

    return watch(host, _found(home, options))


def _logs(host: Host, home: Home, options: argparse.Namespace) -> int:
    run = _found(home, options)
    if options.lines < 1:
        raise UsageError("--lines takes a number from 1 up.")
    events = run.events()[-options.lines :]
    if host.json:
        show_json(host, events)
        return 0
    logged(host, events)
    note(host, f"The engine's own log: {run.folder / 'engine.log'}")
    return 0


def _asking(want: str, said: str) -> Callable[[Host, Home, argparse.Namespace], int]:
    def verb(host: Host, home: Home, options: argparse.Namespace) -> int:
        from ..train.launch import ask

        run = _found(home, options)
        ask(run, want)
        say(host, said.format(run=run.name))
        if host.json:
            show_json(host, {"run": run.name, "asked": want})
        return 0

    return verb


def _resume(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..train.launch import start

    run = _found(home, options)
    failed = start(run).status == "failed"
    say(host, run_line(run), "red" if failed else "")
    if host.json:
        show_json(host, {"run": run.name, **run.state.model_dump(), "status": run.status})
    return 1 if failed else 0


#: verb: (what it does, its summary)
VERBS: Final[dict[str, tuple[Callable[[Host, Home, argparse.Namespace], int], str]]] = {
    "setup": (_setup, "install the training engine (llama.cpp), once"),
    "doctor": (_doctor, "look at engine, machine, server and host, and say what to do"),
    "start": (_start, "start a run in the background"),
    "status": (_status, "one line a run"),
    "watch": (_watch, "follow a run live; any key leaves"),
    "logs": (_logs, "what happened in a run"),
    "pause": (_asking("pause", "{run} saves a checkpoint and frees the memory."), "save and free the memory"),
    "resume": (_resume, "go on with a paused, failed or interrupted run"),
    "stop": (
        _asking("stop", "{run} stops after this step and keeps the best so far."),
        "end a run, keep the best so far",
    ),
    "runs": (_status, "one line a run"),
    "show": (_show, "a run's base, data, settings and result"),
    "compare": (_compare, "two runs side by side: what differs, and what came of it"),
}
