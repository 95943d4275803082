"""Says as JSON how well this CPU suits each backend file named. A process of its own: loading one may crash."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .library import backend_score

__all__ = ["main"]


def main() -> int:
    """Scores by file, 0 for one that this CPU cannot run."""
    sys.stdout.write(json.dumps({name: backend_score(Path(name)) for name in sys.argv[1:]}))
    return 0
