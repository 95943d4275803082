"""The output head and the loss, for the learned tokens alone and a part of the vocabulary at a time.

The gradient of the loss with respect to a hidden state is softmax(x · Wᵀ) · W minus the row of the right token: an
attention over the vocabulary. So it is computed as Dao et al., "FlashAttention" (2022), compute one: in one pass over
W, with the sum scaled down whenever a larger score turns up. The scores of all tokens are never held.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from .blas import Array
from .team import Team
from .weights import Weights

__all__ = ["Head"]

#: Scores at a time, and the tokens of the vocabulary that they are at least and at most for.
SCORES: Final = 1 << 22
LEAST: Final = 2048
MOST: Final = 8192


class Head:
    """Logits are x · Wᵀ of the tensor `name`."""

    def __init__(self, name: str, weights: Weights, team: Team) -> None:
        self._name, self._weights, self._team = name, weights, team
        self._vocabulary = weights.stored[name].rows

    def logits(self, x: Array) -> Array:
        """[n, vocabulary] of x [n, width]."""
        out: Array = np.empty((len(x), self._vocabulary), np.float32)
        for start in range(0, self._vocabulary, LEAST):
            stop = min(start + LEAST, self._vocabulary)
            self._team.product(x, self._weights.part(self._name, start, stop).T, out[:, start:stop])
        return out

    def losses(
        self, x: Array, targets: npt.NDArray[np.int64], dx: Array | None = None
    ) -> npt.NDArray[np.float64]:  # fmt: skip
        """-ln of the chance of each target [n] after the state x [n, width]; its gradient into `dx`, for each alone."""
        count = len(x)
        most = max(LEAST, min(MOST, SCORES // max(count, 1)))
        scores: Array = np.empty((count, most), np.float32)
        top = np.full(count, -np.inf, np.float32)
        total = np.zeros(count, np.float64)
        right = np.empty(count, np.float32)
        if dx is not None:
            dx.fill(0)
        for start in range(0, self._vocabulary, most):
            stop = min(start + most, self._vocabulary)
            weight = self._weights.part(self._name, start, stop)
            part = scores[:, : stop - start]
            self._team.product(x, weight.T, part)
            here = np.nonzero((targets >= start) & (targets < stop))[0]
            right[here] = part[here, targets[here] - start]
            shrunk = np.empty(count, np.float32)

            def exponents(rows: slice, part: Array = part, shrunk: Array = shrunk) -> None:
                new = np.maximum(top[rows], part[rows].max(axis=1))
                shrunk[rows] = np.exp(top[rows] - new)
                top[rows] = new
                part[rows] -= new[:, None]
                np.exp(part[rows], out=part[rows])
                total[rows] *= shrunk[rows]
                total[rows] += part[rows].sum(axis=1)
                if dx is not None:
                    dx[rows] *= shrunk[rows, None]

            self._team.rows(exponents, count, stop - start)
            if dx is not None:
                self._team.product(part, weight, dx, add=True)
        if dx is not None:
            dx /= total[:, None].astype(np.float32)
            dx -= self._weights.rows(self._name, targets)
        found: npt.NDArray[np.float64] = np.log(total) + top.astype(np.float64) - right.astype(np.float64)
        return found
