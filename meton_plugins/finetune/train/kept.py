"""What was found out once, and holds until its subject changes: small JSON files in `<home>/measured/`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from ..paths import Home, private_dir, write_json

__all__ = ["keep", "kept_file", "read_kept"]

#: Files kept of each kind; the oldest go.
MOST: Final = 40


def kept_file(home: Home, kind: str, *traits: Any) -> Path:
    """Where what is known of a thing with these `traits` is kept."""
    key = hashlib.sha256(json.dumps(traits, default=str).encode()).hexdigest()[:24]
    return home.root / "measured" / f"{kind}-{key}.json"


def read_kept(file: Path) -> Any:
    """What was kept in `file`; None where there is nothing, or nothing readable."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(file: Path, value: Any) -> None:
    """Keep `value` in `file`."""
    write_json(private_dir(file.parent) / file.name, value)
    kind = file.name.partition("-")[0]
    for old in sorted(file.parent.glob(f"{kind}-*.json"), key=lambda path: path.stat().st_mtime)[:-MOST]:
        old.unlink(missing_ok=True)
