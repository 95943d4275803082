"""The runs that a run goes on from, and what they learned."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from ..curate.manifest import FILES, Row
from ..curate.rows import PLAIN, example_of
from ..errors import BusyError, DataError, NotFound
from ..gguf.inspect import sha256_of
from ..paths import write_json
from .runs import Run

__all__ = [
    "Ancestor",
    "Learned",
    "Link",
    "adapter_of",
    "learned",
    "lineage",
    "mark",
    "of_examples",
    "remember",
    "session_mark",
]

#: In the folder of a run that goes on from another. A run stays whole without its parents, so it knows this itself.
LEARNED: Final = "learned.json"


class Link(BaseModel):
    """A run that another goes on from, and the sha256 of the adapter that it gave."""

    name: str
    adapter: str | None


class Learned(BaseModel):
    """What a run began with: the `runs` before it, the nearest first, and the marks of what they were trained on.

    A mark is a hash: an example that is forgotten later cannot be read from it.
    """

    runs: list[Link] = []
    examples: list[str] = []
    sessions: list[str] = []


@dataclass(frozen=True)
class Ancestor:
    """A run that another goes on from. `run` is None where it is gone: deleted, or its name is another run's now."""

    name: str
    run: Run | None


def lineage(run: Run) -> list[Ancestor]:
    """The runs that `run` goes on from, the nearest first; empty for one that began with a fresh adapter."""
    return [Ancestor(link.name, _same(run, link)) for link in _before(run).runs]


def learned(run: Run) -> Learned:
    """All that `run` and those before it were trained on, as its child has to know it."""
    before = _before(run)
    rows = [Row.model_validate_json(line) for line in _lines(run.folder / "dataset" / FILES["train"])]
    return Learned(
        runs=[Link(name=run.name, adapter=None), *before.runs],
        examples=sorted({*before.examples, *(mark(found) for found in of_examples(rows).values())}),
        sessions=sorted({*before.sessions, *(session_mark(row.session) for row in rows)}),
    )


def remember(folder: Path, known: Learned, adapter: str) -> None:
    """Write into the folder of a new run what it begins with. `adapter`: the sha256 of its parent's adapter."""
    parent, *older = known.runs
    links = [parent.model_copy(update={"adapter": adapter}), *older]
    write_json(folder / LEARNED, known.model_copy(update={"runs": links}).model_dump())


def of_examples(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each example, by its id, in their order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[example_of(row.id)].append(row)
    return dict(found)


def mark(rows: Iterable[Row]) -> str:
    """Stands for an example as these rows say it; an answer that was fixed gives another one.

    How often it is there does not count, nor whether a build said it once more as a plain chat: with each example that
    is rated, other ones are said so.
    """
    said = {
        json.dumps([row.id, [[message.role, message.content] for message in row.messages]], ensure_ascii=False)
        for row in rows
        if not row.id.endswith(PLAIN)
    }
    return hashlib.sha256("\n".join(sorted(said)).encode()).hexdigest()[:20]


def session_mark(session: str) -> str:
    """Stands for a conversation."""
    return hashlib.sha256(f"session:{session}".encode()).hexdigest()[:20]


def adapter_of(run: Run) -> Path:
    """The adapter that another run may go on from: the best. A sentence where `run` has none, or may have a better."""
    # Not whether its worker lives: after its last word that frees a large model for a while.
    if run.status in ("starting", "running"):
        raise BusyError(
            f"The run {run.name} is training, and its best adapter may be yet to come: wait for it, "
            f"or end it with /finetune stop {run.name}."
        )
    try:
        return run.adapter("best")
    except NotFound as error:
        if run.done:
            raise NotFound(
                f"The adapter of {run.name} is gone from {run.folder}: put its best.gguf back, or start a new run."
            ) from error
        raise NotFound(
            f"The run {run.name} is {run.status} and has no adapter yet: /finetune resume {run.name} goes on with it."
        ) from error


def _before(run: Run) -> Learned:
    """What `run` began with; of a run that lacks the file, what run.json says."""
    try:
        return Learned.model_validate_json((run.folder / LEARNED).read_bytes())
    except FileNotFoundError:
        return Learned(runs=list(_named(run)))
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{run.folder / LEARNED} cannot be read, so what {run.name} was trained on is not known: "
            "restore it from a backup, or delete the run."
        ) from error


def _named(run: Run) -> Iterator[Link]:
    """The runs before `run` as run.json names them."""
    seen = {run.name}
    while (record := run.record).parent is not None and record.parent not in seen:
        seen.add(record.parent)
        yield Link(name=record.parent, adapter=record.parent_adapter)
        run = Run(run.folder.parent / record.parent)
        if not (run.folder / "run.json").is_file():
            return


def _same(child: Run, link: Link) -> Run | None:
    """The run of that name beside `child`, where it is still the one that gave the adapter."""
    run = Run(child.folder.parent / link.name)
    try:
        # One that was made after its child has only its name. This spares most of them the reading of their adapters.
        if not (run.folder / "run.json").is_file() or run.record.created > child.record.created:
            return None
        same = link.adapter is None or sha256_of(run.adapter("best")) == link.adapter
    except (DataError, NotFound):
        return None
    return run if same else None


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is gone, so what this run was trained on is not known: start a new run, not from this one."
        ) from error
