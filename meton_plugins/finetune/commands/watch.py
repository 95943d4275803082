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
from .progress import left_out, run_line

if TYPE_CHECKING:
    from ...host.api import Host
    from ..train.runs import Run

__all__ = ["OVER", "watch"]

#: Statuses in which nothing more happens by itself.
OVER: Final = ("paused", "stopped", "failed", "finished", "interrupted")
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
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    def view() -> Group:
        state = run.state
        done = ProgressBar(total=max(state.steps, 1), completed=state.step, width=60)
        lines: list[RenderableType] = [Text(run_line(run)), done]
        if state.validation_loss is not None:
            base = f"   before training {state.base_loss:.3f}" if state.base_loss is not None else ""
            lines.append(Text(f"validation loss {state.validation_loss:.3f}{base}", style="dim"))
        return Group(*lines, Text("any key leaves; the run goes on", style="dim"))

    with _keys() as pressed, Live(view(), console=host.console, refresh_per_second=4, transient=True) as live:
        while run.status not in OVER:
            if pressed():
                return True
            time.sleep(LOOK)
            live.update(view())
    return False


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
