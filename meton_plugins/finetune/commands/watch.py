"""`/finetune watch`: a calm live view of a run, left on any key; the run goes on."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from .edge import note, say
from .progress import duration, left_out, run_line, trend

if TYPE_CHECKING:
    from rich.console import Group

    from ...host.api import Host
    from ..train.runs import Run

__all__ = ["OVER", "watch"]

#: Statuses in which nothing more happens by itself.
OVER: Final = ("paused", "stopped", "failed", "finished", "interrupted", "new")
#: Seconds between two looks.
LOOK: Final = 0.25
#: Seconds between two lines where there is no terminal.
LINE_EVERY: Final = 5.0


def watch(host: Host, run: Run) -> int:
    """Show `run` until it is over or a key is pressed; exit code 1 for a run that failed."""
    code = 0
    try:
        left = _live(host, run) if host.console.is_terminal and not host.json else _lines(host, run)
    except KeyboardInterrupt:
        left, code = True, 130
    if left:
        note(host, f"{run.name} goes on. See it again with /finetune watch {run.name}.")
        return code
    say(host, run_line(run))
    left_out(host, run)
    return 1 if run.status in ("failed", "interrupted") else 0


def _live(host: Host, run: Run) -> bool:
    from rich.live import Live

    with _keys() as pressed, Live(_view(run), console=host.console, refresh_per_second=4, transient=True) as live:
        while run.status not in OVER:
            if pressed():
                return True
            time.sleep(LOOK)
            live.update(_view(run))
    return False


def _view(run: Run) -> Group:
    """The run in four short lines, which stand still while their numbers change."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    state = run.state
    done = Table.grid(padding=(0, 2, 0, 0))
    done.add_row(
        ProgressBar(total=max(state.steps, 1), completed=state.step, width=30),
        Text(f"epoch {state.epoch}/{state.epochs}"), Text(f"step {state.step}/{state.steps}"),
    )  # fmt: skip
    losses = "" if state.loss is None else f"loss {state.loss:.3f} {trend(state)}"
    if state.validation_loss is not None:
        before = "" if state.base_loss is None else f", before training {state.base_loss:.3f}"
        losses += f"  validation {state.validation_loss:.3f}{before}"
    speed = [f"{state.tokens_per_s:.0f} tokens/s"] if state.tokens_per_s else []
    speed += [f"{duration(state.seconds_left)} left"] if state.seconds_left is not None else []
    lines = [Text(line) for line in (losses.strip(), "  ".join(speed)) if line]
    return Group(
        Text(f"{run.name}  {run.status}", "bold"), done, *lines, Text("any key leaves; the run goes on", "dim")
    )


def _lines(host: Host, run: Run) -> bool:
    told = 0.0
    while run.status not in OVER:
        if time.monotonic() - told >= LINE_EVERY:
            say(host, run_line(run))
            told = time.monotonic()
        time.sleep(LOOK)
    return False


@contextmanager
def _keys() -> Iterator[Callable[[], bool]]:
    """A function that says whether a key was pressed; the terminal is given back as it was."""
    if not sys.stdin.isatty():
        yield lambda: False
        return
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def pressed() -> bool:
        ready, _, _ = select.select([handle], [], [], 0)
        if ready:
            os.read(handle, 1024)
        return bool(ready)

    try:
        tty.setcbreak(handle)
        yield pressed
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
