"""Causal attention, a block of queries of one head at a time: no matrix of all pairs is ever held.

The backward pass computes the shares again from the queries and keys, as in Dao et al., "FlashAttention" (2022).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .blas import Array
from .shape import Shape
from .team import Team

__all__ = ["BLOCK", "Attention"]

#: Queries at a time.
BLOCK: Final = 256


class Attention:
    """softmax(Q·Kᵀ / √head) · V over each segment: its tokens see themselves and those before them, no other's."""

    def __init__(self, shape: Shape, team: Team) -> None:
        self._shape, self._team, self._blas = shape, team, team.blas
        self._scale = shape.head**-0.5
        self._later: Array = np.triu(np.full((BLOCK, BLOCK), -np.inf, np.float32), 1)

    def _of(self, x: Array, head: int, rows: slice) -> Array:
        size = self._shape.head
        part: Array = x[rows, head * size : (head + 1) * size]
        return part

    def _parts(self, segments: list[slice]) -> list[tuple[slice, int]]:
        # The longest first: with them last, one thread would be left with one while the others wait.
        order = sorted(segments, key=lambda rows: rows.start - rows.stop)
        return [(rows, head) for rows in order for head in range(self._shape.heads)]

    def _shares(self, q: Array, k: Array, start: int, room: Array) -> Array:
        """Scores of a block of queries from `start` on, [block, seen], in memory of `room`; not yet their softmax."""
        count, seen = len(q), start + len(q)
        scores = room[: count * seen].reshape(count, seen)
        self._blas.product(q, k[:seen].T, scores, scale=self._scale)
        scores[:, start:] += self._later[:count, :count]
        return scores

    def forward(self, q: Array, k: Array, v: Array, segments: list[slice], out: Array, logs: Array) -> None:
        """q, out [n, heads · head], k, v [n, kv_heads · head]; `logs` [heads, n] becomes ln Σ exp of the scores."""
        group = self._shape.heads // self._shape.kv_heads

        def one(part: tuple[slice, int]) -> None:
            rows, head = part
            queries, answers, log = self._of(q, head, rows), self._of(out, head, rows), logs[head, rows]
            keys, values = self._of(k, head // group, rows), self._of(v, head // group, rows)
            room = np.empty(BLOCK * len(queries), np.float32)
            for start in range(0, len(queries), BLOCK):
                block = slice(start, min(start + BLOCK, len(queries)))
                scores = self._shares(queries[block], keys, start, room)
                top = scores.max(axis=1)
                scores -= top[:, None]
                np.exp(scores, out=scores)
                total = scores.sum(axis=1)
                self._blas.product(scores, values[: block.stop], answers[block])
                answers[block] /= total[:, None]
                log[block] = np.log(total) + top

        self._team.each(one, self._parts(segments))

    def backward(
        self, dout: Array, q: Array, k: Array, v: Array, out: Array, logs: Array, segments: list[slice],
        dq: Array, dk: Array, dv: Array,
    ) -> None:  # fmt: skip
        """Gradients of q, k and v, written to `dq`, `dk`, `dv`, from that of the output; the rest as in `forward`."""
        group = self._shape.heads // self._shape.kv_heads
        size = self._shape.head
        # Every head writes its own share of its key's gradient: two threads must not add to one place.
        keys_of, values_of = (np.empty((self._shape.heads, len(q), size), np.float32) for _ in range(2))

        def one(part: tuple[slice, int]) -> None:
            rows, head = part
            queries, wanted, log = self._of(q, head, rows), self._of(dout, head, rows), logs[head, rows]
            keys, values = self._of(k, head // group, rows), self._of(v, head // group, rows)
            along = np.einsum("ij,ij->i", wanted, self._of(out, head, rows))
            dqueries, dkeys, dvalues = self._of(dq, head, rows), keys_of[head, rows], values_of[head, rows]
            rooms = np.empty((2, BLOCK * len(queries)), np.float32)
            # From the end: the last block reaches all keys, so that it writes where the others add.
            for start in reversed(range(0, len(queries), BLOCK)):
                block = slice(start, min(start + BLOCK, len(queries)))
                more = block.stop < len(queries)
                shares = self._shares(queries[block], keys, start, rooms[0])
                shares -= log[block, None]
                np.exp(shares, out=shares)
                self._blas.product(shares.T, wanted[block], dvalues[: block.stop], add=more)
                slopes = rooms[1, : shares.size].reshape(shares.shape)
                self._blas.product(wanted[block], values[: block.stop].T, slopes)
                slopes -= along[block, None]
                slopes *= shares
                self._blas.product(slopes, keys[: block.stop], dqueries[block], scale=self._scale)
                self._blas.product(slopes.T, queries[block], dkeys[: block.stop], add=more, scale=self._scale)

        self._team.each(one, self._parts(segments))
        heads = (self._shape.kv_heads, group, len(q), size)
        for shares, target in ((keys_of, dk), (values_of, dv)):
            np.sum(shares.reshape(heads), axis=1, out=target.reshape(len(q), -1, size).transpose(1, 0, 2))
