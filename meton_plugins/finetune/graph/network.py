"""The whole pass: rows of tokens to their losses, and the gradient of the losses' mean for every factor."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .attention import BLOCK, Attention
from .blas import Array
from .block import Block
from .fan import Factors
from .head import Head
from .pointwise import Rope, norm, norm_back
from .room import Kept, Rows, Shared
from .shape import Shape
from .team import Team
from .weights import Weights

__all__ = ["Hidden", "Network", "Row"]

#: Tokens [n + 1], and for each whether it is learned [n + 1].
Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]

EMBEDDING = "token_embd.weight"


class Hidden(NamedTuple):
    """Hidden states [n, width] that each block read, and what it made of them."""

    inputs: list[Array]
    outputs: list[Array]


class Network:
    """A base and the factors that adapt it, by the name of the matrix. `longest`: tokens of a pass at most.

    `layers`: the numbers of the blocks that it has, rising; all by default. With some of them alone it is no model any
    more, but the work of a block and the gradient of a loss can be measured on it in a part of the time.
    """

    def __init__(
        self, shape: Shape, weights: Weights, team: Team, factors: Mapping[str, Factors], longest: int,
        layers: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self._longest = longest
        self._layers = tuple(range(shape.layers) if layers is None else layers)
        factors = {name: factor for name, factor in factors.items() if int(name.split(".")[1]) in self._layers}
        self._shape, self._weights, self._team = shape, weights, team
        frequencies = weights.vector("rope_freqs.weight") if "rope_freqs.weight" in weights else None
        rope, attention = Rope(shape, frequencies, longest), Attention(shape, team)
        shared = Shared(shape, longest, bf16=team.blas.bf16)
        self._blocks = [
            Block(number, shape, weights, team, factors, rope, attention, shared) for number in self._layers
        ]
        self._norm = weights.vector("output_norm.weight")
        self._head = Head("output.weight" if "output.weight" in weights else EMBEDDING, weights, team)
        adapted = [self._layers.index(int(name.split(".")[1])) for name in factors]
        self._lowest = min(adapted, default=len(self._layers))
        self._states = [np.empty((longest, shape.width), np.float32) for _ in range(2)]
        self._kept: list[Kept] = []
        #: Of the last pass: seconds, and CPU seconds of all threads, that its blocks took. The rest took the head.
        self.block_seconds = self.block_cpu_seconds = 0.0

    @property
    def token_bytes(self) -> int:
        """What a token more in the longest row takes, in bytes: memory grows with the length, not with its square."""
        shape = self._shape
        ranks = sum(block.ranks for block in self._blocks)
        kept = len(self._blocks) * Kept.of(shape, 1).nbytes + 4 * ranks
        queries = shape.heads * shape.head
        # Of a pass: states, what the head reads and each thread gives back, shares of keys and values by head, angles;
        # and of each thread scores, and queries with all that has their size.
        threads = self._team.threads
        others = (5 + threads) * shape.width + 2 * queries + shape.head + threads * (2 * BLOCK + 5 * queries // 2)
        return kept + Shared(shape, 1, bf16=self._team.blas.bf16).nbytes + 4 * others

    def losses(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float64]]:
        """For each row the loss in nats of each learned token, in order."""
        where, targets, learned = _together(rows)
        x = self._last(self._through(where, rows, self._room(1, where.count)), learned)
        losses = self._head.losses(x, targets)
        return np.split(losses, np.cumsum([int(row[1][1:].sum()) for row in rows])[:-1])

    def logits(self, tokens: npt.NDArray[np.int32]) -> Array:
        """[n, vocabulary] of what follows each of the tokens [n]."""
        row = np.append(tokens, tokens[:1]), np.ones(len(tokens) + 1, np.bool_)
        where, _, learned = _together([row])
        return self._head.logits(self._last(self._through(where, [row], self._room(1, where.count)), learned))

    def hidden(self, tokens: npt.NDArray[np.int32], given: Sequence[Array]) -> tuple[Hidden, Array]:
        """What each block makes of the hidden states that another program's own block read, and the pass's own logits.

        `given`: that program's states after each block, [n, width]. Both go through a block together: its weights
        are unpacked once.
        """
        count = len(tokens)
        places = [slice(0, count), slice(count, 2 * count)]
        where = Rows(places, np.concatenate([np.arange(count)] * 2))
        (kept,), end = self._room(1, 2 * count), self._states[0][: 2 * count]
        own = self._weights.rows(EMBEDDING, tokens.astype(np.int64))
        hidden, start = Hidden([], []), own
        for block, after in zip(self._blocks, given, strict=True):
            kept.x[:count], kept.x[count:] = own, start
            block.forward(where, kept, end)
            hidden.inputs.append(start)
            hidden.outputs.append(end[count:].copy())
            own, start = end[:count].copy(), after
        return hidden, self._head.logits(self._last(own, np.arange(count)))

    def linear_inputs(self, rows: Sequence[Row]) -> Iterator[dict[str, Array]]:
        """For each block in turn what its projections read, [n, width] by name, for all tokens of `rows` together."""
        where, _, _ = _together(rows)
        (kept,), end = self._room(1, where.count), self._states[0][: where.count]
        kept.x[:] = self._embedded(rows)
        for block in self._blocks:
            block.forward(where, kept, end)
            yield block.inputs(kept)
            kept.x[:] = end

    def gradients(self, rows: Sequence[Row]) -> tuple[float, dict[str, Array]]:
        """The mean loss over the learned tokens of all rows, and its gradient for every factor, flat."""
        where, targets, learned = _together(rows)
        kept = self._room(len(self._blocks), where.count)
        last = self._through(where, rows, kept)
        x = self._last(last, learned)
        dx = np.empty_like(x)
        losses = self._head.losses(x, targets, dx)
        dx *= np.float32(1 / len(losses))
        norm_back(dx, last[learned], self._norm, self._shape.epsilon, dx)
        change = self._states[1][: where.count]
        change.fill(0)
        change[learned] = dx
        gradients: dict[str, Array] = {}
        with self._timed():
            for number in range(len(self._blocks) - 1, self._lowest - 1, -1):
                lowest = number == self._lowest
                self._blocks[number].backward(where, kept[number], change, gradients, lowest=lowest)
        return float(losses.mean()), gradients

    def _room(self, blocks: int, count: int) -> list[Kept]:
        """Memory for `count` tokens in so many blocks: of all where something goes back, else of one for all."""
        while len(self._kept) < blocks:
            self._kept.append(Kept.of(self._shape, self._longest))
        return [kept.cut(count) for kept in self._kept[:blocks]]

    def _through(self, where: Rows, rows: Sequence[Row], room: list[Kept]) -> Array:
        """The state after the last block, [n, width]; `room`: as of `_room`."""
        room[0].x[:] = self._embedded(rows)
        ends = [kept.x for kept in room[1:]] + [self._states[0][: where.count]]
        if len(room) < len(self._blocks):
            room, ends = room * len(self._blocks), [room[0].x] * len(self._blocks)
        self.block_seconds = self.block_cpu_seconds = 0.0
        with self._timed():
            for block, kept, end in zip(self._blocks, room, ends, strict=True):
                block.forward(where, kept, end)
        return ends[-1]

    def _embedded(self, rows: Sequence[Row]) -> Array:
        """The embeddings of all tokens that are read, [n, width]."""
        return self._weights.rows(EMBEDDING, np.concatenate([row[0][:-1] for row in rows]).astype(np.int64))

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.block_seconds += time.monotonic() - wall
        self.block_cpu_seconds += time.process_time() - cpu

    def _last(self, state: Array, learned: npt.NDArray[np.int64]) -> Array:
        """The states that the head reads, [learned, width]."""
        chosen = state[learned]
        norm(chosen, self._norm, self._shape.epsilon, chosen)
        return chosen


def _together(rows: Sequence[Row]) -> tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where rows lie in a pass, the right next token of each learned place, and those places."""
    ends = np.cumsum([len(tokens) - 1 for tokens, _ in rows])
    segments = [slice(int(end) - len(row[0]) + 1, int(end)) for end, row in zip(ends, rows, strict=True)]
    positions = np.concatenate([np.arange(len(tokens) - 1) for tokens, _ in rows])
    learned = np.nonzero(np.concatenate([trained[1:] for _, trained in rows]))[0]
    targets = np.concatenate([tokens[1:] for tokens, _ in rows]).astype(np.int64)[learned]
    return Rows(segments, positions), targets, learned
