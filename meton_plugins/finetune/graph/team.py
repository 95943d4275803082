"""Work by several threads at once: BLAS and NumPy leave Python's lock while they compute."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from .blas import Blas

__all__ = ["Task", "Team", "pieces"]

Task = Callable[[], Any]

#: Numbers a thread works on at a time: what stays in its own cache over several passes.
PIECE: Final = 1 << 18
#: Multiplications below which a product is not worth sharing.
SMALL: Final = 1 << 19
#: Lines of a product that BLAS takes at a time.
NARROW: Final = 16
#: Part of a thread's share that is kept back, since no two cores are equally fast, least of all on a busy machine.
TAIL: Final = 1 / 8


def pieces(count: int, width: int) -> list[slice]:
    """`count` rows in pieces of PIECE numbers, where each has `width`."""
    step = max(1, PIECE // width)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


class Team:
    """`threads` threads, the caller's own among them."""

    def __init__(self, blas: Blas, threads: int) -> None:
        self.blas, self.threads = blas, threads
        self._others = [_Other(blas.enter_thread) for _ in range(threads - 1)]

    def run(self, tasks: Sequence[Task]) -> None:
        """Call every task, in no order, and come back when all are done. A task asks nothing of the team itself."""
        if not self._others or len(tasks) < 2:
            for task in tasks:
                task()
            return
        taken = itertools.count()

        def drain() -> None:
            while (number := next(taken)) < len(tasks):
                tasks[number]()

        others = self._others[: len(tasks) - 1]
        for other in others:
            other.begin(drain)
        try:
            drain()
        finally:
            errors = [other.end() for other in others]
        for error in errors:
            if error is not None:
                raise error

    def each(self, work: Callable[[Any], None], parts: Iterable[Any]) -> None:
        """Call `work(part)` for every part, as `run` does."""
        self.run([partial(work, part) for part in parts])

    def rows(self, work: Callable[[slice], None], count: int, width: int) -> None:
        """Call `work(rows)` for pieces of `count` rows of `width` numbers, as many for each thread."""
        pieces = self.threads * -(-count * width // (self.threads * PIECE))
        step = max(1, -(-count // max(pieces, 1)))
        self.each(work, [slice(start, min(start + step, count)) for start in range(0, count, step)])

    def parts(self, count: int, work: int, unit: int = NARROW) -> list[slice]:
        """`count` lines for all threads: a large part for each, then a small one, for whoever is done first.

        `work`: multiplications in all; little work is not shared. Each part but the last is a multiple of `unit`.
        """
        if self.threads == 1 or work < SMALL:
            return [slice(0, count)]
        share = count / self.threads
        large = max(1, round(share * (1 - TAIL) / unit)) * unit
        small = round(share * TAIL / unit) * unit
        sizes = [large] * self.threads + [small] * self.threads
        ends = [min(end, count) for end in itertools.accumulate(sizes)]
        ends[-1] = count
        return [slice(start, end) for start, end in itertools.pairwise([0, *ends]) if end > start]

    def close(self) -> None:
        """End the threads."""
        for other in self._others:
            other.close()
        self._others = []


class _Other:
    """A thread that waits for work. Bare locks: a pool's queue and futures take as long as a small product."""

    def __init__(self, enter: Task) -> None:
        self._work: Task | None = None
        self._error: BaseException | None = None
        self._begin, self._done = threading.Lock(), threading.Lock()
        self._begin.acquire()
        self._done.acquire()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self.begin(enter)
        if error := self.end():
            raise error

    def begin(self, work: Task) -> None:
        """Have it call `work`; `end` must follow."""
        self._work = work
        self._begin.release()

    def end(self) -> BaseException | None:
        """Wait until it is done; the error that it ended with."""
        self._done.acquire()
        error, self._error = self._error, None
        return error

    def close(self) -> None:
        """End the thread."""
        self._work = None
        self._begin.release()
        self._thread.join()

    def _live(self) -> None:
        while True:
            self._begin.acquire()
            if self._work is None:
                return
            try:
                self._work()
            except BaseException as error:  # is raised again by the thread that asked
                self._error = error
            self._work = None
            self._done.release()
