"""One transformer block, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from .attention import Attention
from .bf16 import put
from .blas import Array, Matrix
from .fan import Factors, Fan, Learning, Operands, Pieces, whole
from .pointwise import Rope, gated, gated_back, norm, norm_back
from .room import Kept, Rows, Shared
from .shape import Shape
from .team import Task, Team, pieces
from .weights import Weights

__all__ = ["Block"]


class Block:
    """Layer `number` of a base with the factors that adapt it.

    Each pass is a handful of runs of the team. In a run, what a thread has just computed it also works on: columns of
    a product go through the gate, rows through the norm and the next factors, before another thread has to see them.
    """

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
        shape, count, shared, team = self._shape, rows.count, self._shared, self._team
        normed, inner = shared("normed", count), shared("inner", count)
        twin, inner_twin = shared.twin("normed", normed), shared.twin("inner", inner)
        gates, ups, inners, inners_twin = self._wide(kept.gate, kept.up, inner, inner_twin)
        kept.down = {
            "qkv": self._qkv.begin(count), "o": self._o.begin(count), "gate_up": self._gate_up.begin(count),
            "down": self._down.begin(count),
        }  # fmt: skip
        down = kept.down

        def enter(part: slice) -> None:
            norm(kept.x[part], self._norm, shape.epsilon, normed[part])
            put(normed[part], twin[part])
            self._qkv.lower(part, whole(normed), down["qkv"])

        def middle(part: slice) -> None:
            self._o.finish(0, part, slice(0, shape.width), down["o"], kept.middle)
            kept.middle[part] += kept.x[part]
            norm(kept.middle[part], self._ffn_norm, shape.epsilon, normed[part])
            put(normed[part], twin[part])
            self._gate_up.lower(part, whole(normed), down["gate_up"])

        def unit(part: slice, gate: Array, up: Array, inner: Array, inner_twin: Matrix) -> None:
            self._gate_up.columns(0, part, whole(twin), gate)
            self._gate_up.columns(1, part, whole(twin), up)
            for some in pieces(count, gate.shape[1]):
                self._gate_up.finish(0, some, part, down["gate_up"], gate)
                self._gate_up.finish(1, some, part, down["gate_up"], up)
                gated(gate[some], up[some], inner[some])
                put(inner[some], inner_twin[some])

        def last(part: slice) -> None:
            self._down.finish(0, part, slice(0, shape.width), down["down"], out)
            out[part] += kept.middle[part]

        team.rows(enter, count, shape.width)
        team.run(self._seen(rows, kept, twin))
        queries, keys = shared("queries", count), shared("keys", count)
        seen = shared.twin("answers", kept.answers)
        self._attention.forward(queries, keys, kept.values, rows.segments, kept.answers, kept.logs, seen)
        team.run(self._product(self._o, whole(kept.answers), whole(seen), kept.middle, down["o"]))
        team.rows(middle, count, shape.width)
        team.run(_each(unit, gates, ups, inners, inners_twin))
        team.run(self._product(self._down, inners, inners_twin, out, down["down"]))
        team.rows(last, count, shape.width)

    def backward(
        self, rows: Rows, kept: Kept, dx: Array, gradients: dict[str, Array], *, lowest: bool
    ) -> None:  # fmt: skip
        """`dx` [n, width] becomes the gradient of `kept.x` from that of the output; the factors' into `gradients`.

        `lowest`: below this block nothing is trained, so that the gradient of `kept.x` is not computed. Spoils `kept`.
        """
        self._backward_unit(rows.count, kept, dx, gradients)
        self._backward_attention(rows, kept, dx, gradients, lowest)

    def _backward_unit(self, count: int, kept: Kept, dx: Array, gradients: dict[str, Array]) -> None:
        shape, shared, team = self._shape, self._shared, self._team
        normed, dnormed = shared("normed", count), shared("dnormed", count)
        gates, ups, inners, gates_twin, ups_twin = self._wide(
            kept.gate, kept.up, shared("inner", count), shared.twin("gate", kept.gate), shared.twin("up", kept.up)
        )
        dx_twin = shared.twin("dx", dx)
        fan, learning, below = self._down, self._down.learning(gradients), self._down.room(count)

        def enter(part: slice) -> None:
            put(dx[part], dx_twin[part])
            fan.to_middle(part, [whole(dx)], below)

        team.rows(enter, count, shape.width)
        matrices = fan.matrices()
        wide, wide_learning = self._gate_up, self._gate_up.learning(gradients)

        def unit(
            part: slice, gate: Array, up: Array, inner: Array, gate_twin: Matrix, up_twin: Matrix
        ) -> None:  # fmt: skip
            fan.change(part, [whole(dx_twin)], matrices, below, inner)
            for some in pieces(count, gate.shape[1]):
                gated_back(inner[some], gate[some], up[some])
                put(gate[some], gate_twin[some])
                put(up[some], up_twin[some])
            fan.learn_a(part, inner, below, learning)
            for number, each in enumerate((gate, up)):
                wide.learn_b(number, part, each, kept.down["gate_up"], wide_learning)

        units = _each(unit, gates, ups, inners, gates_twin, ups_twin)
        team.run([*units, *self._learn_b(fan, [dx], kept.down["down"], learning)])
        above = wide.room(count)

        def between(part: slice) -> None:
            wide.to_middle(part, [gates, ups], above)
            norm(kept.middle[part], self._ffn_norm, shape.epsilon, normed[part])

        team.each(between, team.parts(count, count * shape.inner * wide.ranks))
        found = wide.matrices()

        def change(part: slice) -> None:
            wide.change(part, [gates_twin, ups_twin], found, above, dnormed[:, part])
            wide.learn_a(part, normed[:, part], above, wide_learning)

        team.each(change, team.parts(shape.width, count * shape.inner * shape.width))

    def _backward_attention(
        self, rows: Rows, kept: Kept, dx: Array, gradients: dict[str, Array], lowest: bool
    ) -> None:  # fmt: skip
        shape, shared, team, count = self._shape, self._shared, self._team, rows.count
        normed, dnormed, danswers = shared("normed", count), shared("dnormed", count), shared("danswers", count)
        queries, keys = shared("queries", count), shared("keys", count)
        names = ("dqueries", "dkeys", "dvalues")
        changes = [shared(name, count) for name in names]
        twins = [shared.twin(name, change) for name, change in zip(names, changes, strict=True)]
        fan, learning, below = self._o, self._o.learning(gradients), self._o.room(count)
        dx_twin = shared.twin("dx", dx)

        def enter(part: slice) -> None:
            norm_back(dnormed[part], kept.middle[part], self._ffn_norm, shape.epsilon, dx[part], add=True)
            put(dx[part], dx_twin[part])
            fan.to_middle(part, [whole(dx)], below)
            self._turned(kept.queries, self._q_norm, rows, part, queries)
            self._turned(kept.keys, self._k_norm, rows, part, keys)

        team.rows(enter, count, shape.width)
        matrices = fan.matrices()

        def answers(part: slice) -> None:
            fan.change(part, [whole(dx_twin)], matrices, below, danswers[:, part])
            fan.learn_a(part, kept.answers[:, part], below, learning)

        parts = team.parts(danswers.shape[1], danswers.size * shape.width)
        team.run([
            *(partial(answers, part) for part in parts), *self._learn_b(fan, [dx], kept.down["o"], learning),
        ])  # fmt: skip
        self._attention.backward(danswers, queries, keys, kept.values, kept.answers, kept.logs, rows.segments, *changes)
        dys = [whole(change) for change in changes]
        wide, wide_learning, above = self._qkv, self._qkv.learning(gradients), self._qkv.room(count)

        def between(part: slice) -> None:
            self._turned_back(kept.queries, self._q_norm, rows, part, changes[0])
            self._turned_back(kept.keys, self._k_norm, rows, part, changes[1])
            for change, twin in zip(changes, twins, strict=True):
                put(change[part], twin[part])
            wide.to_middle(part, dys, above)
            norm(kept.x[part], self._norm, shape.epsilon, normed[part])

        team.rows(between, count, shape.width)
        found = [] if lowest else wide.matrices()

        def change(part: slice) -> None:
            if not lowest:
                wide.change(part, [whole(each) for each in twins], found, above, dnormed[:, part])
            wide.learn_a(part, normed[:, part], above, wide_learning)

        parts = team.parts(shape.width, count * shape.width * shape.width)
        team.run([
            *(partial(change, part) for part in parts),
            *self._learn_b(wide, changes, kept.down["qkv"], wide_learning),
        ])  # fmt: skip

        def leave(part: slice) -> None:
            norm_back(dnormed[part], kept.x[part], self._norm, shape.epsilon, dx[part], add=True)

        if not lowest:
            team.rows(leave, count, shape.width)

    def inputs(self, kept: Kept) -> dict[str, Array]:
        """What each projection read in the forward pass that filled `kept`, [n, width], by its name in the block."""
        normed, middle = np.empty_like(kept.x), np.empty_like(kept.x)
        norm(kept.x, self._norm, self._shape.epsilon, normed)
        norm(kept.middle, self._ffn_norm, self._shape.epsilon, middle)
        inner: Array = np.empty(kept.gate.shape, np.float32)
        for (part, gate), (_, up) in zip(*self._wide(kept.gate, kept.up), strict=True):
            product = np.empty_like(gate)
            gated(gate, up, product)
            inner[:, part] = product
        return {
            "attn_q": normed, "attn_k": normed, "attn_v": normed, "attn_output": kept.answers, "ffn_gate": middle,
            "ffn_up": middle, "ffn_down": inner,
        }  # fmt: skip

    def _wide(self, *arrays: Matrix) -> list[Operands]:
        """Gates, ups and what they make, each by the columns that a thread works on, which lie together in memory."""
        count, inner = arrays[0].shape
        parts = self._team.parts(inner, count * inner * self._shape.width)

        def cut(x: Matrix) -> Operands:
            flat = x.reshape(-1)
            return [(part, flat[count * part.start : count * part.stop].reshape(count, -1)) for part in parts]

        return [cut(x) for x in arrays]

    def _product(self, fan: Fan, x: Pieces, operands: Operands, out: Array, down: Array) -> list[Task]:
        """A fan of one matrix, all but `finish`; `operands`: x as frozen weights are multiplied by it."""
        work = out.size * sum(each.shape[1] for _, each in x)
        parts = self._team.parts(out.shape[1], work)
        tasks = [partial(fan.columns, 0, part, operands, out[:, part]) for part in parts]
        return [*tasks, *(partial(fan.lower, rows, x, down) for rows in self._team.parts(len(out), work))]

    def _learn_b(self, fan: Fan, dys: list[Array], down: Array, learning: Learning) -> list[Task]:
        return [
            partial(fan.learn_b, number, part, dy[:, part], down, learning)
            for number, dy in enumerate(dys)
            for part in self._team.parts(dy.shape[1], dy.size * fan.ranks)
        ]

    def _seen(self, rows: Rows, kept: Kept, normed: Matrix) -> list[Task]:
        """Queries, keys and values, and the first two as the attention takes them, by columns of whole heads."""
        count, shape, shared = rows.count, self._shape, self._shared

        def some(number: int, part: slice, out: Array, weight: Array | None, turned: Array | None) -> None:
            self._qkv.columns(number, part, whole(normed), out[:, part])
            for piece in pieces(count, part.stop - part.start):
                self._qkv.finish(number, piece, part, kept.down["qkv"], out[:, part])
                if turned is not None:
                    self._turned(out[:, part], weight, rows, piece, turned[:, part])

        outs = (
            (kept.queries, self._q_norm, shared("queries", count)), (kept.keys, self._k_norm, shared("keys", count)),
            (kept.values, None, None),
        )  # fmt: skip
        return [
            partial(some, number, part, out, weight, turned)
            for number, (out, weight, turned) in enumerate(outs)
            for part in self._team.parts(out.shape[1], out.size * shape.width, shape.head)
        ]

    def _heads(self, x: Array) -> Array:
        """[n, heads · head] as [n, heads, head]."""
        return x.reshape(len(x), -1, self._shape.head)

    def _turned(self, raw: Array, weight: Array | None, rows: Rows, part: slice, out: Array) -> None:
        """Some rows as attention takes them: normed, where the base norms them, and at their positions."""
        heads = self._heads(out[part])
        if weight is None:
            out[part] = raw[part]
        else:
            norm(self._heads(raw[part]), weight, self._shape.epsilon, heads)
        self._rope.turn(heads, rows.positions[part])

    def _turned_back(self, raw: Array, weight: Array | None, rows: Rows, part: slice, change: Array) -> None:
        """Make some rows of the gradient of what `_turned` gives that of what it was given."""
        heads = self._heads(change[part])
        self._rope.turn(heads, rows.positions[part], back=True)
        if weight is not None:
            norm_back(heads, self._heads(raw[part]), weight, self._shape.epsilon, heads)


def _each(work: Callable[..., None], *wide: Operands) -> list[Task]:
    """`work` on each part of wide arrays that are cut alike: which columns, and each array's."""
    return [partial(work, same[0][0], *(array for _, array in same)) for same in zip(*wide, strict=True)]
