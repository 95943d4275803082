"""How long work is shown: a progress bar, the line of a run, the live view of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from ..units import duration, memory
from .edge import note

if TYPE_CHECKING:
    from ...host.api import Host
    from ..train.record import State
    from ..train.runs import Run

__all__ = [
    "LIVING",
    "bar",
    "duration",
    "form_result",
    "left_out",
    "memory",
    "result",
    "run_line",
    "share_done",
    "speed",
    "standing_line",
    "trend",
]

#: Of `interrupted`, the longest status.
STATUS_WIDTH: Final = 11
#: Statuses in which a worker is at work.
LIVING: Final = ("running", "starting")


@contextmanager
def bar(host: Host, in_bytes: Collection[str] = ()) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, fed by calls of (stage, done, total); silent where nobody looks.

    The stages `in_bytes` show their speed.
    """
    if host.json or not host.console.is_terminal:
        yield lambda stage, done, total: None
        return
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[speed]}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=host.console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}
        begun: dict[str, float] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total, speed="")
                begun[stage] = monotonic()
            progress.update(tasks[stage], completed=done, total=total)
            if stage in in_bytes:
                progress.update(tasks[stage], speed=speed(done, monotonic() - begun[stage]))

        yield tell


def speed(done: int, seconds: float) -> str:
    """`12.3 MB/s`; empty before there is one."""
    return f"{done / seconds / 1e6:.1f} MB/s" if seconds > 0 and done else ""


def trend(state: State) -> str:
    """An arrow for where the loss goes."""
    if state.loss_trend is None:
        return " "
    return "↓" if state.loss_trend < -0.005 else "↑" if state.loss_trend > 0.005 else "→"


def share_done(state: State) -> float:
    """How far a run is, from 0 to 1."""
    return min(1.0, state.step / state.steps) if state.steps else 0.0


def run_line(run: Run, width: int = 0) -> str:
    """A run's standing in one line; with `width`, its name and status in columns."""
    return standing_line(run, run.state, run.status, width)


def standing_line(run: Run, state: State, status: str, width: int = 0) -> str:
    """The same, where state and status were read already."""
    parts = [f"{run.name:{width}}  {status:{STATUS_WIDTH if width else 0}}"]
    if status in LIVING:
        if state.steps:
            done = f"{share_done(state):4.0%}  " if width else ""
            parts.append(f"{done}epoch {state.epoch}/{state.epochs}  step {state.step}/{state.steps}")
        if state.loss is not None:
            parts.append(f"loss {state.loss:.3f} {trend(state)}")
        if state.tokens_per_s:
            parts.append(f"{state.tokens_per_s:.0f} tokens/s")
        if state.seconds_left is not None:
            parts.append(f"{duration(state.seconds_left)} left")
    elif status == "failed" or (status == "paused" and state.error):
        parts.append(state.error or "")
    elif status == "queued":
        parts.append(f"place {run.place} in the queue")
        parts.append(f"step {state.step}/{state.steps}" if state.steps else "")
    else:
        if state.steps:
            parts.append(f"step {state.step}/{state.steps}")
        parts.append(result(state))
        if status == "paused" and state.error:
            parts.append(state.error)
    if state.note:
        parts.append(state.note)
    if status in ("interrupted", "paused", "failed"):
        parts.append(f"(go on: /finetune resume {run.name})")
    elif status == "new":
        parts.append(f"(start it: /finetune resume {run.name})")
    elif state.removed:
        parts.append(f"(adapters removed: {state.removed})")
    return "  ".join(part for part in parts if part).rstrip()


def result(state: State) -> str:
    """What training did to the validation loss; empty where nothing was validated."""
    if state.best_loss is None or state.base_loss is None:
        return ""
    return f"validation loss {state.base_loss:.3f} → {state.best_loss:.3f}"


def form_result(state: State) -> str:
    """What training did to the loss of Meton's form, which the validation loss does not count; empty where there is
    none.
    """
    if state.best_form_loss is None or state.base_form_loss is None:
        return ""
    return f"loss {state.base_form_loss:.3f} → {state.best_form_loss:.3f}, not counted above: it is alike in all rows"


def left_out(host: Host, run: Run) -> None:
    """Say how many examples of `run` are not trained on, where there are some."""
    skipped = run.state.skipped
    if skipped:
        many = "1 example is" if skipped == 1 else f"{skipped} examples are"
        note(host, f"{many} left out; /finetune logs {run.name} names them.")
