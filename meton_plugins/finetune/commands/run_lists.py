"""Many runs at once: `/finetune status`, a line a run, and `/finetune runs`, a table of what they are and became."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.cells import cell_len, set_cell_size

from .edge import note
from .lettering import ascii_only, line, visible
from .progress import LIVING, standing_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...host.api import Host
    from ..train.record import State
    from ..train.runs import Run

__all__ = ["listed", "standing", "summary"]

#: More lines of runs that are over are read by nobody: `/finetune runs` has all.
MOST: Final = 15
#: Statuses of runs that the user may want to do something about; they stand first, in this order.
FIRST: Final = (*LIVING, "queued", "paused", "interrupted", "failed", "new")
#: The columns of the table, and from which width of the terminal they are there.
COLUMNS: Final = {
    "name": 0, "status": 0, "when": 60, "base": 110, "dataset": 110, "validation": 0, "continues": 72, "recipe": 120,
    "note": 72,
}  # fmt: skip
#: Others are there where a run has something in them.
ALWAYS: Final = ("name", "status", "when", "base", "dataset", "validation")
#: Columns that are cut where the terminal is too narrow for all, and how short they may become.
GIVING: Final = ("note", "base", "dataset", "recipe", "continues", "name")
SHORTEST: Final = 10


class _Standing(NamedTuple):
    run: Run
    state: State
    status: str


class Summary(NamedTuple):
    """A run in a few words."""

    name: str
    status: str
    when: str
    base: str
    dataset: str
    before: float | None
    best: float | None
    continues: str
    recipe: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return self._asdict()


def standing(host: Host, runs: Sequence[Run]) -> None:
    """One line a run: those at work first, then those that wait for the user, then the newest that are over."""
    told = [_Standing(run, run.state, run.status) for run in reversed(runs)]
    waiting = sorted((one for one in told if one.status in FIRST), key=lambda one: FIRST.index(one.status))
    ended = [one for one in told if one.status not in FIRST]
    shown = [*waiting, *ended[: max(MOST - len(waiting), 3)]] if host.console.is_terminal else [*waiting, *ended]
    end = _end(host)
    width = max((len(one.run.name) for one in shown), default=0) if len(shown) > 1 else 0
    for one in shown:
        said = standing_line(one.run, one.state, one.status, width)
        if host.console.is_terminal and len(shown) > 1:
            said = _cut(visible(said), host.console.width, end)
        line(host, said, "bold" if one.status in LIVING and len(shown) > 1 else "")
    hidden = len(runs) - len(shown)
    if hidden:
        note(host, f"{hidden} more: /finetune runs")


def summary(run: Run) -> Summary:
    """What a table or a machine is told of `run`."""
    from ..train.notes import notes

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
    rows = [summary(run) for run in reversed(runs)]
    width = host.console.width if host.console.is_terminal else 10_000
    columns = [
        name
        for name, least in COLUMNS.items()
        if width >= least and (name in ALWAYS or any(getattr(row, name) for row in rows))
    ]
    texts = [{**row.as_dict(), "when": _when(row.when), "validation": _losses(row)} for row in rows]
    lines = [columns, *([visible(" ".join(text[name].split())) for name in columns] for text in texts)]
    wide = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for name in GIVING:  # what tells least is cut first
        over = sum(wide) + 2 * len(wide) - 2 - width
        if over > 0 and name in columns:
            at = columns.index(name)
            wide[at] = max(min(wide[at], SHORTEST), wide[at] - over)
    end = _end(host)
    styles = ["dim", *("bold" if row.status in LIVING else "" for row in rows)]
    for words, style in zip(lines, styles, strict=True):
        padded = (set_cell_size(_cut(word, cells, end), cells) for word, cells in zip(words, wide, strict=True))
        line(host, "  ".join(padded).rstrip(), style)


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


def _end(host: Host) -> str:
    """What stands for all that was cut."""
    return "~" if ascii_only(host) else "…"


def _cut(text: str, width: int, end: str) -> str:
    """`text` in at most `width` cells."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + end
