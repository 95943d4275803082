"""One transformer block, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .attention import Attention
from .blas import Array
from .fan import Factors, Fan
from .pointwise import Rope, gated, gated_back, norm, norm_back
from .shape import Shape
from .team import Task, Team
from .weights import Weights

__all__ = ["Block", "Kept", "Rows", "Shared"]


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a pass stand: `segments` of them see each other, each from position 0 on."""

    segments: list[slice]
    positions: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Tokens of all segments."""
        return len(self.positions)


@dataclass
class Kept:
    """What the backward pass of a block needs: numbers of each token, made once for the longest pass."""

    x: Array
    queries: Array
    keys: Array
    values: Array
    answers: Array
    logs: Array
    middle: Array
    gate: Array
    up: Array
    #: A·x of the adapted projections, by what they read.
    down: dict[str, Array] = field(default_factory=dict)

    @staticmethod
    def of(shape: Shape, longest: int) -> Kept:
        """Room for `longest` tokens."""

        def room(width: int) -> Array:
            return np.empty((longest, width), np.float32)

        queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
        return Kept(
            x=room(shape.width), queries=room(queries), keys=room(keys), values=room(keys), answers=room(queries),
            logs=np.empty((shape.heads, longest), np.float32), middle=room(shape.width), gate=room(shape.inner),
            up=room(shape.inner),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def cut(self, count: int) -> Kept:
        """The same memory for `count` tokens."""
        return Kept(
            x=self.x[:count], queries=self.queries[:count], keys=self.keys[:count], values=self.values[:count],
            answers=self.answers[:count], logs=self.logs[:, :count], middle=self.middle[:count], gate=self.gate[:count],
            up=self.up[:count],
        )  # fmt: skip


class Shared:
    """What all blocks use in turn: arrays of one block that nobody needs afterwards."""

    def __init__(self, shape: Shape, longest: int) -> None:
        queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
        self._arrays = {
            "normed": np.empty((longest, shape.width), np.float32),
            "inner": np.empty((longest, shape.inner), np.float32),
            "queries": np.empty((longest, queries), np.float32),
            "keys": np.empty((longest, keys), np.float32),
            "dqueries": np.empty((longest, queries), np.float32),
            "dkeys": np.empty((longest, keys), np.float32),
            "dvalues": np.empty((longest, keys), np.float32),
            "danswers": np.empty((longest, queries), np.float32),
            "dnormed": np.empty((longest, shape.width), np.float32),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def __call__(self, name: str, count: int) -> Array:
        return self._arrays[name][:count]


class Block:
    """Layer `number` of a base with the factors that adapt it."""

    def __init__(
        self, number: int, shape: Shape, weights: Weights, team: Team, factors: Mapping[str, Factors], rope: Rope,
        attention: Attention, shared: Shared,
    ) -> None:  # fmt: skip
        prefix = f"blk.{number}."
        self._shape, self._team, self._rope, self._attention, self._shared = shape, team, rope, attention, shared

        def fan(*names: str) -> Fan:
            return Fan([f"{prefix}{name}.weight" for name in names], weights, team, factors)

        self._qkv, self._o = fan("attn_q", "attn_k", "attn_v"), fan("attn_output")
        self._gate_up, self._down = fan("ffn_gate", "ffn_up"), fan("ffn_down")
        self._norm, self._ffn_norm = (weights.vector(f"{prefix}{name}.weight") for name in ("attn_norm", "ffn_norm"))
        names = (f"{prefix}attn_q_norm.weight", f"{prefix}attn_k_norm.weight")
        self._q_norm, self._k_norm = (weights.vector(name) if name in weights else None for name in names)

    @property
    def ranks(self) -> int:
        """Of all its factors together."""
        return sum(fan.ranks for fan in (self._qkv, self._o, self._gate_up, self._down))

    def forward(self, rows: Rows, kept: Kept, out: Array) -> None:
        """From `kept.x` [n, width] to `out`, which may be it where nothing goes back; fills the rest of `kept`."""
        shape, count, shared, team, down = self._shape, rows.count, self._shared, self._team, kept.down
        normed, inner = shared("normed", count), shared("inner", count)
        self._normed(kept.x, self._norm, normed)
        seen = kept.queries, kept.keys, kept.values
        down["qkv"] = self._qkv.forward(normed, seen)
        queries, keys = self._turned(rows, kept, lambda part: self._qkv.finish(part, down["qkv"], seen))
        self._attention.forward(queries, keys, kept.values, rows.segments, kept.answers, kept.logs)
        down["o"] = self._o.forward(kept.answers, [kept.middle])

        def middle(part: slice) -> None:
            self._o.finish(part, down["o"], [kept.middle])
            kept.middle[part] += kept.x[part]
            norm(kept.middle[part], self._ffn_norm, shape.epsilon, normed[part])

        team.rows(middle, count, shape.width)
        pair = kept.gate, kept.up
        down["gate_up"] = self._gate_up.forward(normed, pair)

        def unit(part: slice) -> None:
            self._gate_up.finish(part, down["gate_up"], pair)
            gated(kept.gate[part], kept.up[part], inner[part])

        team.rows(unit, count, shape.inner)
        down["down"] = self._down.forward(inner, [out])

        def last(part: slice) -> None:
            self._down.finish(part, down["down"], [out])
            out[part] += kept.middle[part]

        team.rows(last, count, shape.width)

    def backward(
        self, rows: Rows, kept: Kept, dx: Array, gradients: dict[str, Array], others: Sequence[Task], *, lowest: bool
    ) -> list[Task]:  # fmt: skip
        """`dx` [n, width] becomes the gradient of `kept.x` from that of the output; the factors' into `gradients`.

        Each projection's factors are left to the next one's turn, and `others` done, to fill what time threads wait
        for each other. What is returned is still to be done, by the next block or the caller. `lowest`: below this
        block nothing is trained, so that the gradient of `kept.x` is not computed. Spoils `kept`.
        """
        epsilon, count, shared, team, down = self._shape.epsilon, rows.count, self._shared, self._team, kept.down
        normed, dnormed, inner = shared("normed", count), shared("dnormed", count), shared("inner", count)

        def through_norm(x: Array, weight: Array) -> None:
            def some(part: slice) -> None:
                norm_back(dnormed[part], x[part], weight, epsilon, dx[part], add=True)

            team.rows(some, count, self._shape.width)

        middle = self._down.back([dx], inner, others)
        team.rows(lambda part: gated_back(inner[part], kept.gate[part], kept.up[part]), count, self._shape.inner)
        left = self._down.learning([dx], inner, down["down"], middle, gradients)
        self._normed(kept.middle, self._ffn_norm, normed)
        pair = kept.gate, kept.up
        middle = self._gate_up.back(pair, dnormed, left)
        left = self._gate_up.learning(pair, normed, down["gate_up"], middle, gradients)
        through_norm(kept.middle, self._ffn_norm)
        danswers = shared("danswers", count)
        middle = self._o.back([dx], danswers, left)
        left = self._o.learning([dx], kept.answers, down["o"], middle, gradients)
        queries, keys = self._turned(rows, kept)
        changes = [shared(name, count) for name in ("dqueries", "dkeys", "dvalues")]
        self._attention.backward(danswers, queries, keys, kept.values, kept.answers, kept.logs, rows.segments, *changes)
        self._turned_back(rows, kept, changes[0], changes[1])
        middle = self._qkv.back(changes, None if lowest else dnormed, left)
        if not lowest:
            through_norm(kept.x, self._norm)
        self._normed(kept.x, self._norm, normed)
        return self._qkv.learning(changes, normed, down["qkv"], middle, gradients)

    def _normed(self, x: Array, weight: Array, out: Array) -> None:
        epsilon = self._shape.epsilon
        self._team.rows(lambda part: norm(x[part], weight, epsilon, out[part]), len(x), x.shape[1])

    def _heads(self, x: Array) -> Array:
        """[n, heads · head] as [n, heads, head]."""
        return x.reshape(len(x), -1, self._shape.head)

    def _turned(
        self, rows: Rows, kept: Kept, before: Callable[[slice], None] | None = None
    ) -> tuple[Array, Array]:  # fmt: skip
        """Queries and keys as attention takes them: normed, where the base norms them, and at their positions.

        `before` is called for each piece of the rows first.
        """
        found = self._shared("queries", rows.count), self._shared("keys", rows.count)

        def some(part: slice) -> None:
            if before:
                before(part)
            for raw, weight, out in zip((kept.queries, kept.keys), (self._q_norm, self._k_norm), found, strict=True):
                heads = self._heads(out[part])
                if weight is None:
                    out[part] = raw[part]
                else:
                    norm(self._heads(raw[part]), weight, self._shape.epsilon, heads)
                self._rope.turn(heads, rows.positions[part])

        self._team.rows(some, rows.count, found[0].shape[1])
        return found

    def _turned_back(self, rows: Rows, kept: Kept, dqueries: Array, dkeys: Array) -> None:
        """Make the gradients of what `_turned` gives those of what it was given."""

        def some(part: slice) -> None:
            for raw, weight, change in (
                (kept.queries, self._q_norm, dqueries), (kept.keys, self._k_norm, dkeys),
            ):  # fmt: skip
                heads = self._heads(change[part])
                self._rope.turn(heads, rows.positions[part], back=True)
                if weight is not None:
                    norm_back(heads, self._heads(raw[part]), weight, self._shape.epsilon, heads)

        self._team.rows(some, rows.count, dqueries.shape[1])
