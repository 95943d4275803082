"""`/dataset harvest`: files into the library, and whether the chat goes into it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..settings import load
from ..told import HARVESTED, Told
from .edge import say, show_json
from .options import Parser, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.harvest import HarvestReport
    from ..library import Library
    from ..paths import Home

__all__ = ["harvest", "take"]


def harvest(host: Host, home: Home, rest: str) -> int:
    """Take in what lies in files, or turn the harvest of the chat on or off."""
    parser = Parser(
        prog="/dataset harvest",
        description="Take conversations, Meton's exports of them and its ratings into the library, each once; "
        "or keep the turns of your chats from now on, or keep them no more.",
    )
    parser.add_argument("switch", nargs="?", choices=("on", "off"), help="whether turns of a chat are kept")
    parser.add_argument("--conversations-dir", metavar="PATH", help="their folder; the host's by default")
    words = parser.parse_args(split(rest))
    if words.switch is not None:
        if words.conversations_dir:
            raise UsageError("Say on or off, or name a folder, not both.")
        return _switch(host, home, words.switch == "on")
    folder = words.conversations_dir or load(home.settings).harvest.conversations_dir or host.conversations_dir
    if folder is None:
        raise UsageError("Say where the conversations are: /dataset harvest --conversations-dir PATH.")
    from ..library import Library

    path = Path(folder).expanduser()
    with Library(home.library) as library:
        report = take(library, path)
    # Forgetting looks there, too, and says what of it still holds the words.
    Told(home.told).add(HARVESTED, str(path.resolve()))
    if host.json:
        show_json(host, asdict(report))
        return 0
    from .build_views import harvested

    harvested(host, report)
    return 0


def take(library: Library, folder: Path) -> HarvestReport:
    """Harvest `folder`, without its secrets."""
    from ..collect.harvest import harvest as take_in
    from ..curate.secrets import scrub

    return take_in(library, folder, scrub)


def _switch(host: Host, home: Home, on: bool) -> int:
    from ..settings_file import switch

    switch(home.settings, "harvest", "enabled", on)
    if host.json:
        show_json(host, {"harvest": on})
    elif on:
        say(host, "Turns of your chats are kept in the library from now on, rated or not.")
    else:
        say(host, "Turns of your chats are no longer kept; what is in the library stays.")
    return 0
