"""The child process: reads one job from its input, runs it on the library, says what it does as JSON lines.

An assert in the library ends this process and nothing else. It dies with its parent: by PR_SET_PDEATHSIG on Linux,
and everywhere by the end of its input, on which the parent writes `stop` or `pause`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..errors import EngineError, FinetuneError
from . import work
from .library import Library
from .package import Engine

__all__ = ["main"]

PR_SET_PDEATHSIG = 1

#: The kernel's first choice when memory runs out: the user's editor must not be.
FIRST_TO_GO: Final = 1000
#: What the system says where a file cannot grow: full disk, quota, limit.
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Control:
    """What the parent wants, read from the input as it comes."""

    def __init__(self) -> None:
        self.wanted: str | None = None
        self.synced = threading.Event()

    def listen(self) -> None:
        """Read until the parent is gone, then leave without cleaning up: nobody is there to read the result."""
        for line in sys.stdin:
            if line.strip() == "synced":
                self.synced.set()
            else:
                self.wanted = line.strip() or self.wanted
        os._exit(71)


_control = Control()


def emit(event: str, **values: Any) -> None:
    """Say one thing to the parent; of `sync`, return once the parent has dealt with all that was said before."""
    _control.synced.clear()
    _channel.write(json.dumps({"event": event, **values}, ensure_ascii=False) + "\n")
    _channel.flush()
    if event == "sync":
        _control.synced.wait()


_channel: Any = sys.stdout


def main() -> int:
    """Run the job given on the first line of the input; the exit code."""
    global _channel
    parent = os.getppid()
    _die_with_parent()
    if os.getppid() != parent:
        return 71
    # The library and its friends may print: only our own lines belong on the channel.
    _channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the session's
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    _give_way(int(job.get("nice", 0)))
    threading.Thread(target=_control.listen, daemon=True).start()
    try:
        engine = Engine(**{**job["engine"], "folder": Path(job["engine"]["folder"])})
        task: Callable[..., None] = work.JOBS[job["kind"]]
        task(Library(engine), job, emit, lambda: _control.wanted)
    except FinetuneError as error:
        emit("error", message=error.sentence, kind=type(error).__name__)
        return 1
    except MemoryError:
        emit(
            "error", message="The memory of this machine is full: use a smaller --ctx-size or base.", kind="EngineError"
        )
        return 1
    except OSError as error:
        kind = "DiskFull" if error.errno in NO_ROOM else "EngineError"
        emit("error", message=_refusal(error), kind=kind)
        return 1
    _channel.flush()
    return 0


def _refusal(error: OSError) -> str:
    name = f" ({error.filename})" if error.filename else ""
    if error.errno in NO_ROOM:
        return f"The disk is full{name}: make room and resume."
    return f"The system refused the engine's work: {error.strerror or error}{name}."


def _give_way(nice: int) -> None:
    """Be nice to other programs, and the one that the kernel ends first; as far as this system lets us."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise EngineError("This kernel cannot tie the engine to its worker.")
