"""Causal attention, a block of queries at a time: no matrix of all pairs is ever held.

The heads that share keys and values are one matrix, so that a product is large. The backward pass computes the shares
again from the queries and keys, as in Dao et al., "FlashAttention" (2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from .bf16 import put
from .blas import Array, Matrix
from .shape import Shape
from .team import Team

__all__ = ["BLOCK", "Attention"]

#: Queries at a time, of all heads of a part: and tokens at least, at most.
BLOCK: Final = 384
LEAST: Final = 32
MOST: Final = 128


class Attention:
    """softmax(Q·Kᵀ / √head) · V over each segment: its tokens see themselves and those before them, no other's."""

    def __init__(self, shape: Shape, team: Team) -> None:
        self._shape, self._team, self._blas = shape, team, team.blas
        self._scale = shape.head**-0.5
        self._splits = _splits(shape, team.threads)
        #: Heads of a part: they share keys and values.
        self._heads = shape.heads // shape.kv_heads // self._splits
        self._block = min(MOST, max(LEAST, BLOCK // self._heads))
        later = np.triu(np.full((self._block, self._block), -np.inf, np.float32), 1)
        self._later: Array = np.repeat(later, self._heads, axis=0)

    def forward(
        self, q: Array, k: Array, v: Array, segments: list[slice], out: Array, logs: Array, twin: Matrix
    ) -> None:  # fmt: skip
        """q, out [n, heads · head], k, v [n, kv_heads · head]; `logs` [heads, n] becomes ln Σ exp of the scores.

        `twin`: of `out`, as in `bf16.put`.
        """

        def one(part: tuple[slice, int]) -> None:
            rows, number = part
            heads, columns, shared = self._of(number)
            queries, keys, values = self._together(q[rows, columns]), k[rows, shared], v[rows, shared]
            answers, log = np.empty_like(queries), np.empty(len(queries), np.float32)
            room = np.empty(self._block * self._heads * len(keys), np.float32)
            for seen, lines in self._blocks(len(keys)):
                scores = self._scores(queries[lines], keys[:seen], room)
                top = scores.max(axis=1)
                scores -= top[:, None]
                np.exp(scores, out=scores)
                total = scores.sum(axis=1)
                self._blas.product(scores, values[:seen], answers[lines])
                answers[lines] /= total[:, None]
                log[lines] = np.log(total) + top
            out[rows, columns] = answers.reshape(len(keys), -1)
            put(out[rows, columns], twin[rows, columns])
            logs[heads, rows] = log.reshape(len(keys), -1).T

        self._team.each(one, self._parts(segments))

    def backward(
        self, dout: Array, q: Array, k: Array, v: Array, out: Array, logs: Array, segments: list[slice],
        dq: Array, dk: Array, dv: Array,
    ) -> None:  # fmt: skip
        """Gradients of q, k and v, written to `dq`, `dk`, `dv`, from that of the output; the rest as in `forward`."""
        shape, size = self._shape, self._shape.head
        # Every part writes its own share of its keys' gradient: two threads must not add to one place.
        keys_of, values_of = (
            np.empty((shape.kv_heads * self._splits, len(q), size), np.float32) for _ in range(2)
        )  # fmt: skip

        def one(part: tuple[slice, int]) -> None:
            rows, number = part
            heads, columns, shared = self._of(number)
            queries, wanted = self._together(q[rows, columns]), self._together(dout[rows, columns])
            keys, values = k[rows, shared], v[rows, shared]
            log = logs[heads, rows].T.reshape(-1)
            along = np.einsum("ij,ij->i", wanted, self._together(out[rows, columns]))
            dqueries, dkeys, dvalues = np.empty_like(queries), keys_of[number, rows], values_of[number, rows]
            rooms = np.empty((2, self._block * self._heads * len(keys)), np.float32)
            # From the end: the last block reaches all keys, so that it writes where the others add.
            for seen, lines in reversed(list(self._blocks(len(keys)))):
                more = seen < len(keys)
                shares = self._scores(queries[lines], keys[:seen], rooms[0])
                shares -= log[lines, None]
                np.exp(shares, out=shares)
                self._blas.product(shares.T, wanted[lines], dvalues[:seen], add=more)
                slopes = rooms[1, : shares.size].reshape(shares.shape)
                self._blas.product(wanted[lines], values[:seen].T, slopes)
                slopes -= along[lines, None]
                slopes *= shares
                self._blas.product(slopes, keys[:seen], dqueries[lines], scale=self._scale)
                self._blas.product(slopes.T, queries[lines], dkeys[:seen], add=more, scale=self._scale)
            dq[rows, columns] = dqueries.reshape(len(keys), -1)

        self._team.each(one, self._parts(segments))
        parts = (shape.kv_heads, self._splits, len(q), size)
        for shares, target in ((keys_of, dk), (values_of, dv)):
            np.sum(shares.reshape(parts), axis=1, out=target.reshape(len(q), -1, size).transpose(1, 0, 2))

    def _parts(self, segments: list[slice]) -> list[tuple[slice, int]]:
        # The longest first: with them last, one thread would be left with one while the others wait.
        order = sorted(segments, key=lambda rows: rows.start - rows.stop)
        return [(rows, number) for rows in order for number in range(self._shape.kv_heads * self._splits)]

    def _of(self, number: int) -> tuple[slice, slice, slice]:
        """Of a part: its heads, their columns, and those of the keys that they share."""
        first, size, shared = number * self._heads, self._shape.head, number // self._splits
        return (
            slice(first, first + self._heads), slice(first * size, (first + self._heads) * size),
            slice(shared * size, (shared + 1) * size),
        )  # fmt: skip

    def _together(self, x: Array) -> Array:
        """[n, heads · head] as [n · heads, head], a copy."""
        return np.ascontiguousarray(x).reshape(-1, self._shape.head)

    def _blocks(self, count: int) -> Iterator[tuple[int, slice]]:
        """Of a segment's blocks: how many tokens each sees, and its lines among those of all heads together."""
        for start in range(0, count, self._block):
            stop = min(start + self._block, count)
            yield stop, slice(start * self._heads, stop * self._heads)

    def _scores(self, q: Array, k: Array, room: Array) -> Array:
        """Scores of a block of queries, the last to see all of k, [lines, seen], in memory of `room`."""
        scores = room[: len(q) * len(k)].reshape(len(q), len(k))
        self._blas.product(q, k.T, scores, scale=self._scale)
        count = len(q) // self._heads
        scores[:, -count:] += self._later[: len(q), :count]
        return scores


def _splits(shape: Shape, threads: int) -> int:
    """Parts of the heads that share keys, so many that threads have as much to do as each other."""
    group = shape.heads // shape.kv_heads
    for splits in range(1, group):
        parts = shape.kv_heads * splits
        if group % splits == 0 and (parts % threads == 0 or parts >= 4 * threads):
            return splits
    return group
