"""Conversation files into the library, each turn once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from ..errors import DataError
from ..library import Library
from ..turn import Turn
from .clean import Scrub, scrubbed
from .conversations import Conversations, Problem, read
from .feedback import take_feedback

__all__ = ["HarvestReport", "allowed", "harvest"]


@dataclass
class HarvestReport:
    """What a harvest did. `found` turns are `new`, `known` already or `rejected` for a reason."""

    folder: str
    files: int
    sessions: int
    found: int
    new: int
    known: int
    rejected: dict[str, int]
    secrets: dict[str, int]
    problems: list[Problem] = field(default_factory=list)
    ratings: int = 0


def harvest(library: Library, folder: Path, scrub: Scrub) -> HarvestReport:
    """Take every whole turn of the conversation files in `folder` into `library`, without its secrets.

    What Meton keeps beside the folder comes along: exported conversations, and ratings that were given elsewhere.
    Called again it adds only what is new. DataError where there is nothing that can be read.
    """
    feedback = folder.parent / "feedback_data" / "feedback_db.json"
    try:
        read_in = read(folder, folder.parent / "exports")
    except DataError:
        if not feedback.is_file():
            raise
        read_in = Conversations()
    if read_in.files and read_in.unreadable == read_in.files:
        first = read_in.problems[0]
        raise DataError(
            f"None of the {read_in.files} JSON files in {folder} can be used; the first, {Path(first.file).name}, "
            f"is {first.reason}."
        )
    secrets: Counter[str] = Counter()
    turns = allowed(library, read_in, scrub, secrets)
    found = len(turns) + sum(read_in.rejected.values())
    new, known = library.add(turns)
    if len(turns) > len(new) + known:
        read_in.rejected["forgotten by you"] += len(turns) - len(new) - known
    ratings, problem = take_feedback(library, feedback, scrub)
    if problem is not None:
        read_in.problems.append(problem)
    return HarvestReport(
        folder=str(folder),
        files=read_in.files,
        sessions=read_in.sessions,
        found=found,
        new=len(new),
        known=known,
        rejected=dict(read_in.rejected),
        secrets=dict(secrets),
        problems=read_in.problems,
        ratings=ratings,
    )


def allowed(library: Library, found: Conversations, scrub: Scrub, secrets: Counter[str]) -> list[Turn]:
    """The turns of `found` without their secrets, but for those of private sessions, which are counted as rejected."""
    turns: list[Turn] = []
    private = library.kept_out({turn.session for turn in found.turns})
    for name, session in groupby(found.turns, key=lambda turn: turn.session):
        if name in private:
            found.rejected["the session was private"] += len(list(session))
        else:
            turns += scrubbed(list(session), scrub, secrets)
    return turns
