"""`/dataset`: rate, fix, harvest, look, build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ...host.api import Command
from ..errors import UsageError
from . import ratings
from .building import build
from .edge import guarded, show_json
from .harvesting import harvest
from .importing import bring
from .options import HelpWanted, Parser, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.live import LiveTurns
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
    words = parser.parse_args(split(rest))
    if words.limit < 0:
        raise UsageError("--limit takes a number from 0 up.")
    with _library(home) as library:
        found = library.find(limit=words.limit or None, unrated=words.unrated, search=words.search)
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


def _library(home: Home) -> Library:
    from ..library import Library

    return Library(home.library)


VERBS: Final = {
    "rate": "score an answer: good, bad or 1 to 5",
    "fix": "put your own text in an answer's place",
    "harvest": "take conversation files into the library; on or off for the chat",
    "import": "take training data of others, or your own code, into the library",
    "list": "examples, newest first",
    "show": "one example whole, with its quality score",
    "stats": "how the library stands",
    "build": "freeze rated examples as a dataset",
    "versions": "the datasets built so far",
}

#: The words that mean the chat's last answer where no other is named.
RATINGS: Final = {"rate": ratings.rate, "fix": ratings.fix}

WORK: Final[dict[str, Work]] = {
    "harvest": harvest,
    "import": bring,
    "list": _list,
    "show": _show,
    "stats": _stats,
    "build": build,
    "versions": _versions,
}
