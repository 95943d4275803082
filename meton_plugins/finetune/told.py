"""What the user was told already, so that each thing is said once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .paths import private_dir, write_json

__all__ = ["Told"]


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

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}
