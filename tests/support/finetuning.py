"""`/finetune` as a user types it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meton_plugins.finetune.commands.finetune import make
from meton_plugins.finetune.commands.options import Parser, split
from meton_plugins.finetune.commands.starting import ingredients, start_flags
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.train.planner import Ingredients

from .host import RecordingHost, User

__all__ = ["Typed"]


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
