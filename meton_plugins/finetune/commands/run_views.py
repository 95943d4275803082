"""How `/finetune` shows a run, its log, and the doctor's findings to people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .edge import say
from .progress import duration, run_line

if TYPE_CHECKING:
    from ...host.api import Host
    from ..report.compare import Comparison
    from ..report.health import Finding
    from ..train.runs import Run

__all__ = ["compared", "examined", "logged", "shown"]


def shown(host: Host, run: Run) -> None:
    """What a run is made of, and what came of it."""
    record, state = run.record, run.state
    settings = record.settings
    base = f"{record.base.name or Path(record.base.path).name}  {record.base.architecture}"
    lines = {
        "made": record.created, "base": f"{base}  {record.base.parameters / 1e6:.1f} M parameters",
        "dataset": f"{record.dataset}  " + "  ".join(f"{n} {side}" for side, n in record.examples.items()),
        "settings": f"rank {settings.lora_rank}  alpha {settings.lora_alpha:g}  rate {settings.learning_rate:g}",
        "": f"batch {settings.batch_size}  epochs {settings.epochs}  context {settings.ctx_size}  seed {settings.seed}",
        "template": record.template, "trained": duration(state.trained_seconds),
        "memory": f"{state.peak_rss_mb:.0f} MB at most" if state.peak_rss_mb else "",
        "note": state.note or "",
        "left out": f"{state.skipped} examples (see /finetune logs {run.name})" if state.skipped else "nothing",
        "forgotten": ", ".join(f"{one.trained + one.judged} rows on {one.at[:10]}" for one in run.redacted),
        "folder": str(run.folder),
    }  # fmt: skip
    say(host, run_line(run), "bold")
    for label, text in lines.items():
        if text:
            say(host, f"{label:>9}  {text}")


def compared(host: Host, table: Comparison) -> None:
    """Two runs in columns."""
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
            grid.add_row(Text(what), *(Text("·" if value is None else _short(value)) for value in (a, b)))
    host.console.print(grid)
    if table.better:
        say(host, f"{table.better} is better on the validation side.")
    if table.warning:
        say(host, table.warning, "yellow")


def logged(host: Host, events: Iterable[dict[str, Any]]) -> None:
    """One line an event, and one for each example that was left out."""
    for event in events:
        skipped = event.get("skipped", [])
        say(host, f"{str(event.get('at', ''))[11:19]:8}  {event['event']:<11} {_facts(event)}".rstrip())
        for example in skipped:
            say(host, f"{'':21} left out {example['id']}: {example['reason']}")


def _facts(event: dict[str, Any]) -> str:
    kind = event["event"]
    if kind == "step":
        return (
            f"{event['step']}/{event['steps']}  epoch {event['epoch']}/{event['epochs']}  loss {event['loss']:.3f}  "
            f"gradient {event['gradient_norm']:.3g}  rate {event['learning_rate']:.2g}  "
            f"{event['tokens_per_s']:.0f} tokens/s"
        )
    if kind == "failed":
        return str(event["message"])
    hidden = ("event", "at", "attempt", "skipped")
    facts = {name: value for name, value in event.items() if name not in hidden and value is not None}
    return "  ".join(f"{name} {_short(value)}" for name, value in facts.items())


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
