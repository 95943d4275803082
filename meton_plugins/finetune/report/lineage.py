"""Where a run comes from, and what its user noted about it."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import DataError
from ..paths import read_json_lines
from ..train.runs import Run

__all__ = ["Ancestor", "Note", "ancestors", "notes"]

#: Written by `/finetune note`, a line a note.
NOTES: Final = "notes.jsonl"


class Ancestor(NamedTuple):
    """A run that another continues; `run` is None where it was deleted."""

    name: str
    run: Run | None


class Note(NamedTuple):
    """What the user wrote, and when."""

    at: str
    text: str


def ancestors(run: Run) -> list[Ancestor]:
    """The run that `run` continues, the one that this continues, and so on to the first."""
    found: list[Ancestor] = []
    seen = {run.name}
    parent = run.record.parent
    while parent and parent not in seen:
        seen.add(parent)
        other = Run(run.folder.with_name(parent))
        try:
            above = other.record.parent
        except DataError:
            found.append(Ancestor(parent, None))
            break
        found.append(Ancestor(parent, other))
        parent = above
    return found


def notes(run: Run) -> list[Note]:
    """The oldest first."""
    lines = read_json_lines(run.folder / NOTES)
    return [Note(str(one.get("at", "")), str(one["text"])) for one in lines if isinstance(one, dict) and "text" in one]
