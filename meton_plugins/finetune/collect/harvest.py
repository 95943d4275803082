"""Conversation files into the library, each turn once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from ..errors import DataError
from ..library import Library
from ..turn import Turn
from .conversations import Problem, read

__all__ = ["HarvestReport", "Scrub", "harvest"]

#: Takes the texts of one conversation, gives them back without secrets, and counts what it found by kind.
Scrub = Callable[[Sequence[str]], tuple[list[str], dict[str, int]]]


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


def harvest(library: Library, folder: Path, scrub: Scrub) -> HarvestReport:
    """Take every whole turn of the conversation files in `folder` into `library`, without its secrets.

    Called again it adds only what is new. DataError where the folder holds no conversation that can be read.
    """
    read_in = read(folder)
    if read_in.unreadable == read_in.files:
        first = read_in.problems[0]
        raise DataError(
            f"None of the {read_in.files} JSON files in {folder} can be used; the first, {Path(first.file).name}, "
            f"is {first.reason}."
        )
    secrets: Counter[str] = Counter()
    turns: list[Turn] = []
    for _, session in groupby(read_in.turns, key=lambda turn: turn.session):
        turns += _scrubbed(list(session), scrub, secrets)
    new, known = library.add(turns)
    return HarvestReport(
        folder=str(folder),
        files=read_in.files,
        sessions=read_in.sessions,
        found=len(turns) + sum(read_in.rejected.values()),
        new=len(new),
        known=known,
        rejected=dict(read_in.rejected),
        secrets=dict(secrets),
        problems=read_in.problems,
    )


def _scrubbed(turns: list[Turn], scrub: Scrub, secrets: Counter[str]) -> list[Turn]:
    """The turns of one conversation without secrets; the same secret has one placeholder in all of them."""
    # Each text once: context repeats the turns before it, and counts must not grow with it.
    texts = list(dict.fromkeys(text for turn in turns for text in turn.texts()))
    cleaned, counts = scrub(texts)
    secrets.update(counts)
    replaced = dict(zip(texts, cleaned, strict=True))
    return [turn.with_texts([replaced[text] for text in turn.texts()]) for turn in turns]
