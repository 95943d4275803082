"""How `/dataset diff` shows what leads from one dataset to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from ..units import many
from .edge import note, say
from .lettering import cell, line
from .tables import SIDES, grid

if TYPE_CHECKING:
    from ...host.api import Host
    from ..curate.diff import DatasetDiff, Item

__all__ = ["differed"]

#: Examples of a kind that are shown; --json has all.
MOST: Final = 10


def differed(host: Host, found: DatasetDiff) -> None:
    """Recipe, rows of each side, tokens."""
    line(host, f"{found.a} → {found.b}", "bold")
    if found.same and not found.recipe:
        say(host, "The same rows by the same recipe.")
    if found.recipe:
        note(host, "\nrecipe")
        rows = grid()
        for change in found.recipe:
            rows.add_row(change.name, cell(host, f"{_plain(change.before)} → {_plain(change.after)}"))
        host.console.print(rows)
    for side, label in SIDES:
        changes = found.sides[side]
        before, after = changes.rows
        counts = many(after, "row") if before == after else f"{before:,} → {many(after, 'row')}"
        line(host, f"\n{label}: {counts}, {many(changes.same, 'example')} the same", "dim")
        _items(host, "+", "green", changes.added, "was")
        _items(host, "-", "red", changes.removed, "now")
        _items(host, "~", "yellow", changes.changed, "")
    _tokens(host, found)


def _items(host: Host, sign: str, style: str, items: Sequence[Item], word: str) -> None:
    if not items:
        return
    labels = dict(SIDES)
    for item in items[:MOST]:
        where = f"  ({word} {labels[item.elsewhere]})" if item.elsewhere and word else ""
        text = Text.assemble((f"{sign} {item.id}", style), "  ", cell(host, f"{item.question[:300]}"), (where, "dim"))
        if host.console.is_terminal:
            text.truncate(host.console.width, overflow="ellipsis")
        host.console.print(text, soft_wrap=True)
    if len(items) > MOST:
        note(host, f"{sign} and {len(items) - MOST:,} more (--json lists all)")


def _tokens(host: Host, found: DatasetDiff) -> None:
    before, after = found.tokens
    if before is None or after is None:
        if before or after:
            note(host, "\ntokens were counted for one of the two only: build the other again with --base")
        return
    text = f"\ntokens: {before.total:,} → {after.total:,}"
    if before.base == after.base:
        text += f" ({after.total - before.total:+,})"
    else:
        text += f", by two bases: {before.base} and {after.base}"
    line(host, text, "dim")


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
