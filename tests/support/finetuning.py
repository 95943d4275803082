"""`/finetune` as a user types it, and libraries that grow between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meton_plugins.finetune.commands.finetune import make
from meton_plugins.finetune.commands.options import Parser, split
from meton_plugins.finetune.commands.starting import ingredients, start_flags
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.train.planner import Ingredients
from meton_plugins.finetune.turn import Turn

from .host import RecordingHost, User

__all__ = ["SHORT", "Typed", "frozen", "rated"]

#: As `small_dataset` builds.
SHORT = BuildSettings(form="plain", context_turns=0)


class Typed(User):
    """A user of /finetune. `answers` are his to questions; `traits` of his host."""

    def __init__(self, root: Path, *answers: bool | None, **traits: Any) -> None:
        self.home = Home(root)
        host = RecordingHost(root, answers=answers, **traits)
        super().__init__(host, make(host, self.home))

    def ingredients(self, line: str) -> Ingredients:
        """What `start LINE` would make a run of; nothing is made."""
        self.host.clear()
        parser = Parser(prog="/finetune start")
        start_flags(parser)
        return ingredients(self.host, self.home, parser.parse_args(split(line)))


def rated(home: Home, start: int, stop: int) -> list[str]:
    """Add the examples number `start` to `stop` to the library as `small_dataset` does; their ids."""
    turns = [
        Turn(
            session=f"s{number}",
            at=f"2026-01-{number % 28 + 1:02d}T10:00:00",
            question=f"What is number {number}?",
            answer=f"It is {number * 7}, as all know.",
        )
        for number in range(start, stop)
    ]
    with Library(home.make().library) as library:
        new, _ = library.add(turns)
        library.rate(new, 5)
    return new


def frozen(home: Home, settings: BuildSettings = SHORT) -> Path:
    """A dataset of all that is in the library; its folder."""
    with Library(home.library) as library:
        return home.datasets / dataset.build(library, settings, home.datasets).id
