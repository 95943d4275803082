"""Whether enough was rated since a run to go on with it; told within milliseconds, so that every status can."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from ..errors import FinetuneError, NotFound
from ..paths import Home
from .runs import Run, all_runs, find_run

__all__ = ["WORTH", "Rated", "rated_since", "to_refresh"]

#: From so many new examples on, going on with a run is worth a night.
WORTH: Final = 20


class Rated(NamedTuple):
    """So many usable examples were rated or fixed since `run` was made; some of them may be held out."""

    run: Run
    number: int

    @property
    def worth(self) -> bool:
        """Whether they may be enough to go on with the run."""
        return self.number >= WORTH


def to_refresh(runs: Path, name: str | None) -> Run:
    """The run called `name`, or the newest that has an adapter; NotFound where there is none."""
    if name is not None:
        return find_run(runs, name)
    for run in reversed(all_runs(runs)):
        try:
            run.adapter("best")
        except NotFound:
            continue
        return run
    raise NotFound("There is no run with an adapter to go on from: start one with /finetune start.")


def rated_since(home: Home) -> Rated | None:
    """What was rated since the newest run with an adapter; None without one, or without a library."""
    if not home.library.exists():
        return None
    from ..library import Library
    from ..library.summary import usable_since

    try:
        run = to_refresh(home.runs, None)
        with Library(home.library) as library:
            return Rated(run, usable_since(library, run.record.created))
    except FinetuneError:  # a damaged run or library is told of where it matters
        return None
