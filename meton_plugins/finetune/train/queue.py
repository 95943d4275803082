"""The runs that wait for this machine to be free, in their order: one file, which all checkouts share.

Nothing watches it: whoever ends a training starts the next (see launch.py). Whoever changes it holds the start lock.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..paths import private_dir, queue_file, read_json_lines, replacing

__all__ = ["Entry", "place", "put", "take_out", "waiting"]


@dataclass(frozen=True)
class Entry:
    """A run that waits since `at`, put there by the verb `by`.

    It had `attempt` attempts then. A worker begins by counting one more, which makes the entry void: a run is neither
    lost nor started twice, wherever a kill falls between its start and the line's removal.
    """

    folder: Path
    at: str
    by: str
    attempt: int


def waiting() -> list[Entry]:
    """Those that wait, the next one first. Runs that are gone, over or under way since do not wait."""
    found: dict[Path, Entry] = {}
    for line in read_json_lines(queue_file()):
        entry = _read(line)
        if entry is not None and entry.folder not in found and _waits(entry):
            found[entry.folder] = entry
    return list(found.values())


def place(folder: Path) -> int | None:
    """The place of the run in `folder`, from 1; None where it does not wait."""
    wanted = folder.resolve()
    return next((number for number, entry in enumerate(waiting(), 1) if entry.folder == wanted), None)


def put(folders: Iterable[Path], by: str) -> None:
    """Have the runs in `folders` wait behind all others; one that waits already keeps its place."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    entries = waiting()
    known = {entry.folder for entry in entries}
    new = [folder for folder in dict.fromkeys(each.resolve() for each in folders) if folder not in known]
    _write([*entries, *(Entry(folder, now, by, _attempt(folder)) for folder in new)])


def take_out(folder: Path) -> bool:
    """Have the run in `folder` wait no longer; whether it did."""
    wanted = folder.resolve()
    entries = waiting()
    kept = [entry for entry in entries if entry.folder != wanted]
    _write(kept)
    return len(kept) < len(entries)


def _write(entries: list[Entry]) -> None:
    private_dir(queue_file().parent)
    with replacing(queue_file(), "w") as file:
        for entry in entries:
            file.write(json.dumps({**vars(entry), "folder": str(entry.folder)}) + "\n")


def _read(line: Any) -> Entry | None:
    """The entry of a line; None for a damaged one."""
    try:
        return Entry(Path(line["folder"]), str(line["at"]), str(line["by"]), int(line["attempt"]))
    except (KeyError, TypeError, ValueError):
        return None


def _waits(entry: Entry) -> bool:
    try:
        there = (entry.folder / "run.json").is_file() and not (entry.folder / "done").exists()
    except (OSError, ValueError):  # a folder that may not be looked into, or a path that is none
        return False
    return there and _attempt(entry.folder) == entry.attempt


def _attempt(folder: Path) -> int:
    """The attempts that the run had, as `Run.state` counts them."""
    try:
        return int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["attempt"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
