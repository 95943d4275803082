"""Our own pass and the library's on the same base, their adapters filled alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader

from meton_plugins.finetune.engine.accelerated import GraphTrainer
from meton_plugins.finetune.engine.adapted import Adapter
from meton_plugins.finetune.engine.gradient import RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
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


def fill(trainer: RowTrainer | GraphTrainer, seed: int = 0) -> None:
    """Numbers in every B, by the names of the tensors: that of a new adapter is 0."""
    for number, (name, values) in enumerate(sorted(trainer.weights().items())):
        if name.endswith("lora_b"):
            values[:] = np.random.default_rng([seed, number]).normal(0, 0.05, values.shape)


@contextmanager
def own(library: Library, path: Path, threads: int = 1, longest: int = 96, **how: Any) -> Iterator[GraphTrainer]:
    """Our own pass on `path`, checked, its adapter filled."""
    with Model(library, path) as model:
        tokens = row_of(30, model.size).tokens
        with GraphTrainer(model, path, longest, threads, how.pop("adapter", ADAPTER), tokens, **how) as trainer:
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
