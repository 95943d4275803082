"""The trainer of a run, as its compute configuration says."""

from __future__ import annotations

import sys
from pathlib import Path

from .accelerated import NativeTrainer
from .adapted import Adapter
from .compute import ComputeConfig
from .gradient import RowTrainer, Trainer
from .model import Model

__all__ = ["open_trainer"]


def open_trainer(model: Model, base: Path, longest: int, adapter: Adapter, compute: ComputeConfig) -> Trainer:
    """A trainer for rows of up to `longest` tokens; Unsupported where `compute` cannot be had on this machine."""
    if not compute.own:
        return RowTrainer(model, longest, compute.threads, adapter)
    trainer = NativeTrainer(
        model, base, longest, compute.threads, adapter, bf16=compute.precision == "bf16",
        unpacked=compute.weights == "unpacked",
    )  # fmt: skip
    sys.stderr.write(
        f"own pass: {trainer.blas}, {compute.precision}, threads: {compute.threads}, weights: {compute.weights}\n"
    )
    return trainer
