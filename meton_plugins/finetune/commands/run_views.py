"""How `/finetune` shows a run, two of them, its log, and the doctor's findings to people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..units import short
from .edge import say
from .lettering import ascii_only, cell, fitting, line
from .plan_view import computes
from .progress import duration, form_result, memory, result, run_line

if TYPE_CHECKING:
    from ...host.api import Host
    from ..report.compare import Comparison
    from ..report.foreseen import Foreseen
    from ..report.health import Finding
    from ..train.record import Redacted
    from ..train.runs import Run

__all__ = ["compared", "examined", "logged", "shown"]

#: The colours and marks of two runs in one chart: the first of a mark is for a terminal that knows more than ASCII.
TWO: Final = (("cyan", "●o"), ("magenta", "◆x"))
#: Of the chart of two runs, in cells and lines.
WIDEST, HIGH = 100, 14


def shown(host: Host, run: Run) -> None:
    """What a run is made of, and what came of it."""
    from ..report.foreseen import foreseen
    from ..train.diagnosis import hint
    from ..train.notes import notes

    record, state = run.record, run.state
    settings = record.settings
    base = f"{record.base.name or Path(record.base.path).name}  {record.base.architecture}"
    examples = "  ".join(f"{n} {side}" for side, n in record.examples.items())
    lines = [
        ("made", record.created),
        ("base", f"{base}  {record.base.parameters / 1e6:.1f} M parameters"),
        ("dataset", f"{record.dataset}  {examples}"),
        ("continues", _lineage(run)),
        ("recipe", record.recipe or ""),
        ("sweep", record.sweep or ""),
        ("settings", f"rank {settings.lora_rank}  alpha {settings.lora_alpha:g}  rate {settings.learning_rate:g}"),
        (
            "",
            f"batch {settings.batch_size}  epochs {settings.epochs}  context {settings.ctx_size}  seed {settings.seed}",
        ),
        ("template", record.template),
        ("result", result(state)),
        ("form", form_result(state)),
        ("computes", computes(record.compute)[0][1] if record.compute else ""),
        ("trained", duration(state.trained_seconds)),
        ("memory", f"{memory(state.peak_rss_mb)} at most" if state.peak_rss_mb else ""),
        *(("foreseen" if not index else "", _foreseen(one)) for index, one in enumerate(foreseen(record, state))),
        ("", state.note or ""),
        ("left out", f"{state.skipped} examples (see /finetune logs {run.name})" if state.skipped else "nothing"),
        ("forgotten", ", ".join(_forgotten(one) for one in run.redacted)),
        *(("note", f"{one.at[:10]}  {one.text}".strip()) for one in notes(run)),
        ("folder", str(run.folder)),
    ]
    line(host, run_line(run), "bold")
    for label, text in lines:
        if text:
            line(host, f"{label:>9}  {text}")
    if run.status != "failed" and (found := hint(run)):
        line(host, f"{'':9}  {found}: /finetune diagnose {run.name} tells more", "yellow")


def _lineage(run: Run) -> str:
    from ..train.lineage import lineage

    names = [one.name if one.run else f"{one.name} (gone)" for one in lineage(run)]
    replay = run.record.replay
    old = f", with {replay:g} old examples for each new one" if names and replay else ""
    return " → ".join(names) + old


def _foreseen(one: Foreseen) -> str:
    def said(value: float) -> str:
        return memory(value) if one.unit == "MB" else duration(value)

    if one.real is None or one.off is None:
        return f"{one.what} {said(one.planned)}"
    return f"{one.what} {said(one.planned)}, really {said(one.real)} ({one.off:+.0%})"


def _forgotten(one: Redacted) -> str:
    rows = one.trained + one.judged
    return f"{rows} rows on {one.at[:10]}" if rows else f"rows of {one.through} on {one.at[:10]}"


def compared(host: Host, table: Comparison) -> None:
    """Two runs in columns, and their losses in one chart."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("", style="dim")
    for name in table.names:
        grid.add_column(Text(name), justify="right")
    epochs = [(f"after epoch {epoch}" if epoch else "before", a, b) for epoch, a, b in table.losses]
    for title, rows in (("", table.differ), ("result", table.results), ("validation loss", epochs)):
        if title and rows:
            grid.add_row(Text(title, style="bold not dim"))
        for what, a, b in rows:
            grid.add_row(Text(what), *(cell(host, "·" if value is None else short(value)) for value in (a, b)))
    host.console.print(grid)
    _curves(host, table)
    if table.better:
        say(host, f"{table.better} is better on the validation side.")
    if table.warning:
        say(host, table.warning, "yellow")


def _curves(host: Host, table: Comparison) -> None:
    """Even courses as lines and validations as marks, each run in its own colour."""
    from rich.text import Text

    from ..report.curve import Series, chart
    from ..report.scale import smoothed
    from .watch_view import as_texts

    lines = [Series(smoothed(losses), "line", color) for (losses, _), (color, _) in zip(table.curves, TWO, strict=True)]
    marks = [Series(points, "mark", *how) for (_, points), how in zip(table.curves, TWO, strict=True)]
    last = int(max((x for each in (*lines, *marks) for x, _ in each.points), default=0))
    width = min(host.console.width, WIDEST)
    drawn = chart([*lines, *marks], width, HIGH, last, ascii_only=ascii_only(host))
    if not drawn:
        return
    say(host, "")
    for text in as_texts(drawn):
        host.console.print(text, soft_wrap=True)
    parts: list[str | tuple[str, str]] = []
    for name, (color, mark) in zip(table.names, TWO, strict=True):
        sign = mark[-1] if ascii_only(host) else mark[0]
        parts += [(fitting(host, f"━{sign}"), color), f" {name}   "]
    host.console.print(Text.assemble(*parts, (f"loss and validation loss over {table.unit}", "dim")))


def logged(host: Host, events: Iterable[dict[str, Any]]) -> None:
    """One line an event, and one for each example that was left out."""
    from ..report.telling import clock, told

    for event in events:
        line(host, f"{clock(event):8}  {event['event']:<11} {told(event)}".rstrip())
        for example in event.get("skipped", []):
            line(host, f"{'':21} left out {example['id']}: {example['reason']}")


def examined(host: Host, rows: Sequence[Finding]) -> None:
    """The doctor's table; advice stands under what it is about, so that it fits a narrow terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    marks = {"ok": Text("✓", style="green"), "note": Text("·", style="yellow"), "bad": Text("✗", style="red")}
    for row in rows:
        found = Text(row.found)
        if row.advice:
            found.append(f"\n{row.advice}", style="dim")
        table.add_row(marks[row.verdict], Text(row.what), found)
    host.console.print(table)
