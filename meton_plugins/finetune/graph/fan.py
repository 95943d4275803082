"""Projections that read the same rows: their frozen matrices and, where they are adapted, their factors.

Each function does a part, some rows or some columns, in the thread that asks: `block` hands the parts out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .blas import Array
from .team import Task, Team
from .weights import Weights

__all__ = ["Factors", "Fan", "Learning"]


@dataclass
class Factors:
    """The adapter of one matrix, in place: y = W·x + scale · B·(A·x). `a` [rank, in], `b` [out, rank]."""

    name: str
    a: Array
    b: Array
    scale: float


@dataclass
class Learning:
    """Room for the gradient of a fan's factors: all A in one, [ranks, in], and of each its B, [out, rank]."""

    a: Array
    b: list[Array | None]


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
        self._a: Array = np.empty((0, 0), np.float32)

    def begin(self, count: int) -> Array:
        """Take the factors as they are now; room for A·x of `count` rows, [count, ranks]. Not for a task to call."""
        self._weights.ready(self._names)
        if self.ranks:
            self._a = np.concatenate([factor.a for factor in self._factors if factor])
        return np.empty((count, self.ranks), np.float32)

    # Forward

    def lower(self, rows: slice, x: Array, down: Array) -> None:
        """A·x of some rows, into `down`."""
        if self.ranks:
            self._blas.product(x[rows], self._a.T, down[rows])

    def lowering(self, x: Array, down: Array) -> list[Task]:
        """The same of all rows, as tasks."""
        return self._team.shares(x, self._a.T, down, False) if self.ranks else []

    def columns(self, number: int, part: slice, x: Array, out: Array) -> None:
        """Some columns of matrix `number`'s x · Wᵀ, into those of `out` [n, out]; `finish` adds what is left."""
        weight = self._weights.rows_of(self._names[number], part)
        self._blas.product(x, weight.T, out[:, part])

    def finish(self, number: int, rows: slice, part: slice, down: Array, out: Array) -> None:
        """Add the factors' part and the bias to some rows and columns of matrix `number`'s `out`."""
        factor, bias = self._factors[number], self._biases[number]
        if factor:
            lowered = down[rows, self._columns[number]]
            self._blas.product(lowered, factor.b[part].T, out[rows, part], add=True, scale=factor.scale)
        if bias is not None:
            out[rows, part] += bias[part]

    # Backward: `dys` are the gradients of each matrix's output, [n, out]

    def matrices(self) -> list[Array]:
        """For `change`; good until others are asked for. Not for a task to call."""
        return self._weights.matrices(self._names)

    def to_middle(self, rows: slice, dys: Sequence[Array], middle: Array) -> None:
        """Some rows of scale · dy·B, side by side for all factors, into `middle` [n, ranks]."""
        for factor, dy, columns in zip(self._factors, dys, self._columns, strict=True):
            if factor:
                self._blas.product(dy[rows], factor.b, middle[rows, columns], scale=factor.scale)

    def change(self, part: slice, dys: Sequence[Array], matrices: Sequence[Array], middle: Array, dx: Array) -> None:
        """Some columns of the gradient of x, into those of `dx` [n, in]."""
        for number, (dy, weight) in enumerate(zip(dys, matrices, strict=True)):
            self._blas.product(dy, weight[:, part], dx[:, part], add=number > 0)
        if self.ranks:
            self._blas.product(middle, self._a[:, part], dx[:, part], add=True)

    def learning(self, gradients: dict[str, Array]) -> Learning:
        """Room for the gradient of the factors, put into `gradients`, flat."""
        found = Learning(np.empty_like(self._a), [])
        for factor, columns in zip(self._factors, self._columns, strict=True):
            found.b.append(np.empty_like(factor.b) if factor else None)
            if factor:
                gradients[f"{factor.name}.lora_a"] = found.a[columns].reshape(-1)
                gradients[f"{factor.name}.lora_b"] = found.b[-1].reshape(-1)  # type: ignore[union-attr]
        return found

    def learn_a(self, part: slice, x: Array, middle: Array, learning: Learning) -> None:
        """Some columns of the gradients of all A, from x [n, in]."""
        if self.ranks:
            self._blas.product(middle.T, x[:, part], learning.a[:, part])

    def learn_b(self, number: int, part: slice, dy: Array, down: Array, learning: Learning) -> None:
        """Some lines of the gradient of matrix `number`'s B, from these columns of `dy`."""
        factor, target = self._factors[number], learning.b[number]
        if factor and target is not None:
            self._blas.product(dy[:, part].T, down[:, self._columns[number]], target[part], scale=factor.scale)
