"""Files of others into the library: any known format, each example once, a bad record costing only itself."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from ..errors import DataError, NotFound, UsageError
from ..formats.chat import BadRecord
from ..formats.reading import detect, read
from ..library import Library
from ..library.imported import Mark, mark
from ..library.records import GOOD, content_mark, identity, tag_of
from ..paths import check_name
from . import conversations
from .chats import Brought, turns_of
from .clean import Scrub
from .conversations import Problem
from .feedback import take_feedback
from .harvest import allowed

__all__ = ["Import", "ImportReport", "files_in", "label_of", "take_files"]

#: Turns and characters that are written in one transaction.
BATCH: Final = 500
BATCH_CHARACTERS: Final = 4 << 20

#: Problems that are named one by one; the rest are counted.
NAMED: Final = 1000

#: Folders whose files are no data of the user's.
PASSED_BY: Final = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})

#: What `source` holds of examples that were not imported, and the word for all of them.
TAKEN: Final = ("meton", "feedback", "library")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Import:
    """How to import. `score` is for examples without a verdict of their own; None leaves them unrated.

    UsageError for a tag or a label that is no name.
    """

    scrub: Scrub
    score: int | None = GOOD
    tags: tuple[str, ...] = ()
    label: str | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        # What was put on here must come off with `/dataset tag ID -WORD`.
        object.__setattr__(self, "tags", tuple(map(tag_of, self.tags)))
        label_of(Path(), self.label)


@dataclass
class ImportReport:
    """What an import did. `rejected` counts records and turns by reason, `formats` records by format."""

    files: int = 0
    passed_by: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    new: int = 0
    known: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    secrets: Counter[str] = field(default_factory=Counter)
    labels: list[str] = field(default_factory=list)
    ratings: int = 0
    problems: list[Problem] = field(default_factory=list)
    #: Of all examples that the files hold, new or known.
    ids: list[str] = field(default_factory=list)

    def bad(self, path: Path, reason: str, line: int = 0, number: int = 0) -> None:
        """Count something that cannot be used, and name it, with its number in its line, while there are few."""
        self.rejected[reason] += 1
        if len(self.problems) < NAMED:
            self.problems.append(Problem(str(path), f"{reason} (record {number})" if number else reason, line))


def take_files(
    library: Library, paths: Sequence[Path], how: Import, tell: Progress = lambda done, total: None
) -> ImportReport:
    """Take the training data in `paths`, files or folders of them, into `library`. `tell` gets bytes done and in all.

    NotFound for a path that is not there; DataError where no file holds anything that can be used.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    for path in paths:
        for file in files_in(path, lambda file: True):
            files.setdefault(file.resolve(), (path, file))
    total = sum(file.stat().st_size for file in files)
    report = ImportReport()
    basket = Basket(library, how.tags, report)
    meton: list[Path] = []
    done = 0
    for path, file in files.values():
        try:
            kind = how.format or detect(file)
        except OSError as error:
            report.bad(file, f"cannot be read ({error.strerror or error})")
            continue
        if kind is None:
            report.passed_by += 1
        elif kind == "meton":
            report.files += 1
            meton.append(file)
        elif kind == "feedback":
            report.files += 1
            _take_feedback(library, file, how.scrub, report)
        else:
            report.files += 1
            _take_records(basket, file, _label(how, path, report), how, partial(_tell, tell, done, total))
        done += file.stat().st_size
        tell(done, total)
    basket.flush()
    if meton:
        _take_meton(library, meton, how, report)
    if not report.files and not report.problems:
        raise DataError(
            f"No file in {', '.join(map(str, paths))} holds training data that is known here: name its format with "
            "--format, or see /dataset import --help."
        )
    if report.problems and not report.formats.total():
        first = report.problems[0]
        where = f"{first.file}, line {first.line}" if first.line else first.file
        raise DataError(f"Nothing of what was read can be used; the first problem is in {where}: {first.reason}.")
    return report


def files_in(path: Path, wanted: Callable[[Path], bool], passed_by: frozenset[str] = PASSED_BY) -> Iterator[Path]:
    """`path` itself where it is a file, else the `wanted` files in it and below, in order; NotFound without any."""
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise NotFound(f"There is no file or folder {path}.")
    for folder, inside, names in os.walk(path):
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name not in passed_by)
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file() and wanted(file):
                yield file


def label_of(path: Path, wanted: str | None = None) -> str:
    """The name under which examples from `path` are known as a source of datasets; UsageError for one that is taken."""
    if wanted is not None:
        if wanted in TAKEN:
            raise UsageError(f"{wanted!r} is the name of what was not imported: choose another with --as.")
        return check_name(wanted, "source")
    stem = path.resolve().name if path.is_dir() else path.stem
    name = re.sub(r"[^a-z0-9_.-]+|\.\.+", "-", stem.lower()).strip("-._")[:60].strip("-._") or "import"
    return f"{name}-file" if name in TAKEN else name


class Basket:
    """Turns on their way into the library, some hundred in each transaction."""

    def __init__(self, library: Library, tags: tuple[str, ...], report: ImportReport) -> None:
        self._library = library
        self._tags = tags
        self._report = report
        self._held: list[Brought] = []
        self._characters = 0

    def put(self, brought: Iterable[Brought]) -> None:
        """Take these in with the next transaction."""
        for one in brought:
            self._held.append(one)
            self._characters += sum(map(len, one.turn.texts()))
            if len(self._held) >= BATCH or self._characters >= BATCH_CHARACTERS:
                self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._held:
            return
        # The library itself looks at the answer; what was forgotten may be the correction.
        dead = self._library.tombstones() if any(one.correction for one in self._held) else {}
        held = [
            one for one in self._held if not dead or content_mark(one.turn.question, one.correction or "") not in dead
        ]
        new, known = self._library.add([one.turn for one in held])
        marks = {identity(one.turn): Mark(one.score, one.correction, self._tags) for one in held}
        self._report.new += len(new)
        self._report.known += known
        if len(self._held) > len(new) + known:
            self._report.rejected["forgotten by you"] += len(self._held) - len(new) - known
        self._report.ids += mark(self._library, marks).values()
        self._held, self._characters = [], 0


def _label(how: Import, path: Path, report: ImportReport) -> str:
    label = label_of(path, how.label)
    if label not in report.labels:
        report.labels.append(label)
    return label


def _tell(tell: Progress, before: int, total: int, at: int) -> None:
    tell(before + at, total)


def _take_records(basket: Basket, file: Path, label: str, how: Import, tell: Callable[[int], None]) -> None:
    report = basket._report
    at = when(file)
    try:
        for record in read(file, how.format, tell):
            found = record.found
            try:
                if isinstance(found, BadRecord):
                    raise found
                basket.put(turns_of(found, how.scrub, report.secrets, at=at, source=label, score=how.score))
                report.formats[record.format or ""] += 1
            except BadRecord as error:
                report.bad(file, str(error), record.line, record.number)
    except OSError as error:
        report.bad(file, f"cannot be read ({error.strerror or error})")


def _take_meton(library: Library, files: list[Path], how: Import, report: ImportReport) -> None:
    """Conversations as a harvest takes them: unrated, because nobody has chosen among their answers."""
    found = conversations.read(files)
    turns = allowed(library, found, how.scrub, report.secrets)
    basket = Basket(library, how.tags, report)
    basket.put(Brought(turn) for turn in turns)
    basket.flush()
    report.formats["meton"] += found.sessions
    report.rejected += found.rejected
    report.problems += found.problems


def _take_feedback(library: Library, file: Path, scrub: Scrub, report: ImportReport) -> None:
    ratings, problem = take_feedback(library, file, scrub)
    report.ratings += ratings
    report.formats["feedback"] += 1
    if problem is not None:
        report.problems.append(problem)


def when(file: Path) -> str:
    """When `file` was written, as the library has times: local and naive."""
    return datetime.fromtimestamp(file.stat().st_mtime).isoformat(timespec="seconds")
