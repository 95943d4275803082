"""A real Ollama server for a test, or a skip that says what to type."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.private_ollama import PrivateServer, Unavailable, executable
from tools.private_ollama import private_server as _private_server


@contextlib.contextmanager
def private_server(folder: Path | None = None, *, shim: bool = True) -> Iterator[PrivateServer]:
    """A server with its models in `folder` (else a temporary one). Skips without one, fails with REQUIRE_OLLAMA=1.

    Without `shim` it has no llama-server, as after a plain `go install`.
    """
    try:
        program = executable()
    except Unavailable as error:
        if os.environ.get("REQUIRE_OLLAMA") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ollama-")))
        if not shim:
            folder.mkdir(parents=True, exist_ok=True)
            program = Path(shutil.copy(program, folder / "ollama"))
        yield stack.enter_context(_private_server(folder, program=program))
