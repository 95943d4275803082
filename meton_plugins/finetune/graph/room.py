"""The memory of a pass: where its tokens stand, what each block keeps for the way back, and what all use in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .bf16 import Bf16
from .blas import Array, Matrix
from .shape import Shape

__all__ = ["Kept", "Rows", "Shared"]


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
    """What all blocks use in turn: arrays of one block that nobody needs afterwards.

    `bf16`: frozen weights are bf16, and so each array that they are multiplied by has a twin.
    """

    def __init__(self, shape: Shape, longest: int, *, bf16: bool) -> None:
        queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
        widths = {
            "normed": shape.width, "dx": shape.width, "inner": shape.inner, "gate": shape.inner, "up": shape.inner,
            "answers": queries, "dqueries": queries, "dkeys": keys, "dvalues": keys,
        }  # fmt: skip
        self._twins: dict[str, Bf16] = {
            name: np.empty((longest, width), np.uint16) for name, width in widths.items() if bf16
        }
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
        return sum(array.nbytes for each in (self._arrays, self._twins) for array in each.values())

    def __call__(self, name: str, count: int) -> Array:
        return self._arrays[name][:count]

    def twin(self, name: str, x: Array) -> Matrix:
        """Where products with frozen weights read `x` [n, width], once `bf16.put` has put it there."""
        return self._twins[name][: len(x)] if self._twins else x
