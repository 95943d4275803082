"""The base's weights in F32: where they lie, from a cache, or unpacked each time they are needed."""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .blas import Array
from .team import Team

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
        flat: Array = self.matrix(name).reshape(-1).copy()
        return flat

    def matrix(self, name: str) -> Array:
        """The tensor, [rows, columns]; good until the next one is asked for."""
        return self.part(name, 0, self.stored[name].rows)

    def part(self, name: str, start: int, stop: int) -> Array:
        """Rows from `start` to `stop`, [stop - start, columns]; good until the next one is asked for."""
        tensor = self.stored[name]
        if tensor.unpack is None:
            return _view(tensor)[start:stop]
        if name in self._kept:
            return self._kept[name][start:stop]
        if self._keep:
            kept: Array = np.empty((tensor.rows, tensor.columns), np.float32)
            self._unpack(tensor, 0, kept)
            self._kept[name] = kept
            return kept[start:stop]
        wanted = (stop - start) * tensor.columns
        if self._scratch.size < wanted:
            self._scratch = np.empty(wanted, np.float32)
        target = self._scratch[:wanted].reshape(stop - start, tensor.columns)
        self._unpack(tensor, start, target)
        return target

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> Array:
        """Some rows, [len(numbers), columns], a copy."""
        tensor = self.stored[name]
        if tensor.unpack is None:
            return _view(tensor)[numbers]
        if name in self._kept:
            return self._kept[name][numbers]
        found: Array = np.empty((len(numbers), tensor.columns), np.float32)
        base, pitch = found.ctypes.data, found.strides[0]
        for place, number in enumerate(numbers.tolist()):
            tensor.unpack(tensor.address + number * tensor.pitch, base + place * pitch, tensor.columns)
        return found

    def _unpack(self, tensor: Stored, first: int, target: Array) -> None:
        unpack = tensor.unpack
        assert unpack is not None
        source, base = tensor.address + first * tensor.pitch, target.ctypes.data

        def some(start: int) -> None:
            count = min(ROWS, len(target) - start)
            unpack(source + start * tensor.pitch, base + start * target.strides[0], count * tensor.columns)

        self._team.each(some, range(0, len(target), ROWS))


def _view(tensor: Stored) -> Array:
    flat = np.ctypeslib.as_array((C.c_float * (tensor.rows * tensor.columns)).from_address(tensor.address))
    return flat.reshape(tensor.rows, tensor.columns)
