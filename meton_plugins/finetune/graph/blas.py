"""Matrix products by the BLAS that NumPy brings, in one thread: `team.Team` shares them out."""

from __future__ import annotations

import ctypes as C
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Blas", "installed"]

Array = npt.NDArray[np.float32]

ROW_MAJOR: Final = 101
PLAIN: Final = 111
TRANSPOSED: Final = 112
#: How builds of OpenBLAS call cblas_sgemm, and the integer that each takes.
NAMES: Final = (
    ("scipy_cblas_sgemm64_", C.c_int64), ("scipy_cblas_sgemm", C.c_int32), ("cblas_sgemm64_", C.c_int64),
    ("cblas_sgemm", C.c_int32),
)  # fmt: skip


class Blas:
    """F32 products, each in the thread that asks. Where NumPy's BLAS is an OpenBLAS, it is called itself: it can add
    to what is there."""

    def __init__(self) -> None:
        found = _found()
        # Threads of its own spin while they wait, and on a machine that does anything else they wait for each other:
        # measured, products then take four times as long.
        for library in found:
            library.set_num_threads(1)
        self._sgemm = next((f for each in found if (f := _sgemm_of(each.filepath))), None)
        self.name = _name(found)

    def product(self, a: Array, b: Array, out: Array, *, add: bool = False, scale: float = 1.0) -> Array:
        """`out` = scale · a @ b, or plus what `out` holds. `a` [m, k], `b` [k, n], `out` [m, n]: `out` by rows, the
        others by rows or columns, any of them a part of a larger array."""
        left, right = _layout(a), _layout(b)
        if self._sgemm is None or left is None or right is None or 0 in (*out.shape, a.shape[1]):
            return _by_numpy(a, b, out, add, scale)
        (rows, columns), inner = out.shape, a.shape[1]
        self._sgemm(
            ROW_MAJOR, left[0], right[0], rows, columns, inner, scale, _at(a), left[1], _at(b),
            right[1], 1.0 if add else 0.0, _at(out), max(out.strides[0] // 4, columns),
        )  # fmt: skip
        return out


def installed() -> tuple[str, bool]:
    """What makes the products here, to show: name, version, kernels; and whether it is called itself."""
    found = _found()
    return _name(found), any(_sgemm_of(each.filepath) is not None for each in found)


def _found() -> list[Any]:
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _name(found: list[Any]) -> str:
    parts = [(each.internal_api, each.version, getattr(each, "architecture", "")) for each in found[:1]]
    return " ".join(str(part) for part in parts[0] if part) if parts else "NumPy"


def _by_numpy(a: Array, b: Array, out: Array, add: bool, scale: float) -> Array:
    if not add:
        np.matmul(a, b, out=out)
        if scale != 1.0:
            out *= np.float32(scale)
    elif scale == 1.0:
        out += a @ b
    else:
        out += np.float32(scale) * (a @ b)
    return out


def _at(array: Array) -> int:
    # Half the time of array.ctypes.data, thousands of times a step.
    return int(array.__array_interface__["data"][0])


def _layout(array: Array) -> tuple[int, int] | None:
    """Whether BLAS is to transpose, and the elements from one line to the next; None for what it cannot read."""
    (rows, columns), (down, across) = array.shape, array.strides
    if across == 4 and down >= 4 * columns:
        return PLAIN, down // 4
    if down == 4 and across >= 4 * rows:
        return TRANSPOSED, across // 4
    return None


def _sgemm_of(path: str) -> Any:
    try:
        library = C.CDLL(path)
    except OSError:
        return None
    for name, integer in NAMES:
        function = getattr(library, name, None)
        if function is not None:
            function.restype = None
            function.argtypes = [
                C.c_int, C.c_int, C.c_int, integer, integer, integer, C.c_float, C.c_void_p, integer, C.c_void_p,
                integer, C.c_float, C.c_void_p, integer,
            ]  # fmt: skip
            return function
    return None
