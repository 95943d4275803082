"""How `/model-register` looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...host.api import Host

__all__ = ["print_table"]


def print_table(host: Host, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """`rows` under the names of the first one's keys, as plain text: a name such as `x[/b]` must not be markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    for name in rows[0]:
        # Names of models are there to be copied: never broken in two while anything else can give way.
        table.add_column(Text(name), overflow="fold", no_wrap=name in ("model", "template"))
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    host.console.print(table)
