"""The engine's shared library, loaded into this process. Only the child process does that: an assert aborts it."""

from __future__ import annotations

import ctypes as C
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..errors import EngineError
from .abi import ABORT_CALLBACK, FUNCTIONS, LOG_CALLBACK
from .package import Engine

__all__ = ["Library", "backend_score"]


#: GGML_OP_COUNT of the pinned version; past it the library's table of names ends.
OPERATIONS: Final = 113

#: Said of every adapter tensor at every row: a run of hours would fill the disk with it.
CHATTER: Final = "LoRA filter: "

#: GGML_LOG_LEVEL_ERROR.
ERROR: Final = 4
#: Said after the reason.
EMPTY_WORDS: Final = "failed to load model\n"


class Library:
    """All functions of `abi.FUNCTIONS` as attributes. Its log goes to stderr, and through `listen`; see `complaint`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        try:
            self._dll = C.CDLL(str(engine.library_path), mode=C.RTLD_GLOBAL)
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(self._dll, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise EngineError(f"The engine's library does not load ({error}): run /finetune setup --again.") from error
        self._complaint = ""
        self._listeners: list[Callable[[str], None]] = []
        self._log = LOG_CALLBACK(self._on_log)
        self._abort = ABORT_CALLBACK(self._on_abort)
        self.llama_log_set(self._log, None)
        self.ggml_set_abort_callback(self._abort)
        # Before llama_backend_init, which would otherwise look for libraries to load in the current folder.
        if not self.ggml_backend_load(str(engine.backend_path).encode()):
            raise EngineError(f"The engine's backend {engine.backend} does not load: run /finetune setup --again.")
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Any:  # only for the type checker: functions are set in __init__
        raise AttributeError(name)

    def op(self, name: str) -> int:
        """The number of the operation `name` in this build; numbers move between versions, names do not."""
        for number in range(OPERATIONS):
            if self.ggml_op_name(number) == name.encode():
                return number
        raise EngineError(f"The engine has no operation {name}: run /finetune setup --again.")

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with every line of the library's log."""
        self._listeners.append(listener)

    @property
    def complaint(self) -> str:
        """What the library gave last as the reason of a failure, to put in brackets."""
        return self._complaint.partition(": ")[2] or self._complaint or "it does not say why"

    def _on_log(self, level: int, text: bytes, _user: Any) -> None:
        line = text.decode("utf-8", "replace")
        if line.startswith(CHATTER):
            return
        if level == ERROR and not line.endswith(EMPTY_WORDS):
            self._complaint = line.strip()
        sys.stderr.write(line)
        for listener in self._listeners:
            listener(line)

    def _on_abort(self, text: bytes) -> None:
        os.write(2, b"ABORT: " + text + b"\n")


def backend_score(path: Path) -> int:
    """How well this CPU suits the backend at `path`; 0 where it cannot run it. Run in a process that may die."""
    try:
        score = C.CDLL(str(path)).ggml_backend_score
    except (OSError, AttributeError):
        return 0
    score.restype, score.argtypes = C.c_int, []
    return int(score())
