"""Projections that read the same rows: their frozen matrices and, where they are adapted, their factors.

Each function does a part, some rows or some columns, in the thread that asks: `block` hands the parts out. Wide arrays
come as `Pieces`: some columns each, whole in memory, since NumPy is half as fast on columns of a larger array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .blas import Array, Matrix
from .team import Team
from .weights import Weights

__all__ = ["Factors", "Fan", "Learning", "Operands", "Pieces", "whole"]

#: An array [n, width] by its columns: for each piece which they are, and their numbers [n, columns].
Pieces = Sequence[tuple[slice, Array]]
#: The same, to be multiplied by frozen weights: in bf16 where these are.
Operands = Sequence[tuple[slice, Matrix]]


def whole(x: Matrix) -> Operands:
    """An array that lies together in memory, as it is."""
    return [(slice(0, x.shape[1]), x)]


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
        """Take the factors as they are now; room for A·x of `count` rows. Not for a task to call."""
        self._weights.ready(self._names)
        if self.ranks:
            self._a = np.concatenate([factor.a for factor in self._factors if factor])
        return self.room(count)

    def room(self, count: int) -> Array:
        """For a number of each rank and row, [count, ranks]."""
        return np.empty((count, self.ranks), np.float32)

    # Forward

    def lower(self, rows: slice, pieces: Pieces, down: Array) -> None:
        """A·x of some rows, into `down`."""
        if self.ranks:
            for number, (columns, x) in enumerate(pieces):
                self._blas.product(x[rows], self._a[:, columns].T, down[rows], add=number > 0)

    def columns(self, number: int, part: slice, pieces: Operands, target: Array) -> None:
        """Columns `part` of matrix `number`'s x · Wᵀ, into `target` [n, part]; `finish` adds what is left."""
        weight = self._weights.rows_of(self._names[number], part)
        for place, (columns, x) in enumerate(pieces):
            self._blas.product(x, weight[:, columns].T, target, add=place > 0)

    def finish(self, number: int, rows: slice, part: slice, down: Array, target: Array) -> None:
        """Add the factors' part and the bias to some rows of what `columns` wrote."""
        factor, bias = self._factors[number], self._biases[number]
        if factor:
            lowered = down[rows, self._columns[number]]
            self._blas.product(lowered, factor.b[part].T, target[rows], add=True, scale=factor.scale)
        if bias is not None:
            target[rows] += bias[part]

    # Backward: `dys` are the gradients of each matrix's output, [n, out]

    def matrices(self) -> list[Matrix]:
        """For `change`; good until others are asked for. Not for a task to call."""
        return self._weights.matrices(self._names)

    def to_middle(self, rows: slice, dys: Sequence[Pieces], middle: Array) -> None:
        """Some rows of scale · dy·B, side by side for all factors, into `middle` [n, ranks]."""
        for factor, pieces, own in zip(self._factors, dys, self._columns, strict=True):
            if not factor:
                continue
            for number, (columns, dy) in enumerate(pieces):
                out = middle[rows, own]
                self._blas.product(dy[rows], factor.b[columns], out, add=number > 0, scale=factor.scale)

    def change(
        self, part: slice, dys: Sequence[Operands], matrices: Sequence[Matrix], middle: Array, target: Array
    ) -> None:  # fmt: skip
        """Columns `part` of the gradient of x, into `target` [n, part]."""
        add = False
        for pieces, weight in zip(dys, matrices, strict=True):
            for columns, dy in pieces:
                self._blas.product(dy, weight[columns, part], target, add=add)
                add = True
        if self.ranks:
            self._blas.product(middle, self._a[:, part], target, add=True)

    def learning(self, gradients: dict[str, Array]) -> Learning:
        """Room for the gradient of the factors, put into `gradients`, flat."""
        found = Learning(np.empty_like(self._a), [])
        for factor, columns in zip(self._factors, self._columns, strict=True):
            above = np.empty_like(factor.b) if factor else None
            found.b.append(above)
            if factor and above is not None:
                gradients[f"{factor.name}.lora_a"] = found.a[columns].reshape(-1)
                gradients[f"{factor.name}.lora_b"] = above.reshape(-1)
        return found

    def learn_a(self, part: slice, x: Array, middle: Array, learning: Learning) -> None:
        """Columns `part` of the gradients of all A, from those of x [n, part]."""
        if self.ranks:
            self._blas.product(middle.T, x, learning.a[:, part])

    def learn_b(self, number: int, part: slice, dy: Array, down: Array, learning: Learning) -> None:
        """Lines `part` of the gradient of matrix `number`'s B, from those columns of its `dy` [n, part]."""
        factor, target = self._factors[number], learning.b[number]
        if factor and target is not None:
            self._blas.product(dy.T, down[:, self._columns[number]], target[part], scale=factor.scale)
