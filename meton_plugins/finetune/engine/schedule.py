"""The learning rate of each step, and the order of the rows in each epoch: functions of the settings alone."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["learning_rate", "order"]

#: The cosine ends at this part of the peak: a run that is continued does not start from nothing.
FLOOR: Final = 0.1


def learning_rate(step: int, total: int, peak: float, warmup: float) -> float:
    """The rate of optimizer step `step` (from 0) of `total`: linear rise over the part `warmup`, cosine to a tenth."""
    rise = round(total * warmup)
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    progress = (step - rise) / max(1, total - rise - 1)
    return peak * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which `rows` rows are trained on in `epoch`."""
    # NumPy keeps this stream the same from version to version, but not what `permutation` makes of it.
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(rows), kind="stable")
