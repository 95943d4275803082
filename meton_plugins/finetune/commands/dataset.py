"""`/dataset`: rate, fix, harvest, look, build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...host.api import Command
from ..errors import EngineError, FinetuneError, ModelError, UsageError
from ..settings import BuildSettings, Settings, load
from . import ratings
from .edge import guarded, note, show_json
from .editing import edit, search, tag
from .forgetting import forget
from .harvesting import harvest, take
from .keeping import backup, restore
from .options import HelpWanted, Parser, flags_of, settings_from, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.harvest import HarvestReport
    from ..collect.live import LiveTurns
    from ..curate.build import CountTokens
    from ..library import Library
    from ..paths import Home

__all__ = ["ALIASES", "make"]

#: Short forms: a word that stands for /dataset and these words.
ALIASES: Final = {"/+": "rate good", "/-": "rate bad", "/fix": "fix"}

SUMMARY: Final = "rate answers, look through the library, build datasets"

Work = Callable[["Host", "Home", str], int]


def make(host: Host, home: Home, live: LiveTurns | None = None) -> Command:
    """The command, for `host`, over the library in `home`; ratings mean the turns of `live` where it heard some."""

    def run(text: str) -> int:
        return guarded(host, lambda: _dispatch(host, home, live, text))

    return Command(name="/dataset", summary=SUMMARY, run=run, verbs=tuple(VERBS), aliases=ALIASES)


def _dispatch(host: Host, home: Home, live: LiveTurns | None, text: str) -> int:
    words = text.split(maxsplit=1)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        lines = [f"  {name:10}{summary}" for name, summary in VERBS.items()]
        short = ", ".join(f"{word} ({stands})" for word, stands in ALIASES.items())
        raise HelpWanted("\n".join(["usage: /dataset VERB ...", "", *lines, "", f"Short forms: {short}."]))
    if verb not in VERBS:
        raise UsageError(f"/dataset has no word {verb[:40]!r}: it has {', '.join(VERBS)}.")
    if live is not None:
        live.flush()
    rest = words[1] if len(words) > 1 else ""
    if verb in RATINGS:
        return RATINGS[verb](host, home, live, rest)
    return WORK[verb](host, home, rest)


def _list(host: Host, home: Home, rest: str) -> int:
    parser = Parser(prog="/dataset list", description="Examples of the library, newest first.")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many; 0 for all (default: 20)")
    parser.add_argument("--unrated", action="store_true", help="only those without a rating")
    parser.add_argument("--search", metavar="TEXT", help="only those that hold this text")
    parser.add_argument("--tag", metavar="WORD", help="only those with this tag")
    words = parser.parse_args(split(rest))
    if words.limit < 0:
        raise UsageError("--limit takes a number from 0 up.")
    with _library(home) as library:
        found = library.find(limit=words.limit or None, unrated=words.unrated, search=words.search, tag=words.tag)
    if host.json:
        show_json(host, [{**example.model_dump(exclude={"steps"}), "status": example.status} for example in found])
        return 0
    from .dataset_views import listed

    listed(host, found)
    return 0


def _show(host: Host, home: Home, rest: str) -> int:
    parser = Parser(prog="/dataset show", description="One example whole, with the parts of its quality score.")
    parser.add_argument("id", metavar="ID")
    words = parser.parse_args(split(rest))
    from ..curate.quality import judge

    with _library(home) as library:
        example = library.get(words.id)
        calls = library.calls(example.id)
    quality = judge(example)
    if host.json:
        whole = {**example.model_dump(exclude={"steps"}), "calls": [call.model_dump() for call in calls]}
        show_json(host, {**whole, "status": example.status, "quality": asdict(quality)})
        return 0
    from .dataset_views import shown

    shown(host, example, quality, len(calls))
    return 0


def _stats(host: Host, home: Home, rest: str) -> int:
    Parser(prog="/dataset stats", description="How the library stands.").parse_args(split(rest))
    with _library(home) as library:
        counts = library.counts()
    if host.json:
        show_json(host, counts.model_dump())
        return 0
    from .dataset_views import counted

    counted(host, counts)
    return 0


def _build(host: Host, home: Home, rest: str) -> int:
    parser = Parser(prog="/dataset build", description="Freeze the rated examples as a dataset to train on.")
    flags_of(parser, BuildSettings)
    parser.add_argument("--name", metavar="NAME", help="a name for it, beside its id")
    parser.add_argument(
        "--base", metavar="MODEL", help="count tokens as this base model does: a GGUF or an Ollama name"
    )
    parser.add_argument("--chat-template", metavar="NAME|FILE", help="for counting, where the base has none of its own")
    parser.add_argument("--dry-run", action="store_true", help="show what would be left, write nothing")
    parser.add_argument("--conversations-dir", metavar="PATH", help="harvest this folder first")
    words = parser.parse_args(split(rest))
    settings = load(home.settings)
    wanted = settings_from(words, settings.build)
    from ..curate import dataset

    with _library(home) as library:
        report = take(library, Path(words.conversations_dir).expanduser()) if words.conversations_dir else None
        if words.dry_run:
            return _planned(host, dataset.plan(library, wanted), report)
        base, count, remark = _counter(settings, words.base, words.chat_template)
        try:
            manifest = dataset.build(library, wanted, home.datasets, name=words.name, base=base, count_tokens=count)
        except (EngineError, ModelError) as error:
            if words.base and isinstance(error, ModelError):
                raise
            remark = f"tokens were not counted: {error.sentence}"
            manifest = dataset.build(library, wanted, home.datasets, name=words.name)
    path = home.datasets / manifest.id
    if host.json:
        value = {**manifest.model_dump(mode="json"), "path": str(path), "name": words.name, "note": remark}
        show_json(host, {**value, "harvest": asdict(report) if report else None})
        return 0
    from .dataset_views import built, harvested

    if report:
        harvested(host, report)
    built(host, manifest, path, words.name)
    if remark:
        note(host, remark)
    return 0


def _versions(host: Host, home: Home, rest: str) -> int:
    Parser(prog="/dataset versions", description="The datasets built so far.").parse_args(split(rest))
    from ..curate import dataset

    found, names = dataset.versions(home), dataset.names(home)
    if host.json:
        show_json(host, [{"id": m.id, "names": [n for n in names if names[n] == m.id], **m.counts} for m in found])
        return 0
    from .dataset_views import versioned

    versioned(host, found, names)
    return 0


def _planned(host: Host, plan: Any, report: HarvestReport | None) -> int:
    sides = {side: len(plan.side(side)) for side in ("train", "validation", "heldout")}
    stages = [stage.model_dump() for stage in plan.funnel.stages]
    if host.json:
        show_json(host, {"dry_run": True, "funnel": stages, "counts": sides})
        return 0
    from .dataset_views import funnel, harvested

    if report:
        harvested(host, report)
    funnel(host, plan.funnel.stages, sides)
    note(host, "nothing was frozen")
    return 0


def _counter(
    settings: Settings, named: str | None, template: str | None
) -> tuple[dict[str, Any] | None, CountTokens | None, str | None]:
    """Base, its token counter, and a remark where tokens will not be counted.

    A base that was named on the command line must be there; one from the settings may be away.
    """
    text = named or settings.base
    if text is None:
        return None, None, None
    try:
        from ..engine.jobs import count_tokens
        from ..serve.bases import resolve_base
        from ..serve.ollama import Server

        found = resolve_base(text, Server(settings.serve.ollama_host))
    except (ImportError, EngineError) as error:
        return None, None, f"tokens were not counted: {error}"
    except FinetuneError as error:
        if named:
            raise
        return None, None, f"tokens were not counted: {error.sentence}"
    path = found.path
    base = {"name": text, "file": path.name, "bytes": path.stat().st_size}
    return base, lambda chats: count_tokens(path, chats, template or settings.train.chat_template), None


def _library(home: Home) -> Library:
    from ..library import Library

    return Library(home.library)


VERBS: Final = {
    "rate": "score an answer: good, bad or 1 to 5",
    "fix": "put your own text in an answer's place",
    "harvest": "take conversation files into the library; on or off for the chat",
    "list": "examples, newest first",
    "search": "find examples by what they say",
    "show": "one example whole, with its quality score",
    "edit": "change what an example asks or answers",
    "tag": "put tags on examples, take them off, list them",
    "forget": "remove examples for good, wherever they are",
    "stats": "how the library stands",
    "build": "freeze rated examples as a dataset",
    "versions": "the datasets built so far",
    "backup": "one archive of library, datasets, run records and adapters",
    "restore": "put a backup in the place of the data folder",
}

#: The words that mean the chat's last answer where no other is named.
RATINGS: Final = {"rate": ratings.rate, "fix": ratings.fix}

WORK: Final[dict[str, Work]] = {
    "harvest": harvest,
    "list": _list,
    "search": search,
    "show": _show,
    "edit": edit,
    "tag": tag,
    "forget": forget,
    "stats": _stats,
    "build": _build,
    "versions": _versions,
    "backup": backup,
    "restore": restore,
}
