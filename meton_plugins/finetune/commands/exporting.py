"""`/dataset export`: chats for somebody else, with a look at what is replaced before anything is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import DataError, UsageError
from ..units import many
from .edge import note, say, show_json
from .options import Parser, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..curate.anonymize import Replacement
    from ..paths import Home
    from ..turn import Message

__all__ = ["export"]

WORDS: Final = {
    "PROJECT": "project names", "URL": "addresses of private hosts", "MAIL": "e-mail addresses", "NAME": "names",
    "USER": "user names", "HOST": "machines", "IP": "IP addresses", "PHONE": "phone numbers",
}  # fmt: skip


def export(host: Host, home: Home, rest: str) -> int:
    """Write chats as OpenAI messages, one JSON document a line."""
    parser = Parser(
        prog="/dataset export",
        description="Write the answers that you rated 4 or 5, or a dataset, as OpenAI messages (JSON lines).",
    )
    parser.add_argument("--output", metavar="FILE", required=True, help="where to")
    parser.add_argument("--dataset", metavar="ID|NAME", help="all chats of this dataset, as they were frozen")
    parser.add_argument("--anonymize", action="store_true", help="replace names of people, machines and networks")
    parser.add_argument(
        "--word", metavar="W", action="append", default=[], help="with --anonymize, a project's name to replace too"
    )
    parser.add_argument("--yes", action="store_true", help="write without the look at what is replaced")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    words = parser.parse_args(split(rest))
    path = _free(Path(words.output).expanduser(), words.force)
    if words.word and not words.anonymize:
        raise UsageError("--word names what to replace, so it needs --anonymize.")
    if not all(word.strip() for word in words.word):
        raise UsageError("--word takes the name of a project.")
    from ..curate.output import remember

    chats = _dataset(home, words.dataset) if words.dataset else _usable(home)
    replaced: list[Replacement] = []
    if words.anonymize:
        from ..curate.anonymize import anonymize

        texts, replaced = anonymize([[message.content for message in chat] for chat in chats], words.word)
        chats = [_with(chat, own) for chat, own in zip(chats, texts, strict=True)]
        if not words.yes:
            _review(host, replaced, len(chats), path)
    _write(path, chats)
    remember(home.datasets, path)
    counts = Counter(each.kind for each in replaced)
    if host.json:
        show_json(host, {"file": str(path), "chats": len(chats), "anonymized": words.anonymize, "replaced": counts})
        return 0
    say(host, f"Wrote {len(chats)} chat{'' if len(chats) == 1 else 's'}: {path}")
    if words.anonymize:
        note(host, f"replaced: {_listed(counts)}. Patterns find no name that looks like a word: read the file first.")
    else:
        note(host, "secrets were replaced as far as they could be found; --anonymize also replaces names")
    return 0


def _free(path: Path, force: bool) -> Path:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file.")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already: name another file, or add --force to replace it.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {path.absolute().parent}: make it first.")
    return path


def _usable(home: Home) -> list[list[Message]]:
    """The chats of what the user rated 4 or 5, oldest first, without secrets that came in by an older version."""
    from ..curate.rows import rows
    from ..curate.secrets import scrub
    from ..library import Library
    from ..settings import BuildSettings

    with Library(home.library) as library:
        found = [example for example in library.find() if example.status == "usable"]
    if not found:
        raise DataError("No answer is rated 4 or 5 yet: rate some with /+, or name a dataset with --dataset.")
    settings = BuildSettings(form="plain")
    chats = [row.messages for example in reversed(found) for row in rows(example, settings)]
    return [_with(chat, scrub([message.content for message in chat])[0]) for chat in chats]


def _dataset(home: Home, name: str) -> list[list[Message]]:
    from ..curate import dataset

    whole = dataset.load(dataset.resolve(home, name))
    return [row.messages for row in (*whole.train, *whole.validation, *whole.heldout)]


def _with(chat: Sequence[Message], texts: Sequence[str]) -> list[Message]:
    return [message.model_copy(update={"content": text}) for message, text in zip(chat, texts, strict=True)]


def _review(host: Host, replaced: Sequence[Replacement], chats: int, path: Path) -> None:
    """Show every replacement to the user and go on when he says yes; UsageError where nobody can look or agree."""
    if host.json or not host.console.is_terminal:
        # What goes to a file or a pipe may be kept and read by others: no value is shown there.
        raise UsageError("Nobody can look at what is replaced here: run it on a terminal, or add --yes.")
    for each in replaced:
        say(host, f"  {each.placeholder:14} {each.count:4} ×  {each.value}")
    say(host, f"{_listed(Counter(each.kind for each in replaced)).capitalize()} will be replaced.")
    agreed = host.ask(f"Write {many(chats, 'chat')} to {path}?")
    if agreed is None:
        raise UsageError("Nobody can agree here: run it on a terminal, or add --yes.")
    if not agreed:
        raise DataError("Nothing was written. Names that are missing in the list can be given with --word.")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {WORDS[kind]}" for kind, number in counts.items()) or "nothing"


def _write(path: Path, chats: Sequence[Sequence[Message]]) -> None:
    from ..paths import replacing

    with replacing(path) as file:
        for chat in chats:
            line = {"messages": [message.model_dump() for message in chat]}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
