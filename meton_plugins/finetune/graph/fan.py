"""Projections that read the same rows: their frozen matrices and, where they are adapted, their factors.

All that can be computed at once is handed to the team at once: waking a thread costs as much as a small product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .blas import Array
from .team import Task, Team
from .weights import Weights

__all__ = ["Factors", "Fan"]


@dataclass
class Factors:
    """The adapter of one matrix, in place: y = W·x + scale · B·(A·x). `a` [rank, in], `b` [out, rank]."""

    name: str
    a: Array
    b: Array
    scale: float


class Fan:
    """y = x · Wᵀ (+ bias) of each matrix of `names`, for rows x [n, in]. `ranks`: of all their factors together."""

    def __init__(self, names: Sequence[str], weights: Weights, team: Team, factors: Mapping[str, Factors]) -> None:
        self._names, self._weights, self._team, self._blas = tuple(names), weights, team, team.blas
        biases = [f"{name.removesuffix('.weight')}.bias" for name in names]
        self._biases = [weights.vector(name) if name in weights else None for name in biases]
        self._factors = [factors.get(name) for name in names]
        #: For each matrix its columns among those of all ranks.
        self._columns: list[slice] = []
        self.ranks = 0
        for factor in self._factors:
            start, self.ranks = self.ranks, self.ranks + (len(factor.a) if factor else 0)
            self._columns.append(slice(start, self.ranks))

    def forward(self, x: Array, outs: Sequence[Array]) -> Array:
        """Write x · Wᵀ to each of `outs` [n, out]; A·x of all [n, ranks]. `finish` adds what is left."""
        down = np.empty((len(x), self.ranks), np.float32)
        products = [
            (x, weight.T, out, False) for weight, out in zip(self._weights.matrices(self._names), outs, strict=True)
        ]
        if self.ranks:
            products.append((x, self._a().T, down, False))
        self._team.run([task for product in products for task in self._team.shares(*product)])
        return down

    def finish(self, rows: slice, down: Array, outs: Sequence[Array]) -> None:
        """Add the factors' part and the bias to some rows of `outs`, in the thread that asks."""
        for factor, bias, columns, out in zip(self._factors, self._biases, self._columns, outs, strict=True):
            if factor:
                self._blas.product(down[rows, columns], factor.b.T, out[rows], add=True, scale=factor.scale)
            if bias is not None:
                out[rows] += bias

    def back(self, dys: Sequence[Array], dx: Array | None = None, others: Sequence[Task] = ()) -> Array:
        """From each matrix's `dy` [n, out]: that of x into `dx` [n, in], unless it is None. What `learning` needs.

        `others`: tasks that do not depend on this; they fill the time in which a thread would wait for the others.
        """
        middle = np.empty((len(dys[0]), self.ranks), np.float32)
        self._team.run([
            task
            for dy, factor, columns in zip(dys, self._factors, self._columns, strict=True)
            if factor
            for task in self._team.shares(dy, factor.b, middle[:, columns], False, factor.scale)
        ])  # fmt: skip
        tasks: list[Task] = []
        if dx is not None:
            pairs = list(zip(dys, self._weights.matrices(self._names), strict=True))
            if self.ranks:
                pairs.append((middle, self._a()))
            tasks = self._team.sums(pairs, dx)
        self._team.run([*tasks, *others])
        return middle

    def learning(
        self, dys: Sequence[Array], x: Array, down: Array, middle: Array, gradients: dict[str, Array]
    ) -> list[Task]:
        """Tasks that write the factors' gradients, put into `gradients`, flat. `down`: of `forward`; `middle`: of
        `back`. All arrays are to stay as they are until the tasks are done."""
        if not self.ranks:
            return []
        below = np.empty((self.ranks, x.shape[1]), np.float32)
        tasks = self._team.shares(middle.T, x, below, False)
        for dy, factor, columns in zip(dys, self._factors, self._columns, strict=True):
            if factor:
                above = np.empty_like(factor.b)
                tasks += self._team.shares(dy.T, down[:, columns], above, False, factor.scale)
                gradients[f"{factor.name}.lora_a"] = below[columns].reshape(-1)
                gradients[f"{factor.name}.lora_b"] = above.reshape(-1)
        return tasks

    def _a(self) -> Array:
        stacked: Array = np.concatenate([factor.a for factor in self._factors if factor])
        return stacked
