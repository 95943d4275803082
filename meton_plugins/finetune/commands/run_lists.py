"""Many runs at once: `/finetune status`, a line a run, and `/finetune runs`, a table of what they are and became."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .edge import note
from .lettering import cell, fitting, line, visible
from .progress import LIVING, run_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...host.api import Host
    from ..train.runs import Run

__all__ = ["listed", "standing", "summary"]

#: More lines of runs that are over are read by nobody: `/finetune runs` has all.
MOST: Final = 15
#: Statuses of runs that the user may want to do something about; they stand first, in this order.
FIRST: Final = (*LIVING, "queued", "paused", "interrupted", "failed")
#: A name is cut after so many cells where the terminal is narrow.
NAME: Final = 24


class Summary(NamedTuple):
    """A run in a few words."""

    name: str
    status: str
    when: str
    base: str
    dataset: str
    before: float | None
    best: float | None
    parent: str
    recipe: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return self._asdict()


def standing(host: Host, runs: Sequence[Run]) -> None:
    """One line a run: those at work first, then those that wait for the user, then the newest that are over."""
    told = [(run, run.status) for run in reversed(runs)]
    waiting = sorted((one for one in told if one[1] in FIRST), key=lambda one: FIRST.index(one[1]))
    ended = [one for one in told if one[1] not in FIRST]
    shown = [*waiting, *ended[: max(MOST - len(waiting), 3)]] if host.console.is_terminal else [*waiting, *ended]
    width = max((len(run.name) for run, _ in shown), default=0) if len(shown) > 1 else 0
    for run, status in shown:
        said = run_line(run, width)
        if host.console.is_terminal and len(shown) > 1:
            said = _cut(fitting(host, visible(said)), host.console.width)
        line(host, said, "bold" if status in LIVING and len(shown) > 1 else "")
    hidden = len(runs) - len(shown)
    if hidden:
        note(host, f"{hidden} more that are over: /finetune runs lists all.")


def summary(run: Run) -> Summary:
    """What a table or a machine is told of `run`."""
    from ..report.lineage import notes

    record, state = run.record, run.state
    written = notes(run)
    return Summary(
        run.name,
        run.status,
        record.created,
        record.base.name or Path(record.base.path).name,
        record.dataset,
        state.base_loss,
        state.best_loss,
        record.parent or "",
        record.recipe or record.sweep or "",
        written[-1].text if written else "",
    )


def listed(host: Host, runs: Sequence[Run]) -> None:
    """A table, newest first; the narrower the terminal, the fewer columns."""
    from rich.table import Table

    rows = [summary(run) for run in reversed(runs)]
    width = host.console.width
    columns = ["name", "status", "validation"]
    if width >= 64:
        columns[2:2] = ["when"]
    if width >= 84 and any(row.parent for row in rows):
        columns.append("continues")
    if width >= 100:
        columns[3:3] = ["base", "dataset"]
    if width >= 100 and any(row.recipe for row in rows):
        columns.append("recipe")
    if width >= 72 and any(row.note for row in rows):
        columns.append("note")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
    for column in columns:
        least = {"when": 16, "status": 8, "validation": 13, "name": 8}.get(column)
        table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=least)
    for row in rows:
        texts = {**row.as_dict(), "when": _when(row.when), "validation": _losses(row), "continues": row.parent}
        style = "bold" if row.status in LIVING else ""
        table.add_row(*(cell(host, str(texts[column]), style) for column in columns))
    host.console.print(table)


def _losses(row: Summary) -> str:
    if row.before is None or row.best is None:
        return "·"
    return f"{row.before:.3f} → {row.best:.3f}"


def _when(created: str) -> str:
    """Of the user's own clock: `2026-11-21 23:05`."""
    try:
        return datetime.datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created[:16]


def _cut(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + ("…" if not text.isascii() else "~")
