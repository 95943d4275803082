"""The base's weights in F32: where they lie, from a cache, or unpacked each time they are needed."""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from .blas import Array
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
    """Tensors of a base by name. `keep`: what is unpacked stays, in 4 bytes a number."""

    def __init__(self, stored: Mapping[str, Stored], team: Team, *, keep: bool = False) -> None:
        self.stored, self._team, self._keep = stored, team, keep
        self._kept: dict[str, Array] = {}
        self._scratch: Array = np.empty(0, np.float32)

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def vector(self, name: str) -> Array:
        """A tensor of one row, [columns]."""
        flat: Array = self.rows_of(name, slice(0, 1)).reshape(-1).copy()
        return flat

    def ready(self, names: Sequence[str]) -> None:
        """Unpack what is to be kept, so that `rows_of` finds it."""
        for name in names:
            tensor = self.stored[name]
            if self._keep and tensor.unpack is not None and name not in self._kept:
                self._kept[name] = np.empty((tensor.rows, tensor.columns), np.float32)
                self._team.run(self._unpacking(tensor, 0, self._kept[name]))

    def matrices(self, names: Sequence[str]) -> list[Array]:
        """Whole tensors, [rows, columns] each, unpacked by all threads; good until others are asked for."""
        self.ready(names)
        sizes = [0 if self._at_hand(name) else self.stored[name].rows * self.stored[name].columns for name in names]
        if self._scratch.size < sum(sizes):
            self._scratch = np.empty(sum(sizes), np.float32)
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

    def rows_of(self, name: str, part: slice) -> Array:
        """Rows `part`, [rows, columns], unpacked by the thread that asks, into memory of its own."""
        if self._at_hand(name):
            return self._whole(name)[part]
        tensor = self.stored[name]
        found: Array = np.empty((part.stop - part.start, tensor.columns), np.float32)
        for task in self._unpacking(tensor, part.start, found):
            task()
        return found

    def _at_hand(self, name: str) -> bool:
        return name in self._kept or self.stored[name].unpack is None

    def _whole(self, name: str) -> Array:
        """Of a tensor that is at hand."""
        return self._kept[name] if name in self._kept else _view(self.stored[name])

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> Array:
        """Some rows, [len(numbers), columns], a copy."""
        if self._at_hand(name):
            return self._whole(name)[numbers]
        tensor = self.stored[name]
        assert tensor.unpack is not None
        found: Array = np.empty((len(numbers), tensor.columns), np.float32)
        base, pitch = found.ctypes.data, found.strides[0]
        for place, number in enumerate(numbers.tolist()):
            tensor.unpack(tensor.address + number * tensor.pitch, base + place * pitch, tensor.columns)
        return found

    def _unpacking(self, tensor: Stored, first: int, target: Array) -> list[Task]:
        """Tasks that write rows from `first` on to all of `target`."""
        assert tensor.unpack is not None
        source, base, pitch = tensor.address + first * tensor.pitch, target.ctypes.data, target.strides[0]
        return [
            partial(
                tensor.unpack, source + start * tensor.pitch, base + start * pitch,
                min(ROWS, len(target) - start) * tensor.columns,
            )
            for start in range(0, len(target), ROWS)
        ]  # fmt: skip


def _view(tensor: Stored) -> Array:
    flat = np.ctypeslib.as_array((C.c_float * (tensor.rows * tensor.columns)).from_address(tensor.address))
    return flat.reshape(tensor.rows, tensor.columns)
