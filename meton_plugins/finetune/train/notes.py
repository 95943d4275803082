"""What the user learned from a run, in his own words: notes.jsonl in its folder, a line a note."""

from __future__ import annotations

import datetime
from typing import Final, NamedTuple

from ..errors import UsageError
from ..paths import append_json, read_json_lines
from .runs import Run

__all__ = ["NOTES", "Note", "add", "notes"]

NOTES: Final = "notes.jsonl"


class Note(NamedTuple):
    """What was written, and when (ISO time, UTC)."""

    at: str
    text: str


def add(run: Run, text: str) -> Note:
    """Keep `text` with `run` for as long as that is there; UsageError for one that says nothing."""
    if not text.strip():
        raise UsageError(f"There is nothing to note: type /finetune note {run.name} and what you learned.")
    # Half of a character, from a shell's argument that is not UTF-8, could not be written.
    text = text.encode("utf-8", "replace").decode("utf-8")
    note = Note(datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), text)
    append_json(run.folder / NOTES, note._asdict())
    return note


def notes(run: Run) -> list[Note]:
    """All notes of `run`, the oldest first."""
    lines = read_json_lines(run.folder / NOTES)
    return [Note(str(one.get("at", "")), str(one["text"])) for one in lines if isinstance(one, dict) and "text" in one]
