"""The output head and the loss, for the learned tokens alone and a part of the vocabulary at a time.

The gradient of the loss with respect to a hidden state is softmax(x · Wᵀ) · W minus the row of the right token: an
attention over the vocabulary. So it is computed as Dao et al., "FlashAttention" (2022), compute one: in one pass over
W, with the sum scaled down whenever a larger score turns up. The scores of all tokens are never held. Each thread goes
over its own parts of the vocabulary; what they found is put together at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .blas import Array, Matrix
from .team import Team, pieces
from .weights import Weights

__all__ = ["Head"]

#: Scores that a thread holds at a time, and numbers of W.
SCORES: Final = 1 << 20
NUMBERS: Final = 7 << 18
#: Tokens of the vocabulary that these are at least and at most for.
LEAST: Final = 256
MOST: Final = 4096


@dataclass
class _Found:
    """Of some tokens of the vocabulary, for each state [n]: the largest score, Σ exp(score - largest), and Σ of the
    tokens' rows of W weighted by the same, [n, width]."""

    top: Array
    total: npt.NDArray[np.float64]
    sum: Array | None


class Head:
    """Logits are x · Wᵀ of the tensor `name`."""

    def __init__(self, name: str, weights: Weights, team: Team) -> None:
        self._name, self._weights, self._team = name, weights, team
        self._vocabulary, self._width = weights.stored[name].rows, weights.stored[name].columns

    def logits(self, x: Array) -> Array:
        """[n, vocabulary] of x [n, width]."""
        self._weights.ready([self._name])
        out: Array = np.empty((len(x), self._vocabulary), np.float32)

        def one(part: slice) -> None:
            self._team.blas.product(x, self._weights.rows_of(self._name, part).T, out[:, part])

        self._team.each(one, self._parts(len(x)))
        return out

    def losses(
        self, x: Array, targets: npt.NDArray[np.int64], dx: Array | None = None
    ) -> npt.NDArray[np.float64]:  # fmt: skip
        """-ln of the chance of each target [n] after the state x [n, width]; its gradient into `dx`, for each alone."""
        count, parts, read = len(x), self._parts(len(x)), self._team.blas.operand(x)
        self._weights.ready([self._name])
        right = np.empty(count, np.float32)
        found = [
            _Found(
                np.full(count, -np.inf, np.float32), np.zeros(count), None if dx is None else np.zeros_like(x)
            )
            for _ in range(self._team.threads)
        ]  # fmt: skip

        def one(thread: int) -> None:
            # The same parts each time, whichever thread is faster: sums in another order have other last bits.
            for part in parts[thread :: self._team.threads]:
                self._add(read, targets, part, right, found[thread])

        self._team.each(one, range(self._team.threads))
        top = np.max([each.top for each in found], axis=0)
        shrunk = [np.exp(each.top - top) for each in found]
        total = sum(each.total * by for each, by in zip(found, shrunk, strict=True))
        if dx is not None:
            dx.fill(0)
            for each, by in zip(found, shrunk, strict=True):
                assert each.sum is not None
                each.sum *= by[:, None]
                dx += each.sum
            dx /= total[:, None].astype(np.float32)
            # As the others were multiplied: of a token that is as good as certain, what bf16 rounds away would be all
            # that is left of the difference.
            dx -= self._team.blas.seen(self._weights.rows(self._name, targets))
        losses: npt.NDArray[np.float64] = np.log(total) + top.astype(np.float64) - right.astype(np.float64)
        return losses

    def _add(self, x: Matrix, targets: npt.NDArray[np.int64], part: slice, right: Array, found: _Found) -> None:
        """Add tokens `part` of the vocabulary to what was found; scores of the targets among them into `right`."""
        weight = self._weights.rows_of(self._name, part)
        scores = self._team.blas.product(x, weight.T, np.empty((len(x), len(weight)), np.float32))
        here = np.nonzero((targets >= part.start) & (targets < part.stop))[0]
        right[here] = scores[here, targets[here] - part.start]
        for rows in pieces(len(x), len(weight)):
            new = np.maximum(found.top[rows], scores[rows].max(axis=1))
            shrunk = np.exp(found.top[rows] - new)
            found.top[rows] = new
            scores[rows] -= new[:, None]
            np.exp(scores[rows], out=scores[rows])
            found.total[rows] *= shrunk
            found.total[rows] += scores[rows].sum(axis=1)
            if found.sum is not None:
                found.sum[rows] *= shrunk[:, None]
        if found.sum is not None:
            self._team.blas.product(scores, weight, found.sum, add=True)

    def _parts(self, count: int) -> list[slice]:
        """The vocabulary in parts, as many for each thread."""
        most = max(LEAST, min(MOST, SCORES // max(count, 1), NUMBERS // self._width))
        number = self._team.threads * -(-self._vocabulary // (self._team.threads * most))
        size = -(-self._vocabulary // number)
        return [slice(start, min(start + size, self._vocabulary)) for start in range(0, self._vocabulary, size)]
