"""Whether a base's weights stay unpacked while it is trained on: faster for short rows, for four bytes each."""

from __future__ import annotations

from typing import Final

import psutil

from .container import CGROUP, limit_bytes

__all__ = ["unpacks"]

#: Part of the machine's memory that unpacked weights may take where nothing else is wished.
SHARE: Final = 1 / 16
#: From so many tokens on, unpacking takes too small a part of a row's time to be worth the memory.
LONG: Final = 512
#: Of an unpacked weight.
BYTES: Final = 4


def unpacks(wish: str, parameters: int, longest: int) -> bool:
    """Whether the weights of a base of so many stay unpacked; `wish` as in settings.TrainSettings.weights.

    By what the machine has, not by what is free now: the plan's memory must be that of the run.
    """
    if wish != "auto":
        return wish == "unpacked"
    most = min(psutil.virtual_memory().total, limit_bytes(CGROUP))
    return longest < LONG and BYTES * parameters <= SHARE * most
