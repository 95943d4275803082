"""What became of runs since the user was last told, and how long training would take here."""

from __future__ import annotations

from typing import Final

from ..errors import FinetuneError
from ..library import Library
from ..paths import Home
from ..settings import load
from ..told import Told
from .launch import kick
from .record import State
from .runs import Run, all_runs

__all__ = ["in_words", "news", "seconds_a_row", "time_to_train"]

#: Somebody who trained for a week without the chat wants no page of lines.
LINES: Final = 3


def news(home: Home) -> list[str]:
    """A line for each run that has finished, failed or broken off since it was last told; each once."""
    if not home.runs.is_dir():
        return []
    kick(home.runs, 0)  # the chat does not wait for it
    told = Told(home.told)
    known = told.get("runs")
    before = known if isinstance(known, dict) else {}
    now: dict[str, str] = {}
    ended: list[tuple[Run, str, State]] = []
    for run in all_runs(home.runs):
        # A later run may have an earlier one's name.
        key = f"{run.name}@{(run.folder / 'run.json').stat().st_mtime_ns}"
        status, state = run.status, run.state
        mark = f"{state.attempt}:{status}"
        if state.removed:  # there is nothing to export of it
            now[key] = mark
            continue
        over = status in ("finished", "failed", "interrupted") or (status == "paused" and state.error)
        if state.attempt == 0 or not over:
            mark = before.get(key, "")
        elif before.get(key) != mark:
            ended.append((run, status, state))
        now[key] = mark
    if now != before:
        told.put("runs", now)
    lines = [_line(run.name, status, state, _short(run, status)) for run, status, state in ended[-LINES:]]
    more = len(ended) - LINES
    return [f"{more} more runs have ended: see /finetune runs.", *lines] if more > 0 else lines


def _short(run: Run, status: str) -> str | None:
    """What most spoils a run that finished, in a few words."""
    if status != "finished":
        return None
    from .diagnosis import hint

    try:
        return hint(run)
    except (FinetuneError, LookupError, TypeError, ValueError):  # a damaged run must not keep a chat from starting
        return None


def time_to_train(home: Home, library: Library) -> str | None:
    """In words, how long the usable examples would train, as fast as the newest run; None where none was measured."""
    rows, pace = library.counts().usable, seconds_a_row(home)
    try:
        return None if pace is None or not rows else in_words(rows * pace * load(home.settings).train.epochs)
    except FinetuneError:
        return None


def seconds_a_row(home: Home) -> float | None:
    """Seconds that the newest run trained on each row; None where none was measured."""
    for run in reversed(all_runs(home.runs)):
        state = run.state
        if state.tokens_per_s and state.step and state.trained_seconds > 0:
            try:
                return state.trained_seconds / (state.step * run.record.settings.batch_size)
            except FinetuneError:
                return None
    return None


def _line(name: str, status: str, state: State, short: str | None) -> str:
    if status == "finished":
        loss = state.validation_loss if state.best_loss is None else state.best_loss
        known = loss is not None and state.base_loss is not None
        better = f" (validation loss {state.base_loss:.2f} → {loss:.2f})" if known else ""
        if short:
            return f"The run {name} has finished{better}, but {short}: see /finetune diagnose {name}."
        return f"The run {name} has finished{better}: /export model {name} makes a model of it."
    if status == "failed":
        return f"The run {name} has failed: {state.error or f'see /finetune logs {name}'}"
    if status == "paused":
        return f"The run {name} paused by itself: {state.error} Go on with /finetune resume {name}."
    return f"The run {name} was interrupted: /finetune resume {name} goes on with it."


def in_words(seconds: float) -> str:
    """A guess of so many seconds: `about 12 min`."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
