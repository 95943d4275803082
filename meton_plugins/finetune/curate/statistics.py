"""How the library stands: what it holds, how near it is to a dataset that teaches, and what to do next."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel

from ..library import Library
from ..library.records import Counts
from ..library.summary import TagCount, Week, summarize
from ..settings import BuildSettings
from .build import CountTokens
from .duplicates import compare, said
from .funnel import sift
from .rows import rows

__all__ = ["ENOUGH", "GOOD", "Bin", "Readiness", "Statistics", "Tokens", "bins", "readiness", "take_stock", "tokens"]

#: Fewer usable examples than this teach little; from GOOD on there is something to hold out and to judge by.
ENOUGH: Final = 50
GOOD: Final = 200

#: Numbers up to so many times the smallest lie in bins of one width, of which there are about EVEN.
NEAR: Final = 8
EVEN: Final = 8


class Bin(BaseModel):
    """How many numbers lie between `low` and `high`, both of them included."""

    low: int
    high: int
    count: int


class Readiness(BaseModel):
    """Whether there is enough to train on. `next`: what to do, the most useful first."""

    usable: int
    enough: int = ENOUGH
    good: int = GOOD
    level: Literal["few", "enough", "good"]
    heldout: int
    next: list[str]


class Tokens(BaseModel):
    """Tokens of the rows that a build would freeze now, as `base` reads them; `over`: how many exceed `ctx_size`."""

    base: str
    rows: int
    total: int
    over: int
    ctx_size: int
    bins: list[Bin]


class Statistics(BaseModel):
    """Everything that `stats` shows. `lengths` are characters of the usable examples' answers."""

    counts: Counts
    readiness: Readiness
    lengths: list[Bin]
    tags: dict[str, TagCount]
    weeks: list[Week]
    tokens: Tokens | None = None


def take_stock(library: Library) -> Statistics:
    """The statistics of `library`, without tokens."""
    summary = summarize(library)
    return Statistics(
        counts=summary.counts,
        readiness=readiness(summary.counts),
        lengths=bins(summary.lengths),
        tags=summary.tags,
        weeks=summary.weeks,
    )


def tokens(
    library: Library, settings: BuildSettings, base: str, count_tokens: CountTokens, ctx_size: int
) -> Tokens | None:
    """The tokens of all rows that `settings` would give, read by `base`; None where there would be none."""
    examples = sorted(library.find(steps=True), key=lambda example: (example.at, example.id))
    kept = sift(examples, settings, compare([said(example) for example in examples], library)).kept
    chats = [row.messages for example in kept for row in rows(example, settings)]
    counts = count_tokens(chats)
    if not counts:
        return None
    return Tokens(
        base=base,
        rows=len(counts),
        total=sum(counts),
        # The last token is only ever predicted: a row may have one more than the context holds.
        over=sum(count > ctx_size + 1 for count in counts),
        ctx_size=ctx_size,
        bins=bins(Counter(counts)),
    )


def readiness(counts: Counts) -> Readiness:
    """How near a library of these `counts` is to a dataset that teaches."""
    usable = counts.usable
    level: Literal["few", "enough", "good"] = "few" if usable < ENOUGH else "enough" if usable < GOOD else "good"
    heldout = counts.splits.get("heldout", 0)
    return Readiness(usable=usable, level=level, heldout=heldout, next=_next(counts, level))


def _next(counts: Counts, level: str) -> list[str]:
    if not counts.examples:
        return ["harvest conversations: /dataset harvest"]
    advice = []
    if level != "good":
        missing = (ENOUGH if level == "few" else GOOD) - counts.usable
        source = f"{counts.unrated:,} wait in /dataset list --unrated" if counts.unrated else "harvest more first"
        advice.append(f"rate {missing:,} more answers good; {source}")
    if counts.sessions < 3:
        advice.append("rate answers of at least three conversations: some are held out")
    if level != "few":
        advice.append("see what would be trained with /dataset preview library")
    return advice


def bins(numbers: Mapping[int, int]) -> list[Bin]:
    """`numbers` (how often each occurs) in at most a dozen or so bins with round edges.

    All of a width where the largest number is a few times the smallest, else rising: 10, 20, 50, 100, 200, ...
    """
    if not numbers:
        return []
    lowest, highest = min(numbers), max(numbers)
    edges = _even(lowest, highest) if highest <= NEAR * lowest else _rising(highest)
    found = [
        Bin(low=low, high=high - 1, count=sum(often for number, often in numbers.items() if low <= number < high))
        for low, high in itertools.pairwise(edges)
    ]
    filled = [index for index, each in enumerate(found) if each.count]
    return found[filled[0] : filled[-1] + 1]


def _even(lowest: int, highest: int) -> list[int]:
    step = next(step for step in _rising(highest)[1:] if step * EVEN >= highest - lowest)
    first = lowest // step * step
    return list(range(first, highest + step + 1, step))


def _rising(highest: int) -> list[int]:
    edges, step = [0], 10
    while edges[-1] <= highest:
        edges += [step, 2 * step, 5 * step]
        step *= 10
    return edges
