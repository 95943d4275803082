"""Work that a chat must not wait for, done one by one in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

__all__ = ["Writer"]

Job = Callable[[], None]

#: So long a chat has for its next prompt before the thread wakes: the two would fight for the interpreter.
PAUSES: Final = (0.005,) * 4
#: Between two looks whether the thread still lives.
LOOK_SECONDS: Final = 0.05


class Writer:
    """Runs jobs in order. Jobs must not raise. The thread starts with the first job and dies with the process."""

    def __init__(self) -> None:
        # Its `put` may be interrupted by a signal handler that puts, too; a Queue's would deadlock.
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # A plain bool: a signal handler may flush, too, and must find no lock held.
        self._awaited = False

    def put(self, job: Job) -> None:
        """Have `job` done soon; returns at once."""
        self._jobs.put(job)
        if self._thread is not None and self._thread.is_alive():
            return
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="meton-finetune-writer", daemon=True)
                self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Wait until all that was put is done; False where that takes longer than `seconds`."""
        thread = self._thread
        if thread is None:
            return True
        done = threading.Event()
        self._awaited = True
        self._jobs.put(done.set)
        while seconds > 0 and thread.is_alive():
            if done.wait(min(LOOK_SECONDS, seconds)):
                return True
            seconds -= LOOK_SECONDS
        return done.is_set()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            for pause in PAUSES:
                if self._awaited:
                    break
                time.sleep(pause)
            job()
            while not self._jobs.empty():
                self._jobs.get()()
            self._awaited = False
