"""How `/dataset stats` shows the library: numbers, a gauge, histograms, ratings per model and week."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..report.histogram import bars, gauge
from ..units import many
from .edge import note
from .lettering import ascii_only, cell, line, visible
from .library_views import counted
from .tables import NARROW, table

if TYPE_CHECKING:
    from ...host.api import Host
    from ..curate.statistics import Bin, Readiness, Statistics, Tokens
    from ..library.records import Counts
    from ..library.summary import TagCount, Week

__all__ = ["stood"]

#: More lines of one chart than this are read by nobody; --json has all.
MOST: Final = 12

LEVELS: Final = {"few": ("too few", "yellow"), "enough": ("enough to begin", ""), "good": ("enough", "green")}


def stood(host: Host, found: Statistics) -> None:
    """Everything that there is to say, from the most to the least important."""
    counted(host, found.counts)
    _ready(host, found.readiness)
    if not found.counts.examples:
        return
    _rated(host, found.counts)
    _weeks(host, found.weeks)
    _tagged(host, found.tags)
    _binned(host, "answers to learn, by characters", found.lengths)
    if found.tokens is not None:
        _tokens(host, found.tokens)


def _ready(host: Host, ready: Readiness) -> None:
    word, style = LEVELS[ready.level]
    shown = gauge(ready.usable, (ready.enough, ready.good), _width(host) - 30, ascii_only=ascii_only(host))
    aim = ready.enough if ready.level == "few" else ready.good
    line(host, f"\nready  {shown} {ready.usable:,} of {aim}: {word}", style)
    held = (
        f"{ready.heldout:,} held out to judge by" if ready.heldout else "nothing held out yet: the first build does it"
    )
    note(host, f"  {held}")
    for advice in ready.next:
        line(host, f"  next: {advice}", "dim")


def _rated(host: Host, counts: Counts) -> None:
    rows = [(f"{score}", counts.scores.get(score, 0)) for score in (5, 4, 3, 2, 1)]
    _chart(host, "ratings", [*rows, ("not rated", counts.unrated)])


def _tagged(host: Host, tags: dict[str, TagCount]) -> None:
    if tags:
        rows = [(visible(tag), count.examples) for tag, count in list(tags.items())[:MOST]]
        _chart(host, "tags", rows)
        _rest(host, len(tags) - MOST, "tag")


def _weeks(host: Host, weeks: Sequence[Week]) -> None:
    if not weeks:
        return
    note(host, "\nratings by model and week")
    narrow = host.console.width < NARROW
    columns = ("week", "model", "good", "bad") if narrow else ("week", "model", "good", "bad", "share good")
    rows = table(*columns)
    for week in weeks[:MOST]:
        both = week.good + week.bad
        share = f"{week.good / both:.0%}" if both else "·"
        texts = (week.week, week.model, f"{week.good:,}", f"{week.bad:,}", share)
        rows.add_row(*(cell(host, text) for text in texts[: len(columns)]))
    host.console.print(rows)
    _rest(host, len(weeks) - MOST, "earlier line")


def _tokens(host: Host, tokens: Tokens) -> None:
    _binned(host, f"rows of a build, by tokens of {visible(tokens.base.rsplit('/', 1)[-1])}", tokens.bins)
    note(host, f"{many(tokens.total, 'token')} in {many(tokens.rows, 'row')}")
    if tokens.over:
        note(host, f"{tokens.over:,} longer than --ctx-size {tokens.ctx_size:,} would be left out")


def _binned(host: Host, title: str, bins: Sequence[Bin]) -> None:
    if bins:
        labels = [f"{each.low:,}–{each.high:,}" for each in bins]
        wide = max(map(len, labels))
        _chart(host, title, [(label.rjust(wide), each.count) for label, each in zip(labels, bins, strict=True)])


def _chart(host: Host, title: str, rows: Sequence[tuple[str, int]]) -> None:
    note(host, f"\n{title}")
    for shown in bars(rows, _width(host), ascii_only=ascii_only(host)):
        line(host, shown)


def _rest(host: Host, number: int, noun: str) -> None:
    if number > 0:
        note(host, f"and {many(number, f'more {noun}')} (--json lists all)")


def _width(host: Host) -> int:
    return min(host.console.width, 100)
