"""`/finetune watch`: a calm live view of a run, left on any key; the run goes on."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from .edge import note
from .lettering import line
from .progress import left_out, run_line

if TYPE_CHECKING:
    from ...host.api import Host
    from ..train.runs import Run

__all__ = ["OVER", "watch"]

#: Statuses in which nothing more happens by itself.
OVER: Final = ("paused", "stopped", "failed", "finished", "interrupted", "new")
#: Seconds between two looks.
LOOK: Final = 0.25
#: Seconds between two pictures at least, and how much longer than drawing one takes: the machine is for training.
DRAW, CALM = 0.5, 25
#: Seconds between two lines where there is no terminal.
LINE_EVERY: Final = 5.0


def watch(host: Host, run: Run) -> int:
    """Show `run` until it is over or a key is pressed; exit code 1 for a run that failed."""
    code = 0
    live = host.console.is_terminal and not host.console.is_dumb_terminal and not host.json
    try:
        left = _live(host, run) if live else _lines(host, run)
    except KeyboardInterrupt:
        left, code = True, 130
    if left:
        note(host, f"{run.name} goes on. See it again with /finetune watch {run.name}.")
        return code
    line(host, run_line(run))
    left_out(host, run)
    _hint(host, run)
    return 1 if run.status in ("failed", "interrupted") else 0


def _hint(host: Host, run: Run) -> None:
    from ..train.diagnosis import hint

    if run.status != "failed" and (found := hint(run)):
        note(host, f"{found}: /finetune diagnose {run.name} tells more.")


def _live(host: Host, run: Run) -> bool:
    """On a screen of its own, so that a terminal that changes its size leaves no traces; True where a key was hit."""
    from rich.live import Live

    from ..report.course import Course
    from .watch_view import view

    course = Course(run.folder)
    with _keys() as (pressed, hint), Live(console=host.console, screen=True, auto_refresh=False) as live:
        size, due = host.console.size, 0.0
        while run.status not in OVER:
            if time.monotonic() >= due or host.console.size != size:
                began, size = time.monotonic(), host.console.size
                course.read()
                live.update(view(host, run, course, hint), refresh=True)
                due = began + max(DRAW, CALM * (time.monotonic() - began))
            if pressed(LOOK):
                return True
    return False


def _lines(host: Host, run: Run) -> bool:
    said = 0.0
    while run.status not in OVER:
        if time.monotonic() - said >= LINE_EVERY:
            line(host, run_line(run))
            said = time.monotonic()
        time.sleep(LOOK)
    return False


@contextmanager
def _keys() -> Iterator[tuple[Callable[[float], bool], str]]:
    """A function that waits so many seconds and says whether a key was pressed, and how to leave, in words.

    The terminal is given back as it was.
    """
    if not sys.stdin.isatty():

        def asleep(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        yield asleep, "Ctrl-C leaves; the run goes on"
        return
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def pressed(seconds: float) -> bool:
        ready, _, _ = select.select([handle], [], [], seconds)
        if ready:
            os.read(handle, 1024)
        return bool(ready)

    try:
        tty.setcbreak(handle)
        yield pressed, "any key leaves; the run goes on"
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
