"""Sweeps: runs that differ in a few settings, ranked by what they came to on the validation side."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import NotFound
from ..paths import write_json
from .runs import START, Run, all_runs

__all__ = ["Standing", "free_sweep", "members", "settle", "standings", "sweeps", "unsettled"]

#: What a run that did not win loses; its record, events, state and logs stay.
WEIGHTS: Final = ("best.gguf", "adapter.gguf", START)


@dataclasses.dataclass(frozen=True)
class Standing:
    """A run of a sweep. `rank`: from 1, by the best validation loss, of those that have one and did not fail.

    `settings`: what differs among the runs. Losses are nats a learned token, `seconds` of training.
    """

    run: str
    rank: int | None
    winner: bool
    settings: dict[str, Any]
    status: str
    base_loss: float | None
    best_loss: float | None
    seconds: float
    error: str | None
    removed: bool


def sweeps(runs: Path) -> dict[str, list[Run]]:
    """The sweeps whose runs lie in the folder `runs`, oldest first, and their runs, in the order they were made in."""
    found: dict[str, list[Run]] = {}
    for run in all_runs(runs):
        sweep = _said(run, "sweep")
        if isinstance(sweep, str):
            found.setdefault(sweep, []).append(run)
    return {sweep: sorted(each, key=_number) for sweep, each in found.items()}


def members(runs: Path, sweep: str | None) -> tuple[str, list[Run]]:
    """The runs of `sweep`, or of the newest one for None, and its name; NotFound where there is none."""
    there = sweeps(runs)
    if not there:
        raise NotFound("There is no sweep yet: start one, as with /finetune sweep --learning-rate 1e-5,1e-4.")
    name = sweep or list(there)[-1]
    if name not in there:
        raise NotFound(f"There is no sweep {name[:80]!r}: there are {', '.join(list(there)[-8:])}.")
    return name, there[name]


def free_sweep(runs: Path) -> str:
    """The first of sweep-1, sweep-2, ... of which no run and no sweep is called so."""
    taken = {path.name for path in runs.iterdir()} if runs.is_dir() else set()
    taken |= set(sweeps(runs)) | {name.rpartition("-")[0] for name in taken}
    return next(name for number in range(1, len(taken) + 2) if (name := f"sweep-{number}") not in taken)


def standings(found: Sequence[Run]) -> list[Standing]:
    """How the runs of a sweep stand: ranked ones first, then those without a loss yet, then those that failed.

    Among equals the earlier is better. There is a winner once every run is over, well or not.
    """
    settings = {run.name: run.record.settings.model_dump() for run in found}
    first = settings[found[0].name]
    swept = [name for name in first if any(each[name] != first[name] for each in settings.values())]
    winner = _winner(found)
    # A stable sort: the runs come in the order in which they were made.
    ordered = sorted(found, key=lambda run: (run.status == "failed", _loss(run)))
    lines: list[Standing] = []
    for number, run in enumerate(ordered, 1):
        state, status = run.state, run.status
        ranked = status != "failed" and math.isfinite(_loss(run))
        lines.append(Standing(
            run=run.name, rank=number if ranked else None, winner=winner is not None and run.name == winner.name,
            settings={name: settings[run.name][name] for name in swept}, status=status, base_loss=state.base_loss,
            best_loss=state.best_loss, seconds=state.trained_seconds, error=state.error,
            removed=state.removed is not None,
        ))  # fmt: skip
    return lines


def unsettled(runs: Path) -> list[str]:
    """The sweeps in the folder `runs` that are over, and of which more than the winner has adapters still."""
    return [sweep for sweep, found in sweeps(runs).items() if _losers(found)]


def settle(runs: Path, sweep: str) -> None:
    """Where every run of `sweep` is over, remove the adapters and checkpoints of all that were beaten.

    A run that failed keeps its checkpoints: it may be resumed, and is compared then. Killed at any moment, it is
    finished by being called again.
    """
    for run in _losers(sweeps(runs).get(sweep, [])):
        # Said before it is done: nobody takes what is about to go.
        state = run.state.model_copy(update={"removed": f"not the winner of sweep {sweep}"})
        write_json(run.folder / "state.json", state.model_dump(mode="json"))
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        for name in WEIGHTS:
            (run.folder / name).unlink(missing_ok=True)


def _losers(found: Sequence[Run]) -> list[Run]:
    """The runs of a sweep whose adapters are to go, and have not."""
    heavy = [run for run in found if any((run.folder / name).exists() for name in (*WEIGHTS, "checkpoints"))]
    if len(heavy) < 2 or any(_said(run, "keep_all") for run in found):
        return []
    winner = _winner(found)
    return [run for run in heavy if winner is not None and run.folder != winner.folder and _over(run)]


def _winner(found: Sequence[Run]) -> Run | None:
    """The best of those that are over, once all are; None before, or where no loss tells."""
    if not all(_over(run) or run.status == "failed" for run in found):
        return None
    over = [run for run in found if _over(run) and math.isfinite(_loss(run)) and not run.state.removed]
    return min(over, key=_loss, default=None)


def _over(run: Run) -> bool:
    return run.done and run.state.status in ("finished", "stopped")


def _loss(run: Run) -> float:
    """The best validation loss; infinite where there is none."""
    loss = run.state.best_loss
    return loss if loss is not None and math.isfinite(loss) else math.inf


def _said(run: Run, name: str) -> Any:
    """A field of run.json, read without the rest; None of a damaged one."""
    try:
        return json.loads((run.folder / "run.json").read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError):
        return None


def _number(run: Run) -> tuple[int, str]:
    """For order: the number at the end of its name."""
    end = run.name.rpartition("-")[2]
    return (int(end) if end.isdigit() else 10**9, run.name)
