"""What an import says of its turns: ratings, corrections and tags, put beside the examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .intake import now
from .store import Library

__all__ = ["Mark", "mark"]


@dataclass(frozen=True)
class Mark:
    """What is said of one turn. No score leaves it unrated."""

    score: int | None = None
    correction: str | None = None
    tags: tuple[str, ...] = ()


def mark(library: Library, marks: Mapping[str, Mark]) -> dict[str, str]:
    """Put `marks` (by `records.identity` of the turn) on examples of `library`: the id of each that is there.

    A rating that is there already stands, so that what the user said since is not undone by importing again; and an
    import that was killed between taking the turns in and this is completed by the next one.
    """
    found: dict[str, str] = {}
    with library._writing() as connection:
        for key, said in marks.items():
            row = connection.execute("SELECT id, score FROM examples WHERE identity = ?", (key,)).fetchone()
            if row is None:
                continue  # the user had it forgotten
            found[key] = name = str(row[0])
            if said.score is not None and row[1] is None:
                connection.execute(
                    "UPDATE examples SET score = ?, correction = ?, rated_at = ? WHERE id = ?",
                    (said.score, said.correction, now(), name),
                )
            connection.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(name, tag) for tag in said.tags])
    return found
