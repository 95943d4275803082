"""`/dataset forget`: examples that shall be gone for good, and a receipt of what could not be reached."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import FinetuneError, NotFound, UsageError
from ..units import many
from .edge import note, say, show_json
from .examples import named
from .options import Parser, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..library import Forgotten, Library
    from ..paths import Home
    from ..serve.forget import Receipt

__all__ = ["forget"]

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d(?::\d\d){0,2})?")
#: So many examples are shown before the question, and paths of each kind after it.
SHOWN: Final = 10


def forget(host: Host, home: Home, rest: str) -> int:
    """Forget examples, after showing them and asking."""
    parser = Parser(
        prog="/dataset forget",
        description="Remove examples for good: from the library, its copies, frozen datasets and runs' copies of them; "
        "no later harvest, turn or import brings them back. There is no way to undo it.",
    )
    parser.add_argument("what", nargs="*", metavar="ID", help="examples, session:ID or before:DATE (2026-03-01)")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    words = parser.parse_args(split(rest))
    from ..library import Library
    from ..serve import forget as service

    conversations = _conversations(host, home)
    with Library(home.library) as library:
        begun = set(library.unfinished())
        earlier = service.finish(home, library, conversations)
        if earlier is not None and not host.json:
            say(host, "A forgetting that was interrupted before is finished now.")
            _show(host, earlier)
        what = library.seek(_chosen(library, words.what, begun))
        if not what.ids:
            if earlier is None:
                raise UsageError("Say what to forget: an id, session:ID or before:DATE; see /dataset forget --help.")
            if host.json:
                show_json(host, {"forgotten": True, **asdict(earlier)})
            return 0
        touched = service.where(home, what)
        if not words.yes and not _agreed(host, library, what, touched):
            if host.json:
                show_json(host, {"forgotten": False})
            else:
                say(host, "Nothing was forgotten.")
            return 1
        receipt = service.forget(home, library, what, conversations)
    if host.json:
        show_json(host, {"forgotten": True, **asdict(receipt), "earlier": asdict(earlier) if earlier else None})
    else:
        _show(host, receipt)
    return 0


def _chosen(library: Library, words: Sequence[str], begun: set[str]) -> list[str]:
    """The ids that `words` mean. Those in `begun` are gone already: the same line typed again after a kill."""
    ids: list[str] = []
    for word in words:
        before = word.removeprefix("before:")
        if before != word:
            ids += [example.id for example in library.find(before=_moment(before))]
            continue
        try:
            ids += named(library, word)
        except NotFound:
            if not any(name.startswith(word.lower()) for name in begun) and not (begun and ":" in word):
                raise
    if words and not ids and not begun:
        raise NotFound("There is no example that is so old: see /dataset list.")
    return list(dict.fromkeys(ids))


def _moment(text: str) -> str:
    """A date, perhaps with a time, as the library writes them; one that is none, or is still to come, is a slip."""
    try:
        when = datetime.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        when = None
    if when is None:
        raise UsageError(f"before: takes a date such as 2026-03-01, not {text[:40]!r}.")
    if when > datetime.now():
        raise UsageError(f"before:{text} is still to come, so it would forget everything: name a day that has been.")
    return text.replace(" ", "T")


def _agreed(host: Host, library: Library, what: Forgotten, touched: Receipt) -> bool:
    """Whether the user, having seen what would go, wants it."""
    for name in what.ids[:SHOWN]:
        example = library.get(name)
        copy = "  (the same words in another session)" if name in what.copies else ""
        say(host, f"{name}  {example.at[:16].replace('T', ' ')}  {' '.join(example.question.split())[:80]}{copy}")
    if len(what.ids) > SHOWN:
        note(host, f"and {len(what.ids) - SHOWN:,} more")
    if touched.datasets:
        note(host, f"rows go from the datasets {', '.join(touched.datasets)}")
    for run in touched.runs:
        through = f"goes on from {run.through}, which was trained on it" if run.through else "was judged by it"
        note(host, f"the run {run.run} {'was trained on it' if run.trained else through}")
    those = "this example" if len(what.ids) == 1 else f"these {len(what.ids):,} examples"
    answer = host.ask(f"Forget {those} for good?")
    if answer is None:
        raise UsageError("Nobody can be asked here, and forgetting cannot be undone: add --yes.")
    return answer


def _show(host: Host, receipt: Receipt) -> None:
    """The receipt, for people."""
    say(host, f"Forgotten: {many(len(receipt.examples), 'example')}.", "bold")
    if receipt.copies:
        note(host, f"{len(receipt.copies)} of them held the same words in another session")
    for name, lines in receipt.datasets.items():
        note(host, f"dataset {name}: {many(lines, 'line')} taken out; its manifest says so")
    if receipt.cleaned:
        note(host, f"taken out of what surrounds {many(len(receipt.cleaned), 'other example')}")
    if receipt.removed:
        note(host, f"removed: {', '.join(receipt.removed)}")
    left = list(_left(receipt))
    if left:
        say(host, "Out of reach, and for you to decide:")
        for line in left:
            note(host, f"  {line}")
    elif receipt.searched:
        note(host, "No run was trained on it, and no other file that could be searched holds it.")


def _left(receipt: Receipt) -> Sequence[str]:
    lines = []
    for run in receipt.runs:
        if not run.trained and not run.through:
            lines.append(f"the run {run.run} was judged by it, and did not learn it")
            continue
        if run.trained:
            lines.append(f"the run {run.run} was trained on {many(run.trained, 'row')} of it:")
        else:
            lines.append(f"the run {run.run} goes on from {run.through}, which was trained on it:")
        lines += [f"  adapter {path}" for path in run.adapters]
        lines += [f"  merged model {path}" for path in run.merged]
        lines += [f"  Ollama model {name}" for name in run.models]
    for title, found in (
        ("still says its words itself (forget it, too, if you mind): example", receipt.quoting),
        ("holds its words:", receipt.files),
        ("the host's own file holds its words:", receipt.conversations),
        ("a backup was made while it was there:", receipt.backups),
    ):
        lines += [f"{title} {one}" for one in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"and {len(found) - SHOWN:,} more like this (--json lists all)")
    if not receipt.searched:
        lines.append("the words were gone already when the rest was finished, so no other file was searched for them")
    lines.append("what you exported or copied to other places yourself")
    return lines


def _conversations(host: Host, home: Home) -> list[Path]:
    """The folders where the host's own files may hold it, too."""
    from ..settings import load
    from ..told import HARVESTED, IMPORTED, Told

    told = Told(home.told)
    folders = [host.conversations_dir, *map(Path, told.all(HARVESTED))]
    for path in map(Path, told.all(IMPORTED)):
        folders += [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    # A broken settings.toml must not keep anything from being forgotten.
    with suppress(FinetuneError):
        folders.append(load(home.settings).harvest.conversations_dir)
    return [folder.expanduser().resolve() for folder in folders if folder is not None]
