"""bf16: the upper half of an F32 number. Products of them take half the time where the CPU multiplies them itself.

NumPy has no such type: they are held as the 16 bits that they are.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Bf16", "put", "rounded", "widened"]

#: bf16, as bits.
Bf16 = npt.NDArray[np.uint16]

#: Numbers at a time: what stays in a core's cache over several passes.
PIECE: Final = 1 << 15

_ONE, _BITS, _BELOW = np.uint32(1), np.uint32(16), np.uint32(0x7FFF)


def rounded(x: npt.NDArray[np.float32], out: Bf16 | None = None) -> Bf16:
    """`x` [n, columns] to the nearest bf16, to the even one of two; into `out` where there is one."""
    found: Bf16 = np.empty(x.shape, np.uint16) if out is None else out
    bits, step = x.view(np.uint32), max(1, PIECE // max(x.shape[1], 1))
    for start in range(0, len(x), step):
        some = bits[start : start + step]
        # Half a step more, and of two as near the even one: of F16 numbers, every eighth lies in the middle.
        up = some >> _BITS
        up &= _ONE
        up += _BELOW
        up += some
        up >>= _BITS
        found[start : start + step] = up
    return found


def put(x: npt.NDArray[np.float32], twin: npt.NDArray[Any]) -> None:
    """Write `x` to its twin (`room.Shared.twin`). Where products are in F32 that is x itself, and nothing is done."""
    if twin.dtype == np.uint16:
        rounded(x, twin)


def widened(x: Bf16) -> npt.NDArray[np.float32]:
    """The same numbers in F32."""
    bits = x.astype(np.uint32)
    bits <<= _BITS
    found: npt.NDArray[np.float32] = bits.view(np.float32)
    return found
