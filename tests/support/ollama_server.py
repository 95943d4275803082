"""A real Ollama server for a test, or a skip that says what to type."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.private_ollama import PrivateServer, Unavailable, executable
from tools.private_ollama import private_server as _private_server


@contextlib.contextmanager
def private_server(folder: Path | None = None) -> Iterator[PrivateServer]:
    """A server with its models in `folder` (else a temporary one). Skips without one, fails with REQUIRE_OLLAMA=1."""
    try:
        program = executable()
    except Unavailable as error:
        if os.environ.get("REQUIRE_OLLAMA") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ollama-")))
        yield stack.enter_context(_private_server(folder, program=program))
