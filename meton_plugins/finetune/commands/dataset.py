"""`/dataset`: rate, fix, harvest, look, build."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...host.api import Command
from ..errors import UsageError
from . import looking, ratings
from .building import build
from .duplicates import duplicates, leaks
from .edge import guarded
from .editing import edit, search, tag
from .exporting import export
from .forgetting import forget
from .harvesting import harvest
from .importing import bring
from .keeping import backup, restore
from .options import HelpWanted

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.live import LiveTurns
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
        lines = [f"  {name:12}{summary}" for name, summary in VERBS.items()]
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


VERBS: Final = {
    "rate": "score an answer: good, bad or 1 to 5",
    "fix": "put your own text in an answer's place",
    "harvest": "take conversation files into the library; on or off for the chat",
    "import": "take training data of others, or your own code, into the library",
    "list": "examples, newest first",
    "search": "find examples by what they say",
    "show": "one example whole, with its quality score",
    "edit": "change what an example asks or answers",
    "tag": "put tags on examples, take them off, list them",
    "forget": "remove examples for good, wherever they are",
    "stats": "how the library stands, and whether it is enough to train on",
    "preview": "what would be trained on, token by token",
    "build": "freeze rated examples as a dataset",
    "versions": "the datasets built so far",
    "diff": "what differs between two datasets",
    "duplicates": "what is there more than once, and what a build keeps of it",
    "leaks": "prove that nothing of one side of the split is in another",
    "export": "chats for somebody else, names replaced if you want",
    "backup": "one archive of library, datasets, run records and adapters",
    "restore": "put a backup in the place of the data folder",
}

#: The words that mean the chat's last answer where no other is named.
RATINGS: Final = {"rate": ratings.rate, "fix": ratings.fix}

WORK: Final[dict[str, Work]] = {
    "harvest": harvest,
    "import": bring,
    "list": looking.list_,
    "search": search,
    "show": looking.show,
    "edit": edit,
    "tag": tag,
    "forget": forget,
    "stats": looking.stats,
    "preview": looking.preview,
    "build": build,
    "versions": looking.versions,
    "diff": looking.diff,
    "duplicates": duplicates,
    "leaks": leaks,
    "export": export,
    "backup": backup,
    "restore": restore,
}
