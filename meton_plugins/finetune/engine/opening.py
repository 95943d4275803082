"""The trainer of a run: our own pass where it can be relied on, the library's where not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..graph.shape import Unsupported
from .accelerated import GraphTrainer
from .adapted import Adapter
from .gradient import RowTrainer, Trainer
from .manner import Manner
from .model import Model

__all__ = ["open_trainer"]


def open_trainer(
    model: Model, base: Path, longest: int, threads: int, adapter: Adapter, manner: Manner,
    tokens: npt.NDArray[np.int32], tell: Callable[[str], None] | None = None,
) -> Trainer:  # fmt: skip
    """A trainer for rows of up to `longest` tokens; `tokens`: some of a row. `tell` hears why it is a slower one.

    `manner` is the wish, and becomes what was possible.
    """
    coarse: Unsupported | None = None
    while manner.accelerate and not model.gpu_layers:
        try:
            trainer = GraphTrainer(
                model, base, longest, threads, adapter, None if manner.checked else tokens, bf16=manner.bf16,
                unpacked=manner.unpacked,
            )  # fmt: skip
        except Unsupported as reason:
            if manner.bf16:  # it may be the rounding alone
                coarse = reason
                manner.bf16, manner.unpacked = False, manner.unpacked_f32
                continue
            manner.accelerate = False
            if tell:
                tell(f"the library's own pass is used, which is slower, because {reason}")
        else:
            manner.checked = True
            kept = "unpacked" if manner.unpacked else "packed"
            numbers = "bf16" if manner.bf16 else "f32"
            sys.stderr.write(f"own pass: {trainer.blas}, {numbers}, threads: {threads}, weights: {kept}\n")
            if coarse and tell:
                tell(f"the base's weights are multiplied in F32, which is slower, because {coarse}")
            return trainer
    return RowTrainer(model, longest, threads, adapter)
