"""Fixtures for tests in a real Meton: `pytest_plugins = ["support.real_meton_fixtures"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .chat_server import ChatServer, chat_server
from .real_meton import clone, pythons, shell


@pytest.fixture(scope="module", params=pythons() or [None], ids=lambda path: Path(path).parts[-3] if path else "none")
def python(request: pytest.FixtureRequest) -> str:
    """An interpreter with Meton's packages."""
    if request.param and os.environ.get("METON_HOME"):
        return str(request.param)
    reason = "No Meton to test in: set METON_HOME to a checkout and run `make test-meton`."
    if os.environ.get("REQUIRE_METON") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def equipped(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The interpreter with the packages that the plugin needs beside Meton's."""
    checkout = clone(tmp_path_factory.mktemp("equipped") / "Meton")
    shell("install", "--meton", checkout, "--python", python)
    yield python
    shell("uninstall", "--meton", checkout, "--python", python)


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    """A server that answers as Meton expects."""
    with chat_server() as running:
        yield running
