"""The trainer of a run: our own pass where it can be relied on, the library's where not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..graph.shape import Unsupported
from .accelerated import GraphTrainer
from .adapted import Adapter
from .gradient import RowTrainer, Trainer
from .model import Model

__all__ = ["Manner", "open_trainer"]


@dataclass
class Manner:
    """How to compute. `accelerate`: by our own pass, `unpacked`: with weights that stay unpacked; `checked`: whether
    the pass has been compared with the library on this base before, by this process."""

    accelerate: bool = True
    unpacked: bool = False
    checked: bool = False


def open_trainer(
    model: Model, base: Path, longest: int, threads: int, adapter: Adapter, manner: Manner,
    tokens: npt.NDArray[np.int32], tell: Callable[[str], None] | None = None,
) -> Trainer:  # fmt: skip
    """A trainer for rows of up to `longest` tokens; `tokens`: some of a row. `tell` hears why it is the slow one."""
    if manner.accelerate and not model.gpu_layers:
        try:
            trainer = GraphTrainer(
                model,
                base,
                longest,
                threads,
                adapter,
                None if manner.checked else tokens,
                unpacked=manner.unpacked,
            )
        except Unsupported as reason:
            manner.accelerate = False
            if tell:
                tell(f"the library's own pass is used, which is slower, because {reason}")
        else:
            manner.checked = True
            kept = "unpacked" if manner.unpacked else "packed"
            sys.stderr.write(f"own pass: {trainer.blas}, threads: {threads}, weights: {kept}\n")
            return trainer
    return RowTrainer(model, longest, threads, adapter)
