"""What a user types after /dataset, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meton_plugins.finetune.commands.dataset import ALIASES, make
from meton_plugins.finetune.paths import Home

from .host import RecordingHost

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "conversations"


class Typed:
    """A host with the command, and what a user types into it."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.host = RecordingHost(root, conversations_dir=EXAMPLES)
        self.command = make(self.host, self.home)

    def __call__(self, line: str, code: int = 0) -> str:
        """Type `line` after /dataset, or a short form; its output."""
        self.host.clear()
        word, _, rest = line.partition(" ")
        line = f"{ALIASES[word]} {rest}" if word in ALIASES else line
        assert self.command.run(line) == code, self.host.output
        return self.host.output

    def json(self, line: str, code: int = 0) -> Any:
        self.host.json = True
        try:
            return json.loads(self(line, code))
        finally:
            self.host.json = False
