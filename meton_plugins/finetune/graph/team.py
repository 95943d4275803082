"""Work by several threads at once: BLAS and NumPy leave Python's lock while they compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from .blas import Array, Blas

__all__ = ["Team"]

#: Numbers a thread works on at a time: what stays in its own cache over several passes.
PIECE: Final = 1 << 15
#: Multiplications below which a product is not worth sharing.
SMALL: Final = 1 << 19
#: Rows or columns of a product that a share has at least; its kernels take 16 at a time.
NARROW: Final = 16
#: Shares of a product for each thread: a thread that another program holds up leaves the rest to the others.
SHARES: Final = 2


class Team:
    """`threads` threads, the caller's own among them."""

    def __init__(self, blas: Blas, threads: int) -> None:
        self.blas, self.threads = blas, threads
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def each(self, work: Callable[..., Any], parts: Iterable[Any]) -> None:
        """Call `work(part)` for every part, in no order. `work` asks nothing of the team itself."""
        todo = list(parts)
        if self._pool is None or len(todo) < 2:
            for part in todo:
                work(part)
            return
        taken = itertools.count()

        def drain() -> None:
            while (number := next(taken)) < len(todo):
                work(todo[number])

        others = [self._pool.submit(drain) for _ in range(min(self.threads, len(todo)) - 1)]
        try:
            drain()
        finally:
            for other in others:
                other.result()

    def rows(self, work: Callable[[slice], Any], count: int, width: int) -> None:
        """Call `work(rows)` for pieces of `count` rows of `width` numbers."""
        step = max(1, min(PIECE // max(width, 1), -(-count // self.threads)))
        self.each(work, [slice(start, min(start + step, count)) for start in range(0, count, step)])

    def product(self, a: Array, b: Array, out: Array, *, add: bool = False, scale: float = 1.0) -> Array:
        """As `Blas.product`, the longer side of `out` shared out. The same for the same number of threads."""
        rows, columns = out.shape
        longer = max(rows, columns)
        if rows * columns * a.shape[1] < SMALL or self.threads == 1:
            return self.blas.product(a, b, out, add=add, scale=scale)
        step = max(NARROW, -(-longer // (SHARES * self.threads * NARROW)) * NARROW)
        parts = [slice(start, min(start + step, longer)) for start in range(0, longer, step)]

        def down(part: slice) -> None:
            self.blas.product(a[part], b, out[part], add=add, scale=scale)

        def across(part: slice) -> None:
            self.blas.product(a, b[:, part], out[:, part], add=add, scale=scale)

        self.each(down if rows > columns else across, parts)
        return out

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown()
