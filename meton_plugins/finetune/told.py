"""What the user was told already, so that each thing is said once; and where else his words are, to tell him."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .paths import private_dir, write_json

__all__ = ["BACKUPS", "HARVESTED", "IMPORTED", "Told"]

#: The names of lists of what may hold what is forgotten later: the backups that were made, the folders that were
#: harvested, the files that were imported.
BACKUPS: Final = "backups"
HARVESTED: Final = "harvested"
IMPORTED: Final = "imported"


class Told:
    """A small JSON file of what was said. A damaged one is an empty one: something may then be said twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = self._read()

    def get(self, name: str) -> Any:
        """What is kept under `name`, or None."""
        return self._values.get(name)

    def put(self, name: str, value: Any) -> None:
        """Keep `value` under `name`, beside what other sessions put there meanwhile."""
        self._values = {**self._read(), name: value}
        private_dir(self.path.parent)
        write_json(self.path, self._values)

    def add(self, name: str, value: str) -> None:
        """Keep `value` in the list under `name`, once."""
        known = self.all(name)
        if value not in known:
            self.put(name, [*known, value])

    def all(self, name: str) -> list[str]:
        """The list under `name`; empty where nothing is kept there."""
        kept = self._read().get(name)
        return [str(value) for value in kept] if isinstance(kept, list) else []

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}
