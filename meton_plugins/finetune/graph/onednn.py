"""Matrix products by oneDNN, where its library is installed: in F32, and in bf16 where the CPU multiplies these.

Its kernels are made at run time for the CPU that it finds, of any maker. `dnnl_sgemm` is documented;
`dnnl_gemm_bf16bf16f32` has its form and is what the library's own primitives call. So the library is one pinned
version (`engine.products`), and both are tried on numbers before they are used.
"""

from __future__ import annotations

import ctypes as C
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from .bf16 import rounded, widened

__all__ = ["OneDnn"]

#: Of dnnl_cpu_isa_t: set where bf16 is multiplied by the CPU, by AVX-512 or AMX.
BF16: Final = 0x80
#: Largest difference of a product of 48 numbers of about 1 from NumPy's.
CLOSE: Final = 1e-3


class OneDnn:
    """The functions of the library at `path`; OSError where it does not load, or does not multiply as it should.

    `f32` and `bf16` take (transpose a, transpose b, m, n, k, scale, a, lda, b, ldb, add, c, ldc), matrices by rows;
    `bf16` is None where the CPU has no such products.
    """

    def __init__(self, path: Path) -> None:
        try:
            library = C.CDLL(str(path))
            self._set_threads = C.CDLL("libgomp.so.1").omp_set_num_threads
            self.f32, bf16 = _typed(library.dnnl_sgemm), _typed(library.dnnl_gemm_bf16bf16f32)
            self.bf16 = bf16 if library.dnnl_get_effective_cpu_isa() & BF16 else None
            library.dnnl_version.restype = C.POINTER(C.c_int * 3)
            self.version = ".".join(map(str, library.dnnl_version().contents))
        except AttributeError as error:
            raise OSError(f"{path} is another library: {error}") from error
        self.enter_thread()
        if not self._multiplies():
            raise OSError(f"{path} does not multiply as it should")

    def enter_thread(self) -> None:
        """To be called in each thread that will ask for products: without it, each product would start threads."""
        self._set_threads(1)

    def _multiplies(self) -> bool:
        random = np.random.default_rng(0)
        a, b = (random.normal(size=size).astype(np.float32) for size in ((24, 48), (40, 48)))
        wanted = a @ b.T
        out = np.empty_like(wanted)
        ok = not self.f32(*_whole(a, b, out)) and bool(np.abs(out - wanted).max() < CLOSE)
        if ok and self.bf16:
            left, right = rounded(a), rounded(b)
            wanted = widened(left) @ widened(right).T
            ok = not self.bf16(*_whole(left, right, out)) and bool(np.abs(out - wanted).max() < CLOSE)
        return ok


def main() -> int:
    """Try the library that is named on the command line."""
    try:
        OneDnn(Path(sys.argv[1]))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _whole(a: Any, b: Any, out: Any) -> tuple[Any, ...]:
    """Arguments for out = a @ b.T."""
    (rows, inner), columns = a.shape, len(b)
    return (
        b"N", b"T", rows, columns, inner, 1.0, a.ctypes.data, inner, b.ctypes.data, inner, 0.0, out.ctypes.data, columns
    )  # fmt: skip


def _typed(function: Any) -> Any:
    size, number, at = C.c_int64, C.c_float, C.c_void_p
    function.restype = C.c_int
    function.argtypes = [C.c_char, C.c_char, size, size, size, number, at, size, at, size, number, at, size]
    return function
