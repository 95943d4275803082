"""The grids that quantized tensors lie on: write a change into the quants of a block, whose scales and minimums stay.

What a LoRA adds to a weight is a small part of a quantization step, so the nearest value of the grid is mostly the old
one and the tuning is lost. Here a quant moves up or down at random, with a probability in proportion to the change
(stochastic rounding): the change is there in expectation, and adds up along a row as the noise does not. Where there
are activations to look at, `rounding` does better.

A type is data: where the bits of its quants lie (`Plane`), its levels, and what reads its scales. The random numbers
come from a counter that is keyed by seed and tensor, so any split into blocks and any number of threads gives the same
bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = ["FLOATS", "GRIDS", "Bytes", "Grid", "Numbers", "Tally", "has_grid", "move", "random_numbers", "tally"]

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float32]

#: 32-bit numbers that one step of the counter gives.
PER_STEP: Final = 8
#: The bit that makes a byte negative.
SIGN: Final = np.uint8(128)
#: A change of more levels is clipped like one of so many.
FARTHEST: Final = np.float32(1e9)
#: How many times larger a change may be made for what of it does not fit.
MOST_MADE_UP: Final = 2
#: Types whose numbers each have an exponent of their own.
FLOATS: Final = ("F16", "BF16", "F32")


class Plane(NamedTuple):
    """Bit fields of all quants of a block: `groups` × `lanes` bytes from `offset`, each with fields of `width` bits.

    Quant (g · fields + f) · lanes + l has its field at bit f · width of byte g · lanes + l.
    """

    offset: int
    groups: int
    lanes: int
    width: int

    @property
    def shifts(self) -> Bytes:
        """Where the fields of a byte begin, shaped to be broadcast over (block, group, field, lane)."""
        return np.arange(0, 8, self.width, dtype=np.uint8).reshape(1, 1, -1, 1)

    def read(self, blocks: Bytes) -> Bytes:
        """The field of each quant, [blocks, quants]."""
        whole = blocks[:, self.offset : self.offset + self.groups * self.lanes]
        fields = whole.reshape(-1, self.groups, 1, self.lanes) >> self.shifts
        values: Bytes = (fields & np.uint8((1 << self.width) - 1)).reshape(len(blocks), -1)
        return values

    def write(self, blocks: Bytes, values: Bytes) -> None:
        """Replace the field of each quant by the low bits of `values`."""
        fields = (values & np.uint8((1 << self.width) - 1)).reshape(-1, self.groups, 8 // self.width, self.lanes)
        whole = np.bitwise_or.reduce(fields << self.shifts, axis=2)
        blocks[:, self.offset : self.offset + self.groups * self.lanes] = whole.reshape(len(blocks), -1)


class Grid(NamedTuple):
    """A type of quantized blocks. `scales`: of a block's parts, [blocks, parts]; a quant's level times its scale (less
    the minimum, where the type has one) is the weight. `planes`: the lowest bits of a code first.

    The level of a code is the code less `zero`, or `levels[code]` where the grid is not even. `signed`: the codes are
    stored as signed bytes.
    """

    size: int
    block_bytes: int
    planes: tuple[Plane, ...]
    scales: Callable[[Bytes], Numbers]
    zero: int = 0
    levels: tuple[int, ...] = ()
    signed: bool = False

    def codes(self, blocks: Bytes) -> Bytes:
        """The code of each quant, [blocks, size]."""
        codes: Bytes = self.planes[0].read(blocks)
        shift = self.planes[0].width
        for plane in self.planes[1:]:
            codes |= plane.read(blocks) << np.uint8(shift)
            shift += plane.width
        if self.signed:
            codes ^= SIGN
        return codes

    def with_codes(self, blocks: Bytes, codes: Bytes) -> Bytes:
        """A copy of `blocks` with other quants."""
        written: Bytes = blocks.copy()
        shift = 0
        codes = codes ^ SIGN if self.signed else codes
        for plane in self.planes:
            plane.write(written, codes >> np.uint8(shift))
            shift += plane.width
        return written

    @property
    def values(self) -> Numbers:
        """The level of each code; of even levels only the distances matter, and the lowest is 0."""
        return np.array(self.levels or range(self.highest + 1), np.float32)

    def codes_of(self, levels: Numbers, old: Bytes) -> Bytes:
        """The codes of `levels`, each one of `values`. A level may have two, as 0 and -0: `old` stays where it fits."""
        if not self.levels:
            return levels.astype(np.uint8)
        ranked = np.unique(self.values)
        code = np.array([self.levels.index(int(level)) for level in ranked], np.uint8)
        codes: Bytes = np.where(levels == self.values[old], old, code[np.searchsorted(ranked, levels)])
        return codes

    @property
    def highest(self) -> int:
        """The highest code."""
        return (1 << sum(plane.width for plane in self.planes)) - 1


class Tally(NamedTuple):
    """Sums over some weights, for what is said of an export.

    `steps` adds up the distances between neighbouring levels, `lost` is what of the sum of all |changes| does not fit
    between the lowest and the highest level of its block, or lies in a block whose scale is 0. The other weights of a
    block make up for what does not fit.
    """

    weights: int
    squares: float
    steps: float
    changes: float
    lost: float


def has_grid(kind: GGMLQuantizationType) -> bool:
    """Whether `move` can write a change into numbers of this type."""
    return kind.name in GRIDS or kind.name in FLOATS


def random_numbers(seed: int, name: str, first_row: int, rows: int, columns: int) -> Numbers:
    """Numbers in [0, 1) for some rows of the tensor `name`, the same whatever other rows are asked for with them."""
    key = np.frombuffer(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16], "<u8")
    steps = -(-columns // PER_STEP)
    raw = np.random.Philox(key=key, counter=first_row * steps).random_raw(rows * steps * PER_STEP // 2)
    # 24 bits, as many as an F32 holds: a larger number could be rounded to 1.
    bits = raw.view(np.uint32).reshape(rows, -1)[:, :columns] >> np.uint32(8)
    numbers: Numbers = bits.astype(np.float32) * np.float32(2.0**-24)
    return numbers


def move(kind: GGMLQuantizationType, rows: Bytes, change: Numbers, random: Numbers) -> tuple[Bytes, Tally]:
    """The bytes of `rows` with `change` written into their quants; scales and minimums stay.

    `random` in [0, 1) decides each rounding; both have a number for each weight, [rows, columns]. Where the change is
    0, the bytes stay as they are.
    """
    if kind.name in FLOATS:
        return _move_floats(kind.name, rows, change, random)
    grid = GRIDS[kind.name]
    blocks = rows.reshape(-1, grid.block_bytes)
    codes, scales = grid.codes(blocks), grid.scales(blocks)
    parts = change.reshape(*scales.shape, -1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        wanted = np.where(scales[:, :, None] == 0, np.float32(0), parts / scales[:, :, None])
    wanted = np.clip(wanted, -FARTHEST, FARTHEST)
    levels = grid.values
    # The library's quantizer writes no -128 into a signed byte, so no kernel need know it; one that is there stays.
    lowest, highest = levels.min() + np.float32(grid.signed), levels.max()
    exact = levels[codes].reshape(parts.shape) + wanted
    beyond = np.maximum(exact - highest, 0) + np.maximum(np.minimum(lowest, exact - wanted) - exact, 0)
    wanted = _made_up(wanted, beyond).reshape(codes.shape)
    moved = (_uneven if grid.levels else _even)(grid, codes, wanted, random.reshape(codes.shape))
    return grid.with_codes(blocks, moved).reshape(rows.shape), tally(levels, scales, parts, beyond)


def tally(levels: Numbers, scales: Numbers, parts: Numbers, beyond: Numbers) -> Tally:
    """The sums over blocks: `scales` [blocks, parts], the changes `parts` [blocks, parts, quants], and how many levels
    of each lie `beyond` the ends."""
    sizes, absolute = np.abs(scales), np.abs(parts)
    lost = np.where(sizes == 0, absolute.sum(2), beyond.sum(2) * sizes)
    gap = float(levels.max() - levels.min()) / (len(np.unique(levels)) - 1)
    return Tally(
        parts.size, float(np.square(parts, dtype=np.float64).sum()),
        float(sizes.sum(dtype=np.float64)) * gap * parts.shape[2], float(absolute.sum(dtype=np.float64)),
        float(lost.sum(dtype=np.float64)),
    )  # fmt: skip


def _made_up(wanted: Numbers, beyond: Numbers) -> Numbers:
    """`wanted` of each part of a block, larger where some of it lies `beyond` the last level.

    What is left of it then has the same inner product with the change as the whole had: each block has quants at the
    ends of its range, so without this every change would come out a few percent too small.
    """
    whole = np.square(wanted).sum(2, keepdims=True)
    left = (wanted * (wanted - np.copysign(beyond, wanted))).sum(2, keepdims=True)
    larger: Numbers = np.clip(whole / np.where(left > 0, left, np.float32(np.inf)), 1, MOST_MADE_UP).astype(np.float32)
    return np.multiply(wanted, larger)


def _even(grid: Grid, codes: Bytes, wanted: Numbers, random: Numbers) -> Bytes:
    """The codes that lie `wanted` levels higher."""
    lowest = np.minimum(codes, 1) if grid.signed else 0
    moved: Bytes = np.clip(codes + np.floor(wanted + random), lowest, grid.highest).astype(np.uint8)
    return moved


def _uneven(grid: Grid, codes: Bytes, wanted: Numbers, random: Numbers) -> Bytes:
    """The same for levels at uneven distances: one of the two levels around the exact one, in proportion."""
    levels = np.array(grid.levels, np.float32)
    ranked = np.unique(levels)
    # The levels are whole numbers: the level below a number is looked up by its whole part.
    whole = np.arange(int(ranked[0]), int(ranked[-1]) + 1)
    below = np.minimum(np.searchsorted(ranked, whole, "right") - 1, len(ranked) - 2).astype(np.uint8)
    exact = np.clip(levels[codes] + wanted, ranked[0], ranked[-1])
    rank = below[np.floor(exact).astype(np.int16) - int(ranked[0])]
    lower = ranked[rank]
    rank += random * (ranked[rank + 1] - lower) < exact - lower
    return grid.codes_of(ranked[rank], codes)


def _move_floats(kind: str, rows: Bytes, change: Numbers, random: Numbers) -> tuple[Bytes, Tally]:
    squares, absolute = float(np.square(change, dtype=np.float64).sum()), float(np.abs(change).sum(dtype=np.float64))
    if kind == "F32":
        # Its steps are so fine that the nearest value keeps every change.
        return (rows.view("<f4") + change).view(np.uint8), Tally(change.size, squares, 0.0, absolute, 0.0)
    stored = rows.view("<u2")
    exact = _value(kind, stored) + change
    size = np.abs(exact)
    if kind == "F16":
        with np.errstate(over="ignore"):
            code = size.astype(np.float16).view(np.uint16)
        code -= _value(kind, code) > size
    else:
        code = (size.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    lower = _value(kind, code)
    gap = _value(kind, code + np.uint16(1)) - lower
    code += random * gap < size - lower
    code |= np.signbit(exact).astype(np.uint16) << np.uint16(15)
    return code.view(np.uint8), Tally(change.size, squares, float(gap.sum(dtype=np.float64)), absolute, 0.0)


def _value(kind: str, code: npt.NDArray[np.uint16]) -> Numbers:
    if kind == "F16":
        return code.view(np.float16).astype(np.float32)
    value: Numbers = (code.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return value


def _half(blocks: Bytes, offset: int) -> Numbers:
    """The F16 number at `offset` of each block, [blocks, 1]."""
    number: Numbers = blocks[:, offset : offset + 2].copy().view("<f2").astype(np.float32)
    return number


def _first_half(blocks: Bytes) -> Numbers:
    return _half(blocks, 0)


def _q2_k(blocks: Bytes) -> Numbers:
    return np.asarray(_half(blocks, 80) * (blocks[:, :16] & np.uint8(15)), np.float32)


def _q3_k(blocks: Bytes) -> Numbers:
    low = (blocks[:, 96:104].reshape(-1, 1, 8) >> np.array([[0], [4]], np.uint8)).reshape(-1, 16) & np.uint8(15)
    high = (blocks[:, 104:108].reshape(-1, 1, 4) >> np.array([[0], [2], [4], [6]], np.uint8)).reshape(-1, 16)
    scales = (low | ((high & np.uint8(3)) << np.uint8(4))).astype(np.float32) - np.float32(32)
    return np.asarray(_half(blocks, 108) * scales, np.float32)


def _q4_k(blocks: Bytes) -> Numbers:
    packed = blocks[:, 4:16]
    scales = np.empty((len(blocks), 8), np.uint8)
    scales[:, :4] = packed[:, :4] & np.uint8(63)
    scales[:, 4:] = (packed[:, 8:] & np.uint8(15)) | ((packed[:, :4] >> np.uint8(6)) << np.uint8(4))
    return np.asarray(_half(blocks, 0) * scales, np.float32)


def _q6_k(blocks: Bytes) -> Numbers:
    return np.asarray(_half(blocks, 208) * blocks[:, 192:208].view(np.int8), np.float32)


def _iq4_xs(blocks: Bytes) -> Numbers:
    low = (blocks[:, 4:8].reshape(-1, 4, 1) >> np.array([0, 4], np.uint8)).reshape(-1, 8) & np.uint8(15)
    high = (blocks[:, 2:4].copy().view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)).astype(np.uint8) & np.uint8(3)
    scales = (low | (high << np.uint8(4))).astype(np.float32) - np.float32(32)
    return np.asarray(_half(blocks, 0) * scales, np.float32)


def _mxfp4(blocks: Bytes) -> Numbers:
    exponent = blocks[:, :1].astype(np.uint32)
    small, normal = np.uint32(0x00200000) << np.minimum(exponent, 1), (np.maximum(exponent, 1) - 1) << np.uint32(23)
    scales: Numbers = np.where(exponent < 2, small, normal).astype(np.uint32).view(np.float32)
    return scales


_IQ4: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FP4: Final = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

#: By the name that gguf has for a type.
GRIDS: Final = {
    "Q4_0": Grid(32, 18, (Plane(2, 1, 16, 4),), _first_half, zero=8),
    "Q4_1": Grid(32, 20, (Plane(4, 1, 16, 4),), _first_half),
    "Q5_0": Grid(32, 22, (Plane(6, 1, 16, 4), Plane(2, 4, 1, 1)), _first_half, zero=16),
    "Q5_1": Grid(32, 24, (Plane(8, 1, 16, 4), Plane(4, 4, 1, 1)), _first_half),
    "Q8_0": Grid(32, 34, (Plane(2, 1, 32, 8),), _first_half, zero=128, signed=True),
    "Q2_K": Grid(256, 84, (Plane(16, 2, 32, 2),), _q2_k),
    "Q3_K": Grid(256, 110, (Plane(32, 2, 32, 2), Plane(0, 1, 32, 1)), _q3_k, zero=4),
    "Q4_K": Grid(256, 144, (Plane(16, 4, 32, 4),), _q4_k),
    "Q5_K": Grid(256, 176, (Plane(48, 4, 32, 4), Plane(16, 1, 32, 1)), _q4_k),
    "Q6_K": Grid(256, 210, (Plane(0, 2, 64, 4), Plane(128, 2, 32, 2)), _q6_k, zero=32),
    "IQ4_NL": Grid(32, 18, (Plane(2, 1, 16, 4),), _first_half, levels=_IQ4),
    "IQ4_XS": Grid(256, 136, (Plane(8, 8, 16, 4),), _iq4_xs, levels=_IQ4),
    "MXFP4": Grid(32, 17, (Plane(1, 1, 16, 4),), _mxfp4, levels=_FP4),
}
