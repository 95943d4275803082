"""The parent's side of the child process: start it, read its events, say in plain words how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from .. import errors
from ..errors import EngineError
from .package import Engine, installed

__all__ = ["Child", "bootstrap", "run_job"]

Event = dict[str, Any]

#: The plugin's parent folder, in which `meton_plugins` lies.
_ROOT: Final = Path(__file__).resolve().parents[3]
#: What the library says last before it aborts.
_REASON: Final = re.compile(r"(ABORT:|GGML_ASSERT|[Ee]rror|ERROR|terminat)")
#: Folders of the machine that built the library, in its asserts.
_BUILD_PATH: Final = re.compile(r"/\S*/")
#: glibc keeps freed memory, and more with every row of another length: a run of hours would grow by a quarter, and no
#: plan could say how large it becomes. With these, large blocks go back to the system. Not smaller ones: to fetch those
#: anew for each piece of a row cost an eighth of the time.
_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 20)}
#: Enough of the log for its last words.
_TAIL: Final = 8192


def bootstrap(module: str) -> list[str]:
    """A command that runs `module.main()` apart from the host: no environment, no current folder, its packages only.

    Meton owns top-level names such as `config` and `utils`, and its checkout is on our path: the child must not see it.
    """
    packages = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    code = f"import sys; sys.path[:0] = {[str(_ROOT), *packages]!r}; from {module} import main; sys.exit(main())"
    return [sys.executable, "-I", "-c", code]


class Child:
    """One running job. A context manager that leaves no process behind; iterate over it for its events."""

    def __init__(self, job: dict[str, Any], log: Path | None = None, engine: Engine | None = None) -> None:
        engine = engine or installed()
        self._sending = threading.Lock()  # one thread asks to stop, another answers
        self._errors: IO[bytes] = log.open("ab+") if log else tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._start = self._errors.seek(0, os.SEEK_END)
        # Without GGML_NO_BACKTRACE an assert starts a debugger, where there is one.
        environment = {
            **os.environ, **_MALLOC, "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1", "GGML_NO_BACKTRACE": "1"
        }  # fmt: skip
        self.process = subprocess.Popen(
            bootstrap("meton_plugins.finetune.engine.child"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=environment, cwd=engine.folder, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        described = {**vars(engine), "folder": str(engine.folder)}
        self.send(json.dumps({**job, "engine": described}))

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            try:
                if pipe:
                    pipe.close()
            except OSError:  # a pipe to a dead child cannot be flushed
                pass

    def send(self, line: str) -> None:
        """Write one line to the child; a dead one does not mind."""
        assert self.process.stdin is not None
        with self._sending, contextlib.suppress(OSError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def __iter__(self) -> Iterator[Event]:
        """Events until the child ends; raises its error, or EngineError where it ended without a word.

        At `sync` the child waits until whoever iterates asks for the next event.
        """
        assert self.process.stdout is not None
        failure: Event | None = None
        for line in self.process.stdout:
            event = _read(line)
            if event is None:
                continue
            if event["event"] == "error":
                failure = event
                continue
            yield event
            if event["event"] == "sync":
                self.send("synced")
        code = self.process.wait()
        if failure is not None:
            raise _KINDS.get(str(failure.get("kind")), EngineError)(str(failure.get("message")))
        if code:
            words = self._last_words()
            raise EngineError(_explain(code, words), log=words)

    def _last_words(self) -> str:
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._start, end - _TAIL))  # not the words of an earlier attempt
        lines = self._errors.read().decode("utf-8", "replace").splitlines()
        telling = [line.strip() for line in lines if _REASON.search(line)]
        return _BUILD_PATH.sub("", telling[-1])[:300] if telling else ""


#: Errors by the name that the child gives.
_KINDS: Final = {name: getattr(errors, name) for name in errors.__all__}


def _read(line: str) -> Event | None:
    """The event on `line`; None for the half line of a killed child, or what is none of ours."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _explain(code: int, words: str) -> str:
    said = f" Its last words: {words}" if words else ""
    if code == -signal.SIGKILL:
        return (
            "The engine was killed, most likely because memory ran out: close other programs, or use a smaller "
            "--ctx-size or base."
        )
    if code == -signal.SIGABRT:
        return f"The engine stopped itself (abort): its input or the memory was not what it expects.{said}"
    if code == -signal.SIGILL:
        return "The engine used an instruction that this CPU lacks: run /finetune setup --again."
    if code < 0:
        return f"The engine crashed ({signal.Signals(-code).name}).{said}"
    return f"The engine ended with code {code}.{said}"


def run_job(
    kind: str, *, progress: Callable[[int, int], None] | None = None, engine: Engine | None = None,
    log: Path | None = None, **job: Any,
) -> Event:  # fmt: skip
    """Run a short job to its end; its result. `progress(done, total)`."""
    result: Event = {}
    with Child({"kind": kind, **job}, log=log, engine=engine) as child:
        for event in child:
            if event["event"] == "progress" and progress:
                progress(event["done"], event["total"])
            elif event["event"] == "result":
                result = event
    if not result:
        raise EngineError("The engine ended without a result: run it again, and report it if it stays so.")
    return result
