"""How the library's examples are shown to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from ..turn import AGENT
from ..units import many
from .edge import note, say
from .lettering import cell, line
from .tables import NARROW, SIDES, grid, table

if TYPE_CHECKING:
    from ...host.api import Host
    from ..curate.quality import Quality
    from ..library import Example
    from ..library.records import Counts

__all__ = ["counted", "listed", "shown"]


def listed(host: Host, examples: Sequence[Example], total: int, empty: bool) -> None:
    """One line an example, of `total` that there are; `empty`: the library holds none at all."""
    if empty:
        say(host, "The library is empty: take your chats in with /dataset harvest, or files with /dataset import.")
        return
    if not examples:
        say(host, "No example matches.")
        return
    narrow = host.console.width < NARROW
    columns = ["id", "score", "question"] if narrow else ["id", "when", "score", "question", "answer"]
    if not narrow and any(example.tags for example in examples):
        columns.append("tags")
    found = table(*columns)
    for example in examples:
        score = "·" if example.score is None else f"{example.score}{'*' if example.correction is not None else ''}"
        texts = {
            "id": example.id,
            "when": example.at[:16].replace("T", " "),
            "score": score,
            "question": example.question[:300],
            "answer": example.target[:300],
            "tags": ", ".join(example.tags),
        }
        found.add_row(*(cell(host, texts[column]) for column in columns))
    host.console.print(found)
    if any(example.correction is not None for example in examples):
        note(host, "* corrected by you")
    if total > len(examples):
        note(host, f"{len(examples):,} of {total:,} (--limit 0 lists all)")


def shown(host: Host, example: Example, quality: Quality, calls: int = 0) -> None:
    """One example whole; `calls`: how many calls of the model its answer took, where they are known."""
    rating = "not rated" if example.score is None else f"{example.score} of 5"
    rows = {
        "example": example.id,
        "session": example.session,
        "when": example.at,
        "model": example.model or "unknown",
        "rating": f"{rating}, {example.status}",
        "split": dict(SIDES)[example.split] if example.split else "not assigned",
    }
    if example.tags:
        rows["tags"] = ", ".join(example.tags)
    if example.origin != AGENT:
        rows["origin"] = example.origin
    if example.failure:
        rows["failure"] = example.failure
    if calls:
        rows["model calls"] = str(calls)
    if example.tools:
        rows["tools"] = ", ".join(tool.name for tool in example.tools)
    facts = grid()
    for name, value in rows.items():
        facts.add_row(name, cell(host, value))
    host.console.print(facts)
    for title, text in (("question", example.question), ("answer", example.answer), ("correction", example.correction)):
        if text is not None:
            note(host, f"\n{title}")
            say(host, text)
    note(host, f"\nquality {quality.score:.2f}")
    parts = grid()
    for name, part in quality.parts.items():
        parts.add_row(name, Text(f"{part:.2f}  {quality.reasons.get(name, '')}".rstrip()))
    host.console.print(parts)


def counted(host: Host, counts: Counts) -> None:
    """The library in numbers."""
    rows = {
        "examples": f"{counts.examples:,} in {many(counts.sessions, 'session')}",
        "usable": f"{counts.usable:,} (rated 4 or 5), {counts.corrected:,} corrected",
        "candidates": f"{counts.candidates:,}, {counts.unrated:,} of them not rated",
        "rejected": f"{counts.rejected:,} (rated 1 or 2)",
    }
    if counts.splits:
        rows["split"] = ", ".join(f"{counts.splits.get(side, 0):,} {label}" for side, label in SIDES)
    numbers = grid()
    for name, value in rows.items():
        numbers.add_row(name, cell(host, value))
    for model, number in counts.models.items():
        numbers.add_row("model", cell(host, f"{model}: {number:,}"))
    host.console.print(numbers)
    if not counts.examples:
        line(host, "The library is empty: take conversations in with /dataset harvest.", "dim")
