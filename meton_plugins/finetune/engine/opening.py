"""The trainer of a run: our own pass where it can be relied on, the library's where not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import psutil

from ..graph.shape import Unsupported
from .accelerated import GraphTrainer, shape_of_file
from .adapted import Adapter
from .gradient import RowTrainer, Trainer
from .model import Model

__all__ = ["Manner", "open_trainer"]

#: Part of the machine's memory that unpacked weights may take where nothing else is wished.
SHARE: Final = 1 / 8
#: Of an unpacked weight.
BYTES: Final = 4
#: What a container may use at most, or "max".
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


@dataclass
class Manner:
    """How to compute. `accelerate`: by our own pass; `weights`: as in settings.TrainSettings; `checked`: whether the
    pass has been compared with the library on this base before, by this process."""

    accelerate: bool = True
    weights: str = "auto"
    checked: bool = False


def open_trainer(
    model: Model, base: Path, longest: int, threads: int, adapter: Adapter, manner: Manner,
    tokens: npt.NDArray[np.int32], tell: Callable[[str], None] | None = None,
) -> Trainer:  # fmt: skip
    """A trainer for rows of up to `longest` tokens; `tokens`: some of a row. `tell` hears why it is the slow one."""
    if manner.accelerate and not model.gpu_layers:
        try:
            unpacked = manner.weights == "unpacked" or (manner.weights == "auto" and _fits(base))
            trainer = GraphTrainer(
                model, base, longest, threads, adapter, None if manner.checked else tokens, unpacked=unpacked
            )
        except Unsupported as reason:
            manner.accelerate = False
            if tell:
                tell(f"the library's own pass is used, which is slower, because {reason}")
        else:
            manner.checked = True
            kept = "unpacked" if unpacked else "packed"
            sys.stderr.write(f"own pass: {trainer.blas}, threads: {threads}, weights: {kept}\n")
            return trainer
    return RowTrainer(model, longest, threads, adapter)


def _fits(base: Path) -> bool:
    # By what the machine has, not by what is free now: the plan's memory must be that of the run.
    most: float = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        most = min(most, float(_LIMIT.read_text(encoding="ascii")))
    return BYTES * shape_of_file(base).parameters <= SHARE * most
