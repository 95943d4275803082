"""What a container lets this process have of the machine's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["CGROUP", "limit_bytes"]

CGROUP: Final = Path("/sys/fs/cgroup")


def limit_bytes(folder: Path) -> float:
    """The limit that stands in `folder`, in bytes; infinite where there is none ("max", or no container)."""
    try:
        return float((folder / "memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return float("inf")
