"""`/finetune diagnose`: what the numbers of a run say, and which setting to change."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from .edge import note, say, show_json
from .following import found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...host.api import Host
    from ..paths import Home
    from ..train.finding import Finding

__all__ = ["diagnose", "explained"]


def diagnose(host: Host, home: Home, options: argparse.Namespace) -> int:
    """A run explained from its numbers."""
    from ..train.diagnosis import examine

    run = found(home, options)
    seen = examine(run)
    if host.json:
        value = {"run": run.name, "status": run.status, "healthy": seen.healthy}
        show_json(host, {**value, "findings": [asdict(one) for one in seen.findings], "good": seen.good})
        return 0
    if seen.healthy:
        say(host, f"{run.name}  Nothing stands out.", "bold")
    else:
        say(host, f"{run.name}  {len(seen.findings)} finding{'s' if len(seen.findings) > 1 else ''}", "bold")
        explained(host, seen.findings)
    for line in seen.good:
        say(host, f"✓ {line}", "green")
    if not seen.findings and not seen.good:
        note(host, "There are hardly any numbers yet: look again when it has trained for a while.")
    return 0


def explained(host: Host, findings: Sequence[Finding]) -> None:
    """The findings; evidence and advice stand under what they are about, so that they fit a narrow terminal."""
    from rich.table import Table
    from rich.text import Text

    from .edge import harmless

    table = Table.grid(padding=(0, 2, 0, 0))
    marks = {"bad": Text("✗", style="red"), "note": Text("·", style="yellow")}
    for one in findings:
        text = Text(one.problem, style="bold")
        text.append(harmless(f"\n{one.evidence}"), style="not bold")
        text.append(f"\n→ {one.advice}", style="not bold dim")
        table.add_row(marks[one.severity], text)
    host.console.print(table)
