"""Whether a base's weights stay unpacked while it is trained on: faster for short rows, for four bytes each."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import psutil

__all__ = ["unpacks"]

#: Part of the machine's memory that unpacked weights may take where nothing else is wished.
SHARE: Final = 1 / 16
#: From so many tokens on, unpacking takes too small a part of a row's time to be worth the memory.
LONG: Final = 512
#: Of an unpacked weight.
BYTES: Final = 4
#: What a container may use at most, or "max".
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def unpacks(wish: str, parameters: int, longest: int) -> bool:
    """Whether the weights of a base of so many stay unpacked; `wish` as in settings.TrainSettings.weights.

    By what the machine has, not by what is free now: the plan's memory must be that of the run.
    """
    if wish != "auto":
        return wish == "unpacked"
    most: float = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        most = min(most, float(_LIMIT.read_text(encoding="ascii")))
    return longest < LONG and BYTES * parameters <= SHARE * most
