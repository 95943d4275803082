"""The base's weights as they are multiplied: where they lie, from a cache, or unpacked each time they are needed."""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from .bf16 import Bf16, rounded
from .blas import Array, Matrix
from .team import Task, Team

__all__ = ["Stored", "Unpack", "Weights"]

#: Writes `count` numbers in F32 to an address, from an address.
Unpack = Callable[[int, int, int], None]

#: Rows that a thread unpacks at a time.
ROWS: Final = 128


@dataclass(frozen=True)
class Stored:
    """One tensor of the base in memory: `rows` of `columns` numbers, `pitch` bytes from a row to the next.

    `unpack` is None where they are F32 already.
    """

    address: int
    rows: int
    columns: int
    pitch: int
    unpack: Unpack | None


class Weights:
    """Tensors of a base by name. `keep`: what is unpacked stays. Matrices are F32, or bf16 where the team's products
    are."""

    def __init__(self, stored: Mapping[str, Stored], team: Team, *, keep: bool = False) -> None:
        self.stored, self._team, self._keep = stored, team, keep
        self._type = np.uint16 if team.blas.bf16 else np.float32
        self._kept: dict[str, Matrix] = {}
        self._scratch: Matrix = np.empty(0, self._type)

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def vector(self, name: str) -> Array:
        """A tensor of one row, [columns], in F32."""
        return self.rows(name, np.zeros(1, np.int64)).reshape(-1)

    def ready(self, names: Sequence[str]) -> None:
        """Unpack what is to be kept, so that `rows_of` finds it."""
        for name in names:
            tensor = self.stored[name]
            if self._keep and not self._at_hand(name):
                found: Matrix = np.empty((tensor.rows, tensor.columns), self._type)
                self._team.run(self._unpacking(tensor, 0, found))
                self._kept[name] = found

    def matrices(self, names: Sequence[str]) -> list[Matrix]:
        """Whole tensors, [rows, columns] each, unpacked by all threads; good until others are asked for."""
        self.ready(names)
        sizes = [0 if self._at_hand(name) else self.stored[name].rows * self.stored[name].columns for name in names]
        if self._scratch.size < sum(sizes):
            self._scratch = np.empty(sum(sizes), self._type)
        found, tasks, used = [], [], 0
        for name, size in zip(names, sizes, strict=True):
            if not size:
                found.append(self._whole(name))
                continue
            found.append(self._scratch[used : used + size].reshape(self.stored[name].rows, -1))
            used += size
            tasks += self._unpacking(self.stored[name], 0, found[-1])
        self._team.run(tasks)
        return found

    def rows_of(self, name: str, part: slice) -> Matrix:
        """Rows `part`, [rows, columns], unpacked by the thread that asks, into memory of its own."""
        if self._at_hand(name):
            return self._whole(name)[part]
        tensor = self.stored[name]
        found: Matrix = np.empty((part.stop - part.start, tensor.columns), self._type)
        for task in self._unpacking(tensor, part.start, found):
            task()
        return found

    def _at_hand(self, name: str) -> bool:
        return name in self._kept or (self.stored[name].unpack is None and self._type is np.float32)

    def _whole(self, name: str) -> Matrix:
        """Of a tensor that is at hand."""
        return self._kept[name] if name in self._kept else _view(self.stored[name])

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> Array:
        """Some rows in F32, [len(numbers), columns], a copy."""
        tensor = self.stored[name]
        if self._at_hand(name) and self._type is np.float32:
            return np.asarray(self._whole(name), np.float32)[numbers]
        found: Array = np.empty((len(numbers), tensor.columns), np.float32)
        for place, number in enumerate(numbers.tolist()):
            _unpack(tensor, number, found[place : place + 1])
        return found

    def _unpacking(self, tensor: Stored, first: int, target: Matrix) -> list[Task]:
        """Tasks that write rows from `first` on to all of `target`."""
        one = _unpack if target.dtype == np.float32 else _round
        return [partial(one, tensor, first + at, target[at : at + ROWS]) for at in range(0, len(target), ROWS)]


def _unpack(tensor: Stored, first: int, target: Array) -> None:
    """Write rows from `first` on to `target`, which lies together in memory."""
    if tensor.unpack is None:
        target[:] = _view(tensor)[first : first + len(target)]
    else:
        tensor.unpack(tensor.address + first * tensor.pitch, target.ctypes.data, target.size)


def _round(tensor: Stored, first: int, target: Bf16) -> None:
    """The same in bf16."""
    numbers: Array = np.empty(target.shape, np.float32)
    _unpack(tensor, first, numbers)
    rounded(numbers, target)


def _view(tensor: Stored) -> Array:
    flat = np.ctypeslib.as_array((C.c_float * (tensor.rows * tensor.columns)).from_address(tensor.address))
    return flat.reshape(tensor.rows, tensor.columns)
