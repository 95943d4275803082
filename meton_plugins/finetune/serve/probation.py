"""Probation: whether the user finds a promoted model worse than the one that it replaced, by how he rates them."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import FinetuneError
from ..library import Library
from ..library.summary import Judged, judged
from ..paths import Home
from ..told import Told
from .history import History, Swap
from .slots import SLOTS

__all__ = ["Doubt", "doubts", "new_doubts", "worse"]

#: Ratings of each of the two, with fewer of which nothing is concluded.
FEWEST: Final = 8
#: A model that is as good would look so much worse in one of ten cases.
CHANCE: Final = 0.1
#: Under this name the swaps that were told of are kept.
TOLD: Final = "doubts"


class Doubt(NamedTuple):
    """A swap whose new model is rated worse than the old one; `chance` that they are alike (Fisher's exact test)."""

    swap: Swap
    new: Judged
    old: Judged
    chance: float

    @property
    def line(self) -> str:
        """For the user, with the way back."""
        shares = f"{self.new.good} of {self.new.ratings} good, against {self.old.good} of {self.old.ratings}"
        return (
            f"You rate {self.swap.new} worse than {self.swap.old} before it: {shares} (p = {self.chance:.2f}). "
            f"/model-register rollback --slot {self.swap.slot} gives it back."
        )


def worse(new: Judged, old: Judged) -> float:
    """The chance of a share of good ratings as low as that of `new`, or lower, were both models alike.

    Fisher's exact test, one-sided: Fisher, "The Design of Experiments" (1935), chapter 2. 1.0 without ratings.
    """
    good, total = new.good + old.good, new.ratings + old.ratings
    ways = sum(comb(good, k) * comb(total - good, new.ratings - k) for k in range(new.good + 1) if new.ratings >= k)
    return ways / comb(total, new.ratings)


def doubts(file: Path, holds: Mapping[str, str], history: History, library: Library) -> list[Doubt]:
    """The swaps in `file` that still stand, and whose model does worse than the one before in eight ratings or more.

    `holds`: which model each slot of `file` holds now.
    """
    found = []
    for slot in SLOTS:
        stack = history.standing(slot, file)
        if not stack or stack[-1].new != holds.get(slot):
            continue
        new, old = judged(library, stack[-1].new), judged(library, stack[-1].old)
        if min(new.ratings, old.ratings) < FEWEST:
            continue
        chance = worse(new, old)
        if chance < CHANCE:
            found.append(Doubt(stack[-1], new, old, chance))
    return found


def new_doubts(home: Home, file: Path, holds: Mapping[str, str]) -> list[str]:
    """A line for each doubt that the user was not told of yet. Nothing is read where nothing was ever swapped."""
    history = History(home.history)
    if not (home.history.exists() and home.library.exists()):
        return []
    try:
        with Library(home.library) as library:
            found = doubts(file, holds, history, library)
    except FinetuneError:  # what is wrong with the library or the file is told where it matters
        return []
    told = Told(home.told)
    fresh = [doubt for doubt in found if doubt.swap.id not in told.all(TOLD)]
    for doubt in fresh:
        told.add(TOLD, doubt.swap.id)
    return [doubt.line for doubt in fresh]
