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
        flat: Array = self.part(name, 0, 1).reshape(-1).copy()
        return flat

    def matrices(self, names: Sequence[str]) -> list[Array]:
        """Whole tensors, [rows, columns] each; good until others are asked for."""
        return self._parts([(name, 0, self.stored[name].rows) for name in names])

    def part(self, name: str, start: int, stop: int) -> Array:
        """Rows from `start` to `stop`, [stop - start, columns]; good until others are asked for."""
        return self._parts([(name, start, stop)])[0]

    def _parts(self, wanted: Sequence[tuple[str, int, int]]) -> list[Array]:
        sizes = [0 if self._at_hand(name) else (stop - start) * self.stored[name].columns
                 for name, start, stop in wanted]  # fmt: skip
        if self._scratch.size < sum(sizes):
            self._scratch = np.empty(sum(sizes), np.float32)
        found, tasks, used = [], [], 0
        for (name, start, stop), size in zip(wanted, sizes, strict=True):
            if not size:
                found.append(self._whole(name)[start:stop])
                continue
            target = self._scratch[used : used + size].reshape(stop - start, -1)
            used += size
            found.append(target)
            tasks += self._unpacking(self.stored[name], start, target)
        self._team.run(tasks)
        return found

    def _at_hand(self, name: str) -> bool:
        return self._keep or self.stored[name].unpack is None

    def _whole(self, name: str) -> Array:
        """Of a tensor that is at hand."""
        tensor = self.stored[name]
        if tensor.unpack is None:
            return _view(tensor)
        if name not in self._kept:
            self._kept[name] = np.empty((tensor.rows, tensor.columns), np.float32)
            self._team.run(self._unpacking(tensor, 0, self._kept[name]))
        return self._kept[name]

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
