"""The library in figures that SQLite adds up, so that a large one is never read whole into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from .reading import STATUS
from .records import GOOD, Counts
from .store import Library

__all__ = ["Judged", "Summary", "TagCount", "Week", "judged", "summarize", "usable_since"]

#: Monday of the week in which a rated answer was given; it is asked of no other.
_MONDAY: Final = "CASE WHEN score NOTNULL THEN coalesce(date(at, 'weekday 0', '-6 days'), 'unknown') END"
#: One pass over the wide rows of a large library instead of one for each figure.
_GROUPS: Final = (
    f"SELECT {STATUS}, score, correction NOTNULL, split, coalesce(model, 'unknown'), {_MONDAY}, count(*)"
    " FROM examples GROUP BY 1, 2, 3, 4, 5, 6"
)
_LENGTHS: Final = (
    f"SELECT length(coalesce(correction, answer)), count(*) FROM examples WHERE {STATUS} = 'usable'"
    " GROUP BY 1 ORDER BY 1"
)
_TAGS: Final = (
    f"SELECT tag, count(*), sum({STATUS} = 'usable') FROM tags JOIN examples ON id = example"
    " GROUP BY tag ORDER BY 2 DESC, 1"
)


class TagCount(BaseModel):
    """How many examples bear a tag, and how many of them are usable."""

    examples: int
    usable: int


class Week(BaseModel):
    """How a model's answers of one week, named by its Monday, were rated: 4 and 5 are good, 1 and 2 bad.

    An answer that the user put his own words for is a bad one: its score is that of his words.
    """

    week: str
    model: str
    good: int
    bad: int


class Judged(NamedTuple):
    """How often a model's answers were found good, and bad: so-so ones say neither."""

    good: int
    bad: int

    @property
    def ratings(self) -> int:
        return self.good + self.bad


class Summary(BaseModel):
    """`counts` as `Library.counts` has them. `lengths`: usable examples by the characters of the answer to learn.

    Tags with the most examples come first, weeks newest first.
    """

    counts: Counts
    tags: dict[str, TagCount]
    lengths: dict[int, int]
    weeks: list[Week]


def summarize(library: Library) -> Summary:
    """The summary of `library`."""
    with library._reading() as connection:
        groups = connection.execute(_GROUPS).fetchall()
        sessions = connection.execute("SELECT count(DISTINCT session) FROM examples").fetchone()[0]
        lengths = dict(connection.execute(_LENGTHS))
        tags = {tag: TagCount(examples=every, usable=usable) for tag, every, usable in connection.execute(_TAGS)}
    return Summary(counts=_counts(groups, sessions), tags=tags, lengths=lengths, weeks=_weeks(groups))


def judged(library: Library, model: str) -> Judged:
    """The ratings of all answers of `model`; one that the user put his own words for is a bad one."""
    question = (
        "SELECT coalesce(sum(score >= ? AND correction IS NULL), 0), coalesce(sum(score <= 2 OR correction NOTNULL), 0)"
        " FROM examples WHERE model = ? AND score NOTNULL"
    )
    with library._reading() as connection:
        return Judged(*connection.execute(question, (GOOD, model)).fetchone())


def usable_since(library: Library, when: str) -> int:
    """How many usable examples were rated, or fixed, after the ISO time `when` (UTC)."""
    question = f"SELECT count(*) FROM examples WHERE {STATUS} = 'usable' AND rated_at > ?"
    with library._reading() as connection:
        return int(connection.execute(question, (when,)).fetchone()[0])


def _counts(groups: Iterable[tuple[Any, ...]], sessions: int) -> Counts:
    stands: Counter[str] = Counter()
    scores: Counter[int] = Counter()
    splits: Counter[str] = Counter()
    models: Counter[str] = Counter()
    unrated = corrected = 0
    for status, score, fixed, split, model, _, number in groups:
        stands[status] += number
        models[model] += number
        corrected += number if fixed else 0
        if split is not None:
            splits[split] += number
        if score is None:
            unrated += number
        else:
            scores[score] += number
    return Counts(
        examples=sum(stands.values()),
        sessions=sessions,
        usable=stands["usable"],
        candidates=stands["candidate"],
        rejected=stands["rejected"],
        unrated=unrated,
        corrected=corrected,
        scores=dict(sorted(scores.items())),
        splits=dict(sorted(splits.items())),
        models=dict(sorted(models.items())),
    )


def _weeks(groups: Iterable[tuple[Any, ...]]) -> list[Week]:
    good: Counter[tuple[str, str]] = Counter()
    bad: Counter[tuple[str, str]] = Counter()
    for _, score, fixed, _, model, week, number in groups:
        if score is None:
            continue
        # Counting 0 keeps a week in which all were so-so.
        good[week, model] += number if score >= GOOD and not fixed else 0
        bad[week, model] += number if score <= 2 or fixed else 0
    models = sorted(good, key=lambda each: each[1])
    ordered = sorted(models, key=lambda each: each[0], reverse=True)
    return [Week(week=week, model=model, good=good[week, model], bad=bad[week, model]) for week, model in ordered]
