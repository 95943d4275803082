"""Our own pass and the library's on the same base, their adapters filled alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader

from meton_plugins.finetune.engine.accelerated import NativeTrainer
from meton_plugins.finetune.engine.adamw import AdamW
from meton_plugins.finetune.engine.adapted import Adapter
from meton_plugins.finetune.engine.compute import ComputeConfig
from meton_plugins.finetune.engine.gradient import Gradients, RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.engine.trainer_factory import open_trainer
from meton_plugins.finetune.gguf.rows import Row

ADAPTER = Adapter(rank=4, alpha=8, seed=1)


def row_of(length: int, vocabulary: int, seed: int = 1) -> Row:
    """Random tokens, the second half learned."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, vocabulary, length + 1).astype(np.int32)
    return Row(str(seed), tokens, np.arange(length + 1) > length // 2)


def with_uneven_norms(path: Path) -> Path:
    """The same base, its norms' weights no longer all 1: a pass that forgets them would not be seen."""
    random = np.random.default_rng(3)
    reader = GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.name.endswith("norm.weight"):
            tensor.data[:] = random.uniform(0.5, 1.5, tensor.data.shape).astype(np.float32)
    reader.data.flush()
    return path


def fill(trainer: RowTrainer | NativeTrainer, seed: int = 0) -> None:
    """Numbers in every B, by the names of the tensors: that of a new adapter is 0."""
    for number, (name, values) in enumerate(sorted(trainer.weights().items())):
        if name.endswith("lora_b"):
            values[:] = np.random.default_rng([seed, number]).normal(0, 0.05, values.shape)


@contextmanager
def own(library: Library, path: Path, threads: int = 1, longest: int = 96, **how: Any) -> Iterator[NativeTrainer]:
    """Our own pass on `path`, checked, its adapter filled."""
    with Model(library, path) as model:
        tokens = row_of(30, model.size).tokens
        with NativeTrainer(model, path, longest, threads, how.pop("adapter", ADAPTER), **how) as trainer:
            trainer.check(tokens, threads)
            if trainer.bf16:
                trainer.check_bf16(tokens, threads)
            fill(trainer)
            yield trainer


@contextmanager
def theirs(library: Library, path: Path) -> Iterator[RowTrainer]:
    """The library's pass, its adapter filled alike."""
    with Model(library, path) as model, RowTrainer(model, 64, 1, ADAPTER) as trainer:
        trainer.gradients(*first(row_of(8, model.size)))
        fill(trainer)
        yield trainer


def first(row: Row) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """As `gradients` takes it."""
    return row.tokens, row.trained


def check_twenty_steps(library: Library, path: Path, compute: ComputeConfig, close: float) -> None:
    """Twenty steps computed so and by the library's pass have the same losses, to the part `close`."""
    curves = []
    for how in (compute, ComputeConfig(trainer="library")):
        with Model(library, path) as model:
            rows = [row_of(length, model.size, length) for length in (12, 25, 18, 30)]
            optimizer, losses = AdamW(), []
            with open_trainer(model, path, 30, ADAPTER, how) as trainer:
                assert isinstance(trainer, NativeTrainer if how.own else RowTrainer)
                for step in range(20):
                    loss, gradients = trainer.mean([rows[step % 4]])
                    optimizer.step(trainer.weights(), gradients, 2e-3)
                    losses.append(loss)
        curves.append(losses)
    assert curves[0][-1] < 0.97 * curves[0][3]  # it does learn
    assert curves[0] == pytest.approx(curves[1], rel=close)


def check_slopes(trainer: NativeTrainer, row: Row, gradients: Gradients, close: float) -> None:
    """Each gradient is the slope of the trainer's loss along it, to the part `close`."""
    for name, gradient in gradients.items():
        values, size = trainer.weights()[name], float(np.sqrt(np.dot(gradient, gradient)))
        before, step = values.copy(), min(0.02 / size, 0.05)
        sides = []
        for sign in (1, -1):
            values[:] = before + np.float32(sign * step / size) * gradient
            sides.append(trainer.loss(*first(row)))
        values[:] = before
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(size, rel=close, abs=2e-6 / step), name


def check_same_bits(library: Library, path: Path, **how: Any) -> None:
    """Loss and gradients are the same to the last bit each time, with packed and with unpacked weights."""
    row, made = row_of(70, 200), []
    for unpacked in (False, True):
        with own(library, path, threads=2, unpacked=unpacked, **how) as trainer:
            made += [trainer.gradients(*first(row)) for _ in range(2)]
    for loss, gradients in made[1:]:
        assert loss == made[0][0]
        assert all(np.array_equal(gradients[name], values) for name, values in made[0][1].items())
