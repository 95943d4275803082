"""The header of a GGUF file, read and written: its keys, its tensors, and where their numbers lie.

The gguf package reads a header too, but makes two arrays of every token: with a vocabulary of 152,000 that takes seven
seconds and 600 MB, more than any model's largest tensor needs while it is merged.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = ["ALIGNMENT", "Entry", "Header", "TensorInfo", "make_header", "number_entry", "read_header"]

#: Versions whose layout this is.
VERSIONS: Final = (2, 3)
#: Where the file does not say.
ALIGNMENT: Final = 32
#: struct's letter for each number of the format's value types.
SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32: Final = 4
STRING: Final = 8
ARRAY: Final = 9


class Entry(NamedTuple):
    """A key: the type of its value, or of an array's elements and their number; where it and its value begin and end.

    `length` is None for what is no array.
    """

    kind: int
    length: int | None
    start: int
    value: int
    end: int


class TensorInfo(NamedTuple):
    """A tensor: `shape` counts numbers, fastest dimension first; `data_offset` is from the file's start, in bytes."""

    name: str
    shape: tuple[int, ...]
    tensor_type: GGMLQuantizationType
    n_elements: int
    n_bytes: int
    data_offset: int

    @property
    def rows(self) -> int:
        """How many rows of `shape[0]` numbers it has."""
        return self.n_elements // self.shape[0]


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its numbers. `head` is all of it, as bytes."""

    path: Path
    head: bytes
    entries: dict[str, Entry]
    tensors: tuple[TensorInfo, ...]
    data_offset: int

    def value(self, key: str, default: Any = None) -> Any:
        """The value of `key`, strings and lists as Python's; ValueError where a string is no UTF-8."""
        entry = self.entries.get(key)
        if entry is None:
            return default
        if entry.length is None:
            return _value(self.head, entry.kind, entry.value)
        return list(_elements(self.head, entry.kind, entry.length, entry.value))

    @property
    def alignment(self) -> int:
        """Bytes that each tensor begins at a multiple of."""
        return int(self.value("general.alignment", ALIGNMENT))

    def length(self, key: str) -> int:
        """Elements of the array `key`; 0 where there is none."""
        entry = self.entries.get(key)
        return 0 if entry is None else entry.length or 0

    def text(self, key: str, number: int) -> bytes:
        """The string at `number` in the array `key`, which has so many."""
        at = self.entries[key].value
        for _ in range(number):
            at = _end(self.head, STRING, at)
        return self.head[at + 8 : _end(self.head, STRING, at)]

    def raw(self, entry: Entry) -> bytes:
        """Key, type and value as they are in the file."""
        return self.head[entry.start : entry.end]

    def numbers(self, tensor: TensorInfo, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """The bytes of rows `start` to `stop` of `tensor`, one row each, read from the file; for any thread."""
        rows = tensor.rows
        stop = rows if stop is None else min(stop, rows)
        size = tensor.n_bytes // rows
        read = np.empty((stop - start, size), np.uint8)
        left, at = read.data.cast("B"), tensor.data_offset + start * size
        handle = os.open(self.path, os.O_RDONLY)
        try:
            # Read and not mapped: pages of a mapped file count as memory of the process until the file is let go.
            while left:
                done = os.preadv(handle, [left], at)
                if not done:
                    raise ModelError(f"{self.path} became shorter while it was read: copy it again.")
                left, at = left[done:], at + done
        finally:
            os.close(handle)
        return read


def read_header(path: Path) -> Header:
    """The header of the GGUF file `path`; struct.error, ValueError or KeyError where it is none, damaged or cut."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, version, tensor_count, entry_count = struct.unpack_from("<4sIQQ", data)
        if magic != b"GGUF" or version not in VERSIONS:
            raise ValueError(f"no GGUF file of version {VERSIONS}")
        entries: dict[str, Entry] = {}
        at = struct.calcsize("<4sIQQ")
        for _ in range(entry_count):
            key, entry = _entry(data, at)
            if key in entries:
                raise ValueError(f"{key} is there twice")
            entries[key], at = entry, entry.end
        alignment = ALIGNMENT
        if found := entries.get("general.alignment"):
            alignment = int(_value(data, found.kind, found.value))
            if alignment < 1 or alignment & (alignment - 1):
                raise ValueError(f"{alignment} is no alignment")
        tensors: dict[str, TensorInfo] = {}
        for _ in range(tensor_count):
            tensor, at = _tensor(data, at)
            if tensor.name in tensors:
                raise ValueError(f"{tensor.name} is there twice")
            tensors[tensor.name] = tensor
        start = -(-at // alignment) * alignment
        placed = tuple(tensor._replace(data_offset=start + tensor.data_offset) for tensor in tensors.values())
        if any(tensor.data_offset + tensor.n_bytes > len(data) for tensor in placed):
            raise ValueError("a tensor ends past the file")
        return Header(path, data[:at], entries, placed, start)


def make_header(
    entries: Iterable[bytes], tensors: Iterable[tuple[str, tuple[int, ...], int, int]], alignment: int = ALIGNMENT
) -> tuple[bytes, list[int]]:
    """A header with `entries` as they are in a file, and `tensors`: name, shape, number of the type, bytes.

    Returns it, padded up to where the numbers begin, and the offset of each tensor from there, then that of the end.
    """
    keys, said, offsets = list(entries), [], [0]
    for name, shape, kind, size in tensors:
        written = name.encode()
        said.append(struct.pack("<Q", len(written)) + written)
        said.append(struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offsets[-1]))
        offsets.append(-(-(offsets[-1] + size) // alignment) * alignment)
    whole = struct.pack("<4sIQQ", b"GGUF", VERSIONS[-1], len(offsets) - 1, len(keys)) + b"".join(keys + said)
    return whole + bytes(-len(whole) % alignment), offsets


def number_entry(key: str, number: int) -> bytes:
    """A key with an unsigned number of 32 bits, as it is in a file."""
    written = key.encode()
    return struct.pack("<Q", len(written)) + written + struct.pack("<II", UINT32, number)


def _entry(data: mmap.mmap, start: int) -> tuple[str, Entry]:
    key = _value(data, STRING, start)
    at = _end(data, STRING, start)
    (kind,) = struct.unpack_from("<I", data, at)
    at += 4
    if kind != ARRAY:
        return key, Entry(kind, None, start, at, _end(data, kind, at))
    inner, count = struct.unpack_from("<IQ", data, at)
    return key, Entry(inner, count, start, at + 12, _end(data, kind, at))


def _tensor(data: mmap.mmap, at: int) -> tuple[TensorInfo, int]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name = _value(data, STRING, at)
    at = _end(data, STRING, at)
    (dimensions,) = struct.unpack_from("<I", data, at)
    shape = struct.unpack_from(f"<{dimensions}Q", data, at + 4)
    at += 4 + 8 * dimensions
    number, offset = struct.unpack_from("<IQ", data, at)
    kind = GGMLQuantizationType(number)
    weights, size = GGML_QUANT_SIZES[kind]
    if not shape or 0 in shape or shape[0] % weights:
        raise ValueError(f"the rows of {name} are no whole blocks of {kind.name}")
    count = 1
    for length in shape:
        count *= length
    return TensorInfo(name, shape, kind, count, count // weights * size, offset), at + 12


def _end(data: mmap.mmap | bytes, kind: int, at: int) -> int:
    """Where the value at `at` ends."""
    if letter := SCALARS.get(kind):
        end = at + struct.calcsize(letter)
    elif kind == STRING:
        end = at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    elif kind == ARRAY:
        inner, count = struct.unpack_from("<IQ", data, at)
        end = at + 12
        if letter := SCALARS.get(inner):
            end += count * struct.calcsize(letter)
        else:
            for _ in range(count):
                end = _end(data, inner, end)
    else:
        raise ValueError(f"no value has the type {kind}")
    if end > len(data):
        raise ValueError("a value ends past the file")
    return end


def _value(data: mmap.mmap | bytes, kind: int, at: int) -> Any:
    if letter := SCALARS.get(kind):
        return struct.unpack_from(f"<{letter}", data, at)[0]
    if kind == STRING:
        return data[at + 8 : _end(data, STRING, at)].decode("utf-8")
    inner, count = struct.unpack_from("<IQ", data, at)
    return list(_elements(data, inner, count, at + 12))


def _elements(data: mmap.mmap | bytes, kind: int, count: int, at: int) -> Iterator[Any]:
    if letter := SCALARS.get(kind):
        yield from struct.unpack_from(f"<{count}{letter}", data, at)
        return
    for _ in range(count):
        yield _value(data, kind, at)
        at = _end(data, kind, at)
