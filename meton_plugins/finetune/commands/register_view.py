"""How `/model-register` looks: progress bars and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ...host.api import Host

__all__ = ["Bars", "print_table"]


class Bars:
    """One progress bar for each long step; nothing at all for machines, or where the output is no terminal."""

    def __init__(self, host: Host) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        quiet = host.json or not host.console.is_terminal
        self._progress = Progress(*columns, console=host.console, transient=True, disable=quiet)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        # Before anything else is printed, or a question asked: a live display would write over it.
        self._progress.stop()

    def track(self, what: str) -> Callable[[int, int], None]:
        """A callback for (bytes done, all) that shows them under `what`, from its first call on."""
        tasks: list[TaskID] = []

        def tell(done: int, total: int) -> None:
            if not tasks:
                tasks.append(self._progress.add_task(what, total=total))
            self._progress.update(tasks[0], completed=done, total=total)

        return tell


def print_table(host: Host, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """`rows` under the names of the first one's keys, as plain text: a name such as `x[/b]` must not be markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for name in rows[0]:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    host.console.print(table)
