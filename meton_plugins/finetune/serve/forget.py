"""Forgetting: out of the library, the frozen datasets and the runs' copies of them; and what is out of its reach."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..curate.build import deciding
from ..curate.manifest import MANIFEST
from ..curate.output import outputs
from ..curate.redact import held, redact
from ..errors import BusyError
from ..library import Forgotten, Library
from ..library.intake import now
from ..library.quotes import Quotes
from ..paths import Home
from ..told import BACKUPS, Told
from ..train.lineage import lineage
from ..train.lock import alone
from ..train.record import Redacted
from ..train.runs import ANSWERS, REPORT, START, Run, all_runs
from .export_record import read_export
from .register import list_registered

__all__ = ["Receipt", "SeenBy", "finish", "forget", "where"]

#: The file of the side that is trained on.
TRAINED: Final = "train.jsonl"

#: Files that are numbers, not words; and those that are handled by name.
WEIGHTS: Final = (".gguf", ".npz", ".db", ".db-wal", ".db-shm")
#: A larger file is no text of ours or of Meton's.
LARGEST: Final = 256 * 2**20
#: How long a session that starts a run may take before forgetting gives up, in seconds.
PATIENCE: Final = 60.0


@dataclass
class SeenBy:
    """A run that saw what is forgotten: so many rows `trained` it, so many only `judged` it, and what came of it.

    `through` is the run before it that was trained on it, where this one was not, but went on from its adapter.
    """

    run: str
    trained: int
    judged: int
    through: str | None = None
    adapters: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


@dataclass
class Receipt:
    """What a forgetting did, and what it could not reach.

    `cleaned` examples had it in what went before them; `quoting` ones still say its words themselves. `files` of the
    data folder, or written for the user, and `conversations` of the host hold the words still; `backups`, and folders
    that a restore kept, were made while they were there.
    """

    examples: list[str]
    copies: list[str] = field(default_factory=list)
    datasets: dict[str, int] = field(default_factory=dict)
    runs: list[SeenBy] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    quoting: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    backups: list[str] = field(default_factory=list)
    #: Whether the words were still known, so that other files could be searched for them.
    searched: bool = True


def where(home: Home, what: Forgotten) -> Receipt:
    """What `forget` would touch: datasets and runs that hold `what`; nothing is changed."""
    receipt = Receipt(list(what.ids), list(what.copies))
    receipt.datasets = {path.name: sum(lines.values()) for path in _datasets(home) if (lines := held(path, what))}
    for run in all_runs(home.runs):
        lines = held(run.folder / "dataset", what)
        if lines:
            receipt.runs.append(_seen(home, run, _note(what, lines)))
    trained = {seen.run for seen in receipt.runs if seen.trained}
    for run, before in _heirs(home, trained):
        heir = _seen(home, run, Redacted(at="", forgotten=what.name, trained=0, judged=0, through=before))
        receipt.runs = [*(seen for seen in receipt.runs if seen.run != run.name), heir]
    return receipt


def forget(home: Home, library: Library, what: Forgotten, conversations: Sequence[Path] = ()) -> Receipt:
    """Forget `what` for good. Killed at any moment, it is finished by `finish`, or by being called again.

    BusyError, with nothing changed, where a run trains on it now.
    """
    with _alone(library):
        for run in all_runs(home.runs):
            if run.alive and held(run.folder / "dataset", what):
                raise BusyError(
                    f"The run {run.name} trains on it now: type /finetune stop {run.name}, or wait, then forget again."
                )
        library.bury(what)
        return _finish(home, library, what, conversations)


def finish(home: Home, library: Library, conversations: Sequence[Path] = ()) -> Receipt | None:
    """Finish a forgetting that was killed; None where there is none."""
    ids = library.unfinished()
    if not ids:
        return None
    with _alone(library):
        return _finish(home, library, library.seek(ids), conversations)


def _finish(home: Home, library: Library, what: Forgotten, conversations: Sequence[Path]) -> Receipt:
    """All but the announcement. The words leave the library last: by them the other places are found."""
    gone = what.ids if what.said else library.unfinished()
    if not what.said:
        what = Forgotten(gone)
    receipt = Receipt(list(gone), list(what.copies), searched=bool(what.said))
    at = now()
    for path in _datasets(home):
        redaction = redact(path, what, at)
        if redaction is not None:
            receipt.datasets[path.name] = sum(redaction.lines.values())
    for run in all_runs(home.runs):
        lines = held(run.folder / "dataset", what)
        if lines:
            # Before the rows go: afterwards nothing would say that the run saw them.
            run.redact(_note(what, lines))
            for quoting in (ANSWERS, REPORT):
                (run.folder / quoting).unlink(missing_ok=True)
        if (run.folder / "dataset").is_dir():
            redact(run.folder / "dataset", what, at)
    trained = {run.name for run in all_runs(home.runs) for note in _notes(run, what) if note.trained}
    for run, before in _heirs(home, trained):
        run.redact(Redacted(at=at, forgotten=what.name, trained=0, judged=0, through=before))
    receipt.runs = [_seen(home, run, note) for run in all_runs(home.runs) for note in _notes(run, what)]
    receipt.removed = _leftovers(home)
    if what.said:
        receipt.cleaned, receipt.quoting = library.purge(what)
    receipt.removed += library.compact()
    quotes = what.quotes()
    receipt.files = [str(path) for path in _quoting([*_texts(home.root), *outputs(home.datasets)], quotes)]
    known = [path for folder in dict.fromkeys(conversations) for path in _of_the_host(folder)]
    receipt.conversations = [str(path) for path in _quoting(known, quotes)]
    receipt.backups = [path for path in Told(home.told).all(BACKUPS) if Path(path).exists()]
    root = home.root.resolve()
    for beside in (f"{root.name}.before-restore-*", f".{root.name}.restore-*"):
        receipt.backups += [str(path) for path in sorted(root.parent.glob(beside))]
    return receipt


@contextmanager
def _alone(library: Library) -> Iterator[None]:
    """No dataset is built and no run started meanwhile: either could still hold what is forgotten."""
    with alone(PATIENCE), deciding(library):
        yield


def _datasets(home: Home) -> list[Path]:
    if not home.datasets.is_dir():
        return []
    return sorted(path for path in home.datasets.iterdir() if (path / MANIFEST).exists() and path.name[0] != ".")


def _leftovers(home: Home) -> list[str]:
    """Remove what killed builds and starts left: whoever could still be at work on it is kept out now."""
    found = [path for folder in (home.datasets, home.runs) if folder.is_dir() for path in folder.glob(".*")]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in found if not path.exists()]


def _note(what: Forgotten, lines: dict[str, int]) -> Redacted:
    trained = lines.get(TRAINED, 0)
    return Redacted(at=now(), forgotten=what.name, trained=trained, judged=sum(lines.values()) - trained)


def _notes(run: Run, what: Forgotten) -> list[Redacted]:
    return [note for note in run.redacted if note.forgotten == what.name]


def _heirs(home: Home, trained: set[str]) -> Iterator[tuple[Run, str]]:
    """The runs that were not `trained` on it themselves, each with the nearest run before it that was."""
    for run in all_runs(home.runs) if trained else []:
        before = [one.name for one in lineage(run) if one.name in trained and one.run]
        if before and run.name not in trained:
            yield run, before[0]


def _seen(home: Home, run: Run, note: Redacted) -> SeenBy:
    """Where the words live on as weights. A run that was only judged by them did not learn them."""
    seen = SeenBy(run.name, note.trained, note.judged, note.through)
    if not note.trained and not note.through:
        return seen
    weights = [run.folder / name for name in ("best.gguf", "adapter.gguf", START)]
    weights += sorted(run.folder.glob("checkpoints/*"))
    seen.adapters = [str(path) for path in weights if path.exists()]
    export = read_export(home.models / run.name)
    seen.merged = [file.path for file in export.files if Path(file.path).exists()] if export else []
    if home.models.is_dir():
        there = [model for model in list_registered(home) if not model.retired]
        seen.models = [model.tag for model in there if model.notes.get("run") == run.name]
    return seen


def _of_the_host(conversations: Path) -> list[Path]:
    """The files that a harvest of the folder, or file, reads."""
    if conversations.is_file():
        return [conversations]
    exports = conversations.parent / "exports"
    feedback = conversations.parent / "feedback_data" / "feedback_db.json"
    return [*sorted(conversations.glob("*.json")), *sorted(exports.glob("*.json")), feedback]


def _texts(root: Path) -> Iterator[Path]:
    """What else lies in the data folder; frozen datasets were looked through line by line."""
    for path in sorted(root.rglob("*")):
        frozen = {"datasets", "dataset"} & set(path.relative_to(root).parts[:-1])
        if not frozen and not path.name.endswith(WEIGHTS):
            yield path


def _quoting(paths: Iterable[Path], quotes: Quotes) -> Iterator[Path]:
    """Those of the files whose text holds the words; in JSON, as they are meant, not as they are escaped."""
    for path in paths:
        try:
            if not quotes or not path.is_file() or path.is_symlink() or path.stat().st_size > LARGEST:
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            if path.suffix == ".html":
                text = html.unescape(text)
        except OSError:
            continue
        if quotes.within(text) or any(quotes.within(one) for one in _strings(text)):
            yield path


def _strings(text: str) -> Iterator[str]:
    """Every string in the JSON document, or JSON lines, `text`; none where it is neither."""
    if text.lstrip()[:1] not in ("{", "["):
        return
    values: list[Any] = []
    for part in (text, *text.splitlines()):
        try:
            values.append(json.loads(part))
        except (ValueError, RecursionError):
            continue
        if part is text:
            break
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            values += value.values() if isinstance(value, dict) else value
