"""How much memory a training may take on this machine now."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psutil

from ..engine.container import CGROUP, limit_bytes

__all__ = ["RESERVE_MB", "available_mb"]

#: Left to the user's other programs, which grow while a run trains.
RESERVE_MB: Final = 512.0


def available_mb() -> float:
    """Memory that can be had without swapping: the machine's, or what this container's limit leaves of it."""
    return min(psutil.virtual_memory().available / 2**20, _left_to_container(CGROUP))


def _left_to_container(folder: Path) -> float:
    """The limit less what is in use, but for files that are only cached; infinite where there is no limit."""
    most = limit_bytes(folder)
    if most == float("inf"):
        return most
    try:
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError, IndexError):
        return float("inf")
    return max(0, most - used + cached) / 2**20
