"""Matrix products, in one thread: `team.Team` shares them out. By oneDNN where it is there, else by NumPy's BLAS."""

from __future__ import annotations

import ctypes as C
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .bf16 import Bf16, rounded, widened
from .onednn import OneDnn
from .shape import Unsupported

__all__ = ["Array", "Blas", "Matrix", "installed"]

Array = npt.NDArray[np.float32]
#: What is multiplied: numbers in F32, or in bf16 (`bf16.Bf16`).
Matrix = npt.NDArray[Any]

ROW_MAJOR: Final = 101
#: How CBLAS and oneDNN are told that a matrix lies by rows, or by columns.
CBLAS_ORDER: Final = (111, 112)
ONEDNN_ORDER: Final = (b"N", b"T")
#: How builds of OpenBLAS call cblas_sgemm, and the integer that each takes.
NAMES: Final = (
    ("scipy_cblas_sgemm64_", C.c_int64), ("scipy_cblas_sgemm", C.c_int32), ("cblas_sgemm64_", C.c_int64),
    ("cblas_sgemm", C.c_int32),
)  # fmt: skip


class Blas:
    """Products, each in the thread that asks. `onednn`: the library's file; without it, or where it does not load, an
    OpenBLAS that NumPy has brought is called itself, since it can add to what is there.

    `bf16`: the base's weights and what they are multiplied by are bf16, sums F32; Unsupported where that library and
    this CPU do not multiply bf16.
    """

    def __init__(self, onednn: Path | None = None, *, bf16: bool = False) -> None:
        found = _found()
        # Threads of its own spin while they wait, and on a machine that does anything else they wait for each other:
        # measured, products then take four times as long.
        for library in found:
            library.set_num_threads(1)
        self._onednn = _loaded(onednn)
        self._bf16: Any = None
        self._order: tuple[Any, Any] = CBLAS_ORDER
        if self._onednn:
            self._f32, self._bf16, self._order = self._onednn.f32, self._onednn.bf16, ONEDNN_ORDER
            self.name = f"onednn {self._onednn.version}"
        else:
            self._f32 = next((f for each in found if (f := _sgemm_of(each.filepath))), None)
            self.name = _name(found)
        self.bf16 = bf16
        if bf16 and self._bf16 is None:
            raise Unsupported(f"{self.name} does not multiply bf16 here")

    def operand(self, x: Array) -> Matrix:
        """`x` [n, columns] as it is multiplied by the base's weights."""
        return rounded(x) if self.bf16 else x

    def seen(self, weights: Array) -> Array:
        """Some of the base's weights with what of them products see, in F32."""
        return widened(rounded(weights)) if self.bf16 else weights

    def enter_thread(self) -> None:
        """To be called in each thread but the first that will ask for products."""
        if self._onednn:
            self._onednn.enter_thread()

    def product(self, a: Matrix, b: Matrix, out: Array, *, add: bool = False, scale: float = 1.0) -> Array:
        """`out` = scale · a @ b, or plus what `out` holds. `a` [m, k], `b` [k, n], `out` [m, n]: `out` by rows, the
        others by rows or columns, any of them a part of a larger array. Of F32 and bf16, the former is rounded."""
        if a.dtype != b.dtype:
            a, b = _rounded(a), _rounded(b)
        function = self._f32 if a.dtype == np.float32 else self._bf16
        left, right = _layout(a), _layout(b)
        if function is None or left is None or right is None or 0 in (*out.shape, a.shape[1]):
            return _by_numpy(_wide(a), _wide(b), out, add, scale)
        (rows, columns), inner, order = out.shape, a.shape[1], self._order
        status = function(
            order[left[0]], order[right[0]], rows, columns, inner, scale, _at(a), left[1], _at(b), right[1],
            1.0 if add else 0.0, _at(out), max(out.strides[0] // 4, columns),
        )  # fmt: skip
        if status:  # of CBLAS there is none
            raise MemoryError(f"oneDNN made no product of {rows} x {inner} x {columns} numbers (status {status})")
        return out


def installed() -> tuple[str, bool]:
    """NumPy's BLAS, to show: name, version, kernels; and whether it can be called itself."""
    found = _found()
    return _name(found), any(_sgemm_of(each.filepath) is not None for each in found)


def _rounded(x: Matrix) -> Bf16:
    """In bf16."""
    if x.dtype == np.uint16:
        return x
    # By its own lines, whichever way these run.
    return rounded(x) if x.strides[1] == 4 else rounded(x.T).T


def _wide(x: Matrix) -> Array:
    """In F32."""
    return x if x.dtype == np.float32 else widened(x)


def _loaded(path: Path | None) -> OneDnn | None:
    try:
        return OneDnn(path) if path else None
    except OSError:
        return None


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


def _at(array: Matrix) -> int:
    # Half the time of array.ctypes.data, thousands of times a step.
    return int(array.__array_interface__["data"][0])


def _layout(array: Matrix) -> tuple[int, int] | None:
    """Whether it lies by columns, and the elements from one line to the next; None for what BLAS cannot read."""
    (rows, columns), (down, across), size = array.shape, array.strides, array.itemsize
    if across == size and down >= size * columns:
        return 0, down // size
    if down == size and across >= size * rows:
        return 1, across // size
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
            return partial(function, ROW_MAJOR)
    return None
