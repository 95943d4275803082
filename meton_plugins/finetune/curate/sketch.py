"""What a text is compared by: its folded words, and a sketch of them that is small enough to keep.

A sketch is the 24 smallest of the hashes of all runs of ten bytes: two texts share about as many of them as they share
runs. Runs of bytes, not of words, because code, Chinese and emoji have no words between spaces, and a letter that
changed spoils fewer of them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["EMPTY", "LETTERS", "NUMBERS", "RUN", "SIZE", "Letters", "Numbers", "digest", "fold", "letters", "sketches"]

Numbers = npt.NDArray[np.uint32]
NUMBERS: Final = np.uint32
Number = TypeVar("Number", np.uint32, np.uint64)
Letters = npt.NDArray[np.uint8]

#: Kinds of letters that are counted: more tell no better which texts cannot be alike.
LETTERS: Final = 32

#: Bytes in a run. Measured on edited code at 85: 8, 10 and 12 find the same pairs, 8 with twice the false candidates;
#: 16 loses one pair in 200, and runs of three words one in 40.
RUN: Final = 10

#: Hashes kept of a text: boilerplate that many texts share takes some of them, and the rest must still tell.
SIZE: Final = 24

#: Fills the sketch of a text with fewer runs; no hash has this value.
EMPTY: Final = 0xFFFFFFFF

#: Bytes that are hashed in one go: large enough that NumPy's calls cost nothing, small beside the texts.
CHUNK: Final = 1 << 20

_PRIME: Final = 0x01000193


def fold(text: str) -> str:
    """`text` as it is compared: NFKC, case folded, white space to single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(folded: str) -> int:
    """64 bits that stand for a folded text."""
    raw = hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "little")


def sketches(folded: Sequence[str], run: int = RUN) -> Numbers:
    """One row of SIZE hashes, smallest first, for each folded text, over its runs of `run` bytes."""
    made = np.full((len(folded), SIZE), EMPTY, dtype=NUMBERS)
    row = 0
    for chunk in _chunks(folded):
        _sketch(chunk, run, made[row : row + len(chunk)])
        row += len(chunk)
    return made


def _sketch(chunk: Sequence[bytes], run: int, made: Numbers) -> None:
    """Fill the rows of `made`, all texts at once: of each, those hashes that can be among its smallest are sorted."""
    hashes = _hashes(np.frombuffer(b"".join(chunk), dtype=np.uint8), run)
    lengths = np.array([len(raw) for raw in chunk])
    starts = np.cumsum(lengths) - lengths
    runs = np.maximum(0, lengths - run + 1)
    small = np.minimum(EMPTY, (3 * SIZE << 32) // np.maximum(1, runs)).astype(NUMBERS)
    text = np.repeat(np.arange(len(chunk)), lengths)[: len(hashes)]
    few = np.flatnonzero(hashes <= small[text])
    few = few[few - starts[text[few]] < runs[text[few]]]  # a run does not go on into the next text
    found = _distinct((text[few].astype(np.uint64) << np.uint64(32)) | hashes[few])
    text = (found >> np.uint64(32)).astype(np.int64)
    counts = np.bincount(text, minlength=len(chunk))
    rank = np.arange(len(found)) - (np.cumsum(counts) - counts)[text]
    first = rank < SIZE
    made[text[first], rank[first]] = found[first].astype(NUMBERS)
    for index in np.flatnonzero((counts < SIZE) & (small < EMPTY)).tolist():
        # It says the same again and again.
        whole = _distinct(hashes[starts[index] : starts[index] + runs[index]])[:SIZE]
        made[index, : len(whole)] = whole


def letters(folded: Sequence[str]) -> Letters:
    """How many letters of each kind a folded text has, up to 255: one row of LETTERS for each.

    Where two rows differ by n in all, the texts are at least n letters put in or taken out apart.
    """
    made = np.zeros((len(folded), LETTERS), dtype=np.uint8)
    row = 0
    for chunk in _chunks(folded):
        raw = np.frombuffer(b"".join(chunk), dtype=np.uint8)
        kinds = np.repeat(np.arange(len(chunk), dtype=np.int32) * LETTERS, [len(text) for text in chunk])
        kinds += raw & np.uint8(LETTERS - 1)
        # Of a letter of several bytes, the first stands for it: a letter more is never two.
        counts = np.bincount(kinds[(raw & 0xC0) != 0x80], minlength=len(chunk) * LETTERS)
        made[row : row + len(chunk)] = np.minimum(counts, 255).reshape(len(chunk), LETTERS)
        row += len(chunk)
    return made


def _chunks(folded: Sequence[str]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for text in folded:
        raw = text.encode("utf-8", "surrogatepass")
        chunk.append(raw)
        size += len(raw)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _hashes(raw: npt.NDArray[np.uint8], run: int) -> Numbers:
    """A hash for each run of bytes, by where it begins. Twice the length costs one step more."""
    power = raw.astype(NUMBERS) + NUMBERS(1)
    width = 1
    total: Numbers | None = None
    covered = 0
    while run:
        if run & 1:
            total = power if total is None else _joined(total, covered, power, width)
            covered += width
        run >>= 1
        if run:
            power = _joined(power, width, power, width)
            width *= 2
    assert total is not None
    return _mixed(total)


def _joined(left: Numbers, width: int, right: Numbers, wide: int) -> Numbers:
    """Hashes of runs of `width` bytes, each joined with that of the `wide` bytes behind it."""
    count = max(0, min(len(left), len(right) - width))
    joined: Numbers = left[:count] * NUMBERS(pow(_PRIME, wide, 2**32))
    joined += right[width : width + count]
    return joined


def _mixed(values: Numbers) -> Numbers:
    """Every bit of a run moves every bit of its hash: only then are the smallest a fair sample."""
    values = values ^ (values >> NUMBERS(16))
    values *= NUMBERS(0x7FEB352D)
    values ^= values >> NUMBERS(15)
    values *= NUMBERS(0x846CA68B)
    values ^= values >> NUMBERS(16)
    np.minimum(values, NUMBERS(EMPTY - 1), out=values)
    return values


def _distinct(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """The different ones in order; NumPy's own `unique` hashes, which takes longer."""
    ordered = np.sort(values)
    keep = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=keep[1:])
    return ordered[keep]
